//! Where alerts are sent. Whoever knows a webhook's path may often write to it, so nothing but the host is ever shown.

use std::fmt;
use std::path::Path;

use axum::http::Uri;

/// Longest file that holds a URL, in bytes.
const MAX_FILE: u64 = 4_096;

#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub uri: Uri,
    /// Scheme, host and port: all that may be told.
    shown: String,
}

impl Endpoint {
    /// `text`: a URL, or `@FILE` that holds one.
    ///
    /// # Errors
    /// What is wrong with it, without what may be secret in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('@') else {
            return Self::of_url(text);
        };
        let path = Path::new(path);
        let length = std::fs::metadata(path)
            .map_err(|e| format!("cannot be read: {e}"))?
            .len();
        if length > MAX_FILE {
            return Err(format!("holds {length} bytes, at most {MAX_FILE} are read"));
        }
        let url = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
        Self::of_url(url.trim()).map_err(|problem| format!("its URL {}: {problem}", redacted(url.trim())))
    }

    fn of_url(text: &str) -> Result<Self, String> {
        let form = "is no URL such as http://alertmanager.monitoring.svc:9093";
        let uri: Uri = text.parse().map_err(|_| form.to_owned())?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(form.to_owned());
        };
        if authority.as_str().contains('@') {
            return Err("has a user or a password in it, which would be seen: use a token file".to_owned());
        }
        if authority.host().is_empty() {
            return Err("names no host".to_owned());
        }
        let shown = format!("{scheme}://{authority}");
        Ok(Self { uri, shown })
    }

    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The same host, with `suffix` behind its path, unless it is there.
    ///
    /// # Errors
    /// It has a query: nothing can be put behind that.
    pub fn below(&self, suffix: &str) -> Result<Self, String> {
        if self.uri.query().is_some() {
            return Err("has a query in it".to_owned());
        }
        let path = self.uri.path().trim_end_matches('/');
        let path = path.strip_suffix(suffix).unwrap_or(path);
        Self::of_url(&format!("{}{path}{suffix}", self.shown))
    }

    /// As it was typed, as far as it may be shown.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Host and port, for labels.
    pub fn host(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What was typed as a URL and is none, without what stands before the host and behind it.
pub(super) fn redacted(text: &str) -> String {
    if text.starts_with('@') {
        return text.to_owned();
    }
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(s, rest)| (s, rest));
    let slashes = if scheme.is_empty() { "" } else { "://" };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority.to_owned(), |(_, host)| format!("…@{host}"));
    let path = if path.len() > 1 { "/…" } else { path };
    format!("{scheme}{slashes}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_shown() {
        let endpoint = Endpoint::parse("https://hooks.example:8443/services/T0/s3cr3t?x=1").unwrap();
        assert_eq!(endpoint.host(), "hooks.example:8443");
        assert_eq!(format!("{endpoint:?}"), "https://hooks.example:8443");
        assert!(endpoint.is_https());
    }

    #[test]
    fn a_path_is_put_behind_what_is_there_once() {
        let below = |text: &str| Endpoint::parse(text).unwrap().below("/api/v2/alerts").unwrap();
        for (text, path) in [
            ("http://am:9093", "/api/v2/alerts"),
            ("http://am:9093/", "/api/v2/alerts"),
            ("http://am/alertmanager/", "/alertmanager/api/v2/alerts"),
            ("http://am/api/v2/alerts", "/api/v2/alerts"),
        ] {
            assert_eq!(below(text).uri.path(), path, "{text}");
        }
        assert!(Endpoint::parse("http://am/?a=b").unwrap().below("/x").is_err());
    }

    #[test]
    fn what_is_no_url_is_refused_and_secrets_are_not_repeated() {
        for text in [
            "am:9093",
            "",
            "ftp://am",
            "http://",
            "/path",
            "http://u:s3cr3t@am/",
            "@/nonexistent",
        ] {
            let problem = Endpoint::parse(text).expect_err(text);
            assert!(!problem.contains("s3cr3t"), "{problem}");
        }
        for (text, shown) in [
            ("http://u:s3cr3t@am/", "http://…@am/"),
            ("htp://am/services/s3cr3t", "htp://am/…"),
            ("u:s3cr3t@am?s3cr3t", "…@am/…"),
            ("@/etc/url", "@/etc/url"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn a_url_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        std::fs::write(&file, "https://hooks.example/s3cr3t\n").unwrap();
        let typed = format!("@{}", file.display());
        assert_eq!(Endpoint::parse(&typed).unwrap().uri.path(), "/s3cr3t");
        std::fs::write(&file, "hooks.example/s3cr3t\n").unwrap();
        let problem = Endpoint::parse(&typed).unwrap_err();
        assert!(
            problem.contains("hooks.example/…") && !problem.contains("s3cr3t"),
            "{problem}"
        );
    }
}
