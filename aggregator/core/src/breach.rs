//! A breach's life: pending while its condition holds for too short a time, firing, resolved once the condition has been gone for long enough.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::finding::{Culprit, Detail, Figure, Finding};
use crate::limits::{MAX_LIVE_BREACHES, MAX_RESOLVED_BREACHES, NS_PER_S, RESOLVED_KEPT_NS};
use crate::losses::Losses;
use crate::policy::{Thresholds, Timing};
use crate::world::Now;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreachKind {
    NoisyNeighbour,
    NodeOvercommitted,
    SystemNoise,
    QuotaNear,
    QuotaExceeded,
    MemorySqueeze,
    CrossTenantOom,
    LimitRangeExceeded,
    FlatNetwork,
    FenceLeak,
    Probe,
    CredentialReach,
}

impl BreachKind {
    pub const ALL: [Self; 12] = [
        Self::NoisyNeighbour,
        Self::NodeOvercommitted,
        Self::SystemNoise,
        Self::QuotaNear,
        Self::QuotaExceeded,
        Self::MemorySqueeze,
        Self::CrossTenantOom,
        Self::LimitRangeExceeded,
        Self::FlatNetwork,
        Self::FenceLeak,
        Self::Probe,
        Self::CredentialReach,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoisyNeighbour => "NoisyNeighbour",
            Self::NodeOvercommitted => "NodeOvercommitted",
            Self::SystemNoise => "SystemNoise",
            Self::QuotaNear => "QuotaNear",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::MemorySqueeze => "MemorySqueeze",
            Self::CrossTenantOom => "CrossTenantOom",
            Self::LimitRangeExceeded => "LimitRangeExceeded",
            Self::FlatNetwork => "FlatNetwork",
            Self::FenceLeak => "FenceLeak",
            Self::Probe => "Probe",
            Self::CredentialReach => "CredentialReach",
        }
    }

    pub(crate) fn timing(self, thresholds: &Thresholds) -> &Timing {
        match self {
            Self::NoisyNeighbour => &thresholds.noisy_neighbour.timing,
            Self::NodeOvercommitted => &thresholds.node_overcommitted,
            Self::SystemNoise => &thresholds.system_noise.timing,
            Self::QuotaNear | Self::QuotaExceeded => &thresholds.quota.timing,
            Self::MemorySqueeze => &thresholds.memory_squeeze.timing,
            Self::CrossTenantOom => &thresholds.cross_tenant_oom.timing,
            Self::LimitRangeExceeded => &thresholds.limit_range.timing,
            Self::FlatNetwork => &thresholds.flat_network,
            Self::FenceLeak => &thresholds.fence_leak.timing,
            Self::Probe => &thresholds.probe.timing,
            Self::CredentialReach => &thresholds.credential_reach,
        }
    }
}

impl fmt::Display for BreachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreachState {
    Pending,
    Firing,
    Resolved,
}

impl BreachState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// What makes a breach the same breach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BreachKey {
    pub kind: BreachKind,
    /// Who broke it; `system` where nobody's neighbour is at fault.
    pub tenant: Arc<str>,
    /// Empty where nobody.
    pub against: Arc<str>,
    /// Empty: over all nodes.
    pub node: Arc<str>,
    /// The victim pod as "namespace/name", of `LimitRangeExceeded` the container as "namespace/pod/container/resource", of quotas the resource, of `Probe`
    /// and `CredentialReach` the pod that did it; empty where there is none.
    pub subject: Arc<str>,
}

impl BreachKey {
    /// 16 hex digits; the same on every aggregator and after every restart. For people and for joining: nothing is looked up by it.
    pub fn fingerprint(&self, cluster: &str) -> String {
        let mut hash = Fnv::default();
        hash.field(cluster)
            .field(self.kind.as_str())
            .field(&self.tenant)
            .field(&self.against)
            .field(&self.node)
            .field(&self.subject);
        format!("{:016x}", hash.finish())
    }
}

