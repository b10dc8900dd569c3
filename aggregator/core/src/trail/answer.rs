//! Did one tenant reach another between two times: yes, no, or unknown.
//!
//! **Yes**: something arrived in a slot of the question, or in a span that lies within it. **No**: every slot was seen by somebody who vouches for it:
//! all nodes of who would have opened, or all nodes of who would have been reached, told of everything, and nothing was said of either that cannot
//! be told. **Unknown**: everything else, with the gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hours::{CrossingKey, GapKey, Hour};
use super::{HOUR_SLOTS, Slots, reason};
use crate::traffic::Verdict;

/// Gaps told in one answer, and the fewest and most of one pair; more are counted. With [`MAX_PAIRS`] an answer stays within a message.
const GAPS_TOLD: usize = 16_384;
const GAPS_OF_PAIR: (usize, usize) = (4, 256);
/// Pairs told of one question.
pub const MAX_PAIRS: usize = 4_096;

/// Empty names do not restrict. Slots since 1970, the last excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    pub first: u64,
    pub end: u64,
    pub from: Arc<str>,
    pub to: Arc<str>,
    /// Either of the two.
    pub tenant: Arc<str>,
    /// Those of the names that the cluster has no tenant of now. One that the hours do not know either is a typing error, or of a tenant that is long gone.
    pub strangers: BTreeSet<Arc<str>>,
}

impl Question {
    /// Whether it is about this pair.
    pub fn asks(&self, from: &str, to: &str) -> bool {
        let is = |asked: &str, name: &str| asked.is_empty() || asked == name;
        is(&self.from, from) && is(&self.to, to) && (is(&self.tenant, from) || is(&self.tenant, to))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    Yes,
    No,
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    /// The first and the last slot of the question in which something moved.
    pub slots: Option<(u64, u64)>,
    /// Something moved within the question for certain.
    pub certain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Slots, the last excluded.
    pub first: u64,
    pub end: u64,
    pub reason: Arc<str>,
    pub node: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Both empty: all pairs that are not named.
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub reached: Reached,
    /// By verdict, and whether it arrived.
    pub crossings: BTreeMap<(Verdict, bool), Sum>,
    /// Slots of the question in which whatever crossed would have been seen.
    pub covered: u64,
    pub gaps: Vec<Gap>,
    /// Gaps that found no room in `gaps`.
    pub more_gaps: u64,
}

/// More pairs than an answer has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

/// Gathers what the hours say, in any order.
#[derive(Debug)]
pub struct Answer {
    question: Question,
    pairs: BTreeMap<(Arc<str>, Arc<str>), Told>,
    /// What may have crossed unseen, hour by hour; those without any are left out.
    gaps: BTreeMap<u64, BTreeMap<GapKey, Slots>>,
}

#[derive(Debug, Default)]
struct Told {
    sums: BTreeMap<(Verdict, bool), Sum>,
    /// Spans that lie within the question in part, as slots of it.
    unresolved: Vec<(u64, u64, bool)>,
}

impl Answer {
    pub fn new(question: Question) -> Self {
        Self {
            question,
            pairs: BTreeMap::new(),
            gaps: BTreeMap::new(),
        }
    }

    /// Hours that may have something to say, the last excluded. A span is told by the hour in which it begins.
    pub fn hours(question: &Question) -> (u64, u64) {
        (
            (question.first / HOUR_SLOTS).saturating_sub(1),
            question.end.div_ceil(HOUR_SLOTS),
        )
    }

