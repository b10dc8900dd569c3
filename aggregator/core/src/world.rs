//! All state of the aggregator's judgement, and the only way in and out of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breach::{Book, Breach, seconds};
use crate::finding::Finding;
use crate::identity::{Cluster, Directory, TenantId};
use crate::limits::{MAX_NODES, NODE_KEPT_NS, NS_PER_S};
use crate::losses::Losses;
use crate::node::Node;
use crate::node::ingest::Context;
use crate::node::window::Lengths;
use crate::policy::Policy;
use crate::quota::Usage;
use crate::report::{Outcome, Receipt, Refusal, Report};
use crate::snapshot::{Builder, LedgerTotal, RunTotal, Snapshot, WaitTotal, party_name};
use crate::traffic::{Cx, FlowFilter, FlowList, Table};
use crate::{judge, limit_range, memory, oom};

/// A moment: the monotonic clock for judging, the wall clock for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono_ns: u64,
    pub unix_ns: u64,
}

impl Now {
    /// Nanoseconds from `earlier` to here.
    pub fn since(self, earlier: Self) -> u64 {
        self.mono_ns.saturating_sub(earlier.mono_ns)
    }
}

/// A pod's object may follow its first counters by this much before its time is counted as unknown in the cumulative counters. Watching a
/// directory takes well under a second, an API watch about as long; windows name things in retrospect anyway.
const SETTLE_NS: u64 = 5 * NS_PER_S;

/// What a judgement changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Every breach whose state changed: pending, firing, resolved.
    pub breaches: Vec<Breach>,
}

#[derive(Debug)]
pub struct World {
    policy: Policy,
    directory: Directory,
    nodes: BTreeMap<Arc<str>, Node>,
    book: Book,
    losses: Losses,
    waits: BTreeMap<TenantId, WaitTotal>,
    traffic: Table,
    judged: Now,
}

impl World {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            directory: Directory::default(),
            nodes: BTreeMap::new(),
            book: Book::default(),
            losses: Losses::default(),
            waits: BTreeMap::new(),
            traffic: Table::default(),
            judged: Now::default(),
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// The last judgement.
    pub fn judged(&self) -> Now {
        self.judged
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.directory.rebuild(&self.policy);
    }

    /// Takes over what a cluster source knows now: all of it, not a change.
    pub fn set_cluster(&mut self, cluster: Arc<Cluster>, now: Now) {
        let lost = self.directory.set_cluster(cluster, &self.policy, now.mono_ns);
        self.losses
            .add("identify", "gone_pod_cap", "pods", lost.gone_pods);
        self.losses
            .add("identify", "service_cap", "services", lost.services);
    }

    /// Counts a report, whole or not at all.
    pub fn ingest(&mut self, report: Report, now: Now) -> Receipt {
        if !self.nodes.contains_key(&report.node) {
            if self.nodes.len() >= MAX_NODES {
                self.losses.add("ingest", "node_cap", "reports", 1);
                let problem = format!("{:?}: {MAX_NODES} nodes are known already", &*report.node);
                let refusal = Refusal {
                    reason: "node_cap",
                    field: "node".into(),
                    problem,
                };
                return Receipt {
                    outcome: Outcome::Refused(refusal),
                    announce_all: false,
                };
            }
            let node = Node::new(Arc::clone(&report.node), report.run.clone());
            self.nodes.insert(Arc::clone(&report.node), node);
        }
        let Some(node) = self.nodes.get_mut(&report.node) else {
            return Receipt {
                outcome: Outcome::Duplicate,
                announce_all: false,
            };
        };
        // A queue that is worked off after an interruption brings minutes of reports between two judgements.
        if node.is_long(lengths(&self.policy)) {
            Self::tidy(
                node,
                &mut self.directory,
                &self.policy,
                &mut self.losses,
                &mut self.waits,
                now,
            );
        }
        let cx = Context {
            received_ns: now.mono_ns,
            hit_cores: self.policy.thresholds.noisy_neighbour.min_stolen_cores,
            lengths: lengths(&self.policy),
        };
        let receipt = node.ingest(report, &cx, &mut self.losses);
        self.traffic.take(node, now, &mut self.losses);
        receipt
    }

    /// Judges everything as of `now`.
    pub fn judge(&mut self, now: Now) -> Changes {
        self.judged = now;
        let traffic = &mut self.traffic;
        self.nodes.retain(|_, node| {
            let kept = now.mono_ns.saturating_sub(node.received_ns) < NODE_KEPT_NS;
            if !kept {
                traffic.end_node(node, now);
            }
            kept
        });
        let mut findings: Vec<Finding> = Vec::new();
        let mut usage = Usage::default();
        for node in self.nodes.values_mut() {
            Self::tidy(
                node,
                &mut self.directory,
                &self.policy,
                &mut self.losses,
                &mut self.waits,
                now,
            );
            let sums = node.sums();
            judge::judge(
                node,
                &sums,
                &self.directory.tenants,
                &self.policy.thresholds,
                &mut findings,
            );
            usage.add(node, &sums, &self.policy.thresholds);
            let (tenants, t) = (&self.directory.tenants, &self.policy.thresholds);
            memory::judge(node, tenants, t, &mut findings);
            limit_range::judge(node, &self.directory, t, &mut findings);
            oom::judge(
                node,
                tenants,
                t,
                SETTLE_NS,
                now.mono_ns,
                &mut self.losses,
                &mut findings,
            );
        }
        self.judge_traffic(now, &mut findings);
        let book = &self.book;
        usage.judge(
            &self.directory,
            &self.policy.thresholds,
            |key| book.is_firing(key),
            &mut findings,
        );
        // By what they are about, not by where a pod happens to stand.
        findings.sort_by(|a, b| a.key.cmp(&b.key));
        let breaches = self
            .book
            .step(findings, now, &self.policy.thresholds, &mut self.losses);
        Changes { breaches }
    }

