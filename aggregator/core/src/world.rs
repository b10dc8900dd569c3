//! All state of the aggregator's judgement, and the only way in and out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::breach::{Book, Breach, Story, seconds};
use crate::clocks::Wall;
use crate::explain::{self, Explanation};
use crate::finding::Finding;
use crate::headroom::{Ground, History};
use crate::identity::{Cluster, Directory, TenantId, TurnedAway};
use crate::limits::{GONE_POD_KEPT_NS, MAX_NODES, NODE_KEPT_NS, NS_PER_S, SILENT_NODE_KEPT_NS};
use crate::losses::Losses;
use crate::node::Node;
use crate::node::checkpoint::{Checkpoint, Mark};
use crate::node::ingest::Context;
use crate::node::slot::Kind;
use crate::node::window::Lengths;
use crate::policy::Policy;
use crate::quota::Usage;
use crate::report::{Outcome, Receipt, Refusal, Report};
use crate::snapshot::{
    Builder, LedgerTotals, PodView, RunTotal, Snapshot, WaitTotal, party_name, party_named,
};
use crate::traffic::{Cx, FlowFilter, FlowList, Table};
use crate::trail::cover::Cover;
use crate::trail::crossed::Whose;
use crate::trail::hours::GapKey;
use crate::trail::{Doubt, HOUR_SLOTS, Moments, Moved, Sent, Taken, Untold, reason, slot_of};
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
/// Slots that are told one by one where a wall clock was set: half an hour. Of more, those at either end: what lies between nobody saw, or
/// [`crate::trail::hours`] says of it that it comes again.
const MAX_SET: u64 = HOUR_SLOTS / 2;
const SET_EDGE: u64 = 3;

/// What a judgement changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Every breach whose state changed: pending, firing, resolved.
    pub breaches: Vec<Breach>,
}

/// What a world knows of its cluster's objects, apart from it.
#[derive(Debug)]
pub struct Objects {
    directory: Directory,
    policy: Policy,
    lost: TurnedAway,
    /// Of the world when this was taken from it.
    of: (u64, usize),
}

impl Objects {
    /// With what a cluster source knows now: all of it, not a change.
    #[must_use]
    pub fn with(mut self, cluster: Arc<Cluster>, now: Now) -> Self {
        self.lost = self.directory.set_cluster(cluster, &self.policy, now.mono_ns);
        self
    }
}

/// Made from what does not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// One cluster: nothing of another is named, counted or judged in it.
#[derive(Debug)]
pub struct World {
    policy: Policy,
    directory: Directory,
    nodes: BTreeMap<Arc<str>, Node>,
    book: Book,
    losses: Losses,
    /// Of nodes that are not known any more.
    gone_waits: BTreeMap<TenantId, WaitTotal>,
    traffic: Table,
    used: History,
    /// What each node's agent told of, for the trail.
    covers: BTreeMap<Arc<str>, Cover>,
    /// Nodes that were forgotten and that no cluster data ever listed, nor said to be gone: when their agents were last heard of.
    vanished: BTreeMap<Arc<str>, u64>,
    journal: Journal,
    wall: Wall,
    judged: Now,
}

