//! Who held how much memory on a node at one moment, against what was requested there.
//!
//! What counts is `memory.current`, page cache included: a page of cache is as much a page that the node has not for others as any, and a
//! tenant that reads files round and round pushes others out as surely as one that allocates. What a *victim* needs is its working set,
//! because that is what the kubelet holds against a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::finding::Culprit;
use crate::identity::Tenants;
use crate::judge::{display, tenant_name};
use crate::limits::MAX_CULPRITS;
use crate::node::memory::{Memory, Point};
use crate::node::{Node, Slot};
use crate::sums::{Party, Who};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Account {
    pub(crate) current_bytes: u64,
    /// Also of pods whose use is not told: a tenant is given too much rather than too little.
    pub(crate) requested_bytes: u64,
    /// Of `memory.current`, in bytes per second.
    pub(crate) growth: f64,
}

impl Account {
    fn over(&self, ratio: f64) -> u64 {
        if self.current_bytes as f64 > self.requested_bytes as f64 * ratio {
            self.current_bytes.saturating_sub(self.requested_bytes)
        } else {
            0
        }
    }
}

/// One pod's account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodAccount<'a> {
    pub(crate) unit: u32,
    pub(crate) party: Party,
    pub(crate) account: Account,
    /// Absent where nothing tells.
    pub(crate) memory: Option<(&'a Memory, Point)>,
}

/// A tenant that holds more than was requested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over {
    pub(crate) party: Party,
    pub(crate) account: Account,
    pub(crate) bytes: u64,
    /// Of all memory above requests on the node.
    pub(crate) share: f64,
    /// Of all growth of those above their requests; where none of them grows, `share`.
    pub(crate) growth_share: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Accounts<'a> {
    pub(crate) pods: Vec<PodAccount<'a>>,
    /// Whoever is over, the most first. Also the system and the victim's own tenant: what they hold is not another's doing.
    pub(crate) over: Vec<Over>,
}

impl<'a> Accounts<'a> {
    /// Of the pods that `lived` then. `read`: a pod's memory then, and how fast it grew.
    pub(crate) fn new(
        node: &'a Node,
        ratio: f64,
        lived: impl Fn(&Slot) -> bool,
        read: impl Fn(&Memory) -> Option<(Point, f64)>,
    ) -> Self {
        let mut pods: BTreeMap<u32, PodAccount<'a>> = BTreeMap::new();
        for slot in node.slots().filter(|s| lived(s)) {
            let Some(unit) = node.units.get(slot.unit as usize) else {
                continue;
            };
            if !matches!(unit.who, Who::Pod(_)) {
                continue;
            }
            let pod = pods.entry(slot.unit).or_insert(PodAccount {
                unit: slot.unit,
                party: unit.party,
                account: Account {
                    requested_bytes: unit.requested_bytes,
                    ..Account::default()
                },
                memory: None,
            });
            // A pod that was announced again may have two; the newer says what is.
            let newer = |m: &Memory| pod.memory.is_none_or(|(old, _)| old.at_ns <= m.at_ns);
            if let Some(memory) = slot.memory.as_deref().filter(|m| newer(m))
                && let Some((point, growth)) = read(memory)
            {
                pod.account.current_bytes = point.current_bytes;
                pod.account.growth = growth;
                pod.memory = Some((memory, point));
            }
        }
        let mut parties: BTreeMap<Party, Account> = BTreeMap::new();
        for pod in pods.values() {
            let sum = parties.entry(pod.party).or_default();
            sum.current_bytes = sum.current_bytes.saturating_add(pod.account.current_bytes);
            sum.requested_bytes = sum.requested_bytes.saturating_add(pod.account.requested_bytes);
            sum.growth += pod.account.growth;
        }
        Self {
            pods: pods.into_values().collect(),
            over: over(&parties, ratio),
        }
    }

    /// The pods of one tenant that are above their requests, the most first, and how many there are.
    pub(crate) fn culprits(&self, node: &Node, tenants: &Tenants, party: Party) -> (Vec<Culprit>, usize) {
        let all: u64 = self.over.iter().fold(0, |sum, o| sum.saturating_add(o.bytes));
        let mut list: Vec<(u64, Culprit)> = self
            .pods
            .iter()
            .filter(|p| p.party == party)
            .filter_map(|p| {
                let bytes = p.account.over(1.0);
                let unit = node.units.get(p.unit as usize).filter(|_| bytes > 0)?;
                let culprit = Culprit {
                    tenant: tenant_name(party, tenants),
                    pod: Arc::from(display(unit, tenants)),
                    stolen_cores: 0.0,
                    // One pod may be further over than its tenant, whose other pods hold less than they requested.
                    share: (bytes as f64 / (all as f64).max(1.0)).min(1.0),
                    over_request_bytes: Some(bytes),
                    growth_bytes_per_second: Some(p.account.growth),
                };
                Some((bytes, culprit))
            })
            .collect();
        list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.pod.cmp(&b.1.pod)));
        let pods = list.len();
        list.truncate(MAX_CULPRITS);
        (list.into_iter().map(|(_, culprit)| culprit).collect(), pods)
    }
}

fn over(parties: &BTreeMap<Party, Account>, ratio: f64) -> Vec<Over> {
    let mut over: Vec<(Party, Account, u64)> = parties
        .iter()
        .filter(|(party, _)| **party != Party::UNKNOWN)
        .map(|(party, account)| (*party, *account, account.over(ratio)))
        .filter(|(.., bytes)| *bytes > 0)
        .collect();
    over.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(&b.0)));
    let bytes: f64 = over.iter().map(|(.., bytes)| *bytes as f64).sum();
    let growth: f64 = over.iter().map(|(_, account, _)| account.growth.max(0.0)).sum();
    over.into_iter()
        .map(|(party, account, own)| {
            let share = own as f64 / bytes;
            Over {
                party,
                account,
                bytes: own,
                share,
                growth_share: if growth > 0.0 {
                    account.growth.max(0.0) / growth
                } else {
                    share
                },
            }
        })
        .collect()
}
