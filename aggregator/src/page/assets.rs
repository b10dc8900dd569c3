//! The files of the page, within the program: as they were written, without a build step.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::has;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

#[derive(Debug)]
pub(super) struct Asset {
    pub(super) path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// Of the bytes: another version of the program with the same file need not send it again.
    etag: LazyLock<String>,
}

macro_rules! asset {
    ($path:literal, $kind:expr, $file:literal) => {
        Asset {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("assets/", $file)),
            etag: LazyLock::new(|| etag(include_bytes!(concat!("assets/", $file)))),
        }
    };
}

pub(super) static ALL: [Asset; 16] = [
    asset!("/", HTML, "index.html"),
    asset!("/page.css", CSS, "page.css"),
    asset!("/icon.svg", SVG, "icon.svg"),
    asset!("/page.js", SCRIPT, "page.js"),
    asset!("/dom.js", SCRIPT, "dom.js"),
    asset!("/feed.js", SCRIPT, "feed.js"),
    asset!("/format.js", SCRIPT, "format.js"),
    asset!("/parts.js", SCRIPT, "parts.js"),
    asset!("/matrix.js", SCRIPT, "matrix.js"),
    asset!("/overview.js", SCRIPT, "overview.js"),
    asset!("/seen.js", SCRIPT, "seen.js"),
    asset!("/tenant.js", SCRIPT, "tenant.js"),
    asset!("/ledger.js", SCRIPT, "ledger.js"),
    asset!("/fence.js", SCRIPT, "fence.js"),
    asset!("/breaches.js", SCRIPT, "breaches.js"),
    asset!("/nodes.js", SCRIPT, "nodes.js"),
];

impl Asset {
    /// Asked for again each time, and sent again only where it changed: after an upgrade no old part meets a new one.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let about = [
            (header::ETAG, self.etag.as_str()),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        if has(headers, &self.etag) {
            return (StatusCode::NOT_MODIFIED, about).into_response();
        }
        let content = [(header::CONTENT_TYPE, self.kind)];
        (about, content, self.bytes).into_response()
    }
}

fn etag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut etag = String::from("\"");
    for byte in digest.iter().take(8) {
        // Writing to a String cannot fail.
        let _ = write!(etag, "{byte:02x}");
    }
    etag.push('"');
    etag
}

#[cfg(test)]
mod tests {
    use super::ALL;

    /// What the page's files name is there, and nothing names another origin.
    #[test]
    fn every_file_that_is_named_is_there() {
        for asset in &ALL {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let modules = text.split("from \"./").skip(1);
            let links = text
                .split("href=\"")
                .skip(1)
                .chain(text.split("src=\"").skip(1))
                .filter(|rest| !rest.starts_with('#'));
            for rest in modules.chain(links) {
                let name = rest.split('"').next().unwrap();
                if asset.kind == super::HTML || asset.kind == super::SCRIPT {
                    assert!(
                        ALL.iter().any(|other| other.path.strip_prefix('/') == Some(name)),
                        "{} names {name}",
                        asset.path
                    );
                }
            }
            for elsewhere in ["https://", "url(", "@import", "innerHTML", "eval("] {
                assert!(!text.contains(elsewhere), "{} has {elsewhere}", asset.path);
            }
        }
    }
}
