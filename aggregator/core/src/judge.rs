//! The rules about one node: `NoisyNeighbour`, `NodeOvercommitted`, `SystemNoise`.
//!
//! **What.** A pod of a named tenant is a *victim* when it was promised CPU, used less than that, and waited while others ran:
//! `used < entitled`, `stolen ≥ min_stolen_cores`, `slowdown = (used + self + stolen) / (used + self) ≥ min_slowdown`, where `self` is its waiting for
//! its own tasks. A tenant is its *culprit* when it used more on this node than it was entitled to there and holds at least
//! `min_culprit_share` of what was stolen from the victim.
//!
//! **Why entitlement decides.** Somebody always runs while somebody waits. Only what was promised tells the one who takes from the one who
//! uses what is his. So a victim without a tenant over its entitlement is the node's problem (`NodeOvercommitted`), a pod over its own entitlement is no
//! victim, and a pod held back by its own limit for most of its wait is not either.
//!
//! **Two windows.** Each rule is looked at over the long window and over the fast one. The fast one sees a change at once: after a quiet spell, a
//! slow-down of 1.3 must last 3.3 s to lift a 10 s window over 1.1. The long one sees bursts that the fast one misses half of the time, and
//! counts only while the victim is still waiting in the fast one, so that a breach ends soon after its cause.
//!
//! **Names.** Time entered against what cannot be named is its own class. It makes nobody a victim and nobody a culprit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breach::{BreachKey, BreachKind};
use crate::finding::{Culprit, Detail, Figure, Finding, Waited, cores, who};
use crate::identity::{SYSTEM, Tenants};
use crate::limits::MAX_CULPRITS;
use crate::node::slot::WINDOWS;
use crate::node::{Node, Window};
use crate::policy::Thresholds;
use crate::snapshot::CLASSES;
use crate::sums::{Class, Party, TenantSums, Unit, UnitSums, Who};

/// Share of what was stolen that tenants within their entitlement must hold before the node is called overcommitted: the greater part.
const OVERCOMMITTED_SHARE: f64 = 0.5;

/// The victim's own tasks, and tenants beyond those that are named one by one.
const ITSELF: &str = "<self>";
const OTHERS: &str = "<others>";

/// Everything about one node that the rules look at.
struct Bench<'a> {
    node: &'a Node,
    tenants: &'a Tenants,
    thresholds: &'a Thresholds,
    sums: &'a [[UnitSums; 2]],
    by_tenant: BTreeMap<Party, [TenantSums; 2]>,
    owners: Vec<(u32, Party)>,
    /// Seen length of each window; `None`: too little to judge.
    seen_ns: [Option<f64>; 2],
    covered: f64,
}

/// What one tenant took from the victim, over both windows.
#[derive(Default)]
struct Taker {
    ns: [u64; 2],
    /// Its units that ran meanwhile.
    units: Vec<(u32, [u64; 2])>,
}

pub(crate) fn judge(
    node: &Node,
    sums: &[[UnitSums; 2]],
    tenants: &Tenants,
    t: &Thresholds,
    out: &mut Vec<Finding>,
) {
    let seen_ns = WINDOWS.map(|w| node.seen_ns(w, t).map(|ns| ns as f64));
    if seen_ns == [None, None] {
        return;
    }
    let bench = Bench {
        node,
        tenants,
        thresholds: t,
        sums,
        by_tenant: node.tenant_sums(sums),
        owners: node.owners(),
        seen_ns,
        covered: node.covered(t),
    };
    for (at, unit) in node.units.iter().enumerate() {
        if unit.party.is_named() && unit.entitled_ncores > 0 {
            bench.judge_unit(at as u32, unit, out);
        }
    }
}

