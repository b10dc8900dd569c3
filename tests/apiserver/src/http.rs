//! Paths, lists and errors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, Response, StatusCode};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::fault::What;
use crate::kinds::Resource;
use crate::{CLIENT_TOKEN, Inner, Request, lock, review, watch};

/// Largest body of a TokenReview that is read, in bytes.
const MAX_REVIEW: usize = 1 << 20;
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Lists under way that are remembered.
const MAX_SNAPSHOTS: usize = 64;

/// Pages are cut from one moment: plural and version → its objects.
pub(crate) type Snapshots = BTreeMap<(&'static str, u64), Arc<Vec<Arc<Value>>>>;

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new().fallback(serve).with_state(inner)
}

pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What a path and a query ask for.
pub(crate) struct Asked {
    pub(crate) resource: &'static Resource,
    /// Of one namespace only.
    pub(crate) namespace: Option<String>,
    name: Option<String>,
    pub(crate) query: String,
}

impl Asked {
    fn of(path: &str, query: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match &parts[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            [plural] => (None, *plural, None),
            ["namespaces", name] if group.is_empty() => (None, "namespaces", Some(*name)),
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            [plural, name] => (None, *plural, Some(*name)),
            _ => return None,
        };
        Some(Self {
            resource: Resource::at(group, version, plural)?,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            query: query.to_owned(),
        })
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        parameter(&self.query, name).filter(|value| !value.is_empty())
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.parameter(name), Some("true" | "1"))
    }
}

async fn serve(State(inner): State<Arc<Inner>>, request: axum::extract::Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked = Asked::of(&path, &query);
    let verb = match (request.method(), &asked) {
        (&Method::GET, Some(asked)) if asked.name.is_some() => "get",
        (&Method::GET, Some(asked)) if asked.is_set("watch") => "watch",
        (&Method::GET, Some(_)) => "list",
        (&Method::GET, None) => "get",
        (&Method::POST, _) => "create",
        (&Method::DELETE, _) => "delete",
        _ => "update",
    };
    lock(&inner.requests).push(Request {
        verb,
        path: path.clone(),
        query,
        at: Instant::now(),
    });
    let let_in = request.headers().get(AUTHORIZATION);
    if let_in.and_then(|v| v.to_str().ok()) != Some(&format!("Bearer {CLIENT_TOKEN}")) {
        return failure(401, "Unauthorized", "Unauthorized", None);
    }
    let plural = match &asked {
        Some(asked) => asked.resource.plural,
        None if path == REVIEWS => "tokenreviews",
        None => "",
    };
    let fault = take_fault(&inner, plural, verb);
    match &fault {
        Some(What::Slow(by)) => tokio::time::sleep(*by).await,
        Some(What::Hang) => std::future::pending().await,
        Some(What::Status { code, retry_after_s }) => {
            let reason = reason(*code);
            let message = match (*code, &asked) {
                (403, Some(asked)) => forbidden(asked, verb),
                (403, None) => format!(
                    "{plural}.authentication.k8s.io is forbidden: User \"system:serviceaccount:partywall:aggregator\" cannot {verb} resource {plural:?} in API group \"authentication.k8s.io\" at the cluster scope"
                ),
                _ => format!("the server said {reason} because the test wants it"),
            };
            return failure(*code, reason, &message, *retry_after_s);
        }
        Some(What::Text { code, text }) => return plain(*code, text),
        _ => {}
    }
    if path == REVIEWS && verb == "create" {
        return token_review(&inner, request).await;
    }
    let Some(asked) = asked else {
        return plain(404, "404 page not found\n");
    };
    if asked.resource.custom && !lock(&inner.store).defined.contains(asked.resource.plural) {
        return plain(404, "404 page not found\n");
    }
    if let Some(selector) = ["labelSelector", "fieldSelector"]
        .into_iter()
        .find(|s| asked.parameter(s).is_some())
    {
        return failure(
            400,
            "BadRequest",
            &format!("this server knows no {selector}"),
            None,
        );
    }
    match verb {
        "watch" => watch::watch(inner, asked, fault),
        "list" => list(&inner, &asked, fault.as_ref()),
        "get" => get(&inner, &asked),
        _ => failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
            None,
        ),
    }
}

fn take_fault(inner: &Inner, plural: &str, verb: &str) -> Option<What> {
    let mut faults = lock(&inner.faults);
    let fault = faults.iter_mut().rev().find(|f| f.is_for(plural, verb))?;
    if let Some(times) = &mut fault.times {
        *times -= 1;
    }
    Some(fault.what.clone())
}

fn get(inner: &Inner, asked: &Asked) -> Response<Body> {
    let name = asked.name.clone().unwrap_or_default();
    let key = (asked.namespace.clone().unwrap_or_default(), name.clone());
    match lock(&inner.store).get(asked.resource.plural, &key) {
        Some(object) => json_body(200, object),
        None => {
            let message = format!("{} {name:?} not found", asked.resource.qualified());
            failure(404, "NotFound", &message, None)
        }
    }
}

