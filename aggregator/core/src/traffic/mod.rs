//! Who talked to whom: the flows of all nodes, both ends of each joined, held against the fence.
//!
//! **Two records.** A flow between two pods is told by both their agents. Whose sockets a record is about is known by cgroup and cannot be forged; the
//! peer is known by address alone. The records are joined by (opener's address, receiver's address, protocol, server port), through a Service by
//! where it leads. The receiver's is the one that is counted and judged: it is after all translation, and what it has was delivered.
//!
//! **Nobody is accused by an address.** A record of a receiver names an opener that its own node's agent knows nothing of: the source is
//! unconfirmed, the flow is nobody's. The agent of who forged it has a record with the forged address, which joins: the forger is named.
//!
//! **Only what moved is looked at.** A record is judged when its counters grew, or when its wait for the other end, a name or an answer is over.
//!
//! | module | says |
//! |---|---|
//! | `record` | one end's counters |
//! | `ends` | which pod, node or service an end is |
//! | `join` | which records are one flow |
//! | `cx` | what a judgement may look at |
//! | `outcome` | was it delivered |
//! | `ruling` | what the fence says |
//! | `verdict` | both put together |
//! | `count` | what is new of it |
//! | `step` | a judgement of what moved |
//! | `cross` | what of it is for the trail |
//! | `folded` | traffic of which no flow is told |
//! | `totals` | sums since the start |
//! | `between`, `probe`, `reach` | the rules |
//! | `show` | flows for clients |

mod between;
mod count;
mod cross;
mod cx;
mod ends;
mod folded;
mod join;
mod outcome;
mod probe;
mod reach;
mod record;
mod ruling;
mod show;
mod step;
mod totals;
mod verdict;

#[allow(
    clippy::disallowed_types,
    reason = "looked up by key, never iterated where order shows"
)]
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use between::port;
pub use ends::Reason;
pub use show::{FlowEnd, FlowFilter, FlowList, FlowView, Seen};
pub use totals::{FoldedView, TenantTraffic, UnattributedView, Verdict};

use crate::limits::{FLOW_KEPT_NS, MAX_FLOWS};
use crate::losses::Losses;
use crate::node::Node;
use crate::node::flows::News;
use crate::report::Role;
use crate::shared::Shared;
use crate::trail::crossed::{Crossed, Whose};
use crate::trail::{Moments, reason};
use crate::world::Now;
pub(crate) use cx::Cx;
use record::Record;
use totals::Totals;

/// What both ends of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
}

impl Key {
    fn of(record: &Record) -> Self {
        let flow = &record.flow;
        let (from, to) = match flow.role {
            Role::Opened | Role::Unknown => (flow.local, flow.peer),
            Role::Accepted => (flow.peer, flow.local),
        };
        Self {
            from,
            to,
            protocol: flow.protocol,
            port: flow.port,
        }
    }
}

/// All flows known.
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types, reason = "see the import")]
pub(crate) struct Table {
    records: Vec<Option<Box<Record>>>,
    free: Vec<u32>,
    /// Records of each node that has any.
    held: BTreeMap<Arc<str>, usize>,
    openers: HashMap<Key, Vec<u32>>,
    receivers: HashMap<Key, Vec<u32>>,
    /// (own address, peer's, protocol) → records that do not know who opened.
    unknown: HashMap<(IpAddr, IpAddr, u8), u32>,
    /// To be judged; each once.
    queue: Vec<u32>,
    /// (the aggregator's monotonic clock, record), oldest first.
    ended: VecDeque<(u64, u32)>,
    pub(crate) totals: Totals,
    flat: between::Book,
    leaks: between::Book,
    probes: probe::Probes,
    reach: reach::Reach,
    folded: Vec<folded::Folded>,
    /// Of verdicts: a few sentences, said of hundreds of thousands of flows.
    reasons: Shared<str>,
    pub(crate) crossed: Crossed,
}