impl Bench<'_> {
    fn judge_unit(&self, at: u32, unit: &Unit, out: &mut Vec<Finding>) {
        let within = WINDOWS.map(|w| self.is_within_promise(at, unit, w));
        if within == [false, false] {
            return;
        }
        let n = &self.thresholds.noisy_neighbour;
        let victim = WINDOWS.map(|w| {
            within[w as usize] && self.is_slowed(at, w, |s| s.stolen, n.min_stolen_cores, n.min_slowdown)
        });
        if victim != [false, false] {
            self.judge_victim(at, unit, victim, out);
        }
        let s = &self.thresholds.system_noise;
        let noisy = WINDOWS.map(|w| {
            let sums = &self.sums[at as usize][w as usize];
            within[w as usize]
                && sums.system > sums.stolen
                && self.is_slowed(at, w, |s| s.system, s.min_system_cores, s.min_slowdown)
        });
        let ongoing = self.cores(self.sums[at as usize][1].system, Window::Fast) >= s.min_system_cores;
        if let Some(w) = choose(noisy, ongoing) {
            out.push(self.system_noise(at, unit, w));
        }
    }

    /// Used less than it was promised while it lived, and was not mostly held back by its own limit.
    fn is_within_promise(&self, at: u32, unit: &Unit, w: Window) -> bool {
        let s = &self.sums[at as usize][w as usize];
        self.seen_ns[w as usize].is_some()
            && u128::from(s.run) * 1_000_000_000 < u128::from(unit.entitled_ncores) * u128::from(s.life)
            && s.throttled <= s.wait / 2
    }

    fn is_slowed(
        &self,
        at: u32,
        w: Window,
        taken: fn(&UnitSums) -> u64,
        min_cores: f64,
        min_slowdown: f64,
    ) -> bool {
        let s = &self.sums[at as usize][w as usize];
        // Without any use the slow-down is without bound.
        self.cores(taken(s), w) >= min_cores && s.slowdown(taken(s)).is_none_or(|x| x >= min_slowdown)
    }

    fn judge_victim(&self, at: u32, unit: &Unit, victim: [bool; 2], out: &mut Vec<Finding>) {
        let mut takers: BTreeMap<Party, Taker> = BTreeMap::new();
        for (runner, ns) in self.node.stolen_by_unit(at, &self.owners) {
            let Some(unit) = self.node.units.get(runner as usize) else {
                continue;
            };
            let taker = takers.entry(unit.party).or_default();
            for (sum, n) in taker.ns.iter_mut().zip(ns) {
                *sum = sum.saturating_add(n);
            }
            taker.units.push((runner, ns));
        }
        let stolen = WINDOWS.map(|w| self.sums[at as usize][w as usize].stolen);
        let still_waits =
            self.cores(stolen[1], Window::Fast) >= self.thresholds.noisy_neighbour.min_stolen_cores;

        let mut culprits: Vec<(Party, &Taker, [bool; 2])> = Vec::new();
        for (party, taker) in &takers {
            let holds = WINDOWS.map(|w| {
                let share = taker.ns[w as usize] as f64 / (stolen[w as usize] as f64).max(1.0);
                victim[w as usize]
                    && self.is_over(*party, w)
                    && share >= self.thresholds.noisy_neighbour.min_culprit_share
            });
            if holds != [false, false] {
                culprits.push((*party, taker, holds));
            }
        }
        culprits.sort_by(|a, b| b.1.ns[0].cmp(&a.1.ns[0]).then(a.0.cmp(&b.0)));
        for (rank, (party, taker, holds)) in culprits.iter().enumerate() {
            if let Some(w) = choose(*holds, still_waits && taker.ns[1] > 0) {
                out.push(self.noisy_neighbour(at, unit, *party, taker, rank + 1, w));
            }
        }
        if culprits.is_empty() {
            let innocent = WINDOWS.map(|w| {
                let within: u64 = takers
                    .iter()
                    .filter(|(p, _)| !self.is_over(**p, w))
                    .map(|(_, t)| t.ns[w as usize])
                    .sum();
                victim[w as usize] && within as f64 >= OVERCOMMITTED_SHARE * stolen[w as usize] as f64
            });
            if let Some(w) = choose(innocent, still_waits) {
                out.push(self.node_overcommitted(at, unit, &takers, w));
            }
        }
    }

    /// Used more on this node than it was entitled to here.
    fn is_over(&self, party: Party, w: Window) -> bool {
        let t = self.by_tenant.get(&party).copied().unwrap_or_default()[w as usize];
        let ratio = self.thresholds.noisy_neighbour.over_entitlement_ratio;
        t.used_ns as f64 * 1e9 > t.entitled as f64 * ratio
    }

    fn noisy_neighbour(
        &self,
        at: u32,
        unit: &Unit,
        party: Party,
        taker: &Taker,
        rank: usize,
        w: Window,
    ) -> Finding {
        let tenant = self.tenant(party);
        let victim = self.display(at);
        let against = self.tenant(unit.party);
        let t = self.by_tenant.get(&party).copied().unwrap_or_default()[w as usize];
        let s = &self.sums[at as usize][w as usize];
        let took = self.cores(taker.ns[w as usize], w);
        let (used, entitled) = (self.cores(t.used_ns, w), self.entitled(t.entitled, w));
        let share = taker.ns[w as usize] as f64 / (s.stolen as f64).max(1.0);
        let culprits = self.culprits(&taker.units, s.stolen, w);
        let by = who(&tenant, &culprits, taker.units.len(), share);
        let mut evidence = self.victim_figures(unit, s, w);
        evidence.extend([
            Figure {
                name: "taken_cores",
                value: took,
            },
            Figure {
                name: "culprit_share",
                value: share,
            },
            Figure {
                name: "culprit_rank",
                value: rank as f64,
            },
            Figure {
                name: "culprit_used_cores",
                value: used,
            },
            Figure {
                name: "culprit_entitled_cores",
                value: entitled,
            },
        ]);
        let node = &self.node.name;
        Finding {
            head: format!("{by} took {} cores from {victim} on {node}", cores(took)),
            tail: format!(
                ": {}; {tenant} used {} cores there against an entitlement of {}",
                self.victim_clause(&victim, unit, s, s.stolen, w),
                cores(used),
                cores(entitled)
            ),
            key: BreachKey {
                kind: BreachKind::NoisyNeighbour,
                tenant,
                against,
                node: Arc::clone(node),
                subject: Arc::from(victim),
            },
            evidence,
            culprits,
            detail: self.waited(at, w),
            weight: took,
            covered: self.covered,
            confidence: None,
            ready: self.is_ready(at),
        }
    }

    fn node_overcommitted(
        &self,
        at: u32,
        unit: &Unit,
        takers: &BTreeMap<Party, Taker>,
        w: Window,
    ) -> Finding {
        let s = &self.sums[at as usize][w as usize];
        let victim = self.display(at);
        let units: Vec<_> = takers.values().flat_map(|t| t.units.iter().copied()).collect();
        let promised: u128 = self.by_tenant.values().map(|t| t[w as usize].entitled).sum();
        let promised = self.entitled(promised, w);
        let node = &self.node.name;
        let mut evidence = self.victim_figures(unit, s, w);
        evidence.extend([
            Figure {
                name: "node_promised_cores",
                value: promised,
            },
            Figure {
                name: "node_cpus",
                value: f64::from(self.node.online_cpus),
            },
        ]);
        let took = self.cores(s.stolen, w);
        Finding {
            head: format!(
                "{victim} lost {} cores on {node} to tenants that kept within what they were promised",
                cores(took)
            ),
            tail: format!(
                ": {}; pods on {node} were promised {} cores in all, it has {} CPUs",
                self.victim_clause(&victim, unit, s, s.stolen, w),
                cores(promised),
                self.node.online_cpus
            ),
            key: BreachKey {
                kind: BreachKind::NodeOvercommitted,
                tenant: Arc::from(SYSTEM),
                against: self.tenant(unit.party),
                node: Arc::clone(node),
                subject: Arc::from(victim),
            },
            evidence,
            culprits: self.culprits(&units, s.stolen, w),
            detail: self.waited(at, w),
            weight: took,
            covered: self.covered,
            confidence: None,
            ready: self.is_ready(at),
        }
    }

    fn system_noise(&self, at: u32, unit: &Unit, w: Window) -> Finding {
        let s = &self.sums[at as usize][w as usize];
        let victim = self.display(at);
        let units: Vec<_> = self
            .node
            .ran_meanwhile(at, &self.owners, Class::System)
            .into_iter()
            .collect();
        let culprits = self.culprits(&units, s.system, w);
        let took = self.cores(s.system, w);
        let node = &self.node.name;
        let mostly = culprits
            .first()
            .map(|c| format!(" (most: {})", c.pod))
            .unwrap_or_default();
        let mut evidence = self.victim_figures(unit, s, w);
        evidence.push(Figure {
            name: "taken_cores",
            value: took,
        });
        Finding {
            head: format!(
                "the system's own work{mostly} took {} cores from {victim} on {node}",
                cores(took)
            ),
            tail: format!(": {}", self.victim_clause(&victim, unit, s, s.system, w)),
            key: BreachKey {
                kind: BreachKind::SystemNoise,
                tenant: Arc::from(SYSTEM),
                against: self.tenant(unit.party),
                node: Arc::clone(node),
                subject: Arc::from(victim),
            },
            evidence,
            culprits,
            detail: self.waited(at, w),
            weight: took,
            covered: self.covered,
            confidence: None,
            ready: self.is_ready(at),
        }
    }

    /// "blue/web ran 2.4x slower, on 0.44 of its promised 0.5 cores"
    fn victim_clause(&self, victim: &str, unit: &Unit, s: &UnitSums, taken: u64, w: Window) -> String {
        let promised = cores(unit.entitled_ncores as f64 / 1e9);
        let Some(slowdown) = s.slowdown(taken) else {
            return format!("{victim} did not run at all, promised {promised} cores");
        };
        let used = cores(self.cores(s.run, w));
        let times = if slowdown >= 99.5 {
            "more than 99".to_owned()
        } else {
            format!("{slowdown:.1}")
        };
        format!("{victim} ran {times}x slower, on {used} of its promised {promised} cores")
    }

    fn victim_figures(&self, unit: &Unit, s: &UnitSums, w: Window) -> Vec<Figure> {
        let figure = |name, ns| Figure {
            name,
            value: self.cores(ns, w),
        };
        let mut out = vec![
            figure("stolen_cores", s.stolen),
            figure("used_cores", s.run),
            Figure {
                name: "entitled_cores",
                value: unit.entitled_ncores as f64 / 1e9,
            },
        ];
        out.extend(s.slowdown(s.stolen).map(|value| Figure {
            name: "slowdown",
            value,
        }));
        out.extend([
            figure("wait_cores", s.wait),
            figure("system_cores", s.system),
            figure("unknown_cores", s.unknown),
            Figure {
                name: "window_seconds",
                value: self.seen_ns[w as usize].unwrap_or(0.0) / 1e9,
            },
        ]);
        out
    }

    /// The units that ran meanwhile, most first.
    fn culprits(&self, units: &[(u32, [u64; 2])], of_ns: u64, w: Window) -> Vec<Culprit> {
        let mut list: Vec<_> = units
            .iter()
            .filter(|(_, ns)| ns[w as usize] > 0)
            .map(|(unit, ns)| (ns[w as usize], self.display(*unit), *unit))
            .collect();
        list.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        list.truncate(MAX_CULPRITS);
        list.into_iter()
            .map(|(ns, name, unit)| Culprit {
                tenant: self
                    .node
                    .units
                    .get(unit as usize)
                    .map_or_else(|| Arc::from(SYSTEM), |u| self.tenant(u.party)),
                pod: Arc::from(name),
                stolen_cores: self.cores(ns, w),
                share: ns as f64 / (of_ns as f64).max(1.0),
                over_request_bytes: None,
                growth_bytes_per_second: None,
            })
            .collect()
    }

    /// The victim's wait, by who ran meanwhile: what the classes and parties of one window sum to.
    fn waited(&self, at: u32, w: Window) -> Detail {
        let s = &self.sums[at as usize][w as usize];
        let mut by_party: BTreeMap<Party, u64> = BTreeMap::new();
        for slot in self.node.slots().filter(|slot| slot.unit == at) {
            for pair in &slot.pairs {
                let (unit, party) = self
                    .owners
                    .get(pair.runner_slot as usize)
                    .copied()
                    .unwrap_or((at, Party::UNKNOWN));
                // Its own tasks, and what cannot be named, are classes.
                if unit != at && party.tenant().is_some() {
                    let sum = by_party.entry(party).or_default();
                    *sum = sum.saturating_add(pair.sum[w as usize]);
                }
            }
        }
        let mut parts: Vec<(u64, Arc<str>)> = by_party
            .into_iter()
            .map(|(party, ns)| (ns, self.tenant(party)))
            .collect();
        parts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let rest: u64 = parts.iter().skip(MAX_CULPRITS).map(|(ns, _)| ns).sum();
        parts.truncate(MAX_CULPRITS);
        let [idle, steal, throttled, unresolved, unknown] = CLASSES;
        for (ns, class) in [
            (rest, OTHERS),
            (s.itself, ITSELF),
            (s.idle, idle),
            (s.steal, steal),
            (s.throttled, throttled),
            (s.unresolved, unresolved),
            (s.unknown, unknown),
        ] {
            parts.push((ns, Arc::from(class)));
        }
        parts.retain(|(ns, _)| *ns > 0);
        parts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let part = |(ns, runner)| Waited {
            runner,
            cores: self.cores(ns, w),
        };
        Detail::Waited(parts.into_iter().map(part).collect())
    }

    fn is_ready(&self, at: u32) -> bool {
        f64::from(self.sums[at as usize][0].hits) >= self.thresholds.noisy_neighbour.min_reports
    }

    fn cores(&self, ns: u64, w: Window) -> f64 {
        self.seen_ns[w as usize].map_or(0.0, |seen| ns as f64 / seen)
    }

    /// From nanocores × nanoseconds.
    fn entitled(&self, sum: u128, w: Window) -> f64 {
        self.seen_ns[w as usize].map_or(0.0, |seen| sum as f64 / 1e9 / seen)
    }

    fn tenant(&self, party: Party) -> Arc<str> {
        tenant_name(party, self.tenants)
    }

    fn display(&self, unit: u32) -> String {
        self.node
            .units
            .get(unit as usize)
            .map_or_else(String::new, |u| display(u, self.tenants))
    }
}

