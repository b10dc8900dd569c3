//! One open watch: a stream of lines.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fault::What;
use crate::http::{Asked, answer, failure, status, too_large};
use crate::{Inner, Orders, lock};

/// A watch that names no time ends after this long (a real server: 30 to 60 minutes).
const LONGEST: Duration = Duration::from_secs(1_800);

struct Watch {
    inner: Arc<Inner>,
    asked: Asked,
    /// What was sent up to here.
    version: u64,
    changed: tokio::sync::watch::Receiver<u64>,
    orders: tokio::sync::watch::Receiver<Orders>,
    ordered: Orders,
    ends_at: Instant,
    /// `None`: none were asked for.
    bookmark_at: Option<Instant>,
    lines: VecDeque<Bytes>,
    /// After the lines: nothing more.
    is_over: bool,
    /// After the lines: the connection is cut.
    is_cut: bool,
    fault: Option<What>,
}

pub(crate) fn watch(inner: Arc<Inner>, asked: Asked, fault: Option<What>) -> Response<Body> {
    if asked.is_set("sendInitialEvents") {
        // What a server without streaming lists says.
        return failure(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            None,
        );
    }
    let (changed, mut orders) = (inner.changed.subscribe(), inner.orders.subscribe());
    let ordered = *orders.borrow_and_update();
    let settings = lock(&inner.settings).clone();
    let store = lock(&inner.store);
    let wanted = asked.parameter("resourceVersion").unwrap_or("0");
    let Ok(wanted) = wanted.parse::<u64>() else {
        let message = format!(
            "resourceVersion: Invalid value: {wanted:?}: strconv.ParseUint: parsing {wanted:?}: invalid syntax"
        );
        return failure(400, "BadRequest", &message, None);
    };
    if wanted > store.version() {
        return too_large(wanted, store.version());
    }
    let mut lines = VecDeque::new();
    let is_gone = wanted != 0 && wanted < store.oldest();
    if is_gone {
        let message = format!("too old resource version: {wanted} ({})", store.oldest());
        if settings.gone_as_status {
            return failure(410, "Expired", &message, None);
        }
        lines.push_back(line("ERROR", &status(410, "Expired", &message)));
    }
    let mut version = wanted;
    if wanted == 0 {
        // As of now: what is there is told as if it were new.
        let objects = store.objects(asked.resource.plural);
        let objects = objects.filter(|((ns, _), _)| asked.namespace.as_ref().is_none_or(|n| n == ns));
        lines.extend(objects.map(|(_, object)| line("ADDED", object)));
        version = store.version();
    }
    drop(store);
    let seconds = asked.parameter("timeoutSeconds").and_then(|s| s.parse().ok());
    let now = Instant::now();
    let watch = Watch {
        version,
        changed,
        orders,
        ordered,
        ends_at: now + seconds.map_or(LONGEST, Duration::from_secs).min(LONGEST),
        bookmark_at: asked
            .is_set("allowWatchBookmarks")
            .then_some(now + settings.bookmark_every),
        lines,
        is_over: is_gone || fault == Some(What::Ends),
        is_cut: false,
        fault,
        inner,
        asked,
    };
    let body = stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((line, watch))
    });
    answer(200, "application/json", Body::from_stream(body))
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if self.fault == Some(What::Silent) {
                tokio::time::sleep_until(self.ends_at).await;
                return None;
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(self.spoilt(line)));
            }
            if self.is_cut {
                // What was written before must leave before the connection does.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if self.is_over {
                return None;
            }
            let orders = *self.orders.borrow_and_update();
            if orders.expire != self.ordered.expire {
                let message = "The resourceVersion for the provided watch is too old.";
                self.lines
                    .push_back(line("ERROR", &status(410, "Expired", message)));
                self.is_over = true;
                continue;
            }
            let is_over = orders.end != self.ordered.end || Instant::now() >= self.ends_at;
            self.changed.borrow_and_update();
            self.take_changes();
            if is_over {
                if self.bookmark_at.is_some() {
                    self.bookmark();
                }
                self.is_over = true;
                continue;
            }
            if self.bookmark_at.is_some_and(|at| Instant::now() >= at) {
                self.bookmark();
                self.bookmark_at = Some(Instant::now() + lock(&self.inner.settings).bookmark_every);
            }
            if !self.lines.is_empty() {
                continue;
            }
            let wake = self.bookmark_at.map_or(self.ends_at, |at| at.min(self.ends_at));
            tokio::select! {
                _ = self.changed.changed() => {}
                _ = self.orders.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn take_changes(&mut self) {
        let store = lock(&self.inner.store);
        for event in store.since(self.version) {
            let namespace = event
                .object
                .pointer("/metadata/namespace")
                .and_then(Value::as_str);
            let is_in = self.asked.namespace.is_none() || self.asked.namespace.as_deref() == namespace;
            if event.plural == self.asked.resource.plural && is_in {
                self.lines.push_back(line(event.change.as_str(), &event.object));
            }
        }
        self.version = store.version();
    }

    /// The version up to which there is nothing more to tell, in an object that has nothing else.
    fn bookmark(&mut self) {
        let object = json!({
            "kind": self.asked.resource.kind, "apiVersion": self.asked.resource.api_version(),
            "metadata": {"resourceVersion": self.version.to_string(), "creationTimestamp": null},
        });
        self.lines.push_back(line("BOOKMARK", &object));
    }

    /// As the fault wants it, once.
    fn spoilt(&mut self, line: Bytes) -> Bytes {
        let half = line.slice(..line.len() / 2);
        match self.fault {
            Some(What::Cut) => {
                self.lines.clear();
                self.is_cut = true;
                half
            }
            Some(What::Half) => {
                self.fault = None;
                Bytes::from([&half, &b"\n"[..]].concat())
            }
            _ => line,
        }
    }
}

fn line(change: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{change}\",\"object\":{object}}}\n"))
}
