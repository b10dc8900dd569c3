//! What the parts share: each cluster's world behind its own lock, and what each part says about itself.
//!
//! One lock a cluster, because everything that happens under it is short (a report some tens of microseconds, a judgement some milliseconds) and because a
//! judgement must see one moment. No queue stands before it: a report that cannot be counted yet is not read from its socket yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use partywall_aggregator_core::breach::{Breach, BreachKind, BreachState};
use partywall_aggregator_core::identity::Cluster as Objects;
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::policy::alerts::Alert;
use partywall_aggregator_core::{Now, World};
use partywall_proto::v1;
use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::identify::ClusterStatus;
use crate::link::tls;
use crate::metrics::Metrics;
use crate::sinks::push;
use crate::store::Journal;
use crate::trail::Trail;
use crate::turns::Turns;
use crate::wire;

/// Changes of breaches that a watching client may be behind. A burst of a thousand is a node with every pod a victim.
const CHANGES_KEPT: usize = 4_096;

/// One of the clusters whose agents report here.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    world: Mutex<World>,
    clock: Clock,
    pub source: Shared<ClusterStatus>,
}

impl Cluster {
    /// The world. A part that panicked while it held the lock has lost its own request, not everybody's.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Its objects were read whole once, or there is no API that has them.
    pub fn is_synced(&self) -> bool {
        self.source.get().api.is_none_or(|api| api.is_synced())
    }

    /// Takes over what a cluster source knows now: all of it, not a change. Blocks for as long as tens of thousands of pods take; the world goes
    /// on meanwhile.
    pub fn set_objects(&self, objects: &Arc<Objects>) {
        loop {
            let from = self.lock().objects();
            let made = from.with(Arc::clone(objects), self.now());
            // In two steps: what was there before is let go of without the lock.
            let taken = self.lock().set_objects(made);
            if taken.is_ok() {
                return;
            }
        }
    }
}

#[derive(Debug)]
pub struct State {
    /// By name. Which there are is said when the aggregator is started: what agents send makes none.
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    /// The one that is meant where none is named.
    own: Arc<Cluster>,
    /// Every change of a breach, in order.
    changes: broadcast::Sender<Arc<v1::Breach>>,
    clock: Clock,
    pub metrics: Metrics,
    pub policy: Shared<PolicyStatus>,
    pub tls: Shared<tls::Status>,
    /// Set before anything is reported, where totals survive the process.
    pub journal: OnceLock<Arc<Journal>>,
    /// Whom else breaches are told, set at the start.
    pub pushed: OnceLock<Vec<Arc<push::Figures>>>,
    /// Set before anything is judged, where breaches and what crossed are kept for good.
    pub trail: OnceLock<Arc<Trail>>,
    pub turns: Turns,
}

/// What the policy file's reader says.
#[derive(Clone, Debug, Default)]
pub struct PolicyStatus {
    /// Why the file on disk is not in force.
    pub error: Option<String>,
    /// When the policy in force was read.
    pub loaded_unix_ns: u64,
    pub failures: u64,
    /// There is a file that can change: without one nothing is refused.
    pub followed: bool,
}

/// A value that one part writes and others read.
#[derive(Debug, Default)]
pub struct Shared<T>(Mutex<T>);

