//! What the parts share: the world behind one lock, and what each part says about itself.
//!
//! One lock, because everything that happens under it is short (a report some tens of microseconds, a judgement some milliseconds) and because a
//! judgement must see one moment. No queue stands before it: a report that cannot be counted yet is not read from its socket yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::{Now, World};
use partywall_proto::v1;
use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::identify::ClusterStatus;
use crate::metrics::Metrics;
use crate::wire;

/// Changes of breaches that a watching client may be behind. A burst of a thousand is a node with every pod a victim.
const CHANGES_KEPT: usize = 4_096;

#[derive(Debug)]
pub struct State {
    world: Mutex<World>,
    /// Every change of a breach, in order.
    changes: broadcast::Sender<Arc<v1::Breach>>,
    clock: Clock,
    pub metrics: Metrics,
    pub cluster: Shared<ClusterStatus>,
    pub policy: Shared<PolicyStatus>,
}

/// What the policy file's reader says.
#[derive(Clone, Debug, Default)]
pub struct PolicyStatus {
    /// Why the file on disk is not in force.
    pub error: Option<String>,
    /// When the policy in force was read.
    pub loaded_unix_ns: u64,
    pub failures: u64,
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
    pub fn new(policy: Policy) -> Self {
        let status = PolicyStatus {
            loaded_unix_ns: crate::clock::unix_ns(),
            ..PolicyStatus::default()
        };
        Self {
            world: Mutex::new(World::new(policy)),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            clock: Clock::default(),
            metrics: Metrics::default(),
            cluster: Shared::default(),
            policy: Shared(Mutex::new(status)),
        }
    }

    /// The world. A part that panicked while it held the lock has lost its own request, not everybody's.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Judges everything now, and tells who watches.
    pub fn judge(&self) {
        let began = std::time::Instant::now();
        let mut world = self.lock();
        let changes = world.judge(self.now());
        self.metrics.judged(began.elapsed(), &changes.breaches);
        for breach in changes.breaches {
            log(&breach);
            // Nobody watches: nobody misses it.
            let _ = self.changes.send(Arc::new(wire::breach(breach)));
        }
        // The lock is held to here so that who begins to watch sees either the breach or its change, never neither.
        drop(world);
    }

    /// The breaches that live now, and every change after that.
    pub fn watch_breaches(&self) -> (Vec<v1::Breach>, broadcast::Receiver<Arc<v1::Breach>>) {
        let world = self.lock();
        let live = world.book().live().into_iter().map(wire::breach).collect();
        (live, self.changes.subscribe())
    }
}

fn log(breach: &partywall_aggregator_core::breach::Breach) {
    use partywall_aggregator_core::breach::BreachState;
    let (kind, key) = (breach.key.kind.as_str(), &breach.key);
    let fingerprint = breach.fingerprint.as_str();
    match breach.state {
        BreachState::Firing => {
            warn!(kind, tenant = %key.tenant, against = %key.against, node = %key.node, fingerprint, "{}", breach.summary);
        }
        BreachState::Resolved if breach.firing_unix_ns > 0 => {
            info!(kind, tenant = %key.tenant, against = %key.against, node = %key.node, fingerprint, "resolved");
        }
        BreachState::Pending | BreachState::Resolved => {}
    }
}