/// A party as it is called in a breach.
pub(crate) fn tenant_name(party: Party, tenants: &Tenants) -> Arc<str> {
    party.tenant().map_or_else(
        || Arc::from(crate::identity::UNKNOWN),
        |t| Arc::clone(tenants.name(t)),
    )
}

/// "namespace/name" of a pod, "tenant/name" of a path rule's workload, the path of a host cgroup.
pub(crate) fn display(unit: &Unit, tenants: &Tenants) -> String {
    match &unit.who {
        Who::Pod(p) => format!("{}/{}", p.namespace, p.name),
        Who::Path { name } if name.starts_with('/') => name.to_string(),
        Who::Path { name } => match unit.party.tenant() {
            Some(t) => format!("{}/{name}", tenants.name(t)),
            None => name.to_string(),
        },
        Who::Host(path) => path.to_string(),
        Who::Unknown(reason) => format!("<{}>", reason.as_str()),
        Who::Unidentified(uid) | Who::Foreign(uid) => uid.to_string(),
    }
}

/// The window to speak of: the fast one where the rule is broken now, else the long one while it goes on.
fn choose(holds: [bool; 2], ongoing: bool) -> Option<Window> {
    match holds {
        [_, true] => Some(Window::Fast),
        [true, false] if ongoing => Some(Window::Long),
        _ => None,
    }
}