impl<T: Clone> Shared<T> {
    pub fn get(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    /// `own`: the cluster that is meant where none is named; `others`: the names of those beside it.
    pub fn new(policy: &Policy, own: &str, others: impl IntoIterator<Item = String>) -> Self {
        let clock = Clock::default();
        let cluster = |name: &str| {
            let name: Arc<str> = name.into();
            Arc::new(Cluster {
                world: Mutex::new(World::new(Arc::clone(&name), policy.clone())),
                name,
                clock,
                source: Shared::default(),
            })
        };
        let own = cluster(own);
        let mut clusters = BTreeMap::from([(Arc::clone(&own.name), Arc::clone(&own))]);
        for name in others {
            clusters
                .entry(Arc::from(name.as_str()))
                .or_insert_with(|| cluster(&name));
        }
        let status = PolicyStatus {
            loaded_unix_ns: crate::clock::unix_ns(),
            ..PolicyStatus::default()
        };
        Self {
            clusters,
            own,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            clock,
            metrics: Metrics::default(),
            policy: Shared(Mutex::new(status)),
            tls: Shared::default(),
            journal: OnceLock::new(),
            pushed: OnceLock::new(),
            trail: OnceLock::new(),
            turns: Turns::default(),
        }
    }

    /// In the order of their names.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// The cluster of that name; where it is empty, the aggregator's own.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        if name.is_empty() {
            return Some(&self.own);
        }
        self.clusters.get(name)
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Between two judgements.
    pub fn step_seconds(&self) -> f64 {
        self.own.lock().policy().thresholds.windows.step_seconds
    }

    /// How whoever is on call is told of breaches of this kind.
    pub fn told(&self, kind: BreachKind) -> Alert {
        self.own.lock().policy().alerts.of(kind)
    }

    /// The last judgement of the cluster that was judged the longest ago.
    pub fn judged(&self) -> Now {
        let judged = self.clusters().map(|cluster| cluster.lock().judged());
        judged.min_by_key(|now| now.mono_ns).unwrap_or_default()
    }

    /// Every cluster is judged by it.
    pub fn set_policy(&self, policy: &Policy) {
        for cluster in self.clusters() {
            cluster.lock().set_policy(policy.clone());
        }
    }

    /// Judges everything now, and tells who watches.
    pub fn judge(&self) {
        let began = std::time::Instant::now();
        let mut fired = Vec::new();
        for cluster in self.clusters() {
            let mut world = cluster.lock();
            let now = self.now();
            let changes = world.judge(now);
            if let Some(journal) = self.journal.get() {
                journal.note_marks(&cluster.name, &mut world);
            }
            let mut told = Vec::with_capacity(changes.breaches.len());
            for breach in &changes.breaches {
                fired.extend((breach.state == BreachState::Firing).then_some(breach.key.kind));
                told.push(Arc::new(wire::breach(breach.clone())));
            }
            if let Some(trail) = self.trail.get() {
                trail.judged(cluster, &mut world, &told, now);
            }
            for breach in told {
                // Nobody watches: nobody misses it.
                let _ = self.changes.send(breach);
            }
            // The lock is held to here so that who begins to watch sees either the breach or its change, never neither.
            drop(world);
            // Without the lock: a log that is not read holds up no report.
            changes.breaches.iter().for_each(log);
        }
        self.metrics.judged(began.elapsed(), &fired);
    }

    /// The breaches that live now, and every change after that.
    pub fn watch_breaches(&self) -> (Vec<v1::Breach>, broadcast::Receiver<Arc<v1::Breach>>) {
        // All at once, so that no change is between the list and the first message. Always in the order of the names, and nobody else takes two.
        let worlds: Vec<_> = self.clusters().map(|cluster| cluster.lock()).collect();
        let live: Vec<Breach> = worlds.iter().flat_map(|world| world.book().live()).collect();
        let changes = self.changes.subscribe();
        drop(worlds);
        (live.into_iter().map(wire::breach).collect(), changes)
    }
}

fn log(breach: &Breach) {
    let (kind, key) = (breach.key.kind.as_str(), &breach.key);
    let fingerprint = breach.fingerprint.as_str();
    match breach.state {
        BreachState::Firing => {
            warn!(cluster = %breach.cluster, kind, tenant = %key.tenant, against = %key.against, node = %key.node, fingerprint, "{}", breach.summary);
        }
        BreachState::Resolved if breach.firing_unix_ns > 0 => {
            info!(cluster = %breach.cluster, kind, tenant = %key.tenant, against = %key.against, node = %key.node, fingerprint, "resolved");
        }
        BreachState::Pending | BreachState::Resolved => {}
    }
}
