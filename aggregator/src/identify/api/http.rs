//! One request: a page of a list, or a watch and its lines. What goes wrong gets a kind that is counted.

use std::io;
use std::time::Duration;

use axum::http::Request;
use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use super::resource::Resource;

/// Longest page that is read, in bytes: 500 of the largest objects that etcd takes are 750 MB, of usual pods 5 MB.
const MAX_PAGE: u64 = 256 * 1024 * 1024;
/// Longest line of a watch, in bytes: etcd takes objects of 1.5 MB, which are longer as JSON.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// Why a request brought nothing, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the server no longer knows the version that was asked for: {0}")]
    Gone(String),
    #[error("the server has no such resource")]
    Absent,
    /// The server's own words: who, which verb, which resource.
    #[error("a right lacks: {0}")]
    Forbidden(String),
    #[error("the server does not know who asks: {0}")]
    Unauthorized(String),
    #[error("the server answered {code}: {message}")]
    Refused {
        code: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("the connection was cut: {0}")]
    Cut(String),
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// Its link may be dead, or there was nothing to say: servers need not send bookmarks.
    #[error("the watch was silent for {0:?}")]
    Silent(Duration),
    #[error("an answer that makes no sense: {0}")]
    Malformed(String),
}

impl Problem {
    /// As metrics name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::Absent => "absent",
            Self::Forbidden(_) => "forbidden",
            Self::Unauthorized(_) => "unauthorized",
            Self::Refused { .. } => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Cut(_) => "cut",
            Self::Slow(_) => "slow",
            Self::Silent(_) => "silent",
            Self::Malformed(_) => "malformed",
        }
    }

    /// Part of how watches are: what is known is not in doubt.
    pub(super) fn is_usual(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Silent(_))
    }

    /// No sooner than this.
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Refused {
                retry_after: Some(after),
                ..
            } => *after,
            // What a server that sheds load asks for in a header that is not handed on.
            Self::Refused { code: 429 | 503, .. } => Duration::from_secs(1),
            _ => Duration::ZERO,
        }
    }

    fn of_status(code: u16, message: &str, retry_after_s: u32) -> Self {
        let message: String = message.chars().take(400).collect();
        match code {
            410 => Self::Gone(message),
            404 => Self::Absent,
            403 => Self::Forbidden(message),
            401 => Self::Unauthorized(message),
            code => Self::Refused {
                code,
                message,
                retry_after: (retry_after_s > 0).then(|| Duration::from_secs(u64::from(retry_after_s))),
            },
        }
    }
}

impl From<kube::Error> for Problem {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let after = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
                Self::of_status(status.code, &status.message, after)
            }
            error => Self::Unreachable(innermost(&error)),
        }
    }
}

/// The cause says more than what it caused.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A part of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    metadata: PageMeta,
    /// A list of none may be written as null.
    #[serde(default)]
    pub(super) items: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

impl Page {
    /// # Errors
    /// It is no list, or has no version to watch from.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let page: Self =
            serde_json::from_slice(bytes).map_err(|e| Problem::Malformed(format!("a list: {e}")))?;
        if page.metadata.resource_version.is_empty() {
            return Err(Problem::Malformed(
                "a list without metadata.resourceVersion".to_owned(),
            ));
        }
        Ok(page)
    }

    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Empty: it is the last one.
    pub(super) fn next(&self) -> &str {
        &self.metadata.r#continue
    }
}

/// A resource at a server.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) client: Client,
    pub(super) resource: &'static Resource,
}

