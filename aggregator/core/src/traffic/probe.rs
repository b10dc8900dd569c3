//! `Probe`: one pod tried many places of other tenants, and came through to none of them.
//!
//! A place is an address with a protocol and a port. Refused counts as much as unanswered. Nodes count too, and addresses of private ranges that nobody in
//! the cluster has: who looks for others meets them. Public ones do not. A place that answers later was none. What the agent folded is told as attempts
//! alone; each counts as a place of its own, but not without any place that is known.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::Key;
use super::between::port;
use super::cx::Cx;
use super::ends::{End, What};
use crate::breach::{BreachKey, BreachKind, seconds};
use crate::finding::{Culprit, Detail, Figure, Finding, Reached};
use crate::identity::{Pod, TenantId};
use crate::limits::{MAX_POD_PAIRS_SHOWN, MAX_PROBED, MAX_PROBERS};
use crate::losses::Losses;

type Place = (IpAddr, u8, u16);

#[derive(Debug, Default)]
pub(super) struct Probes(BTreeMap<Arc<str>, Prober>);

#[derive(Debug)]
struct Prober {
    pod: Arc<Pod>,
    places: BTreeMap<Place, Tried>,
    /// (the aggregator's monotonic clock, attempts), oldest first.
    folded: VecDeque<(u64, u64)>,
    last_ns: u64,
}

#[derive(Debug)]
struct Tried {
    last_ns: u64,
    /// `None`: nobody's, or a node's.
    tenant: Option<TenantId>,
    whose: String,
}

impl Probes {
    pub(super) fn note(&mut self, from: &End, to: &End, key: &Key, cx: &Cx<'_>, losses: &mut Losses) {
        let (Some(pod), Some(own)) = (from.pod(), from.named_tenant()) else {
            return;
        };
        let counts = match &to.what {
            What::Pod(_) | What::Service(_) => to.tenant != Some(own),
            What::Node(_) | What::Unnamed(_) | What::Outside { private: true } => true,
            _ => false,
        };
        if !counts {
            return;
        }
        let Some(prober) = self.prober(pod, cx, losses) else {
            return;
        };
        let place = (key.to, key.protocol, key.port);
        if prober.places.len() >= MAX_PROBED && !prober.places.contains_key(&place) {
            let oldest = prober
                .places
                .iter()
                .min_by_key(|(_, t)| t.last_ns)
                .map(|(p, _)| *p);
            oldest.and_then(|p| prober.places.remove(&p));
        }
        let tried = Tried {
            last_ns: cx.now.mono_ns,
            tenant: to.named_tenant(),
            whose: to.display(),
        };
        prober.places.insert(place, tried);
    }

    /// It came through.
    pub(super) fn answered(&mut self, from: &End, key: &Key) {
        let prober = from.pod().and_then(|pod| self.0.get_mut(&pod.uid));
        if let Some(prober) = prober {
            prober.places.remove(&(key.to, key.protocol, key.port));
        }
    }

    pub(super) fn note_folded(&mut self, pod: &Arc<Pod>, vain: u64, cx: &Cx<'_>) {
        let known = self.0.get_mut(&pod.uid);
        if let Some(prober) = known.filter(|_| vain > 0) {
            prober.last_ns = cx.now.mono_ns;
            match prober.folded.back_mut() {
                Some((at_ns, n)) if *at_ns == cx.now.mono_ns => *n = n.saturating_add(vain),
                _ => prober.folded.push_back((cx.now.mono_ns, vain)),
            }
            if prober.folded.len() > MAX_PROBED {
                prober.folded.pop_front();
            }
        }
    }

    fn prober(&mut self, pod: &Arc<Pod>, cx: &Cx<'_>, losses: &mut Losses) -> Option<&mut Prober> {
        if self.0.len() >= MAX_PROBERS && !self.0.contains_key(&pod.uid) {
            losses.add("judge", "prober_cap", "pods", 1);
            return None;
        }
        let prober = self.0.entry(Arc::clone(&pod.uid)).or_insert_with(|| Prober {
            pod: Arc::clone(pod),
            places: BTreeMap::new(),
            folded: VecDeque::new(),
            last_ns: 0,
        });
        prober.last_ns = cx.now.mono_ns;
        Some(prober)
    }

