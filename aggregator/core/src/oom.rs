//! `CrossTenantOom`: a task was killed because memory ran out, and a tenant that is not its own had taken the memory.
//!
//! **Who.** The kernel lets whoever asks next pull the trigger, often somebody who did nothing but ask for a page. So the trigger's tenant is accused only when
//! it was over its memory requests on the node; else the tenant that was the most over, unless that is the victim's own. Was nobody over, the node
//! is too small for what was promised, and it is nobody's breach.
//!
//! **When.** A killed pod's memory is free at once, so the accounts are those of the last reading before the kill.
//!
//! **For how long.** A kill is a fact and over in a moment. The condition is said to hold for `shown_seconds` after it arrived here (an agent's queue
//! may bring it late); another kill of the same kind prolongs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::accounts::{Accounts, Over};
use crate::breach::{BreachKey, BreachKind, seconds};
use crate::finding::{Detail, Figure, Finding, bytes, who};
use crate::identity::Tenants;
use crate::judge::{display, tenant_name};
use crate::limits::{MAX_KILL_SUMS, MAX_KILLS_SHOWN, MAX_KILLS_WAITING};
use crate::losses::Losses;
use crate::node::Node;
use crate::policy::Thresholds;
use crate::report::OomScope;
use crate::sums::{Party, Unit, Who};

/// The OOM kills of one node.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    /// Not looked at yet: judged next, or once whoever is in it has a name.
    waiting: Vec<Kill>,
    /// (trigger, victim, scope) → kills since the agent's start.
    pub(crate) sums: BTreeMap<(Party, Party, OomScope), u64>,
    shown: BTreeMap<BreachKey, Shown>,
}

#[derive(Clone, Copy, Debug)]
struct Kill {
    at_ns: u64,
    /// The aggregator's monotonic clock.
    received_ns: u64,
    /// Slots; `None`: cannot be told.
    trigger: Option<u32>,
    victim: Option<u32>,
    scope: OomScope,
}

#[derive(Debug)]
struct Shown {
    finding: Finding,
    /// The aggregator's monotonic clock when the last kill was judged.
    since_ns: u64,
    kills: u32,
}

impl Kills {
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What is shown of an agent run that ended.
    pub(crate) fn take_shown(&mut self, before: Self) {
        self.shown = before.shown;
    }

    /// False: no room.
    pub(crate) fn push(
        &mut self,
        at_ns: u64,
        received_ns: u64,
        trigger: Option<u32>,
        victim: Option<u32>,
        scope: OomScope,
    ) -> bool {
        let room = self.waiting.len() < MAX_KILLS_WAITING;
        if room {
            self.waiting.push(Kill {
                at_ns,
                received_ns,
                trigger,
                victim,
                scope,
            });
        }
        room
    }
}

/// Looks at the kills that arrived, and says which breaches are shown. Who has no name yet is waited for, for `settle_ns`.
pub(crate) fn judge(
    node: &mut Node,
    tenants: &Tenants,
    t: &Thresholds,
    settle_ns: u64,
    now_ns: u64,
    losses: &mut Losses,
    out: &mut Vec<Finding>,
) {
    let mut kills = std::mem::take(&mut node.kills);
    for kill in std::mem::take(&mut kills.waiting) {
        let sides = [kill.trigger, kill.victim].map(|slot| unit_of(node, slot));
        let unnamed = sides
            .iter()
            .any(|side| side.is_some_and(|(_, u)| matches!(u.who, Who::Unidentified(_))));
        if unnamed && now_ns.saturating_sub(kill.received_ns) < settle_ns {
            kills.waiting.push(kill);
            continue;
        }
        let [trigger, victim] = sides.map(|side| side.map_or(Party::UNKNOWN, |(_, u)| u.party));
        let key = (trigger, victim, kill.scope);
        if kills.sums.len() < MAX_KILL_SUMS || kills.sums.contains_key(&key) {
            *kills.sums.entry(key).or_default() += 1;
        } else {
            losses.add("window", "kill_sum_cap", "kills", 1);
        }
        let Some(finding) = across(node, tenants, t, &kill) else {
            continue;
        };
        if kills.shown.len() >= MAX_KILLS_SHOWN && !kills.shown.contains_key(&finding.key) {
            losses.add("judge", "kill_cap", "breaches", 1);
            continue;
        }
        let before = kills.shown.remove(&finding.key).map_or(0, |s| s.kills);
        let shown = Shown {
            since_ns: now_ns,
            kills: before.saturating_add(1),
            finding,
        };
        kills.shown.insert(shown.finding.key.clone(), shown);
    }
    let shown_ns = seconds(t.cross_tenant_oom.shown_seconds);
    kills.shown.retain(|_, s| {
        let shown = now_ns.saturating_sub(s.since_ns) <= shown_ns;
        if shown {
            let mut finding = s.finding.clone();
            finding.weight = f64::from(s.kills);
            finding.evidence.push(Figure {
                name: "kills",
                value: f64::from(s.kills),
            });
            out.push(finding);
        }
        shown
    });
    node.kills = kills;
}

