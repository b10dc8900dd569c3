//! Takes what is sent to it: our webhook's bodies, Alertmanagers' notifications; and behaves badly where it is asked to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, Uri},
    routing::post,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) path: String,
    pub(super) body: Value,
}

type Seen = Arc<Mutex<Vec<Posted>>>;

pub(super) struct Hooks {
    pub(super) address: SocketAddr,
    seen: Seen,
    server: JoinHandle<()>,
}

impl Hooks {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let seen = Seen::default();
        let router = Router::new()
            .route("/hook", post(note))
            .route("/notified/{by}", post(note))
            .route(
                "/refuse",
                post(async || (StatusCode::UNPROCESSABLE_ENTITY, "never")),
            )
            .route(
                "/hang/{*rest}",
                post(async |_: Path<String>| std::future::pending::<()>().await),
            )
            .with_state(Arc::clone(&seen));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the hooks ended");
            }
        });
        Ok(Self {
            address,
            seen,
            server,
        })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All bodies posted to `path`, in order.
    pub(super) fn posted(&self, path: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of_path = seen.iter().filter(|posted| posted.path == path);
        of_path.map(|posted| posted.body.clone()).collect()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn note(State(seen): State<Seen>, uri: Uri, body: String) -> StatusCode {
    let Ok(body) = serde_json::from_str(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let posted = Posted {
        path: uri.path().to_owned(),
        body,
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(posted);
    StatusCode::OK
}
