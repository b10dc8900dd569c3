//! Headroom: use against capacity by node pool and zone, and whether the pods of a zone would fit into the others if it were lost.
//!
//! **From use.** Requests say what somebody once thought; use says what will be needed. Both are computed, and use decides: the highest minute of the last
//! day, because a zone is not lost at a quiet hour by arrangement.
//!
//! **Up to the mark.** A pool is meant to be used up to `headroom.mark` of what pods may have of it, for the lost zone's pods too: a node at its limit has no room
//! for what nobody foresaw.
//!
//! **What moves.** Pods of a DaemonSet, static pods and those that have ended do not move. Taints are held against tolerations; node selectors, affinities
//! and volumes are not looked at, and that is said.
//!
//! | module | says |
//! |---|---|
//! | `history` | the highest minute of pods, nodes and pools |
//! | `pools` | use against capacity |
//! | `zones` | a zone's loss |
//! | `pack` | first fit, the largest first |

mod history;
mod pack;
mod pools;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::identity::{Directory, NodeObject, PodObject, Resources, Toleration};
use crate::node::slot::Counter;
use crate::node::{Node, Window};
use crate::policy::Policy;
use crate::sums::Who;
use crate::world::Now;
pub(crate) use history::History;
use history::Use;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headroom {
    pub judged_unix_ns: u64,
    /// Uses are the highest minute within this time.
    pub over_ns: u64,
    /// The share of capacity up to which a pool is meant to be used.
    pub mark: f64,
    pub pools: Vec<PoolHeadroom>,
    pub zones: Vec<ZoneLoss>,
}

/// The nodes of one pool in one zone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolHeadroom {
    /// Empty where no label names it.
    pub zone: String,
    pub pool: String,
    pub nodes: u32,
    /// Nodes of which no agent tells now.
    pub silent_nodes: u32,
    /// In cores.
    pub cpu: Room,
    /// In bytes.
    pub memory: Room,
    pub doubts: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Room {
    /// What pods may have. `None`: not known of every node.
    pub capacity: Option<f64>,
    /// Of pods. `None`: nobody tells.
    pub used_now: Option<f64>,
    pub used_most: Option<f64>,
    pub requested: f64,
}

/// What would become of the pods of a zone without it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ZoneLoss {
    pub zone: String,
    pub nodes: u32,
    /// That would have to move.
    pub pods: u32,
    pub by_use: Fit,
    pub by_requests: Fit,
    /// Tenants of which pods would find no room, by use.
    pub tenants: Vec<TenantFit>,
    pub summary: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// `None`: cannot be told, and `why`.
    pub fits: Option<bool>,
    pub why: String,
    pub moved_cores: f64,
    pub free_cores: f64,
    pub moved_memory_bytes: f64,
    pub free_memory_bytes: f64,
    pub pods_left_over: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantFit {
    pub tenant: Arc<str>,
    pub pods: u32,
    pub pods_left_over: u32,
}

/// Zone and pool of a node; empty where nothing names them.
fn pool_of(node: Option<&NodeObject>) -> (String, String) {
    let text = |of: Option<&String>| of.cloned().unwrap_or_default();
    (
        text(node.and_then(|n| n.zone.as_ref())),
        text(node.and_then(|n| n.pool.as_ref())),
    )
}

/// A node, as it is known.
struct Place {
    name: Arc<str>,
    object: Option<NodeObject>,
    /// Pods' use; `None`: silent.
    now: Option<Use>,
    most: Option<Use>,
    /// Pods of which memory is told, and of which none is.
    memory_told: u32,
    memory_untold: u32,
    requested: Use,
    pods: u64,
}

/// A pod that would move.
struct Mover {
    requests: Resources,
    tolerations: Box<[Toleration]>,
    tenant: Arc<str>,
    /// The highest minute; before its first, as it is now. `None`: nobody tells, or of its CPU alone.
    used: Option<Use>,
}

/// What is known at one moment, taken from a world so that the rest needs no lock.
pub struct Ground {
    judged_unix_ns: u64,
    over_ns: u64,
    mark: f64,
    places: Vec<Place>,
    /// By zone and pool.
    pools: BTreeMap<(String, String), Use>,
    /// Those of nodes with a zone, by node.
    movers: BTreeMap<Arc<str>, Vec<Mover>>,
}

