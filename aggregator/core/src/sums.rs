//! A node's windows, folded: what each slot means, and who waited for whom.
//!
//! A **unit** is what is judged: a pod, a workload of a path rule, a host cgroup, an unknown. Usually one slot, but a pod that is announced
//! again has two, and a named path rule has as many as it matches. A **party** is whom a unit belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::{Directory, Pod, Resource, TenantId};
use crate::losses::Losses;
use crate::node::slot::{Counter, Kind, WINDOWS};
use crate::node::{NO_UNIT, Node, Slot, Window, class};
use crate::policy::Policy;
use crate::report::UnknownReason;

/// A tenant, or one of the classes that stand in its place in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Party(u32);

impl Party {
    pub(crate) const SYSTEM: Self = Self(TenantId::SYSTEM.0);
    pub(crate) const IDLE: Self = Self(u32::MAX);
    pub(crate) const STEAL: Self = Self(u32::MAX - 1);
    pub(crate) const THROTTLED: Self = Self(u32::MAX - 2);
    pub(crate) const UNRESOLVED: Self = Self(u32::MAX - 3);
    /// Ran or waited, but cannot be named.
    pub(crate) const UNKNOWN: Self = Self(u32::MAX - 4);
    /// Tenants whose namespaces are gone, where there was no room for each.
    pub(crate) const GONE: Self = Self(u32::MAX - 5);

    pub(crate) fn tenant(self) -> Option<TenantId> {
        (self.0 < Self::GONE.0).then_some(TenantId(self.0))
    }

    /// A tenant that can be blamed and harmed.
    pub(crate) fn is_named(self) -> bool {
        self.tenant().is_some() && self != Self::SYSTEM
    }
}

impl From<TenantId> for Party {
    fn from(tenant: TenantId) -> Self {
        Self(tenant.0)
    }
}

/// What a unit is.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    Pod(Arc<Pod>),
    /// A path rule of the policy; host cgroup paths, or the rule's name for all of them.
    Path {
        name: Arc<str>,
    },
    Host(Arc<str>),
    Unknown(UnknownReason),
    /// A pod whose object was not seen yet.
    Unidentified(Arc<str>),
    /// The cluster says that this pod runs on another node: this node is not believed.
    Foreign(Arc<str>),
}

#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) who: Who,
    pub(crate) party: Party,
    pub(crate) entitled_ncores: u64,
    pub(crate) requested_bytes: u64,
    /// By [`crate::identity::Resource`].
    pub(crate) in_quota: [bool; 3],
}

/// One unit over one window, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitSums {
    pub(crate) run: u64,
    pub(crate) wait: u64,
    pub(crate) itself: u64,
    pub(crate) idle: u64,
    pub(crate) steal: u64,
    pub(crate) throttled: u64,
    pub(crate) unresolved: u64,
    pub(crate) same_tenant: u64,
    pub(crate) system: u64,
    /// Entered against what cannot be named, or against pairs that found no room. With it the classes sum to `wait`.
    pub(crate) unknown: u64,
    pub(crate) stolen: u64,
    /// How long it lived.
    pub(crate) life: u64,
    /// Reports in which it waited noticeably.
    pub(crate) hits: u32,
}

impl UnitSums {
    /// How many times longer its tasks took because of `taken`, a part of its wait; `None` where it never ran.
    ///
    /// Without it they would have run and waited for each other. The second matters to a pod with many tasks on one CPU: while
    /// another runs for 1 ms, all of them wait for 1 ms, and the pod has lost 1 ms, not as many as it has tasks.
    pub(crate) fn slowdown(&self, taken: u64) -> Option<f64> {
        let alone = self.run as f64 + self.itself as f64;
        (self.run > 0).then(|| (alone + taken as f64) / alone)
    }

    pub(crate) fn classes(&self) -> u64 {
        [
            self.itself,
            self.idle,
            self.steal,
            self.throttled,
            self.unresolved,
            self.same_tenant,
            self.system,
            self.unknown,
            self.stolen,
        ]
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// What a tenant used and was entitled to on one node over one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TenantSums {
    pub(crate) used_ns: u64,
    /// Nanocores × nanoseconds.
    pub(crate) entitled: u128,
}

/// Where a waiter's time is entered when `runner` ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Itself,
    SameTenant,
    System,
    Unknown,
    Stolen,
}

impl Class {
    fn of(waiter: (u32, Party), runner: (u32, Party)) -> Self {
        match (waiter.1, runner.1) {
            _ if waiter.0 == runner.0 => Self::Itself,
            (_, Party::SYSTEM) => Self::System,
            (Party::UNKNOWN, _) | (_, Party::UNKNOWN) => Self::Unknown,
            (a, b) if a == b => Self::SameTenant,
            _ => Self::Stolen,
        }
    }
}

impl Node {
    pub(crate) fn party(&self, slot: &Slot) -> Party {
        self.units
            .get(slot.unit as usize)
            .map_or(Party::UNKNOWN, |u| u.party)
    }