    /// An hour with all its records, its gaps closed. One of which there is none has everything as a gap.
    pub fn add(&mut self, number: u64, hour: &Hour) {
        let begins = number * HOUR_SLOTS;
        let (first, end) = (
            self.question.first.max(begins),
            self.question.end.min(begins + HOUR_SLOTS),
        );
        let within = if first < end {
            Slots::range(first - begins, end - begins)
        } else {
            Slots::NONE
        };
        if !self.question.strangers.is_empty() {
            let ends = hour.crossings.keys().flat_map(|key| [&key.from, &key.to]);
            for name in ends.chain(hour.gaps.keys().map(|key| &key.tenant)) {
                self.question.strangers.remove(name);
            }
        }
        for (key, crossing) in &hour.crossings {
            if self.question.asks(&key.from, &key.to) {
                self.crossing(begins, within, key, crossing);
            }
        }
        let q = &self.question;
        let is_asked = |who: &Arc<str>| {
            [&q.from, &q.to, &q.tenant]
                .iter()
                .any(|asked| !who.is_empty() && *asked == who)
        };
        let names: BTreeSet<&Arc<str>> = [&q.from, &q.to, &q.tenant]
            .into_iter()
            .filter(|n| !n.is_empty())
            .collect();
        let concerns = |key: &GapKey| key.tenant.is_empty() || names.is_empty() || is_asked(&key.tenant);
        // Where nobody who is asked about has a gap, another's leaves nothing open.
        let theirs = hour.gaps.iter().filter(|(key, _)| concerns(key));
        let open = theirs
            .fold(Slots::NONE, |all, (_, slots)| all.or(*slots))
            .and(within);
        let is_pair = !q.from.is_empty() && !q.to.is_empty();
        let gaps: BTreeMap<GapKey, Slots> = hour
            .gaps
            .iter()
            .filter(|(key, _)| !is_pair || concerns(key))
            .map(|(key, slots)| (key.clone(), slots.and(open)))
            .filter(|(_, slots)| !slots.is_empty())
            .collect();
        if !gaps.is_empty() {
            self.gaps.insert(number, gaps);
        }
    }

    fn crossing(&mut self, begins: u64, within: Slots, key: &CrossingKey, crossing: &super::hours::Crossing) {
        let slots = crossing.slots.and(within);
        let (mut whole, mut part) = (Vec::new(), Vec::new());
        let (first, end) = (self.question.first, self.question.end);
        for span in &crossing.spans {
            let from = begins + u64::from(span.first);
            let to = from + u64::from(span.length);
            if from >= first && to <= end {
                whole.push((from, to));
            } else if to > first && from < end {
                part.push((from.max(first), to.min(end)));
            }
        }
        if slots.is_empty() && whole.is_empty() && part.is_empty() {
            return;
        }
        // Whether it arrived is not known: that is a gap of its own.
        let is_clear = key.delivered || key.verdict != Verdict::Unknown;
        let told = self
            .pairs
            .entry((Arc::clone(&key.from), Arc::clone(&key.to)))
            .or_default();
        let runs = slots.runs().into_iter().map(|(a, b)| (begins + a, begins + b));
        let certain: Vec<(u64, u64)> = runs.chain(whole).collect();
        let sum = told.sums.entry((key.verdict, key.delivered)).or_default();
        sum.bytes = sum.bytes.saturating_add(crossing.bytes);
        sum.packets = sum.packets.saturating_add(crossing.packets);
        sum.connections = sum.connections.saturating_add(crossing.connections);
        sum.certain |= !certain.is_empty();
        for (a, b) in certain.iter().chain(&part) {
            let (least, most) = sum.slots.unwrap_or((*a, b - 1));
            sum.slots = Some((least.min(*a), most.max(b - 1)));
        }
        if !is_clear {
            told.unresolved
                .extend(certain.iter().map(|(a, b)| (*a, *b, true)));
        }
        // What was tried and did not arrive leaves nothing open.
        if key.delivered || !is_clear {
            told.unresolved
                .extend(part.iter().map(|(a, b)| (*a, *b, !is_clear)));
        }
    }

    /// # Errors
    /// It is about more pairs than may be told at once.
    pub fn finish(mut self) -> Result<Vec<Pair>, TooMany> {
        let q = self.question.clone();
        let told = std::mem::take(&mut self.pairs);
        let mut names: BTreeSet<(Arc<str>, Arc<str>)> = told.keys().cloned().collect();
        let one = !q.from.is_empty() && !q.to.is_empty();
        if one {
            names = BTreeSet::from([(Arc::clone(&q.from), Arc::clone(&q.to))]);
        } else {
            self.doubtful(&mut names)?;
            if !q.strangers.is_empty() || self.gaps.values().flatten().any(|(key, _)| key.tenant.is_empty()) {
                names.insert((Arc::from(""), Arc::from("")));
            }
        }
        if names.len() > MAX_PAIRS {
            return Err(TooMany(names.len()));
        }
        let mut told = told;
        let most = (GAPS_TOLD / names.len().max(1)).clamp(GAPS_OF_PAIR.0, GAPS_OF_PAIR.1);
        let pairs = names.into_iter().map(|names| {
            let told = told.remove(&names).unwrap_or_default();
            self.pair(names, told, most)
        });
        Ok(pairs.collect())
    }

