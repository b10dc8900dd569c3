//! One resource, listed once and watched from there, for ever.
//!
//! Not kube-rs' own watcher: that one asks again from a version which the server answered with HTTP 410, drops an event whose line is broken and goes on
//! after it, opens a watch that ends at once again without a pause, and keeps bookmarks, the only sign of life of a quiet
//! resource, to itself.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::AsyncBufRead;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::http::{Endpoint, Event, Lines, Page, Problem};
use super::status::{Phase, Watched};
use super::store::{Item, Key};
use super::{Shared, Timing};

pub(super) struct Follower {
    pub(super) endpoint: Endpoint,
    /// In [`super::RESOURCES`].
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) timing: Timing,
}

/// What went wrong, and whether anything was heard before.
struct Ended {
    problem: Option<Problem>,
    heard: bool,
}

impl Follower {
    pub(super) async fn follow(self) {
        let mut pause = Pause::new(&self.timing);
        // Where to watch from. `None`: what is there must be listed.
        let mut version: Option<String> = None;
        let mut limit = self.timing.page_size;
        // An absence must be told twice before what was known is given up: servers say so while they start.
        let mut absences = 0;
        loop {
            let began = Instant::now();
            let ended = match &mut version {
                None => match self.list(limit).await {
                    Ok(listed) => {
                        version = Some(listed);
                        limit = self.timing.page_size;
                        absences = 0;
                        continue;
                    }
                    Err(ended) => ended,
                },
                Some(version) => self.watch(version).await,
            };
            if ended.heard && began.elapsed() >= self.timing.settled {
                pause.reset();
            }
            let Some(problem) = ended.problem else {
                // The server ends watches every few minutes; one that ends at once is in trouble.
                if began.elapsed() < self.timing.settled {
                    self.status(|s| s.phase = Phase::Waiting);
                    tokio::time::sleep(pause.next()).await;
                }
                continue;
            };
            if matches!(problem, Problem::Absent) && self.endpoint.resource.optional {
                version = None;
                absences += 1;
                self.absent(absences).await;
                continue;
            }
            if matches!(problem, Problem::Gone(_)) {
                if version.take().is_none() {
                    // A page's token: the list took too long, or its moment was forgotten. Fewer and larger pages take less.
                    limit = limit.saturating_mul(2);
                }
                self.status(|s| s.relists += 1);
            }
            self.fail(&problem);
            if matches!(problem, Problem::Silent(_)) {
                continue;
            }
            tokio::time::sleep(pause.next().max(problem.retry_after())).await;
        }
    }

    /// Lists everything, page by page, and takes it over as a whole. Returns the version to watch from.
    async fn list(&self, limit: u32) -> Result<String, Ended> {
        self.status(|s| s.phase = Phase::Listing);
        let (mut items, mut token) = (Vec::new(), String::new());
        let failed = |problem, heard| Ended {
            problem: Some(problem),
            heard,
        };
        let version = loop {
            let heard = !token.is_empty();
            let bytes = self.endpoint.page(limit, &token, self.timing.answer).await;
            let bytes = bytes.map_err(|problem| failed(problem, heard))?;
            let (shared, index, resource) = (Arc::clone(&self.shared), self.index, self.endpoint.resource);
            // Some tens of milliseconds of a page of pods: not on a thread that serves sockets.
            let read = spawn_blocking(move || {
                let mut page = Page::read(&bytes)?;
                let known =
                    |key: &Key, uid: &str, version: &str| shared.stores()[index].known(key, uid, version);
                let items = page.items.take().unwrap_or_default();
                let items: Vec<_> = items
                    .into_iter()
                    .map(|json| Item::read(resource, json, known))
                    .collect();
                Ok((page, items))
            });
            let read = read
                .await
                .unwrap_or_else(|e| Err(Problem::Malformed(e.to_string())));
            let (page, read) = read.map_err(|problem| failed(problem, heard))?;
            for item in read {
                match item {
                    Ok(item) => items.push(item),
                    Err(problem) => self.unnamed(&problem),
                }
            }
            self.status(Watched::hear);
            if page.next().is_empty() {
                break page.version().to_owned();
            }
            page.next().clone_into(&mut token);
        };
        let claims = self.index == 0 && items.iter().any(Item::claims_capsule);
        self.change(|store| store.replace(items));
        self.status(|s| s.is_known = true);
        self.shared.changed.notify_one();
        if claims {
            self.shared.capsule_claimed.notify_one();
        }
        debug!(resource = self.endpoint.resource.name, version, "listed");
        Ok(version)
    }