impl Table {
    fn get(&self, id: u32) -> Option<&Record> {
        self.records.get(id as usize)?.as_deref()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Record> {
        self.records.get_mut(id as usize)?.as_deref_mut()
    }

    fn len(&self) -> usize {
        self.records.len() - self.free.len()
    }

    /// Once half of the places are taken, a node with its equal part of all gets no more: what scans from some nodes does not hide the others'.
    fn has_room(&self, node: &str) -> bool {
        let held = self.held.get(node).copied().unwrap_or(0);
        let fair = held < MAX_FLOWS / self.held.len().max(1);
        self.len() < MAX_FLOWS / 2 || (self.len() < MAX_FLOWS && fair)
    }

    fn enqueue(&mut self, id: u32) {
        if let Some(record) = self.get_mut(id)
            && !std::mem::replace(&mut record.queued, true)
        {
            self.queue.push(id);
        }
    }

    /// Takes over what a node's last report changed.
    pub(crate) fn take(&mut self, node: &mut Node, now: Now, losses: &mut Losses) {
        for place in std::mem::take(&mut node.flows.orphans) {
            self.end(place, now);
        }
        let (at_ns, unix_ns) = (node.flows.at_ns, node.flows.captured_unix_ns);
        let from_ns = node.flows.since_report_ns;
        let moment = node.flows.moment().filter(|_| self.crossed.on);
        let mut unplaced = Moments::default();
        for news in std::mem::take(&mut node.flows.news) {
            match news {
                News::Begun(index) => {
                    if !self.begin(node, index) {
                        // Its agent's run goes on to know it: it would only announce it again.
                        losses.add("window", "flow_cap", "flows", 1);
                        moment.iter().for_each(|moment| unplaced.push(*moment));
                    }
                }
                News::Grew {
                    index,
                    now: to,
                    mut base,
                    before,
                } => {
                    if base.is_some()
                        && let Some(owner) = node.flows.owner(index).filter(|_| moment.is_some())
                    {
                        // It moved, and how much of it is from before this aggregator cannot be told.
                        let whose = Whose::Owner(Arc::clone(&node.name), owner.clone());
                        let when = moment.into();
                        self.crossed.doubt(whose, reason::AGGREGATOR_AWAY, &when);
                    }
                    if node.flows.place(index).is_none() {
                        // There was no room for it; what it carried until now is lost.
                        let from = *base.get_or_insert(before);
                        if !self.begin(node, index) {
                            losses.add("window", "flow_cap", "bytes", to.less(&from).bytes());
                            moment.iter().for_each(|moment| unplaced.push(*moment));
                        }
                    }
                    if let Some(place) = node.flows.place(index) {
                        if let Some(record) = self.get_mut(place) {
                            record.grow(to, base, from_ns, at_ns, unix_ns, moment, now);
                        }
                        self.enqueue(place);
                    }
                }
                News::Ended(index) => match node.flows.place(index) {
                    Some(place) => self.end(place, now),
                    None => node.flows.forget(index),
                },
                News::Folded { owner, grown } => {
                    self.fold(&node.name, owner, grown, moment, now, losses);
                }
            }
        }
        let whose = Whose::OnNode(Arc::clone(&node.name));
        self.crossed.doubt(whose, reason::FLOWS_NOT_SEEN, &unplaced);
    }

    /// Gives a flow that was announced its place. False: there is no room.
    fn begin(&mut self, node: &mut Node, index: u32) -> bool {
        if !self.has_room(&node.name) {
            return false;
        }
        if let Some((flow, owner)) = node.flows.announced(index) {
            let (at_ns, unix_ns) = (node.flows.at_ns, node.flows.captured_unix_ns);
            let record = Record::new(node.name.clone(), flow, owner, at_ns, unix_ns);
            let place = self.insert(record);
            node.flows.set_place(index, place);
        }
        true
    }

    fn insert(&mut self, record: Record) -> u32 {
        let (key, role) = (Key::of(&record), record.flow.role);
        if role == Role::Unknown {
            *self.unknown.entry((key.from, key.to, key.protocol)).or_default() += 1;
        }
        *self.held.entry(Arc::clone(&record.node)).or_default() += 1;
        let record = Some(Box::new(record));
        let id = match self.free.pop() {
            Some(id) => {
                self.records[id as usize] = record;
                id
            }
            None => {
                self.records.push(record);
                (self.records.len() - 1) as u32 // at most MAX_FLOWS
            }
        };
        self.side(role).entry(key).or_default().push(id);
        id
    }

    #[allow(clippy::disallowed_types, reason = "see the import")]
    fn side(&mut self, role: Role) -> &mut HashMap<Key, Vec<u32>> {
        match role {
            Role::Opened | Role::Unknown => &mut self.openers,
            Role::Accepted => &mut self.receivers,
        }
    }

    /// Nothing more will be said of it.
    pub(crate) fn end(&mut self, id: u32, now: Now) {
        if let Some(record) = self.get_mut(id)
            && record.ended_ns().is_none()
        {
            record.end(now.mono_ns);
            self.ended.push_back((now.mono_ns, id));
        }
    }

    /// Ends all that a node said.
    pub(crate) fn end_node(&mut self, node: &Node, now: Now) {
        for place in node.flows.places() {
            self.end(place, now);
        }
    }

    /// Lets go of what ended long enough ago. Says of each (node, flow's index, its place).
    fn forget(&mut self, now: Now, mut each: impl FnMut(&str, u32, u32)) {
        while let Some((ended_ns, id)) = self.ended.front().copied() {
            if now.mono_ns.saturating_sub(ended_ns) < FLOW_KEPT_NS {
                return;
            }
            self.ended.pop_front();
            let Some(record) = self.records.get_mut(id as usize).and_then(Option::take) else {
                continue;
            };
            each(&record.node, record.flow.index, id);
            for unjudged in record.moments() {
                let whose = Whose::OnNode(Arc::clone(&record.node));
                self.crossed.doubt(whose, reason::FLOWS_NOT_SEEN, unjudged);
            }
            self.free.push(id);
            if let Some(held) = self.held.get_mut(&record.node) {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(&record.node);
                }
            }
            let key = Key::of(&record);
            let ends = (key.from, key.to, key.protocol);
            if record.flow.role == Role::Unknown
                && let Some(count) = self.unknown.get_mut(&ends)
            {
                *count -= 1;
                if *count == 0 {
                    self.unknown.remove(&ends);
                }
            }
            let side = self.side(record.flow.role);
            if let Some(ids) = side.get_mut(&key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    side.remove(&key);
                }
            }
        }
    }
}
