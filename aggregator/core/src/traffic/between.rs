//! `FlatNetwork` and `FenceLeak`: one tenant's pods reached another's, with nothing in the way, or although the policies in force deny it.
//!
//! One breach for each pair of tenants. A connection is over in a moment, so the condition is said to hold for `windows.fast_seconds` after the last
//! one; until the breach is resolved its evidence is summed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Key;
use super::cx::Cx;
use super::ends::End;
use super::totals::Amount;
use crate::breach::{BreachKey, BreachKind, seconds};
use crate::finding::{Culprit, Detail, Figure, Finding, Reached, bytes};
use crate::identity::{Protocol, TenantId};
use crate::limits::{MAX_LIVE_BREACHES, MAX_POD_PAIRS, MAX_POD_PAIRS_SHOWN};
use crate::losses::Losses;
use crate::policy::Timing;

/// What happened, once.
pub(super) struct Deed<'a> {
    pub(super) from: (TenantId, &'a End),
    pub(super) to: (TenantId, &'a End),
    pub(super) key: Key,
    pub(super) why: Arc<str>,
    pub(super) amount: Amount,
    pub(super) seen_by_both: bool,
    pub(super) covered: f64,
}

/// Between two tenants since the breach began.
#[derive(Debug)]
struct Sum {
    last_ns: u64,
    amount: Amount,
    pairs: BTreeMap<Pair, Amount>,
    /// A pair of pods found no room.
    more: bool,
    why: Arc<str>,
    forged: Option<String>,
    seen_by_both: bool,
    covered: f64,
}

/// Who reached whom, as shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    from: Arc<str>,
    to: Arc<str>,
    protocol: u8,
    port: u16,
}

#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<(TenantId, TenantId), Sum>);

impl Amount {
    fn plus(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.packets = self.packets.saturating_add(other.packets);
        self.connections = self.connections.saturating_add(other.connections);
    }
}

impl Book {
    pub(super) fn note(&mut self, deed: Deed<'_>, cx: &Cx<'_>, losses: &mut Losses) {
        let key = (deed.from.0, deed.to.0);
        if self.0.len() >= MAX_LIVE_BREACHES && !self.0.contains_key(&key) {
            losses.add("judge", "breach_cap", "breaches", 1);
            return;
        }
        let sum = self.0.entry(key).or_insert_with(|| Sum {
            last_ns: 0,
            amount: Amount::default(),
            pairs: BTreeMap::new(),
            more: false,
            why: Arc::clone(&deed.why),
            forged: None,
            seen_by_both: false,
            covered: 1.0,
        });
        sum.last_ns = cx.now.mono_ns;
        sum.amount.plus(deed.amount);
        sum.why = deed.why;
        sum.covered = deed.covered;
        sum.seen_by_both |= deed.seen_by_both;
        if deed.from.1.forged {
            sum.forged = Some(deed.key.from.to_string());
        }
        let pair = Pair {
            from: Arc::from(deed.from.1.display()),
            to: Arc::from(deed.to.1.display()),
            protocol: deed.key.protocol,
            port: deed.key.port,
        };
        let room = sum.pairs.len() < MAX_POD_PAIRS;
        match sum.pairs.get_mut(&pair) {
            Some(amount) => amount.plus(deed.amount),
            None if room => {
                sum.pairs.insert(pair, deed.amount);
            }
            None => sum.more = true,
        }
    }

    /// What holds now, as breaches of `kind`.
    fn of(&mut self, kind: BreachKind, timing: &Timing, cx: &Cx<'_>, out: &mut Vec<Finding>) {
        let shown_ns = seconds(cx.policy.thresholds.windows.fast_seconds);
        let kept_ns = shown_ns.saturating_add(seconds(timing.clear_after_seconds));
        let now_ns = cx.now.mono_ns;
        self.0
            .retain(|_, sum| now_ns.saturating_sub(sum.last_ns) <= kept_ns);
        for ((from, to), sum) in &self.0 {
            if now_ns.saturating_sub(sum.last_ns) <= shown_ns {
                let name = |t| Arc::clone(cx.directory.tenants.name(t));
                out.push(sum.finding(kind, name(*from), name(*to)));
            }
        }
    }