    fn judge_traffic(&mut self, now: Now, findings: &mut Vec<Finding>) {
        let cx = Cx::new(&self.directory, &self.policy, self.nodes.values(), now);
        let mut gone = Vec::new();
        self.traffic
            .judge(&cx, &mut self.losses, findings, |node, index, place| {
                gone.push((Arc::<str>::from(node), index, place));
            });
        self.traffic.totals.make_room(&self.directory, &self.policy);
        for (node, index, place) in gone {
            let flows = self.nodes.get_mut(&node).map(|n| &mut n.flows);
            if let Some(flows) = flows.filter(|f| f.place(index) == Some(place)) {
                flows.forget(index);
            }
        }
    }

    /// Names what is new, adds to the totals what is named, lets go of what is old.
    fn tidy(
        node: &mut Node,
        directory: &mut Directory,
        policy: &Policy,
        losses: &mut Losses,
        waits: &mut BTreeMap<TenantId, WaitTotal>,
        now: Now,
    ) {
        node.resolve(directory, policy, losses);
        let lengths = lengths(policy);
        let settle_ns = SETTLE_NS.min(lengths.long_ns / 2);
        let wait = node.awaits_names(settle_ns);
        node.fold(wait, settle_ns, now.mono_ns, |party, buckets, wait_ns| {
            if let Some(tenant) = party.tenant() {
                let total = waits.entry(tenant).or_default();
                for (sum, n) in total.buckets.iter_mut().zip(buckets) {
                    *sum = sum.saturating_add(*n);
                }
                total.wait_ns = total.wait_ns.saturating_add(wait_ns);
            }
        });
        node.slide(lengths, now.mono_ns);
    }

    /// What is known, of one node or (empty) of all. Breaches are those that the node is named in, too.
    pub fn snapshot(&mut self, node: &str, include_resolved: bool, now: Now) -> Snapshot {
        let mut builder = Builder::default();
        for (name, n) in &mut self.nodes {
            if node.is_empty() || **name == *node {
                n.resolve(&mut self.directory, &self.policy, &mut self.losses);
                builder.add(n, &self.directory, &self.policy, now.mono_ns);
            }
        }
        let mut out = builder.finish(&self.directory, node.is_empty());
        out.judged_unix_ns = self.judged.unix_ns;
        out.window_ns = seconds(self.policy.thresholds.windows.length_seconds);
        let totals = &self.traffic.totals;
        out.traffic = totals.between(&self.directory, now.mono_ns);
        out.unattributed = totals.unattributed(now.mono_ns);
        out.folded = totals.folded(&self.directory, now.mono_ns);
        let wanted = |b: &Breach| node.is_empty() || &*b.key.node == node || b.key.node.is_empty();
        out.breaches = self.book.live().into_iter().filter(wanted).collect();
        if include_resolved {
            out.breaches
                .extend(self.book.resolved().filter(|b| wanted(b)).cloned());
        }
        out
    }

    /// Flows as they were judged last.
    pub fn flows(&self, filter: &FlowFilter) -> FlowList {
        self.traffic
            .list(filter, &self.directory, &self.policy, self.judged)
    }

    /// Flows known, both ends' records.
    pub fn flow_records(&self) -> usize {
        self.traffic.records()
    }

    /// Cumulative CPU time by node and tenant.
    pub fn run_totals(&self) -> Vec<RunTotal> {
        let mut out = Vec::new();
        for node in self.nodes.values() {
            for (party, ns) in &node.totals.run_ns {
                out.push(RunTotal {
                    node: Arc::clone(&node.name),
                    tenant: party_name(*party, &self.directory),
                    ns: *ns,
                });
            }
        }
        out
    }

    /// The cumulative ledger by node and tenant pair.
    pub fn ledger_totals(&self) -> Vec<LedgerTotal> {
        let mut out = Vec::new();
        for node in self.nodes.values() {
            for ((waiter, runner), ns) in &node.totals.ledger_ns {
                out.push(LedgerTotal {
                    node: Arc::clone(&node.name),
                    waiter: party_name(*waiter, &self.directory),
                    runner: party_name(*runner, &self.directory),
                    ns: *ns,
                });
            }
        }
        out
    }

    /// Cumulative waits by tenant.
    pub fn wait_totals(&self) -> Vec<(Arc<str>, WaitTotal)> {
        self.waits
            .iter()
            .map(|(t, w)| (Arc::clone(self.directory.tenants.name(*t)), w.clone()))
            .collect()
    }
}

fn lengths(policy: &Policy) -> Lengths {
    let windows = &policy.thresholds.windows;
    Lengths {
        long_ns: seconds(windows.length_seconds),
        fast_ns: seconds(windows.fast_seconds),
    }
}