/// FNV-1a, 64 bits, over fields that are told apart by their lengths. Written out here because it must never change.
#[derive(Debug)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn field(&mut self, text: &str) -> &mut Self {
        let length = (text.len() as u64).to_le_bytes();
        for byte in length.iter().chain(text.as_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

/// A breach as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    pub fingerprint: String,
    /// In which it was broken.
    pub cluster: Arc<str>,
    pub key: BreachKey,
    pub state: BreachState,
    pub summary: String,
    pub since_unix_ns: u64,
    /// 0: not (yet).
    pub firing_unix_ns: u64,
    pub resolved_unix_ns: u64,
    pub evidence: Vec<Figure>,
    pub culprits: Vec<Culprit>,
    pub covered: f64,
    /// Absent: measured.
    pub confidence: Option<f64>,
}

#[derive(Debug)]
struct Life {
    since: Now,
    firing: Option<Now>,
    /// When the condition last held.
    held: Now,
    /// As it was then.
    latest: Finding,
    /// As it was at its worst: what a breach that has passed is remembered by.
    worst: Finding,
    worst_at: Now,
}

/// A breach with what only an explanation needs of its life.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    pub breach: Breach,
    /// Of the same moment as the breach's figures.
    pub detail: Detail,
    /// When it was at its worst, and the finding of that moment in words.
    pub worst: Option<(u64, String)>,
    /// When its condition held last; 0: not known.
    pub held_unix_ns: u64,
    /// Earlier times that it fired, as far as they are kept: when, and until when. Oldest first.
    pub before: Vec<(u64, u64)>,
}

/// A breach that fired and was resolved, and its life.
#[derive(Debug)]
struct Ended {
    breach: Breach,
    life: Life,
}

/// All breaches that live, and the resolved ones that are still kept.
#[derive(Debug)]
pub struct Book {
    cluster: Arc<str>,
    live: BTreeMap<BreachKey, Life>,
    resolved: VecDeque<Ended>,
    /// The last step.
    judged: Now,
}

impl Book {
    pub(crate) fn new(cluster: Arc<str>) -> Self {
        Self {
            cluster,
            live: BTreeMap::new(),
            resolved: VecDeque::new(),
            judged: Now::default(),
        }
    }

    pub fn is_firing(&self, key: &BreachKey) -> bool {
        self.live.get(key).is_some_and(|l| l.firing.is_some())
    }

