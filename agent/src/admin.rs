//! The agent's HTTP server: /metrics, /healthz, /readyz.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use partywall_proto::scrape::Format;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, Status};

/// Readings that may be missed before the agent calls itself unhealthy.
const MISSED_READINGS: u32 = 3;
/// With short intervals a busy node misses more than that without being stuck.
const HEALTHY_AGE_MIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
#[error("--http-listen {address}: {source}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// # Errors
///
/// The address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

/// Serves until `stop`. `interval` is the wanted time between two readings.
pub async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Status>,
    interval: Duration,
    stop: CancellationToken,
) {
    let admin = Arc::new(Admin {
        metrics: Metrics::new(status.clone()),
        status,
        started: Instant::now(),
        healthy_age: (interval * MISSED_READINGS).max(HEALTHY_AGE_MIN),
    });
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n") })
        .with_state(admin);
    // A scraper that keeps its connection open must not keep the agent from stopping: no graceful shutdown, the requests
    // in flight are read-only.
    let served = stop
        .run_until_cancelled(axum::serve(listener, router).into_future())
        .await;
    if let Some(Err(error)) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}

struct Admin {
    metrics: Metrics,
    status: watch::Receiver<Status>,
    started: Instant,
    healthy_age: Duration,
}

async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let format = Format::accepted(
        headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok()),
    );
    match admin.metrics.encode() {
        Ok(text) => (
            [(header::CONTENT_TYPE, format.content_type())],
            format.written(text),
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether the agent still reads. Not whether the aggregator answers: restarting the agent would not help that.
async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    let read_at = admin.status.borrow().read_at;
    let age = read_at.unwrap_or(admin.started).elapsed();
    let healthy = age <= admin.healthy_age;
    let mut body = json!({ "healthy": healthy, "last_reading_age_seconds": age.as_secs_f64() });
    if !healthy {
        body["reason"] = json!(format!(
            "no reading for {:.1} s, at most {:.1} s are healthy",
            age.as_secs_f64(),
            admin.healthy_age.as_secs_f64()
        ));
    }
    answer(healthy, &body)
}

/// Whether what the agent says is complete: programs attached, maps read once.
async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let status = admin.status.borrow();
    let absent: Vec<_> = status
        .coverage
        .features
        .iter()
        .filter(|feature| !feature.present)
        .collect();
    let absent: Vec<_> = absent
        .iter()
        .map(|f| json!({ "feature": f.name, "reason": f.reason }))
        .collect();
    // A roll-out that would leave every node blind stops at the first.
    let missing: &[&str] = match (status.reading, status.counting) {
        (0, _) => &["first_reading"],
        (_, false) => &["anything_counted"],
        (_, true) => &[],
    };
    let body = json!({
        "ready": missing.is_empty(),
        "missing": missing,
        "absent_features": absent,
        "aggregator_connected": status.uplink.connected,
    });
    answer(missing.is_empty(), &body)
}

fn answer(fine: bool, body: &serde_json::Value) -> Response {
    let code = if fine {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}