fn list(inner: &Inner, asked: &Asked, fault: Option<&What>) -> Response<Body> {
    let resource = asked.resource;
    let limit = asked
        .parameter("limit")
        .and_then(|n| n.parse::<usize>().ok())
        .filter(|n| *n > 0);
    let (snapshot, version, from) = match asked.parameter("continue") {
        Some(token) => {
            let Some((version, from)) = token_of(token) else {
                return failure(400, "BadRequest", "continue key is not valid", None);
            };
            let Some(snapshot) = lock(&inner.snapshots).get(&(resource.plural, version)).cloned() else {
                return failure(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
                    None,
                );
            };
            (snapshot, version, from)
        }
        None => {
            let store = lock(&inner.store);
            let wanted = asked
                .parameter("resourceVersion")
                .and_then(|v| v.parse::<u64>().ok());
            if wanted.is_some_and(|wanted| wanted > store.version()) {
                return too_large(wanted.unwrap_or(0), store.version());
            }
            let objects = store.objects(resource.plural);
            let objects = objects.filter(|((ns, _), _)| asked.namespace.as_ref().is_none_or(|n| n == ns));
            let snapshot: Vec<Arc<Value>> = objects.map(|(_, object)| Arc::clone(object)).collect();
            (Arc::new(snapshot), store.version(), 0)
        }
    };
    // Pages are for those who ask for them.
    let page = limit.unwrap_or(usize::MAX);
    let to = from.saturating_add(page).min(snapshot.len());
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if to < snapshot.len() {
        metadata["continue"] = json!(format!("{version:016x}{to:016x}"));
        metadata["remainingItemCount"] = json!(snapshot.len() - to);
        let mut snapshots = lock(&inner.snapshots);
        snapshots.insert((resource.plural, version), Arc::clone(&snapshot));
        while snapshots.len() > MAX_SNAPSHOTS {
            snapshots.pop_first();
        }
    }
    let items: Vec<Value> = snapshot
        .get(from..to)
        .unwrap_or_default()
        .iter()
        .map(|object| {
            let mut item = Value::clone(object);
            if let (Some(item), false) = (item.as_object_mut(), resource.custom) {
                item.remove("kind");
                item.remove("apiVersion");
            }
            item
        })
        .collect();
    let body = json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": metadata, "items": items,
    });
    match fault {
        Some(What::Cut | What::Half) => {
            let text = body.to_string();
            let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
            let is_cut = fault == Some(&What::Cut);
            let cut =
                stream::iter(is_cut.then(|| Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))));
            // The half is on its way before the connection is cut.
            let body = stream::iter([Ok(half)]).chain(cut);
            answer(200, "application/json", Body::from_stream(body))
        }
        _ => json_body(200, &body),
    }
}

fn token_of(token: &str) -> Option<(u64, usize)> {
    let (version, from) = token.split_at_checked(16)?;
    let from = u64::from_str_radix(from, 16).ok()?;
    Some((
        u64::from_str_radix(version, 16).ok()?,
        usize::try_from(from).ok()?,
    ))
}

async fn token_review(inner: &Inner, request: axum::extract::Request) -> Response<Body> {
    let body = axum::body::to_bytes(request.into_body(), MAX_REVIEW).await;
    let object = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    match object.filter(Value::is_object) {
        Some(object) => json_body(201, &review::review(object, &lock(&inner.tokens))),
        None => failure(400, "BadRequest", "the object provided is unrecognized", None),
    }
}

fn forbidden(asked: &Asked, verb: &str) -> String {
    let (name, plural, group) = (
        asked.resource.qualified(),
        asked.resource.plural,
        asked.resource.group,
    );
    format!(
        "{name} is forbidden: User \"system:serviceaccount:partywall:aggregator\" cannot {verb} resource {plural:?} in API group {group:?} at the cluster scope"
    )
}

pub(crate) fn too_large(wanted: u64, version: u64) -> Response<Body> {
    let message = format!("Too large resource version: {wanted}, current: {version}");
    failure(504, "Timeout", &message, Some(1))
}

fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(crate) fn failure(code: u16, reason: &str, message: &str, retry_after_s: Option<u32>) -> Response<Body> {
    let mut response = json_body(code, &status(code, reason, message));
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn plain(code: u16, text: &'static str) -> Response<Body> {
    answer(code, "text/plain; charset=utf-8", Body::from(text))
}

fn json_body(code: u16, value: &Value) -> Response<Body> {
    answer(code, "application/json", Body::from(value.to_string()))
}

pub(crate) fn answer(code: u16, content: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content = axum::http::HeaderValue::from_static(content);
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}