impl Endpoint {
    /// The bytes of a page. Without a version: the most recent state, so that nothing comes back that was gone already.
    pub(super) async fn page(&self, limit: u32, token: &str, within: Duration) -> Result<Vec<u8>, Problem> {
        let mut query = format!("{}?limit={limit}", self.resource.path());
        if !token.is_empty() {
            query.push_str("&continue=");
            query.push_str(&encoded(token));
        }
        let read = async {
            let body = self.client.request_stream(request(&query)?).await?;
            let mut bytes = Vec::new();
            let mut body = std::pin::pin!(body.take(MAX_PAGE + 1));
            body.read_to_end(&mut bytes)
                .await
                .map_err(|e| Problem::Cut(innermost(&e)))?;
            if bytes.len() as u64 > MAX_PAGE {
                return Err(Problem::Malformed(format!(
                    "a page of more than {MAX_PAGE} bytes"
                )));
            }
            Ok(bytes)
        };
        tokio::time::timeout(within, read)
            .await
            .unwrap_or(Err(Problem::Slow(within)))
    }

    /// Opens a watch from a version on, with bookmarks.
    pub(super) async fn watch(
        &self,
        version: &str,
        lasting: Duration,
        within: Duration,
    ) -> Result<Lines<impl AsyncBufRead + use<>>, Problem> {
        let query = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            self.resource.path(),
            encoded(version),
            lasting.as_secs().max(1)
        );
        let open = self.client.request_stream(request(&query)?);
        let body = tokio::time::timeout(within, open)
            .await
            .map_err(|_| Problem::Slow(within))??;
        Ok(Lines {
            body: Box::pin(body),
            part: Vec::new(),
        })
    }
}

fn request(path: &str) -> Result<Request<Vec<u8>>, Problem> {
    let request = Request::get(path).header("Accept", "application/json");
    request
        .body(Vec::new())
        .map_err(|e| Problem::Malformed(e.to_string()))
}

/// Percent-encoded: versions and tokens are opaque.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The lines of a watch.
pub(super) struct Lines<R> {
    body: std::pin::Pin<Box<R>>,
    part: Vec<u8>,
}

impl<R: AsyncBufRead> Lines<R> {
    /// The next line; `None`: the server ended the watch. Half a line at the end is none: it will be told again.
    /// Dropped before it is done, it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        loop {
            let bytes = match self.body.fill_buf().await {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Problem::Cut(innermost(&error))),
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = bytes.iter().position(|b| *b == b'\n');
            self.part.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            let used = end.map_or(bytes.len(), |end| end + 1);
            self.body.consume_unpin(used);
            if self.part.len() > MAX_LINE {
                return Err(Problem::Malformed(format!(
                    "a line of more than {MAX_LINE} bytes"
                )));
            }
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.part)));
            }
        }
    }
}

/// What a line of a watch says.
pub(super) enum Event {
    Put(Value),
    Deleted(Value),
    /// Nothing more happened up to this version.
    Bookmark(String),
}

impl Event {
    /// # Errors
    /// The line is an error of the server's, or makes no sense.
    pub(super) fn read(line: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: String,
            object: Value,
        }
        let Raw { r#type, object } =
            serde_json::from_slice(line).map_err(|e| Problem::Malformed(format!("an event: {e}")))?;
        match &*r#type {
            "ADDED" | "MODIFIED" => Ok(Self::Put(object)),
            "DELETED" => Ok(Self::Deleted(object)),
            "BOOKMARK" => match object
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
            {
                Some(version) if !version.is_empty() => Ok(Self::Bookmark(version.to_owned())),
                _ => Err(Problem::Malformed(
                    "a bookmark without metadata.resourceVersion".to_owned(),
                )),
            },
            "ERROR" => {
                let code = object
                    .get("code")
                    .and_then(Value::as_u64)
                    .and_then(|c| u16::try_from(c).ok());
                let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
                let after = object
                    .pointer("/details/retryAfterSeconds")
                    .and_then(Value::as_u64);
                let after = after.and_then(|s| u32::try_from(s).ok()).unwrap_or(0);
                // A watch of what is there cannot be answered with "not found".
                Err(match Problem::of_status(code.unwrap_or(500), message, after) {
                    Problem::Absent => Problem::Gone(message.to_owned()),
                    problem => problem,
                })
            }
            other => Err(Problem::Malformed(format!(
                "an event of type {:?}",
                other.chars().take(40).collect::<String>()
            ))),
        }
    }
}
