//! The aggregator's HTTP server: the page, /metrics, /healthz, /readyz.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use partywall_proto::scrape::Format;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::link::tls;
use crate::sinks::prometheus::Exporter;
use crate::state::State;
use crate::{hosts, identify, page};

/// Judgements that may be missed before the aggregator calls itself unhealthy.
const MISSED_JUDGEMENTS: f64 = 5.0;
const HEALTHY_AGE_MIN: Duration = Duration::from_secs(10);

/// Scrapes at once; who comes beyond is told to come again. Several Prometheus and a person, each some hundred milliseconds in a large cluster.
const SCRAPES: usize = 8;

#[derive(Debug)]
struct Admin {
    state: Arc<State>,
    exporter: Exporter,
    /// Scrapes that are written and those that wait for it.
    inside: Arc<Semaphore>,
    /// One at a time: a second one would only wait for the first, on a thread that the judge may need.
    writing: Arc<Semaphore>,
}

impl Admin {
    fn new(state: Arc<State>, exporter: Exporter) -> Self {
        Self {
            state,
            exporter,
            inside: Arc::new(Semaphore::new(SCRAPES)),
            writing: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Serves until `stop`; the page only where it is wanted, and only for requests by one of the names in `hosts`, if there are any.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    exporter: Exporter,
    with_page: bool,
    hosts: Vec<String>,
    stop: CancellationToken,
) {
    let page = with_page.then(|| page::router(Arc::clone(&state)));
    let paths = if with_page {
        "/, /metrics, /healthz or /readyz\n"
    } else {
        "/metrics, /healthz or /readyz\n"
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(Admin::new(state, exporter)))
        .merge(page.unwrap_or_default())
        .fallback(move || async move { (StatusCode::NOT_FOUND, paths) });
    let router = if hosts.is_empty() {
        router
    } else {
        let hosts: Arc<[String]> = hosts.into();
        router.layer(from_fn_with_state(hosts, by_name))
    };
    // A scraper that keeps its connection open must not keep the aggregator from stopping: requests only read.
    let served = stop
        .run_until_cancelled(axum::serve(listener, router).into_future())
        .await;
    if let Some(Err(error)) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn by_name(Extract(hosts): Extract<Arc<[String]>>, request: Request, next: Next) -> Response {
    if hosts::admits(&hosts, request.headers()) {
        return next.run(request).await;
    }
    let words = "this aggregator is not asked for by this name: --http-host says by which it is\n";
    (StatusCode::MISDIRECTED_REQUEST, words).into_response()
}

async fn metrics(Extract(admin): Extract<Arc<Admin>>, headers: HeaderMap) -> Response {
    let format = Format::accepted(
        headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok()),
    );
    let Ok(inside) = Arc::clone(&admin.inside).try_acquire_owned() else {
        let words = "too many scrapes at once; come again later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
    };
    let writing = Arc::clone(&admin.writing).acquire_owned().await;
    // A large cluster takes a while to write out: not on a thread that serves sockets.
    let state = Arc::clone(&admin.state);
    let scraped = tokio::task::spawn_blocking(move || {
        // Held until it is written: who has gone away meanwhile leaves the work behind.
        let _writing = writing;
        (admin.exporter.scrape().map(|text| format.written(text)), inside)
    });
    match scraped.await {
        Ok((Ok(text), _inside)) => {
            // What a restart would take back is not shown: Prometheus would take it for a counter that began anew.
            if let Some(journal) = state.journal.get() {
                journal.written(journal.position()).await;
            }
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
        Ok((Err(error), _)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether judging goes on.
async fn healthz(Extract(admin): Extract<Arc<Admin>>) -> Response {
    let (judged, step) = (admin.state.judged(), admin.state.step_seconds());
    let age = Duration::from_nanos(admin.state.now().since(judged));
    let most = Duration::from_secs_f64(step * MISSED_JUDGEMENTS).max(HEALTHY_AGE_MIN);
    let healthy = age <= most;
    let mut body = json!({ "healthy": healthy, "last_judgement_age_seconds": age.as_secs_f64() });
    if !healthy {
        let reason = format!(
            "no judgement for {:.1} s, at most {:.1} s are healthy",
            age.as_secs_f64(),
            most.as_secs_f64()
        );
        body["reason"] = json!(reason);
    }
    answer(healthy, &body)
}

/// Whether what the aggregator says is complete: it has judged once, and knows who is who. What is broken but does not stop it is listed.
async fn readyz(Extract(admin): Extract<Arc<Admin>>) -> Response {
    let mut missing = Vec::new();
    if admin.state.judged().mono_ns == 0 {
        missing.push("first_judgement".to_owned());
    }
    let mut degraded = Vec::new();
    let mut clusters = serde_json::Map::new();
    // One cluster's API that is away keeps its own agents out, not those of the others.
    let serves_none = !admin.state.clusters().any(|cluster| cluster.is_synced());
    for cluster in admin.state.clusters() {
        let (name, source) = (&*cluster.name, cluster.source.get());
        if !cluster.is_synced() {
            let reason = "its objects were not read yet: its agents are told to come again";
            match serves_none {
                true => missing.push(format!("objects of cluster {name}")),
                false => degraded.push(json!({ "cluster": name, "reason": reason })),
            }
        }
        degraded.extend(source.broken.iter().map(
            |(file, error)| json!({ "cluster": name, "file": file.display().to_string(), "reason": error }),
        ));
        let problems = source.api.iter().flat_map(identify::api::Status::problems);
        degraded.extend(
            problems.map(|(resource, reason)| json!({ "cluster": name, "api": resource, "reason": reason })),
        );
        degraded.extend(source.unjudged_quotas.iter().map(|quota| {
            let quota_name = format!("{}/{}", quota.namespace, quota.name);
            json!({ "cluster": name, "quota": quota_name, "reason": quota.reason })
        }));
        let objects = json!({
            "namespaces": source.namespaces,
            "pods": source.pods,
            "quotas": source.quotas,
            "limit_ranges": source.limit_ranges,
            "network_policies": source.network_policies,
            "foreign_policies": source.foreign_policies,
            "nodes": source.nodes,
            "services": source.services,
            "endpoint_slices": source.endpoint_slices,
            "capsule_tenants": source.capsule_tenants,
            "age_seconds": source.api.as_ref().and_then(identify::api::Status::age).map(|age| age.as_secs_f64()),
            "stale": source.api.as_ref().is_some_and(identify::api::Status::is_stale),
        });
        clusters.insert(name.to_owned(), objects);
    }
    if let Some(error) = admin.state.policy.get().error {
        degraded.push(json!({ "file": "policy", "reason": error }));
    }
    let tls = admin.state.tls.get();
    let concern = |file, validity: Option<tls::Validity>| {
        let words = tls::concern(validity?, tls::now_s())?;
        Some(json!({ "file": file, "reason": words }))
    };
    degraded.extend(concern("tls-cert", tls.own));
    degraded.extend(concern("tls-client-ca", tls.client_ca));
    degraded.extend(tls.error.map(|error| json!({ "file": "tls", "reason": error })));
    let body = json!({
        "ready": missing.is_empty(),
        "missing": missing,
        "degraded": degraded,
        "clusters": clusters,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::sync::Barrier;

    use partywall_aggregator_core::policy::Policy;

    use super::*;

    #[tokio::test]
    async fn scrapes_beyond_a_few_are_told_to_come_again() {
        let state = Arc::new(State::new(&Policy::default(), "default", []));
        let admin = Arc::new(Admin::new(
            Arc::clone(&state),
            Exporter::new(Arc::clone(&state), 200, 10),
        ));
        let ask = || {
            let admin = Arc::clone(&admin);
            tokio::spawn(async move { metrics(Extract(admin), HeaderMap::new()).await.status() })
        };
        // Somebody has the lock that each of them needs: on a thread, nothing may wait with it in hand.
        let both = Arc::new(Barrier::new(2));
        let begun = Arc::clone(&both);
        let cluster = Arc::clone(state.clusters().next().unwrap());
        let holder = std::thread::spawn(move || {
            let _world = cluster.lock();
            begun.wait();
            begun.wait();
        });
        both.wait();
        let waiting: Vec<_> = (0..SCRAPES).map(|_| ask()).collect();
        let beyond = tokio::time::timeout(Duration::from_secs(5), ask()).await;
        both.wait();
        holder.join().unwrap();
        assert_eq!(beyond.unwrap().unwrap(), StatusCode::SERVICE_UNAVAILABLE);
        for answer in waiting {
            assert_eq!(answer.await.unwrap(), StatusCode::OK);
        }
        assert_eq!(ask().await.unwrap(), StatusCode::OK, "there is room again");
    }
}
