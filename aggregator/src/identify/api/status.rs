//! What a source says of its watches: when each was heard from last, and what went wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::resource::RESOURCES;

/// Silence after which what is known is called stale. Servers send bookmarks about once a minute, and a watch that is silent for
/// [`super::Timing::silence`] is opened anew, the answer to which is a sign of life.
pub const STALE_AFTER: Duration = Duration::from_secs(180);
/// Malformed objects that are named; all are counted.
const NAMED: usize = 20;

/// Of all resources of one API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its address.
    pub server: String,
    pub resources: Vec<Watched>,
    /// The longest that building what is known took, of the last one.
    pub publish: Duration,
}

/// Of one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watched {
    /// `pods`, `networkpolicies.networking.k8s.io`
    pub name: &'static str,
    pub phase: Phase,
    /// It was listed whole once, or is known not to be served.
    pub is_known: bool,
    pub objects: usize,
    /// The last sign of life: a page, an event, a bookmark, a watch that was opened, the word that there is no such resource.
    pub heard: Option<Instant>,
    /// Why the last attempt failed. `None`: it did not.
    pub problem: Option<String>,
    /// Failures by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// Complete lists after the first: what was known had to be thrown away.
    pub relists: u64,
    pub watches: u64,
    /// Objects that make no sense, whose last good state (if there was one) still counts.
    pub malformed: usize,
    /// The first of those: namespace/name and what is wrong.
    pub malformed_named: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not yet heard from, or waiting to ask again.
    #[default]
    Waiting,
    Listing,
    Watching,
    /// The cluster has no such resource.
    Absent,
}

impl Status {
    pub(super) fn new(server: String) -> Self {
        let watched = |name| Watched {
            name,
            ..Watched::default()
        };
        Self {
            server,
            resources: RESOURCES.iter().map(|r| watched(r.name)).collect(),
            publish: Duration::ZERO,
        }
    }

    /// Everything was listed once: what is known is a whole.
    pub fn is_synced(&self) -> bool {
        self.resources.iter().all(|r| r.is_known)
    }

    /// How old what is known may be: the resource that was silent for longest. `None`: one was never heard from.
    pub fn age(&self) -> Option<Duration> {
        self.resources
            .iter()
            .map(Watched::age)
            .try_fold(Duration::ZERO, |oldest, age| Some(oldest.max(age?)))
    }

    pub fn is_stale(&self) -> bool {
        self.age().is_none_or(|age| age > STALE_AFTER)
    }

    /// What is not as it should be, by resource.
    pub fn problems(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.resources.iter().flat_map(|r| {
            let failed = r.problem.clone();
            let stale = r.age().filter(|age| *age > STALE_AFTER);
            let stale = stale.map(|age| format!("nothing was heard for {} s", age.as_secs()));
            let malformed = r
                .malformed_named
                .iter()
                .map(|(name, problem)| format!("{name}: {problem}"));
            failed
                .into_iter()
                .chain(stale)
                .chain(malformed)
                .map(|problem| (r.name, problem))
        })
    }
}

impl Watched {
    /// Since the last sign of life.
    pub fn age(&self) -> Option<Duration> {
        Some(self.heard?.elapsed())
    }

    /// The last attempt went well.
    pub fn is_up(&self) -> bool {
        self.heard.is_some() && self.problem.is_none()
    }

    pub(super) fn hear(&mut self) {
        self.heard = Some(Instant::now());
        self.problem = None;
    }

    pub(super) fn name_malformed<'a>(&mut self, all: impl ExactSizeIterator<Item = (String, &'a str)>) {
        self.malformed = all.len();
        let named = all.take(NAMED).map(|(name, problem)| (name, problem.to_owned()));
        self.malformed_named = named.collect();
    }
}