    pub(super) fn flat(&mut self, cx: &Cx<'_>, out: &mut Vec<Finding>) {
        self.of(
            BreachKind::FlatNetwork,
            &cx.policy.thresholds.flat_network,
            cx,
            out,
        );
    }

    pub(super) fn leaks(&mut self, cx: &Cx<'_>, out: &mut Vec<Finding>) {
        self.of(
            BreachKind::FenceLeak,
            &cx.policy.thresholds.fence_leak.timing,
            cx,
            out,
        );
    }
}

impl Sum {
    fn finding(&self, kind: BreachKind, tenant: Arc<str>, against: Arc<str>) -> Finding {
        let mut pairs: Vec<(&Pair, &Amount)> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.cmp(b.0)));
        let count = pairs.len();
        let or_more = if self.more { " or more" } else { "" };
        let most = pairs.first().map(|(pair, _)| *pair);
        let who = match (most, count) {
            (Some(pair), 1) => format!(
                "{} of {tenant} reached {} of {against} on {}",
                pair.from,
                pair.to,
                pair.port()
            ),
            (Some(pair), _) => format!(
                "{tenant} reached {against} between {count}{or_more} pairs of pods (most: {} to {} on {})",
                pair.from,
                pair.to,
                pair.port()
            ),
            (None, _) => format!("{tenant} reached {against}"),
        };
        let mut tail = format!(": {}", amount(&self.amount));
        if kind == BreachKind::FenceLeak {
            tail += ", delivered although it is denied";
        }
        tail += &format!("; {}", self.why);
        if let Some(address) = &self.forged {
            tail += &format!("; packets bore the forged source address {address}");
        }
        let figure = |name, value| Figure { name, value };
        let mut evidence = vec![
            figure("bytes", self.amount.bytes as f64),
            figure("packets", self.amount.packets as f64),
            figure("connections", self.amount.connections as f64),
            figure("pod_pairs", count as f64),
            figure("seen_by_both_ends", f64::from(u8::from(self.seen_by_both))),
        ];
        evidence.extend(most.map(|pair| figure("port", f64::from(pair.port))));
        evidence.extend(self.forged.is_some().then(|| figure("forged_source", 1.0)));
        let all = self.amount.bytes.max(1) as f64;
        let culprits = pairs
            .iter()
            .take(MAX_POD_PAIRS_SHOWN)
            .map(|(pair, sum)| Culprit {
                tenant: Arc::clone(&tenant),
                pod: format!("{} -> {} {} ({})", pair.from, pair.to, pair.port(), amount(sum)).into(),
                stolen_cores: 0.0,
                share: (sum.bytes as f64 / all).min(1.0),
                over_request_bytes: None,
                growth_bytes_per_second: None,
            })
            .collect();
        let reached = pairs.iter().take(MAX_POD_PAIRS_SHOWN).map(|(pair, _)| Reached {
            from: Arc::clone(&pair.from),
            to: Arc::clone(&pair.to),
            protocol: pair.protocol,
            port: pair.port,
        });
        let reached = reached.collect();
        Finding {
            key: BreachKey {
                kind,
                tenant,
                against,
                node: Arc::from(""),
                subject: Arc::from(""),
            },
            evidence,
            culprits,
            detail: Detail::Reached(reached),
            weight: self.amount.bytes as f64,
            covered: self.covered,
            confidence: None,
            ready: true,
            head: who,
            tail,
        }
    }
}

impl Pair {
    fn port(&self) -> String {
        port(self.protocol, self.port)
    }
}

/// "80/TCP", "ICMP"
pub(crate) fn port(protocol: u8, port: u16) -> String {
    match (Protocol::from_number(protocol), port) {
        (protocol, 0) => protocol.to_string(),
        (protocol, port) => format!("{port}/{protocol}"),
    }
}

/// "3 connections, 1.2 MiB"
fn amount(amount: &Amount) -> String {
    let bytes = bytes(amount.bytes as f64);
    match amount.connections {
        0 => format!("{} packets, {bytes}", amount.packets),
        1 => format!("1 connection, {bytes}"),
        n => format!("{n} connections, {bytes}"),
    }
}