    /// Takes over what holds at `now`. Returns every breach whose state changed.
    pub(crate) fn step(
        &mut self,
        findings: Vec<Finding>,
        now: Now,
        thresholds: &Thresholds,
        losses: &mut Losses,
    ) -> Vec<Breach> {
        self.judged = now;
        let mut changed = Vec::new();
        // Judged every step: a breach that is due half a step from now is due.
        let slack_ns = seconds(thresholds.windows.step_seconds / 2.0);
        for finding in findings {
            let key = finding.key.clone();
            if !self.live.contains_key(&key) {
                if self.live.len() >= MAX_LIVE_BREACHES {
                    losses.add("judge", "breach_cap", "breaches", 1);
                    continue;
                }
                let life = Life {
                    since: now,
                    firing: None,
                    held: now,
                    latest: finding.clone(),
                    worst: finding.clone(),
                    worst_at: now,
                };
                changed.push(view(&self.cluster, &key, &life, BreachState::Pending, now));
                self.live.insert(key.clone(), life);
            }
            let Some(life) = self.live.get_mut(&key) else {
                continue;
            };
            life.held = now;
            let due = seconds(key.kind.timing(thresholds).for_seconds).saturating_sub(slack_ns);
            let may_fire = life.firing.is_none() && finding.ready && now.since(life.since) >= due;
            if finding.weight >= life.worst.weight {
                life.worst = finding.clone();
                life.worst_at = now;
            }
            life.latest = finding;
            if may_fire {
                life.firing = Some(now);
                changed.push(view(&self.cluster, &key, life, BreachState::Firing, now));
            }
        }
        // Exceeded takes over from Near.
        let over: Vec<BreachKey> = changed
            .iter()
            .filter(|b| b.key.kind == BreachKind::QuotaExceeded && b.state == BreachState::Firing)
            .map(|b| BreachKey {
                kind: BreachKind::QuotaNear,
                ..b.key.clone()
            })
            .collect();
        let gone: Vec<BreachKey> = self
            .live
            .iter()
            .filter(|(key, life)| {
                // What never fired is dropped as soon as it does not hold.
                let patience = if life.firing.is_some() {
                    key.kind.timing(thresholds).clear_after_seconds
                } else {
                    0.0
                };
                let held_now = life.held == now;
                over.contains(key) || (!held_now && now.since(life.held) + slack_ns >= seconds(patience))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let Some(life) = self.live.remove(&key) else {
                continue;
            };
            let breach = view(&self.cluster, &key, &life, BreachState::Resolved, now);
            if life.firing.is_some() {
                self.resolved.push_back(Ended {
                    breach: breach.clone(),
                    life,
                });
            }
            changed.push(breach);
        }
        let too_old = |e: &Ended| now.unix_ns.saturating_sub(e.breach.resolved_unix_ns) > RESOLVED_KEPT_NS;
        while self.resolved.len() > MAX_RESOLVED_BREACHES || self.resolved.front().is_some_and(too_old) {
            self.resolved.pop_front();
        }
        changed
    }

    /// Pending and firing breaches, in a fixed order.
    pub fn live(&self) -> Vec<Breach> {
        let live = self.live.iter();
        live.map(|(key, life)| self.live_one(key, life)).collect()
    }

    fn live_one(&self, key: &BreachKey, life: &Life) -> Breach {
        let state = if life.firing.is_some() {
            BreachState::Firing
        } else {
            BreachState::Pending
        };
        view(&self.cluster, key, life, state, self.judged)
    }

    /// Breaches that fired and were resolved, oldest first.
    pub fn resolved(&self) -> impl Iterator<Item = &Breach> {
        self.resolved.iter().map(|ended| &ended.breach)
    }

    /// Every breach whose fingerprint begins so, each once: the one that lives, else the one that was resolved last.
    pub fn stories(&self, prefix: &str) -> Vec<Story> {
        let mut found: BTreeMap<String, Story> = BTreeMap::new();
        // What comes later is told, with what came before.
        let mut tell = |mut story: Story| {
            if let Some(earlier) = found.remove(&story.breach.fingerprint) {
                story.before = earlier.before;
                story
                    .before
                    .push((earlier.breach.firing_unix_ns, earlier.breach.resolved_unix_ns));
            }
            found.insert(story.breach.fingerprint.clone(), story);
        };
        for Ended { breach, life } in &self.resolved {
            if breach.fingerprint.starts_with(prefix) {
                tell(story(breach.clone(), life, self.judged));
            }
        }
        for (key, life) in &self.live {
            if key.fingerprint(&self.cluster).starts_with(prefix) {
                tell(story(self.live_one(key, life), life, self.judged));
            }
        }
        found.into_values().collect()
    }
}

fn story(breach: Breach, life: &Life, judged: Now) -> Story {
    let finding = shown(life, breach.state, judged);
    Story {
        detail: finding.detail.clone(),
        worst: Some((
            life.worst_at.unix_ns,
            life.worst.summary(life.worst_at.since(life.since)),
        )),
        held_unix_ns: life.held.unix_ns,
        before: Vec::new(),
        breach,
    }
}

/// While it holds: as it is. Once it does not: as it was at its worst.
fn shown(life: &Life, state: BreachState, now: Now) -> &Finding {
    if life.held == now && state != BreachState::Resolved {
        &life.latest
    } else {
        &life.worst
    }
}

/// A breach as it was judged at `now`.
fn view(cluster: &Arc<str>, key: &BreachKey, life: &Life, state: BreachState, now: Now) -> Breach {
    let finding = shown(life, state, now);
    Breach {
        fingerprint: key.fingerprint(cluster),
        cluster: Arc::clone(cluster),
        key: key.clone(),
        state,
        summary: finding.summary(life.held.since(life.since)),
        since_unix_ns: life.since.unix_ns,
        firing_unix_ns: life.firing.map_or(0, |n| n.unix_ns),
        resolved_unix_ns: if state == BreachState::Resolved {
            now.unix_ns
        } else {
            0
        },
        evidence: finding.evidence.clone(),
        culprits: finding.culprits.clone(),
        covered: finding.covered,
        confidence: finding.confidence,
    }
}

pub(crate) fn seconds(s: f64) -> u64 {
    (s * NS_PER_S as f64) as u64
}
