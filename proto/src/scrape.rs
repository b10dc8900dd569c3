//! The two forms in which both daemons serve `/metrics`: OpenMetrics, and Prometheus' older text for who asks for that.
//!
//! Written once, as OpenMetrics; the older form differs from it in a few lines: a counter's name ends with `_total` in its description too, there is no
//! `info`, no unit and no mark of the end.

use std::fmt::Write as _;

/// What a scraper is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// 0.0.4: what `promtool check metrics` reads, and scrapers of long ago.
    Text,
}

impl Format {
    /// By the request's `Accept`: the older text is for who names it and not the newer one.
    pub fn accepted(accept: Option<&str>) -> Self {
        let names = |form: &str| accept.is_some_and(|accept| accept.contains(form));
        if names("text/plain") && !names("application/openmetrics-text") {
            Self::Text
        } else {
            Self::OpenMetrics
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// `metrics`: OpenMetrics, without exemplars.
    pub fn written(self, metrics: String) -> String {
        match self {
            Self::OpenMetrics => metrics,
            Self::Text => text(&metrics),
        }
    }
}

fn text(metrics: &str) -> String {
    let mut out = String::with_capacity(metrics.len());
    // Stands before the type, which says how the name ends.
    let mut help = "";
    for line in metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|t| t.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            let _ = writeln!(out, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_is_for_who_asks_for_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            (None, Format::OpenMetrics),
            (Some("*/*"), Format::OpenMetrics),
            (Some(prometheus), Format::OpenMetrics),
            (Some("text/plain; version=0.0.4"), Format::Text),
            (Some("text/plain"), Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn names_end_as_the_older_text_has_them() {
        let metrics = "\
# HELP a_build The version.
# TYPE a_build info
a_build_info{version=\"1\"} 1
# HELP a_seconds How long.
# TYPE a_seconds counter
# UNIT a_seconds seconds
a_seconds_total{b=\"# EOF\"} 2.5
# HELP c_ratio A share.
# TYPE c_ratio gauge
c_ratio 1
# EOF
";
        let text = "\
# HELP a_build_info The version.
# TYPE a_build_info gauge
a_build_info{version=\"1\"} 1
# HELP a_seconds_total How long.
# TYPE a_seconds_total counter
a_seconds_total{b=\"# EOF\"} 2.5
# HELP c_ratio A share.
# TYPE c_ratio gauge
c_ratio 1
";
        assert_eq!(Format::Text.written(metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.written(metrics.to_owned()), metrics);
    }
}
