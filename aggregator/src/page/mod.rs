//! The page: what the aggregator knows, for people with a browser. Read-only, without cookies, from its own origin alone; every address in it is relative, so
//! that it works below any prefix that a proxy puts before it.
//!
//! The page asks every second what changed, and gets "nothing" (304) until something was judged anew. No stream is held open: a proxy that buffers, a
//! laptop that slept and a pod that was replaced need no care, and who watches takes nothing between two questions.

mod answer;
mod assets;
mod detail;
mod fresh;
mod history;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State as Extract};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use partywall_aggregator_core::traffic::FlowFilter;
use serde::Deserialize;

use crate::state::{Cluster, State};
use answer::{Asked, Problem};
use fresh::Fresh;

/// Nothing from elsewhere, nothing inline, no plug-in, no form; in a frame only of the same origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// What the page asks is answered from this.
#[derive(Debug)]
pub(crate) struct Page {
    state: Arc<State>,
    fresh: Fresh,
    asked: Asked,
    tenants: Arc<detail::Kept>,
}

/// Everything below `/` that is the page's.
pub(crate) fn router(state: Arc<State>) -> Router {
    let page = Arc::new(Page {
        fresh: Fresh::new(Arc::clone(&state)),
        asked: Asked::new(Arc::clone(&state)),
        tenants: Arc::default(),
        state,
    });
    let mut router = Router::new();
    for asset in &assets::ALL {
        let body = move |headers: HeaderMap| std::future::ready(asset.answer(&headers));
        router = router.route(asset.path, get(body));
    }
    router
        .route("/api/snapshot", get(snapshot))
        .route("/api/node", get(node))
        .route("/api/tenant", get(tenant))
        .route("/api/flows", get(flows))
        .route("/api/history", get(history))
        .with_state(page)
        .layer(from_fn(guarded))
}

/// What every answer bears.
async fn guarded(request: Request<axum::body::Body>, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// Whether the peer has what bears this tag. Proxies that compress make a strong tag a weak one.
fn has(headers: &HeaderMap, etag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    asked.is_some_and(|tags| tags.split(',').any(|tag| bare(tag) == bare(etag)))
}

/// JSON that nobody on the way may keep.
fn json(body: impl Into<axum::body::Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body.into()).into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, words) = match self {
            Self::NotFound(words) => (StatusCode::NOT_FOUND, words),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many questions at once; ask again later".to_owned(),
            ),
            Self::Failed(words) => (StatusCode::INTERNAL_SERVER_ERROR, words),
        };
        let mut response = json(serde_json::json!({ "problem": words }).to_string());
        *response.status_mut() = code;
        response
    }
}

/// Everything but pods and flows: one answer for each judgement, whoever asks how often.
async fn snapshot(Extract(page): Extract<Arc<Page>>, headers: HeaderMap) -> Response {
    let made = match page.fresh.get().await {
        Ok(made) => made,
        Err(problem) => return problem.into_response(),
    };
    let etag = HeaderValue::from_str(&made.etag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    let mut response = if has(&headers, &made.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(made.body.clone())
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// One thing of one cluster. An empty cluster is the aggregator's own.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    name: String,
}

/// A node's ledger, tenants and pods.
async fn node(Extract(page): Extract<Arc<Page>>, Query(asked): Query<Named>) -> Result<Response, Problem> {
    let cluster = page.cluster(&asked.cluster)?;
    let body = page
        .asked
        .answer(move || detail::node(&cluster, &asked.name))
        .await?;
    Ok(json(body))
}

/// A tenant's pods.
async fn tenant(Extract(page): Extract<Arc<Page>>, Query(asked): Query<Named>) -> Result<Response, Problem> {
    let cluster = page.cluster(&asked.cluster)?;
    let tenants = Arc::clone(&page.tenants);
    let body = page
        .asked
        .answer(move || tenants.tenant(&cluster, &asked.name))
        .await?;
    Ok(json(body))
}

/// Which flows: tenant, `namespace/` or `namespace/pod` of both ends.
#[derive(Debug, Deserialize)]
struct Ends {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
}

/// The flows between two tenants, each with the reason of its verdict.
async fn flows(Extract(page): Extract<Arc<Page>>, Query(asked): Query<Ends>) -> Result<Response, Problem> {
    let cluster = page.cluster(&asked.cluster)?;
    let filter = FlowFilter {
        from: asked.from,
        to: asked.to,
        ..FlowFilter::default()
    };
    let body = page
        .asked
        .answer(move || detail::flows(&cluster, &filter))
        .await?;
    Ok(json(body))
}

/// What happened: breaches that are over.
async fn history(
    Extract(page): Extract<Arc<Page>>,
    Query(asked): Query<history::Wanted>,
) -> Result<Response, Problem> {
    let state = Arc::clone(&page.state);
    let body = page.asked.answer(move || history::list(&state, &asked)).await?;
    Ok(json(body))
}

impl Page {
    fn cluster(&self, name: &str) -> Result<Arc<Cluster>, Problem> {
        self.state.cluster(name).map(Arc::clone).ok_or_else(|| {
            let name: String = name.chars().take(80).collect();
            Problem::NotFound(format!("cluster: {name:?} is not known"))
        })
    }
}