    /// Says anew what each slot means, if anything changed that it depends on.
    pub(crate) fn resolve(&mut self, directory: &mut Directory, policy: &Policy, losses: &mut Losses) {
        if !self.stale && self.directory_generation == directory.generation() {
            return;
        }
        let before = std::mem::take(&mut self.units);
        let mut units: Vec<Unit> = Vec::with_capacity(before.len());
        let mut by_key: BTreeMap<(u8, Arc<str>), u32> = BTreeMap::new();
        for slot in self.slots.iter_mut().flatten() {
            let was = before.get(slot.unit as usize).map(|u| &u.who);
            let unit = unit_of(&slot.kind, was, &self.name, directory, policy);
            if matches!(unit.who, Who::Foreign(_)) && !matches!(was, Some(Who::Foreign(_))) {
                losses.add("identify", "foreign_pod", "pods", 1);
            }
            let key = match &unit.who {
                Who::Pod(p) => (0, Arc::clone(&p.uid)),
                Who::Path { name } => (1, Arc::clone(name)),
                Who::Host(path) => (2, Arc::clone(path)),
                Who::Unknown(reason) => (3, Arc::from(reason.as_str())),
                Who::Unidentified(uid) | Who::Foreign(uid) => (4, Arc::clone(uid)),
            };
            slot.unit = *by_key.entry(key).or_insert_with(|| {
                units.push(unit);
                (units.len() - 1) as u32 // no more units than slots
            });
        }
        self.units = units;
        self.stale = false;
        self.directory_generation = directory.generation();
    }

    /// Some entity is so new that its object may still be on the way.
    pub(crate) fn awaits_names(&self, settle_ns: u64) -> bool {
        self.slots().any(|s| {
            let unit = self.units.get(s.unit as usize);
            s.born_ns.saturating_add(settle_ns) > self.last_boot_ns
                && unit.is_none_or(|u| matches!(u.who, Who::Unidentified(_)))
        })
    }

    /// Every unit over both windows: one pass over all counters and pairs.
    pub(crate) fn sums(&self) -> Vec<[UnitSums; 2]> {
        let mut out = vec![[UnitSums::default(); 2]; self.units.len()];
        let owners = self.owners();
        for slot in self.slots() {
            let Some(unit) = self.units.get(slot.unit as usize) else {
                continue;
            };
            let me = (slot.unit, unit.party);
            let mut by_class = [[0u64; 2]; 5];
            for pair in &slot.pairs {
                let runner = owners
                    .get(pair.runner_slot as usize)
                    .copied()
                    .unwrap_or((NO_UNIT, Party::UNKNOWN));
                let sum = &mut by_class[Class::of(me, runner) as usize];
                sum[0] = sum[0].saturating_add(pair.sum[0]);
                sum[1] = sum[1].saturating_add(pair.sum[1]);
            }
            for window in WINDOWS {
                let w = window as usize;
                let c = &slot.sum[w];
                let s = &mut out[slot.unit as usize][w];
                let add = |to: &mut u64, n: u64| *to = to.saturating_add(n);
                add(&mut s.run, c[Counter::Run as usize]);
                add(&mut s.wait, c[Counter::Wait as usize]);
                add(&mut s.itself, c[Counter::Itself as usize]);
                add(&mut s.idle, c[Counter::Idle as usize]);
                add(&mut s.steal, c[Counter::Steal as usize]);
                add(&mut s.throttled, c[Counter::Throttled as usize]);
                add(&mut s.unresolved, c[Counter::Unresolved as usize]);
                add(&mut s.itself, by_class[Class::Itself as usize][w]);
                add(&mut s.same_tenant, by_class[Class::SameTenant as usize][w]);
                add(&mut s.system, by_class[Class::System as usize][w]);
                add(&mut s.unknown, by_class[Class::Unknown as usize][w]);
                add(&mut s.stolen, by_class[Class::Stolen as usize][w]);
                s.life = s.life.max(self.life_ns(slot, window));
                s.hits = s.hits.max(slot.hits);
            }
        }
        for s in out.iter_mut().flatten() {
            s.unknown = s.unknown.saturating_add(s.wait.saturating_sub(s.classes()));
        }
        out
    }

    /// (unit, party) by slot.
    pub(crate) fn owners(&self) -> Vec<(u32, Party)> {
        let owner = |s: &Option<Slot>| {
            s.as_ref()
                .map_or((NO_UNIT, Party::UNKNOWN), |s| (s.unit, self.party(s)))
        };
        self.slots.iter().map(owner).collect()
    }

    /// What ran while `unit` waited, by the runner's unit, over both windows; only what was stolen.
    pub(crate) fn stolen_by_unit(&self, unit: u32, owners: &[(u32, Party)]) -> BTreeMap<u32, [u64; 2]> {
        self.ran_meanwhile(unit, owners, Class::Stolen)
    }