    /// Watches from `version` on, which grows with what is heard.
    async fn watch(&self, version: &mut String) -> Ended {
        // Not all at once: nine resources of many aggregators would come in step.
        let lasting = self.timing.watch.mul_f64(jitter());
        let mut lines = match self.endpoint.watch(version, lasting, self.timing.answer).await {
            Ok(lines) => lines,
            Err(problem) => {
                return Ended {
                    problem: Some(problem),
                    heard: false,
                };
            }
        };
        self.status(|s| {
            s.hear();
            s.phase = Phase::Watching;
            s.watches += 1;
        });
        let mut heard = false;
        let problem = loop {
            match self.line(&mut lines, version).await {
                Ok(true) => heard = true,
                Ok(false) => break None,
                Err(problem) => break Some(problem),
            }
        };
        Ended { problem, heard }
    }

    /// Takes over one line. `false`: there are no more.
    async fn line(
        &self,
        lines: &mut Lines<impl AsyncBufRead>,
        version: &mut String,
    ) -> Result<bool, Problem> {
        let silence = self.timing.silence;
        let line = tokio::time::timeout(silence, lines.next()).await;
        let Some(line) = line.map_err(|_| Problem::Silent(silence))?? else {
            return Ok(false);
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(true);
        }
        let event = Event::read(&line)?;
        self.status(Watched::hear);
        let (json, is_there) = match event {
            Event::Bookmark(newer) => {
                *version = newer;
                return Ok(true);
            }
            Event::Put(json) => (json, true),
            Event::Deleted(json) => (json, false),
        };
        // Told once: an object that makes no sense is not asked for again and again.
        if let Some(newer) = json.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            newer.clone_into(version);
        }
        match Item::read(self.endpoint.resource, json, |_, _, _| None) {
            Ok(item) => self.take(item, is_there),
            Err(problem) => self.unnamed(&problem),
        }
        Ok(true)
    }

    fn take(&self, item: Item, is_there: bool) {
        let claims = is_there && self.index == 0 && item.claims_capsule();
        let changed = self.change(|store| {
            if is_there {
                store.put(item)
            } else {
                store.remove(&item.key)
            }
        });
        if changed {
            self.shared.changed.notify_one();
        }
        if changed && claims {
            self.shared.capsule_claimed.notify_one();
        }
    }

    fn unnamed(&self, problem: &str) {
        warn!(resource = self.endpoint.resource.name, problem, "object left out");
        self.status(|s| *s.errors.entry("unnamed").or_default() += 1);
    }

    /// The cluster has no such resource: looks again now and then, and when a namespace says that it should be there.
    async fn absent(&self, absences: u32) {
        let was_known = self.shared.stores()[self.index].len() > 0;
        if absences > 1 || !was_known {
            let is_news = self.change(|store| {
                let is_news = !store.is_absent;
                store.set_absent();
                is_news
            });
            self.status(|s| s.is_known = true);
            if is_news {
                info!(resource = self.endpoint.resource.name, "the cluster has none");
                self.shared.changed.notify_one();
            }
        }
        self.status(|s| {
            s.hear();
            s.phase = Phase::Absent;
        });
        // Not more often than this, however many namespaces are labelled.
        tokio::time::sleep(self.timing.absent_least).await;
        let claimed = self.shared.capsule_claimed.notified();
        let _ = tokio::time::timeout(self.timing.absent, claimed).await;
    }

    fn fail(&self, problem: &Problem) {
        let text = problem.to_string();
        let mut is_news = false;
        self.status(|s| {
            s.phase = Phase::Waiting;
            *s.errors.entry(problem.kind()).or_default() += 1;
            is_news = s.problem.as_ref() != Some(&text);
            if !problem.is_usual() {
                s.problem = Some(text.clone());
            }
        });
        let resource = self.endpoint.resource.name;
        if problem.is_usual() {
            debug!(resource, problem = text, "asks anew");
        } else if is_news {
            warn!(resource, problem = text, "what was known before still counts");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut super::store::Store) -> T) -> T {
        let mut stores = self.shared.stores();
        let store = &mut stores[self.index];
        let outcome = change(store);
        self.status(|s| {
            s.objects = store.len();
            if s.malformed > 0 || store.malformed().len() > 0 {
                s.name_malformed(store.malformed());
            }
        });
        outcome
    }

    fn status(&self, change: impl FnOnce(&mut Watched)) {
        self.shared.status(|status| {
            if let Some(watched) = status.resources.get_mut(self.index) {
                change(watched);
            }
        });
    }
}

/// Grows from one failure to the next.
struct Pause {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Pause {
    fn new(timing: &Timing) -> Self {
        Self {
            least: timing.pause_least,
            most: timing.pause_most,
            next: timing.pause_least,
        }
    }

    fn reset(&mut self) {
        self.next = self.least;
    }

    fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = now.saturating_mul(2).min(self.most);
        now.mul_f64(jitter())
    }
}

/// From 0.5 to 1.
fn jitter() -> f64 {
    // The standard library's only randomness: the keys of a new hasher.
    let random = RandomState::new().hash_one(0u8);
    0.5 + 0.5 * (random >> 11) as f64 / (1u64 << 53) as f64
}