impl Ground {
    pub(crate) fn new(
        directory: &Directory,
        policy: &Policy,
        nodes: &BTreeMap<Arc<str>, Node>,
        history: &History,
        judged: Now,
        now: Now,
    ) -> Self {
        let mut used_now: BTreeMap<Arc<str>, Option<Use>> = BTreeMap::new();
        let mut pods_now: BTreeMap<Arc<str>, Use> = BTreeMap::new();
        let mut memory_of: BTreeMap<Arc<str>, [u32; 2]> = BTreeMap::new();
        for node in nodes.values() {
            let Some(seen_ns) = node.seen_ns(Window::Long, &policy.thresholds) else {
                used_now.insert(Arc::clone(&node.name), None);
                continue;
            };
            let memories = node.memories();
            let mut run_ns = vec![0u64; node.units.len()];
            for slot in node.slots() {
                if let Some(sum) = run_ns.get_mut(slot.unit as usize) {
                    *sum = sum.saturating_add(slot.sum[Window::Long as usize][Counter::Run as usize]);
                }
            }
            let mut sum = Use::default();
            for (at, (unit, run_ns)) in node.units.iter().zip(run_ns).enumerate() {
                let uid = match &unit.who {
                    Who::Pod(pod) => &pod.uid,
                    Who::Unidentified(uid) | Who::Foreign(uid) => uid,
                    Who::Path { .. } | Who::Host(_) | Who::Unknown(_) => continue,
                };
                let lives = memories.get(&(at as u32));
                let bytes = lives.copied().flatten().and_then(|m| m.newest.working_set_bytes);
                let used = Use {
                    cores: run_ns as f64 / seen_ns as f64,
                    bytes: bytes.unwrap_or(0) as f64,
                };
                sum.plus(used);
                if lives.is_some() {
                    let [told, untold] = memory_of.entry(Arc::clone(&node.name)).or_default();
                    // Memory that nobody tells is not none: of such a pod it is not known what it uses.
                    if bytes.is_some() {
                        *told += 1;
                        pods_now.insert(Arc::clone(uid), used);
                    } else {
                        *untold += 1;
                    }
                }
            }
            used_now.insert(Arc::clone(&node.name), Some(sum));
        }
        let cluster = directory.cluster();
        let names = cluster.nodes.iter().map(|node| Arc::from(node.name.as_str()));
        let names: BTreeSet<Arc<str>> = names.chain(nodes.keys().cloned()).collect();
        let mut places: BTreeMap<Arc<str>, Place> = BTreeMap::new();
        let objects: BTreeMap<&str, &NodeObject> =
            cluster.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
        for name in names {
            let now_used = used_now.get(&name).copied().flatten();
            let [memory_told, memory_untold] = memory_of.get(&name).copied().unwrap_or_default();
            let place = Place {
                object: objects.get(&*name).copied().cloned(),
                now: now_used,
                most: now_used.map(|now_used| highest(history.node(&name, now.mono_ns), now_used)),
                memory_told,
                memory_untold,
                requested: Use::default(),
                pods: 0,
                name: Arc::clone(&name),
            };
            places.insert(name, place);
        }
        let mut movers: BTreeMap<Arc<str>, Vec<Mover>> = BTreeMap::new();
        for pod in cluster.pods.iter().filter(|pod| !pod.terminal) {
            let Some(place) = pod.node.as_deref().and_then(|node| places.get_mut(node)) else {
                continue;
            };
            place.pods += 1;
            place.requested.plus(Use {
                cores: pod.requests.cpu_ncores as f64 / 1e9,
                bytes: pod.requests.memory_bytes as f64,
            });
            let has_zone = place.object.as_ref().is_some_and(|o| o.zone.is_some());
            if !has_zone || !moves(pod) {
                continue;
            }
            let of = |uid: &str| {
                let now_used = *pods_now.get(uid)?;
                Some(highest(history.pod(uid, now.mono_ns), now_used))
            };
            let tenant = directory.namespace_tenant(&pod.namespace);
            let mover = Mover {
                used: of(&pod.uid),
                tenant: tenant.map_or_else(
                    || Arc::from(crate::identity::UNKNOWN),
                    |t| Arc::clone(directory.tenants.name(t)),
                ),
                requests: pod.requests,
                tolerations: pod.tolerations.clone(),
            };
            movers.entry(Arc::clone(&place.name)).or_default().push(mover);
        }
        let mut pools = BTreeMap::new();
        for place in places.values() {
            let pool = pool_of(place.object.as_ref());
            if let Some(used) = history.pool(&pool, now.mono_ns) {
                pools.insert(pool, used);
            }
        }
        Self {
            judged_unix_ns: judged.unix_ns,
            over_ns: history.over_ns(now.mono_ns),
            mark: policy.thresholds.headroom.mark,
            places: places.into_values().collect(),
            pools,
            movers,
        }
    }

    /// Takes its time in a large cluster: not under a lock.
    pub fn headroom(&self) -> Headroom {
        Headroom {
            judged_unix_ns: self.judged_unix_ns,
            over_ns: self.over_ns,
            mark: self.mark,
            pools: pools::pools(self),
            zones: zones::zones(self),
        }
    }
}

fn highest(most: Option<Use>, now: Use) -> Use {
    let most = most.unwrap_or_default();
    Use {
        cores: most.cores.max(now.cores),
        bytes: most.bytes.max(now.bytes),
    }
}

/// Whether it would be made anew elsewhere. A DaemonSet has one on every node anyhow, and a static pod is its node's.
fn moves(pod: &PodObject) -> bool {
    let of_node = |kind: &str| matches!(kind, "DaemonSet" | "Node");
    pod.static_uid.is_none() && !pod.owner.as_ref().is_some_and(|owner| of_node(&owner.kind))
}