    /// As [`Node::stolen_by_unit`], for one class.
    pub(crate) fn ran_meanwhile(
        &self,
        unit: u32,
        owners: &[(u32, Party)],
        class: Class,
    ) -> BTreeMap<u32, [u64; 2]> {
        let mut out: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for slot in self.slots().filter(|s| s.unit == unit) {
            let me = (unit, self.party(slot));
            for pair in &slot.pairs {
                let runner = owners
                    .get(pair.runner_slot as usize)
                    .copied()
                    .unwrap_or((NO_UNIT, Party::UNKNOWN));
                if Class::of(me, runner) == class && pair.sum != [0, 0] {
                    let sum = out.entry(runner.0).or_default();
                    sum[0] = sum[0].saturating_add(pair.sum[0]);
                    sum[1] = sum[1].saturating_add(pair.sum[1]);
                }
            }
        }
        out
    }

    /// Use and entitlement by party, over both windows.
    pub(crate) fn tenant_sums(&self, sums: &[[UnitSums; 2]]) -> BTreeMap<Party, [TenantSums; 2]> {
        let mut out: BTreeMap<Party, [TenantSums; 2]> = BTreeMap::new();
        for (unit, sums) in self.units.iter().zip(sums) {
            let tenant = out.entry(unit.party).or_default();
            for (t, s) in tenant.iter_mut().zip(sums) {
                t.used_ns = t.used_ns.saturating_add(s.run);
                t.entitled = t
                    .entitled
                    .saturating_add(u128::from(unit.entitled_ncores) * u128::from(s.life));
            }
        }
        out
    }

    /// The ledger of the long window by party.
    pub(crate) fn ledger(&self) -> BTreeMap<(Party, Party), u64> {
        let owners = self.owners();
        let mut out: BTreeMap<(Party, Party), u64> = BTreeMap::new();
        for slot in self.slots() {
            let waiter = self.party(slot);
            let c = &slot.sum[Window::Long as usize];
            let mut add = |runner: Party, ns: u64| {
                if ns > 0 {
                    let cell = out.entry((waiter, runner)).or_default();
                    *cell = cell.saturating_add(ns);
                }
            };
            let mut sum = 0u64;
            for (counter, runner) in [
                (Counter::Itself, waiter),
                (Counter::Idle, Party::IDLE),
                (Counter::Steal, Party::STEAL),
                (Counter::Throttled, Party::THROTTLED),
                (Counter::Unresolved, Party::UNRESOLVED),
            ] {
                debug_assert!(class(counter) < 5);
                add(runner, c[counter as usize]);
                sum = sum.saturating_add(c[counter as usize]);
            }
            for pair in &slot.pairs {
                let runner = owners
                    .get(pair.runner_slot as usize)
                    .map_or(Party::UNKNOWN, |o| o.1);
                add(runner, pair.sum[Window::Long as usize]);
                sum = sum.saturating_add(pair.sum[Window::Long as usize]);
            }
            add(Party::UNKNOWN, c[Counter::Wait as usize].saturating_sub(sum));
        }
        out
    }
}

fn unit_of(kind: &Kind, was: Option<&Who>, node: &str, directory: &mut Directory, policy: &Policy) -> Unit {
    let plain = |who, party| Unit {
        who,
        party,
        entitled_ncores: 0,
        requested_bytes: 0,
        in_quota: [false; 3],
    };
    match kind {
        Kind::Unknown(reason) => plain(Who::Unknown(*reason), Party::UNKNOWN),
        Kind::Host(path) => match policy.path_rule(path) {
            None => plain(Who::Host(Arc::clone(path)), Party::SYSTEM),
            Some((_, rule)) => {
                let tenant = directory.tenants.id(&rule.tenant);
                let name = rule.name.as_deref().map_or_else(|| Arc::clone(path), Arc::from);
                // Of what is no pod only the CPU use is known.
                let cpu = directory.quota(tenant, Resource::Cpu);
                let in_quota = [cpu.is_some_and(|q| q.from_policy), false, false];
                Unit {
                    who: Who::Path { name },
                    party: tenant.into(),
                    entitled_ncores: rule.cpu_request_ncores,
                    requested_bytes: 0,
                    in_quota,
                }
            }
        },
        Kind::Pod(uid) => {
            let known = directory.pod(uid).or(match was {
                // It left the cluster data long ago, and its counters still arrive.
                Some(Who::Pod(pod)) => Some(pod),
                _ => None,
            });
            match known {
                None => plain(Who::Unidentified(Arc::clone(uid)), Party::UNKNOWN),
                Some(pod) if pod.node.as_deref().is_some_and(|n| n != node) => {
                    plain(Who::Foreign(Arc::clone(uid)), Party::UNKNOWN)
                }
                Some(pod) => Unit {
                    party: pod.tenant.into(),
                    entitled_ncores: pod.requests.cpu_ncores,
                    requested_bytes: pod.requests.memory_bytes,
                    in_quota: pod.in_quota,
                    who: Who::Pod(Arc::clone(pod)),
                },
            }
        }
    }
}