    /// Pairs of tenants for neither of which somebody vouches in the same slot.
    fn doubtful(&self, names: &mut BTreeSet<(Arc<str>, Arc<str>)>) -> Result<(), TooMany> {
        for gaps in self.gaps.values() {
            let mut tenants: BTreeMap<&Arc<str>, Slots> = BTreeMap::new();
            for (key, slots) in gaps.iter().filter(|(key, _)| !key.tenant.is_empty()) {
                let all = tenants.entry(&key.tenant).or_default();
                *all = all.or(*slots);
            }
            for (from, a) in &tenants {
                for (to, b) in &tenants {
                    if from != to && self.question.asks(from, to) && !a.and(*b).is_empty() {
                        names.insert((Arc::clone(from), Arc::clone(to)));
                        if names.len() > MAX_PAIRS {
                            return Err(TooMany(names.len()));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn pair(&self, (from, to): (Arc<str>, Arc<str>), told: Told, most_gaps: usize) -> Pair {
        let (mut gaps, mut uncovered) = (Vec::new(), 0);
        for (number, of_hour) in &self.gaps {
            let of = |who: &Arc<str>| {
                let mine = of_hour
                    .iter()
                    .filter(|(key, _)| key.tenant.is_empty() || (!who.is_empty() && key.tenant == *who));
                mine.fold(Slots::NONE, |all, (_, slots)| all.or(*slots))
            };
            let open = of(&from).and(of(&to));
            uncovered += open.count();
            for (key, slots) in of_hour {
                let concerns = key.tenant.is_empty() || key.tenant == from || key.tenant == to;
                let slots = slots.and(open);
                if !concerns || slots.is_empty() {
                    continue;
                }
                let begins = number * HOUR_SLOTS;
                gaps.extend(slots.runs().into_iter().map(|(a, b)| Gap {
                    first: begins + a,
                    end: begins + b,
                    reason: Arc::clone(&key.reason),
                    node: Arc::clone(&key.node),
                }));
            }
        }
        if !self.question.strangers.is_empty() {
            let (first, end) = (self.question.first, self.question.end);
            uncovered = end - first;
            gaps.push(Gap {
                first,
                end,
                reason: Arc::from(reason::NO_SUCH_TENANT),
                node: Arc::from(""),
            });
        }
        let arrived = told
            .sums
            .iter()
            .any(|((_, delivered), sum)| *delivered && sum.certain);
        gaps.extend(told.unresolved.iter().map(|(first, end, unclear)| Gap {
            first: *first,
            end: *end,
            reason: Arc::from(if *unclear {
                reason::DELIVERY_NOT_SEEN
            } else {
                reason::NOT_RESOLVED
            }),
            node: Arc::from(""),
        }));
        let reached = match (arrived, gaps.is_empty()) {
            (true, _) => Reached::Yes,
            (false, true) => Reached::No,
            (false, false) => Reached::Unknown,
        };
        let (gaps, more_gaps) = joined(gaps, most_gaps);
        Pair {
            from,
            to,
            reached,
            crossings: told.sums,
            covered: (self.question.end - self.question.first).saturating_sub(uncovered),
            gaps,
            more_gaps,
        }
    }
}

/// Those of one reason and node that touch as one, in the order of time.
fn joined(mut gaps: Vec<Gap>, most: usize) -> (Vec<Gap>, u64) {
    gaps.sort_by(|a, b| (&a.reason, &a.node, a.first).cmp(&(&b.reason, &b.node, b.first)));
    let mut out: Vec<Gap> = Vec::new();
    for gap in gaps {
        match out.last_mut() {
            Some(last) if last.reason == gap.reason && last.node == gap.node && gap.first <= last.end => {
                last.end = last.end.max(gap.end);
            }
            _ => out.push(gap),
        }
    }
    out.sort();
    let more = out.len().saturating_sub(most);
    out.truncate(most);
    (out, more as u64)
}