    pub(super) fn findings(&mut self, cx: &Cx<'_>, out: &mut Vec<Finding>) {
        let t = &cx.policy.thresholds;
        let from_ns = cx.now.mono_ns.saturating_sub(seconds(t.probe.window_seconds));
        let shown_ns = seconds(t.windows.fast_seconds);
        self.0.retain(|_, prober| {
            prober.places.retain(|_, tried| tried.last_ns >= from_ns);
            while prober.folded.front().is_some_and(|(at_ns, _)| *at_ns < from_ns) {
                prober.folded.pop_front();
            }
            !prober.places.is_empty()
        });
        for prober in self.0.values() {
            let folded: u64 = prober.folded.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n));
            let tried = (prober.places.len() as u64).saturating_add(folded);
            let lately = cx.now.mono_ns.saturating_sub(prober.last_ns) <= shown_ns;
            if lately && tried as f64 >= t.probe.min_targets {
                out.push(prober.finding(tried, folded, cx));
            }
        }
    }
}

impl Prober {
    fn finding(&self, tried: u64, folded: u64, cx: &Cx<'_>) -> Finding {
        let pod = format!("{}/{}", self.pod.namespace, self.pod.name);
        let tenant = Arc::clone(cx.directory.tenants.name(self.pod.tenant));
        let mut tenants: BTreeMap<TenantId, u64> = BTreeMap::new();
        let mut by_whom: BTreeMap<&str, Vec<(&Place, u64)>> = BTreeMap::new();
        for (place, tried) in &self.places {
            if let Some(tenant) = tried.tenant {
                *tenants.entry(tenant).or_default() += 1;
            }
            by_whom
                .entry(&tried.whose)
                .or_default()
                .push((place, tried.last_ns));
        }
        let most = tenants.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        let against = most.map_or_else(
            || Arc::from(""),
            |(t, _)| Arc::clone(cx.directory.tenants.name(*t)),
        );
        let others = most.map_or(0, |(_, n)| *n);
        let of_whom = match (&*against, tenants.len()) {
            ("", _) => "that are nobody's or a node's".to_owned(),
            (against, 1) => format!("of {against}"),
            (against, n) => format!("of {n} tenants (most: {against})"),
        };
        let mut whom: Vec<_> = by_whom.iter().collect();
        whom.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
        let places = self.places.len();
        let culprits = whom
            .iter()
            .take(MAX_POD_PAIRS_SHOWN)
            .filter_map(|(name, of)| {
                let ((_, protocol, number), _) = of.first()?;
                let what = match of.len() {
                    1 => port(*protocol, *number),
                    n => format!("{n} ports, such as {}", port(*protocol, *number)),
                };
                Some(Culprit {
                    tenant: Arc::clone(&tenant),
                    pod: format!("{pod} -> {name} {what}").into(),
                    stolen_cores: 0.0,
                    share: of.len() as f64 / places.max(1) as f64,
                    over_request_bytes: None,
                    growth_bytes_per_second: None,
                })
            })
            .collect();
        let reached = whom.iter().take(MAX_POD_PAIRS_SHOWN).filter_map(|(name, of)| {
            let ((_, protocol, port), _) = of.first()?;
            Some(Reached {
                from: Arc::from(pod.as_str()),
                to: Arc::from(**name),
                protocol: *protocol,
                port: *port,
            })
        });
        let reached = reached.collect();
        let figure = |name, value| Figure { name, value };
        Finding {
            head: format!("{pod} of {tenant} tried {tried} addresses and ports {of_whom}"),
            tail: format!(
                ": none answered or was let through within {} s; {} of them at {}",
                cx.policy.thresholds.probe.window_seconds,
                whom.first().map_or(0, |(_, of)| of.len()),
                whom.first().map_or("", |(name, _)| **name),
            ),
            evidence: vec![
                figure("targets", tried as f64),
                figure("targets_of_most_probed_tenant", others as f64),
                figure("tenants", tenants.len() as f64),
                figure("folded_attempts", folded as f64),
                figure("window_seconds", cx.policy.thresholds.probe.window_seconds),
            ],
            key: BreachKey {
                kind: BreachKind::Probe,
                tenant,
                against,
                node: Arc::from(""),
                subject: Arc::from(pod),
            },
            culprits,
            detail: Detail::Reached(reached),
            weight: tried as f64,
            covered: self.pod.node.as_ref().map_or(0.0, |n| cx.covered(n)),
            confidence: None,
            ready: true,
        }
    }
}