impl World {
    /// `cluster`: the cluster's name, for its breaches.
    pub fn new(cluster: Arc<str>, policy: Policy) -> Self {
        Self {
            policy,
            directory: Directory::default(),
            nodes: BTreeMap::new(),
            book: Book::new(cluster),
            losses: Losses::default(),
            gone_waits: BTreeMap::new(),
            traffic: Table::default(),
            used: History::default(),
            covers: BTreeMap::new(),
            vanished: BTreeMap::new(),
            journal: Journal::default(),
            wall: Wall::default(),
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
        let objects = self.objects().with(cluster, now);
        // Nothing came between.
        let _before = self.set_objects(objects);
    }

    /// What [`Objects::with`] makes the next objects from: with tens of thousands of pods that takes longer than reports may wait.
    pub fn objects(&self) -> Objects {
        Objects {
            directory: self.directory.clone(),
            policy: self.policy.clone(),
            lost: TurnedAway::default(),
            of: self.state_of_names(),
        }
    }

    fn state_of_names(&self) -> (u64, usize) {
        (self.directory.generation(), self.directory.tenants.count())
    }

    /// Takes over what was made from [`World::objects`], and returns what was there before: to let go of it takes its time too.
    ///
    /// # Errors
    /// Policy or objects changed meanwhile: they must be made anew.
    pub fn set_objects(&mut self, objects: Objects) -> Result<Directory, Stale> {
        if objects.of != self.state_of_names() {
            return Err(Stale);
        }
        let lost = objects.lost;
        self.losses
            .add("identify", "gone_pod_cap", "pods", lost.gone_pods);
        self.losses
            .add("identify", "service_cap", "services", lost.services);
        Ok(std::mem::replace(&mut self.directory, objects.directory))
    }

    /// Counts a report, whole or not at all.
    pub fn ingest(&mut self, report: Report, now: Now) -> Receipt {
        self.look_at_clock(now);
        if !self.nodes.contains_key(&report.node) {
            if self.nodes.len() >= MAX_NODES {
                self.losses.add("ingest", "node_cap", "reports", 1);
                let problem = format!("{:?}: {MAX_NODES} nodes are known already", &*report.node);
                let refusal = Refusal {
                    reason: "node_cap",
                    field: "node".into(),
                    problem,
                };
                return Outcome::Refused(refusal).into();
            }
            let node = Node::new(Arc::clone(&report.node), report.run.clone());
            self.nodes.insert(Arc::clone(&report.node), node);
        }
        let Some(node) = self.nodes.get_mut(&report.node) else {
            return Outcome::Duplicate.into();
        };
        // A queue that is worked off after an interruption brings minutes of reports between two judgements. One that is sent again, its
        // receipt lost, changes nothing: what waits for a name waits on.
        let ends = node.is_new_run(&report);
        if ends || node.is_next(&report) && node.is_long(lengths(&self.policy)) {
            Self::tidy(
                node,
                &mut self.directory,
                &self.policy,
                &mut self.losses,
                &mut self.journal,
                ends,
                now,
            );
        }
        let cx = Context {
            received_ns: now.mono_ns,
            wall: self.wall,
            hit_cores: self.policy.thresholds.noisy_neighbour.min_stolen_cores,
            lengths: lengths(&self.policy),
        };
        let receipt = node.ingest(report, &cx, &mut self.losses);
        self.traffic.take(node, now, &mut self.losses);
        if let Some(heard) = node.flows.heard.take().filter(|_| self.traffic.crossed.on) {
            let cover = self
                .covers
                .entry(Arc::clone(&node.name))
                .or_insert_with(Cover::new);
            cover.hear(heard);
        }
        receipt
    }

    /// Judges everything as of `now`.
    pub fn judge(&mut self, now: Now) -> Changes {
        self.judged = now;
        self.look_at_clock(now);
        let (traffic, gone_waits, journal) = (&mut self.traffic, &mut self.gone_waits, &mut self.journal);
        let (directory, covers) = (&self.directory, &mut self.covers);
        let (vanished, losses) = (&mut self.vanished, &mut self.losses);
        self.nodes.retain(|name, node| {
            let silent_ns = now.mono_ns.saturating_sub(node.received_ns);
            let is_listed = directory.node(name).is_some();
            node.listed |= is_listed;
            let kept = silent_ns < NODE_KEPT_NS || (silent_ns < SILENT_NODE_KEPT_NS && is_listed);
            if !kept {
                // One that was listed left with its object, or has a gap by it.
                if !node.listed && traffic.crossed.on {
                    if vanished.len() < MAX_NODES {
                        vanished.insert(Arc::clone(name), node.received_ns);
                    } else {
                        losses.add("trail", "node_cap", "nodes", 1);
                    }
                }
                traffic.end_node(node, now);
                covers.remove(&node.name);
                keep_waits(gone_waits, node);
                journal.mark(|| Mark::Forgotten {
                    node: Arc::clone(&node.name),
                });
            }
            kept
        });
        let nodes = &self.nodes;
        self.vanished.retain(|name, heard_ns| {
            now.mono_ns.saturating_sub(*heard_ns) < SILENT_NODE_KEPT_NS && !nodes.contains_key(name)
        });
        let mut findings: Vec<Finding> = Vec::new();
        let mut usage = Usage::default();
        let sampling = self.used.is_due(now.mono_ns);
        for node in self.nodes.values_mut() {
            Self::tidy(
                node,
                &mut self.directory,
                &self.policy,
                &mut self.losses,
                &mut self.journal,
                false,
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
            if sampling {
                let t = &self.policy.thresholds;
                self.used.sample(node, &sums, t, now.mono_ns, &mut self.losses);
            }
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
        if sampling {
            self.used.sampled(&self.directory, now.mono_ns);
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

    /// Where the wall clock was set, nobody knows which of its slots were seen.
    fn look_at_clock(&mut self, now: Now) {
        let Some((first, last)) = self.wall.look(now) else {
            return;
        };
        let mut when = Moments::default();
        if last - first <= MAX_SET {
            when.push((first, last));
        } else {
            when.push((first, first + SET_EDGE));
            when.push((last - SET_EDGE, last));
        }
        let crossed = &mut self.traffic.crossed;
        crossed.doubt(Whose::Anybody, reason::AGGREGATOR_AWAY, &when);
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

    /// Names what is new, adds to the totals what is named, lets go of what is old. `ends`: another agent run follows, nothing can wait for its name.
    fn tidy(
        node: &mut Node,
        directory: &mut Directory,
        policy: &Policy,
        losses: &mut Losses,
        journal: &mut Journal,
        ends: bool,
        now: Now,
    ) {
        node.resolve(directory, policy, losses);
        let lengths = lengths(policy);
        let settle_ns = SETTLE_NS.min(lengths.long_ns / 2);
        let wait = !ends && node.awaits_names(settle_ns);
        let window_boot_ns = node.boot_ns_at(now.mono_ns);
        if let Some((up_to_boot_ns, names)) = node.fold(wait, settle_ns, now.mono_ns) {
            let name = |(index, party)| (index, party_name(party, directory));
            journal.mark(|| Mark::Folded {
                node: Arc::clone(&node.name),
                up_to_boot_ns,
                window_boot_ns,
                names: names.into_iter().map(name).collect(),
            });
        }
        node.slide(lengths, window_boot_ns);
    }

    /// What is known, of one node or (empty) of all. Breaches are those that the node is named in, too.
    pub fn snapshot(&mut self, node: &str, include_resolved: bool, now: Now) -> Snapshot {
        let mut pods = Vec::new();
        let mut out = self.snapshot_of(node, include_resolved, now, |pod| pods.push(pod));
        pods.sort_by(|a: &PodView, b| a.order().cmp(&b.order()));
        out.pods = pods;
        out
    }

    /// The same of all nodes, without the pods: `each` is told of them one by one, in no order. All of them together are tens of megabytes in a
    /// large cluster.
    pub fn snapshot_without_pods(&mut self, now: Now, each: impl FnMut(PodView)) -> Snapshot {
        self.snapshot_of("", false, now, each)
    }

    fn snapshot_of(
        &mut self,
        node: &str,
        include_resolved: bool,
        now: Now,
        mut each: impl FnMut(PodView),
    ) -> Snapshot {
        let mut builder = Builder::default();
        for (name, n) in &mut self.nodes {
            if node.is_empty() || **name == *node {
                n.resolve(&mut self.directory, &self.policy, &mut self.losses);
                builder.add(n, &self.directory, &self.policy, now.mono_ns, &mut each);
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

    /// Nodes whose agents ought to report, with their zones: the cluster's that can have one, or, where no Node objects are known, those that did.
    pub fn expected_nodes(&self) -> Vec<(String, String)> {
        let objects = self.directory.nodes();
        if objects.is_empty() {
            let names = self.nodes.keys();
            return names.map(|name| (name.to_string(), String::new())).collect();
        }
        let with_agents = objects.iter().filter(|node| !node.agentless).take(MAX_NODES);
        with_agents
            .map(|node| (node.name.clone(), node.zone.clone().unwrap_or_default()))
            .collect()
    }

    /// Everything known of a breach that [`Book::stories`] or the trail told.
    pub fn explain(&self, story: Story, now: Now) -> Explanation {
        explain::explain(&explain::Cx {
            directory: &self.directory,
            policy: &self.policy,
            nodes: &self.nodes,
            traffic: &self.traffic,
            judged: self.judged,
            now,
            story,
            pods: std::cell::OnceCell::new(),
        })
    }

    /// What headroom is computed from.
    pub fn ground(&self, now: Now) -> Ground {
        Ground::new(
            &self.directory,
            &self.policy,
            &self.nodes,
            &self.used,
            self.judged,
            now,
        )
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
    pub fn ledger_totals(&self) -> LedgerTotals {
        LedgerTotals::new(self.nodes.values(), &self.directory)
    }

    /// Cumulative waits by tenant.
    pub fn wait_totals(&self) -> Vec<(Arc<str>, WaitTotal)> {
        let mut sums = self.gone_waits.clone();
        for node in self.nodes.values() {
            keep_waits(&mut sums, node);
        }
        sums.into_iter()
            .map(|(t, w)| (Arc::clone(self.directory.tenants.name(t)), w))
            .collect()
    }

    /// From now on says what must be journalled beside the reports, see [`World::take_marks`].
    pub fn begin_journal(&mut self) {
        self.journal.on = true;
    }

    /// What happened since the last call. In a journal it stands before the report that was counted last.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.journal.marks)
    }

    /// `None`: the node is not known.
    pub fn checkpoint(&self, node: &str) -> Option<Checkpoint> {
        Some(self.nodes.get(node)?.checkpoint(&self.directory))
    }

    /// Cumulative waits by tenant of nodes that are not known any more.
    pub fn gone_waits(&self) -> Vec<(Arc<str>, WaitTotal)> {
        let name = |t: &TenantId| Arc::clone(self.directory.tenants.name(*t));
        self.gone_waits
            .iter()
            .map(|(t, w)| (name(t), w.clone()))
            .collect()
    }

    /// Takes a node over as it was, before anything is reported.
    pub fn restore(&mut self, checkpoint: Checkpoint, now: Now) {
        let mut node = Node::restore(checkpoint, now.mono_ns, &mut self.directory.tenants);
        node.begin_replay();
        self.nodes.insert(Arc::clone(&node.name), node);
    }

    pub fn restore_gone_waits(&mut self, waits: Vec<(Arc<str>, WaitTotal)>) {
        for (tenant, total) in waits {
            let sum = self
                .gone_waits
                .entry(self.directory.tenants.id(&tenant))
                .or_default();
            sum.add(&total.buckets, total.wait_ns);
        }
    }

    /// Counts again a journalled report; `refused`: only its names were taken over.
    pub fn replay_report(&mut self, report: Report, refused: bool, now: Now) {
        let cx = Context {
            received_ns: now.mono_ns,
            wall: self.wall,
            hit_cores: self.policy.thresholds.noisy_neighbour.min_stolen_cores,
            lengths: lengths(&self.policy),
        };
        let node = self.nodes.entry(Arc::clone(&report.node)).or_insert_with(|| {
            let mut node = Node::new(Arc::clone(&report.node), report.run.clone());
            node.begin_replay();
            node
        });
        // What was lost on the way was counted when it was.
        node.count_again(report, refused, &cx, &mut Losses::default());
    }

    /// What happened then happens again. `keep`: the waits of a node that was forgotten are not among [`World::gone_waits`] yet.
    pub fn replay_mark(&mut self, mark: Mark, keep: bool) {
        match mark {
            Mark::Folded {
                node,
                up_to_boot_ns,
                window_boot_ns,
                names,
            } => {
                let tenants = &mut self.directory.tenants;
                let names: Vec<_> = names
                    .iter()
                    .map(|(index, name)| (*index, party_named(name, tenants)))
                    .collect();
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.fold_again(up_to_boot_ns, window_boot_ns, &names, lengths(&self.policy));
                }
            }
            Mark::Forgotten { node } => {
                if let Some(node) = self.nodes.remove(&node).filter(|_| keep) {
                    keep_waits(&mut self.gone_waits, &node);
                }
            }
        }
    }

    /// All that was journalled has been counted again.
    pub fn end_replay(&mut self, now: Now) {
        for node in self.nodes.values_mut() {
            node.end_replay(now.mono_ns);
        }
    }

    /// Counts what was lost around the world, not in it.
    pub fn count_loss(&mut self, stage: &'static str, reason: &'static str, unit: &'static str, count: u64) {
        self.losses.add(stage, reason, unit, count);
    }

    /// From now on keeps what crosses between tenants, see [`World::take_crossed`].
    pub fn begin_trail(&mut self) {
        self.traffic.crossed.on = true;
    }

    /// What was judged since the last call. `next`: slots before it were looked at.
    pub fn take_crossed(&mut self, next: u64) -> Taken {
        let name = |t: TenantId| Arc::clone(self.directory.tenants.name(t));
        let crossed = &mut self.traffic.crossed;
        let mut taken = Taken::default();
        for ((from, to, verdict, delivered), sum) in std::mem::take(&mut crossed.between) {
            taken.moved.push(Moved {
                from: name(from),
                to: name(to),
                verdict,
                delivered,
                bytes: sum.bytes,
                packets: sum.packets,
                connections: sum.connections,
                when: sum.when.into_iter().collect(),
            });
        }
        for ((from, to, node), slots) in crossed.take_sent_before(next) {
            taken.sent.push(Sent {
                from: name(from),
                to: name(to),
                node,
                slots,
            });
        }
        let doubts = std::mem::take(&mut crossed.doubts);
        let no_one = || Arc::<str>::from("");
        let nameless = slot_of(self.judged.unix_ns.saturating_sub(GONE_POD_KEPT_NS));
        for (node, cover) in &mut self.covers {
            let late = cover.take_late(next, &crossed.pending);
            // By then who met whom may have no name any more: the gap stays.
            let late = late.into_iter().filter(|slot| *slot > nameless);
            taken.told.extend(late.map(|slot| (Arc::clone(node), slot)));
        }
        let told: BTreeSet<Arc<str>> = taken.told.iter().map(|(node, _)| Arc::clone(node)).collect();
        taken.tenants = self.tenants_on(&told.iter().map(|node| &**node).collect());
        let nodes = doubts.keys().filter_map(|(whose, _)| match whose {
            Whose::Owner(node, Kind::Unknown(_)) | Whose::OnNode(node) => Some(&**node),
            _ => None,
        });
        // Each walks through all pods: once for all of them.
        let mut on_nodes: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for (node, tenant) in self.tenants_on(&nodes.collect()) {
            on_nodes.entry(node).or_default().push(tenant);
        }
        let on_node = |node: &Arc<str>| on_nodes.get(node).into_iter().flatten().cloned();
        for ((whose, reason), when) in doubts {
            let when: Vec<(u64, u64)> = when.into_iter().collect();
            let doubt = |tenant, node| Doubt {
                tenant,
                reason,
                node,
                when: when.clone(),
            };
            match whose {
                Whose::Anybody => taken.doubts.push(doubt(no_one(), no_one())),
                Whose::Tenant(tenant) => taken.doubts.push(doubt(name(tenant), no_one())),
                // Of no node: what its agent tells later takes nothing of it back.
                Whose::Owner(_, Kind::Pod(uid)) => {
                    // One that is in no data may be anybody's.
                    let tenant = self.directory.pod(&uid).map(|pod| name(pod.tenant));
                    taken.doubts.push(doubt(tenant.unwrap_or_default(), no_one()));
                }
                Whose::Owner(_, Kind::Host(path)) => {
                    let rule = self.policy.path_rule(&path);
                    let tenant = rule.and_then(|(_, r)| self.directory.tenants.find(&r.tenant));
                    let tenant = name(tenant.unwrap_or(TenantId::SYSTEM));
                    taken.doubts.push(doubt(tenant, no_one()));
                }
                Whose::Owner(node, Kind::Unknown(_)) => {
                    let theirs = on_node(&node).map(|tenant| doubt(tenant, no_one()));
                    taken.doubts.extend(theirs);
                }
                Whose::OnNode(node) => {
                    let theirs = on_node(&node).map(|tenant| doubt(tenant, Arc::clone(&node)));
                    taken.doubts.extend(theirs);
                }
            }
        }
        taken
    }

    /// Something that moved in this slot waits for its judgement.
    pub fn waits_in(&self, slot: u64) -> bool {
        self.traffic.crossed.pending.contains(&slot)
    }

    /// Who may have sent or been sent something unseen in this slot, because its node's agent did not tell of all of it. Asked once of each slot.
    pub fn untold(&mut self, slot: u64) -> Untold {
        let mut nodes: BTreeSet<Arc<str>> = self.nodes.keys().cloned().collect();
        nodes.extend(self.directory.known_pods().filter_map(|pod| pod.node.clone()));
        nodes.extend(self.vanished.keys().cloned());
        let listed = self.directory.nodes().iter().filter(|node| !node.agentless);
        nodes.extend(listed.map(|node| Arc::from(&*node.name)));
        nodes.retain(|node| self.covers.get_mut(node).is_none_or(|cover| !cover.take(slot)));
        let unheard = self.traffic.crossed.take_unheard(slot, &nodes);
        if nodes.is_empty() {
            return Untold::default();
        }
        let tenants = self.tenants_on(&nodes.iter().map(|node| &**node).collect());
        let gap = |(node, tenant): (Arc<str>, Arc<str>)| {
            let cover = self.covers.get_mut(&node);
            let why = cover.map_or(reason::AGENT_SILENT, |cover| cover.lacks(slot));
            GapKey {
                tenant,
                reason: Arc::from(why),
                node,
            }
        };
        let name = |tenant| Arc::clone(self.directory.tenants.name(tenant));
        Untold {
            gaps: tenants.into_iter().map(gap).collect(),
            unheard: unheard
                .into_iter()
                .map(|(from, to)| (name(from), name(to)))
                .collect(),
        }
    }

    /// (node, tenant) of whoever has pods on these nodes, or is on every one.
    fn tenants_on(&self, nodes: &BTreeSet<&str>) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let tenants = &self.directory.tenants;
        let mut out = BTreeSet::new();
        for pod in self.directory.known_pods() {
            if let Some(node) = pod.node.as_ref().filter(|n| nodes.contains(&***n)) {
                out.insert((Arc::clone(node), Arc::clone(tenants.name(pod.tenant))));
            }
        }
        let everywhere = self
            .policy
            .paths
            .iter()
            .filter_map(|rule| tenants.find(&rule.tenant));
        for tenant in everywhere.chain([TenantId::SYSTEM]) {
            let name = tenants.name(tenant);
            out.extend(nodes.iter().map(|node| (Arc::from(*node), Arc::clone(name))));
        }
        out
    }

    /// Names of the nodes that are known.
    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }
}

/// What happened beside the reports, where it is asked for.
#[derive(Debug, Default)]
struct Journal {
    on: bool,
    marks: Vec<Mark>,
}

impl Journal {
    fn mark(&mut self, mark: impl FnOnce() -> Mark) {
        if self.on {
            self.marks.push(mark());
        }
    }
}

fn keep_waits(sums: &mut BTreeMap<TenantId, WaitTotal>, node: &Node) {
    for (tenant, total) in &node.totals.waits {
        sums.entry(*tenant)
            .or_default()
            .add(&total.buckets, total.wait_ns);
    }
}

fn lengths(policy: &Policy) -> Lengths {
    let windows = &policy.thresholds.windows;
    Lengths {
        long_ns: seconds(windows.length_seconds),
        fast_ns: seconds(windows.fast_seconds),
    }
}
