//! `MemorySqueeze`: a pod within its memory request waits because its node ran low, while another tenant holds more there than it requested.
//!
//! **Victim.** A pod of a named tenant with a memory request, a working set no larger, and no limit of its own touched in the window, whose tasks
//! waited for memory that the node lacked: `waited ≥ min_stall`. A pod at its own limit is its own affair.
//!
//! **Culprit.** The kernel does not say for whose sake it reclaims, so this side is inferred, and says so: of those who hold more on the node
//! than they requested there, who holds most above it and who grows. Half of the confidence is the tenant's share of all memory above
//! requests, half its share of the growth. Without anybody over requests there is no breach: the node is too small for what was promised.
//!
//! **Window.** The fast one: it sees a squeeze at once, and ends a breach soon after its cause. Growth is over the long one, so that a hog that has
//! filled the node and stands still is not forgotten for another's last few pages.

use std::sync::Arc;

use crate::accounts::{Accounts, Over, PodAccount};
use crate::breach::{BreachKey, BreachKind};
use crate::finding::{Detail, Figure, Finding, bytes, who};
use crate::identity::Tenants;
use crate::judge::{display, tenant_name};
use crate::node::memory::Rates;
use crate::node::{Node, Slot, Window};
use crate::policy::Thresholds;

pub(crate) fn judge(node: &Node, tenants: &Tenants, t: &Thresholds, out: &mut Vec<Finding>) {
    let Some(seen_ns) = node.seen_ns(Window::Fast, t) else {
        return;
    };
    let long = (
        node.window_from_ns(Window::Long),
        node.window_ns(Window::Long).max(1),
    );
    let accounts = Accounts::new(node, t.memory_squeeze.over_request_ratio, Slot::lives, |memory| {
        let now = memory.past.newest()?;
        Some((*now, memory.rates(long.0, long.1).growth))
    });
    let mut culprits: Vec<(f64, &Over)> = accounts
        .over
        .iter()
        .filter(|o| o.party.is_named())
        .map(|o| ((o.share + o.growth_share) / 2.0, o))
        .filter(|(confidence, _)| *confidence >= t.memory_squeeze.min_culprit_share)
        .collect();
    culprits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.party.cmp(&b.1.party)));
    if culprits.is_empty() {
        return;
    }
    for pod in &accounts.pods {
        let Some(victim) = Victim::new(node, pod, seen_ns, t) else {
            continue;
        };
        let others = culprits.iter().filter(|(_, o)| o.party != pod.party);
        for (rank, (confidence, over)) in others.enumerate() {
            out.push(victim.finding(node, tenants, t, &accounts, over, *confidence, rank + 1));
        }
    }
}

struct Victim<'a> {
    pod: &'a PodAccount<'a>,
    working_set_bytes: u64,
    rates: Rates,
    /// Seconds per second.
    waited: f64,
    ready: bool,
    seen_ns: u64,
}

impl<'a> Victim<'a> {
    fn new(node: &Node, pod: &'a PodAccount<'a>, seen_ns: u64, t: &Thresholds) -> Option<Self> {
        let (memory, _) = pod.memory?;
        let working_set_bytes = memory.newest.working_set_bytes?;
        let requested = pod.account.requested_bytes;
        if !pod.party.is_named() || requested == 0 || working_set_bytes > requested {
            return None;
        }
        let rates = memory.rates(node.window_from_ns(Window::Fast), seen_ns);
        let waited = rates.waited_for_node?;
        if rates.touched_limit || waited < t.memory_squeeze.min_stall {
            return None;
        }
        let hits = memory.hits(node.window_from_ns(Window::Long), t.memory_squeeze.min_stall);
        Some(Self {
            pod,
            working_set_bytes,
            rates,
            waited,
            ready: hits as f64 >= t.memory_squeeze.min_reports,
            seen_ns,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, all of it is said")]
    fn finding(
        &self,
        node: &Node,
        tenants: &Tenants,
        t: &Thresholds,
        accounts: &Accounts<'_>,
        over: &Over,
        confidence: f64,
        rank: usize,
    ) -> Finding {
        let tenant = tenant_name(over.party, tenants);
        let victim = node
            .units
            .get(self.pod.unit as usize)
            .map_or_else(String::new, |u| display(u, tenants));
        let (culprits, pods) = accounts.culprits(node, tenants, over.party);
        let by = who(&tenant, &culprits, pods, over.share);
        let requested = self.pod.account.requested_bytes;
        let figure = |name, value| Figure { name, value };
        let mut evidence = vec![
            figure("node_stall_seconds_per_second", self.waited),
            figure("working_set_bytes", self.working_set_bytes as f64),
            figure("request_bytes", requested as f64),
        ];
        for (name, value) in [
            ("reclaim_seconds_per_second", self.rates.node_stall),
            ("pressure_some", self.rates.some),
            ("refaults_per_second", self.rates.refaults),
        ] {
            evidence.extend(value.map(|value| Figure { name, value }));
        }
        evidence.extend([
            figure("over_request_bytes", over.bytes as f64),
            figure("culprit_memory_bytes", over.account.current_bytes as f64),
            figure("culprit_request_bytes", over.account.requested_bytes as f64),
            figure("growth_bytes_per_second", over.account.growth),
            figure("over_request_share", over.share),
            figure("growth_share", over.growth_share),
            figure("culprit_rank", rank as f64),
            figure("window_seconds", self.seen_ns as f64 / 1e9),
        ]);
        Finding {
            head: format!("{by} squeezed {victim} on {}", node.name),
            tail: format!(
                ": {victim} waited {} s per second for memory that the node lacked, with {} in use of its requested {}; {tenant} \
                 holds {} there against requests of {}{} (inferred, confidence {confidence:.2})",
                crate::finding::cores(self.waited),
                bytes(self.working_set_bytes as f64),
                bytes(requested as f64),
                bytes(over.account.current_bytes as f64),
                bytes(over.account.requested_bytes as f64),
                grows(over.account.growth),
            ),
            key: BreachKey {
                kind: BreachKind::MemorySqueeze,
                tenant,
                against: tenant_name(self.pod.party, tenants),
                node: Arc::clone(&node.name),
                subject: Arc::from(victim),
            },
            evidence,
            culprits,
            detail: Detail::None,
            weight: self.waited * confidence,
            covered: node.covered(t),
            confidence: Some(confidence),
            ready: self.ready,
        }
    }
}

/// ", growing by 20 MiB a second"; less than a page a second is not worth a word.
fn grows(growth: f64) -> String {
    if growth >= 4_096.0 {
        format!(", growing by {} a second", bytes(growth))
    } else {
        String::new()
    }
}
