//! Objects from a cluster's API: listed once, watched from there, judged from what was last known while the server is away.
//!
//! Each resource has a task that keeps its `store`; one more hands the whole to the judge, at once when something changed and then not again for a
//! while: a rollout is a thousand events and some ten clusters.

mod follow;
mod http;
mod resource;
mod status;
mod store;
mod target;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use partywall_aggregator_core::identity::Cluster;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use resource::{RESOURCES, Resource};
pub use status::{Phase, STALE_AFTER, Status, Watched};
pub use target::Target;

use super::ClusterStatus;
use super::objects::Object;
use crate::state::Cluster as OfCluster;
use follow::Follower;
use http::Endpoint;
use store::Store;

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Objects of a page, as the API's own clients ask for.
    pub page_size: u32,
    /// A page, and the beginning of a watch. Servers give up after a minute themselves.
    pub answer: Duration,
    /// How long the server is asked to keep a watch open, at most; half of it at least.
    pub watch: Duration,
    /// A watch without any line, bookmarks included, is opened anew: its link may be dead.
    pub silence: Duration,
    /// A watch that ends sooner is in trouble.
    pub settled: Duration,
    pub pause_least: Duration,
    pub pause_most: Duration,
    /// How often a resource is looked for that the cluster does not have, and how often at most.
    pub absent: Duration,
    pub absent_least: Duration,
    /// Between two clusters that are handed to the judge.
    pub hold: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            page_size: 500,
            answer: Duration::from_secs(60),
            watch: Duration::from_secs(600),
            silence: Duration::from_secs(120),
            settled: Duration::from_secs(5),
            pause_least: Duration::from_millis(500),
            pause_most: Duration::from_secs(30),
            absent: Duration::from_secs(60),
            absent_least: Duration::from_secs(5),
            hold: Duration::from_millis(200),
        }
    }
}

/// A hold is at least this many times what the last cluster took to build: a large one must not keep a CPU busy.
const HOLD_PER_COST: u32 = 4;

/// What the tasks of a source share.
struct Shared {
    /// Whose objects they are.
    of: Arc<OfCluster>,
    /// In the order of [`RESOURCES`].
    stores: Mutex<[Store; RESOURCES.len()]>,
    /// Something in them is different.
    changed: Notify,
    /// A namespace was seen that claims to be of a Tenant of Capsule.
    capsule_claimed: Notify,
}

impl Shared {
    fn stores(&self) -> MutexGuard<'_, [Store; RESOURCES.len()]> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, change: impl FnOnce(&mut Status)) {
        self.of.source.update(|cluster| {
            if let Some(status) = &mut cluster.api {
                change(status);
            }
        });
    }

    fn is_synced(&self) -> bool {
        self.of.source.get().api.is_some_and(|api| api.is_synced())
    }

    /// Everything that is known, as one.
    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        let objects: Vec<Arc<Object>> = {
            let stores = self.stores();
            // A resource that is there and empty is another thing than one that is not.
            let tenants = RESOURCES.iter().zip(&*stores).find(|(r, _)| r.optional);
            if tenants.is_some_and(|(_, store)| !store.is_absent) {
                cluster.capsule_tenants = Some(std::collections::BTreeSet::new());
            }
            stores.iter().flat_map(Store::objects).cloned().collect()
        };
        for object in objects {
            Object::clone(&object).put(&mut cluster);
        }
        cluster
    }
}

/// A cluster's API that is followed.
pub struct Source {
    shared: Arc<Shared>,
    followers: Vec<Follower>,
}

impl Source {
    /// Asks nothing yet: a server that is away now is waited for. Returns the client too: the API answers more than what is watched.
    ///
    /// # Errors
    /// What says where the server is cannot be read.
    pub async fn open(
        target: &Target,
        of: Arc<OfCluster>,
        timing: &Timing,
    ) -> anyhow::Result<(Self, kube::Client)> {
        let (client, server) = target.client().await?;
        info!(server, "cluster data comes from the API");
        of.source.update(|cluster| {
            *cluster = ClusterStatus {
                api: Some(Status::new(server)),
                ..ClusterStatus::default()
            };
        });
        let shared = Arc::new(Shared {
            of,
            stores: Mutex::default(),
            changed: Notify::new(),
            capsule_claimed: Notify::new(),
        });
        let follower = |(index, resource)| Follower {
            endpoint: Endpoint {
                client: client.clone(),
                resource,
            },
            index,
            shared: Arc::clone(&shared),
            timing: timing.clone(),
        };
        let followers = RESOURCES.iter().enumerate().map(follower).collect();
        Ok((Self { shared, followers }, client))
    }

    /// Takes over changes until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let hold = self.followers.first().map_or(Duration::ZERO, |f| f.timing.hold);
        let followers = join_all(self.followers.into_iter().map(Follower::follow));
        let publish = publish(self.shared, hold);
        tokio::select! {
            () = stop.cancelled() => {}
            () = publish => {}
            _ = followers => {}
        }
    }
}

/// Hands the whole over whenever something changed, once everything was listed: pods without their namespaces would get wrong tenants.
async fn publish(shared: Arc<Shared>, hold: Duration) {
    loop {
        shared.changed.notified().await;
        if !shared.is_synced() {
            continue;
        }
        let building = Arc::clone(&shared);
        // Some hundred milliseconds with ten thousand pods: not on a thread that serves sockets.
        let built = tokio::task::spawn_blocking(move || hand_over(&building)).await;
        let cost = match built {
            Ok(cost) => cost,
            Err(error) => {
                error!(%error, "taking over the cluster's objects failed");
                Duration::ZERO
            }
        };
        tokio::time::sleep(hold.max(cost * HOLD_PER_COST)).await;
    }
}

fn hand_over(shared: &Shared) -> Duration {
    let began = Instant::now();
    let cluster = Arc::new(shared.cluster());
    let of = &shared.of;
    of.set_objects(&cluster);
    let cost = began.elapsed();
    of.source.update(|status| {
        if status.loads == 0 {
            info!(
                pods = cluster.pods.len(),
                namespaces = cluster.namespaces.len(),
                "every resource was listed"
            );
        }
        status.count(&cluster);
        status.loads += 1;
        if let Some(api) = &mut status.api {
            api.publish = cost;
        }
    });
    cost
}
