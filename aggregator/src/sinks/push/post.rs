//! One POST, with a bound on time and on what is read of the answer.
//!
//! hyper-util's client and hyper-rustls: kube's client is made of them, so nothing new is compiled. Redirects are not followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use super::Sink;
use super::endpoint::Endpoint;
use crate::link::tls;
use crate::sinks::alertmanager;

/// A whole request, its answer included. Alertmanager answers in milliseconds; who does not in five seconds is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);
/// Read of an answer: enough for what is wrong.
const MAX_ANSWER: usize = 16 * 1024;
/// Repeated of it in the log, in characters.
const QUOTED: usize = 200;
/// A token is shorter.
const MAX_TOKEN: u64 = 64 * 1024;

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It will not be, however often it is sent.
    Refused(String),
    /// It may be the next time.
    Failed(String),
}

#[derive(Clone, Debug)]
pub(super) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Post {
    /// # Errors
    /// `ca` cannot be read or holds no certificate; without it, `https` is needed and the system has no authorities.
    pub(super) fn new(ca: Option<&Path>, https: bool) -> anyhow::Result<Self> {
        let roots = match ca {
            Some(path) => tls::roots("--push-ca", path)?,
            None if https => system_roots()?,
            None => RootCertStore::empty(),
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Shorter than what servers and load balancers keep.
            .pool_idle_timeout(Duration::from_secs(45))
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self { client })
    }

    /// # Errors
    /// It was not taken.
    pub(super) async fn send(
        self,
        sink: Sink,
        to: Endpoint,
        token: Option<PathBuf>,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        match tokio::time::timeout(PATIENCE, self.request(sink, to, token, body)).await {
            Ok(sent) => sent,
            Err(_) => Err(Failure::Failed(format!("no answer within {PATIENCE:?}"))),
        }
    }

    async fn request(
        self,
        sink: Sink,
        to: Endpoint,
        token: Option<PathBuf>,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(to.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("partywall-aggregator/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(path) = token {
            let token = read_token(&path)
                .await
                .map_err(|e| Failure::Failed(format!("{e:#}")))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|e| Failure::Failed(e.to_string()))?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|e| Failure::Failed(chain(&e)))?;
        let status = answer.status();
        // Taken is taken, whatever else is said and however slowly: an empty answer, which is usual, leaves the connection open for the next.
        if status.is_success() {
            return Ok(());
        }
        let said = match sink {
            // Many servers quote the path in what they say, in whatever spelling, and a webhook's path may be its secret.
            Sink::Webhook => String::new(),
            Sink::Alertmanager => {
                let said = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
                said.map(|body| quoted(&body.to_bytes(), &to.uri))
                    .unwrap_or_default()
            }
        };
        let problem = format!("{status} {said}").trim_end().to_owned();
        if is_passing(status) {
            Err(Failure::Failed(problem))
        } else {
            Err(Failure::Refused(problem))
        }
    }
}

/// Whether the same request may be taken later: rights and routes are mended, a body is not.
fn is_passing(status: StatusCode) -> bool {
    let passing = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_client_error() || passing.contains(&status)
}

fn system_roots() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    ensure!(
        !roots.is_empty(),
        "--push-ca is needed for an https:// target: this system has no authorities{}",
        found
            .errors
            .first()
            .map(|e| format!(" ({e})"))
            .unwrap_or_default()
    );
    Ok(roots)
}

async fn read_token(path: &Path) -> anyhow::Result<String> {
    let about = || format!("token file {}", path.display());
    let length = tokio::fs::metadata(path).await.with_context(about)?.len();
    ensure!(length <= MAX_TOKEN, "{}: {length} bytes are no token", about());
    let text = tokio::fs::read_to_string(path).await.with_context(about)?;
    let token = text.trim();
    let fits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    ensure!(fits, "{}: holds no token", about());
    Ok(token.to_owned())
}

/// An error with its causes: hyper's own says "client error (Connect)" alone.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What an Alertmanager, or the proxy before it, said: without the path that it was asked for.
fn quoted(said: &[u8], uri: &Uri) -> String {
    let mut said = String::from_utf8_lossy(said).into_owned();
    let whole = uri.path_and_query().map_or("", |whole| whole.as_str());
    let below = uri.path().strip_suffix(alertmanager::PATH).unwrap_or_default();
    // The longest first: it holds the others.
    for part in [whole, uri.path(), uri.query().unwrap_or_default(), below] {
        if !part.is_empty() {
            said = said.replace(part, "…");
        }
    }
    said.chars()
        .take(QUOTED)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;

    /// A server that quotes the path, as Express does.
    async fn refusing(status: StatusCode) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = move |uri: Uri| async move { (status, format!("Cannot POST {uri}\nReally")) };
        tokio::spawn(axum::serve(listener, Router::new().fallback(says)).into_future());
        address
    }

    #[tokio::test]
    async fn what_a_target_quotes_of_its_path_is_not_repeated() {
        let post = Post::new(None, false).unwrap();
        let to = async |status, sink| {
            let address = refusing(status).await;
            let to = Endpoint::parse(&format!("http://{address}/services/T0/s3cr3t")).unwrap();
            let to = match sink {
                Sink::Webhook => to,
                Sink::Alertmanager => to.below(alertmanager::PATH).unwrap(),
            };
            post.clone().send(sink, to, None, Vec::new()).await.unwrap_err()
        };
        let failed = |text: &str| Failure::Failed(text.to_owned());
        let refused = |text: &str| Failure::Refused(text.to_owned());
        let (missing, bad) = (StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST);
        assert_eq!(to(missing, Sink::Webhook).await, failed("404 Not Found"));
        assert_eq!(to(bad, Sink::Webhook).await, refused("400 Bad Request"));
        assert_eq!(
            to(missing, Sink::Alertmanager).await,
            failed("404 Not Found Cannot POST … Really")
        );
        let uri: Uri = "http://am/s3cr3t/api/v2/alerts".parse().unwrap();
        assert_eq!(quoted(b"no route /s3cr3t/ here", &uri), "no route …/ here");
    }
}