fn unit_of(node: &Node, slot: Option<u32>) -> Option<(u32, &Unit)> {
    let at = node.slot(slot?)?.unit;
    node.units.get(at as usize).map(|unit| (at, unit))
}

/// The breach that a kill is; `None`: within one tenant, or nobody's.
fn across(node: &Node, tenants: &Tenants, t: &Thresholds, kill: &Kill) -> Option<Finding> {
    let (trigger, victim) = (unit_of(node, kill.trigger)?, unit_of(node, kill.victim)?);
    let (asked, killed) = (trigger.1.party, victim.1.party);
    if asked == killed || asked.tenant().is_none() || killed.tenant().is_none() {
        return None;
    }
    let accounts = Accounts::new(
        node,
        t.memory_squeeze.over_request_ratio,
        |slot| slot.born_ns <= kill.at_ns && slot.ended_ns >= kill.at_ns,
        |memory| memory.past.before(kill.at_ns).map(|then| (*then, 0.0)),
    );
    let over = |party: Party| {
        accounts
            .over
            .iter()
            .find(|o| o.party == party && party.is_named())
    };
    let (accused, confidence) = match over(asked) {
        Some(own) => (own, 0.5 + 0.5 * own.share),
        None => {
            let most = accounts.over.iter().find(|o| o.party.is_named())?;
            (most, 0.5 * most.share)
        }
    };
    if accused.party == killed {
        return None;
    }
    let names = [display(trigger.1, tenants), display(victim.1, tenants)];
    Some(finding(
        node, tenants, t, kill, &accounts, accused, confidence, names, victim.0,
    ))
}

#[expect(clippy::too_many_arguments, reason = "one caller, all of it is said")]
fn finding(
    node: &Node,
    tenants: &Tenants,
    t: &Thresholds,
    kill: &Kill,
    accounts: &Accounts<'_>,
    over: &Over,
    confidence: f64,
    [asked, killed]: [String; 2],
    victim: u32,
) -> Finding {
    let tenant = tenant_name(over.party, tenants);
    let against = node.units.get(victim as usize).map_or_else(
        || tenant_name(Party::UNKNOWN, tenants),
        |u| tenant_name(u.party, tenants),
    );
    let (culprits, pods) = accounts.culprits(node, tenants, over.party);
    let by = who(&tenant, &culprits, pods, over.share);
    let place = match kill.scope {
        OomScope::Node => "the node ran out of memory",
        OomScope::Limit => "a limit above both was reached",
        OomScope::Unknown => "memory ran out",
    };
    let figure = |name, value| Figure { name, value };
    let mut evidence = vec![
        figure("over_request_bytes", over.bytes as f64),
        figure("culprit_memory_bytes", over.account.current_bytes as f64),
        figure("culprit_request_bytes", over.account.requested_bytes as f64),
        figure("over_request_share", over.share),
    ];
    let pod = accounts.pods.iter().find(|p| p.unit == victim);
    if let Some((_, point)) = pod.and_then(|p| p.memory) {
        evidence.push(figure("working_set_bytes", point.working_set_bytes as f64));
    }
    if let Some(pod) = pod {
        evidence.push(figure("request_bytes", pod.account.requested_bytes as f64));
    }
    Finding {
        head: format!("{by} cost {killed} a task on {}", node.name),
        tail: format!(
            ": {place} when {asked} asked for more, and the kernel killed a task of {killed}; {tenant} held {} there at the last reading before, \
             against requests of {} (inferred, confidence {confidence:.2})",
            bytes(over.account.current_bytes as f64),
            bytes(over.account.requested_bytes as f64),
        ),
        key: BreachKey {
            kind: BreachKind::CrossTenantOom,
            tenant,
            against,
            node: Arc::clone(&node.name),
            subject: Arc::from(killed),
        },
        evidence,
        culprits: culprits
            .into_iter()
            .map(|c| crate::finding::Culprit {
                growth_bytes_per_second: None,
                ..c
            })
            .collect(),
        detail: Detail::None,
        weight: 1.0,
        covered: node.covered(t),
        confidence: Some(confidence),
        ready: true,
    }
}
