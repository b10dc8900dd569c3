//! Questions, answered from what is on the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use partywall_aggregator_core::trail::answer::{Answer, Pair, Question, Reached, TooMany};
use partywall_aggregator_core::trail::hours::{GapKey, Hour};
use partywall_aggregator_core::trail::{HOUR_SLOTS, SLOT_NS, reason, slot_of};
use partywall_proto::v1;
use tonic::Status;

use super::append::END_UNKNOWN;
use super::file::{File, SAME_EPISODE_NS};
use super::format::Episode;
use super::read::Reader;
use super::{Trail, begins_ns};
use crate::clock::unix_ns;
use crate::wire;

/// Times further apart are not asked about at once: ten years.
const MAX_HOURS: u64 = 3_660 * 24;
/// Times that a breach fired told at once.
const MAX_EPISODES: usize = 100_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the trail's disk failed: ask again once it is back")]
    Disk,
    #[error("{0}")]
    Io(#[from] redb::Error),
    #[error("{0}")]
    Question(String),
    #[error("records were taken out by retention while they were read: read again")]
    Again,
    #[error("{0} pairs of tenants or more: name one of the tenants, or less time")]
    TooMany(usize),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let words = refused.to_string();
        match refused {
            Refused::Disk | Refused::Again => Self::unavailable(words),
            Refused::Io(_) => Self::internal(words),
            Refused::Question(_) => Self::invalid_argument(words),
            Refused::TooMany(_) => Self::resource_exhausted(words),
        }
    }
}

impl Trail {
    fn open(&self) -> Result<Arc<File>, Refused> {
        self.file().ok_or(Refused::Disk)
    }

    /// `clusters`: those asked about. `strangers`: who was named and is a tenant of none of them now.
    pub fn audit(
        &self,
        request: &v1::AuditRequest,
        clusters: &[Arc<str>],
        strangers: BTreeSet<Arc<str>>,
    ) -> Result<v1::AuditAnswer, Refused> {
        for (field, name) in named(request) {
            // `<outside>`, `<unknown>`: what crosses between tenants is kept, and these are none.
            if name.starts_with('<') {
                return Err(Refused::Question(format!("{field}: {name:?}: not a tenant")));
            }
        }
        let reader = self.open()?.read()?;
        let fronts = clusters
            .iter()
            .map(|cluster| self.front(&reader, cluster))
            .collect::<Result<Vec<u64>, Refused>>()?;
        let front = fronts.iter().copied().min().unwrap_or(0);
        let first = match request.from_unix_ns {
            0 => oldest(&reader, clusters)?.unwrap_or(front.saturating_sub(1)),
            ns => slot_of(ns),
        };
        let end = match request.to_unix_ns {
            // As far as was looked at.
            0 if front > first => front,
            0 => slot_of(unix_ns()) + 1,
            ns => ns.div_ceil(SLOT_NS),
        };
        if end <= first {
            let problem = format!(
                "{}: not after from_unix_ns {}",
                request.to_unix_ns, request.from_unix_ns
            );
            return Err(Refused::Question(format!("to_unix_ns: {problem}")));
        }
        if (end - first) / HOUR_SLOTS > MAX_HOURS {
            let problem = format!(
                "from_unix_ns: {}: more than ten years before",
                request.from_unix_ns
            );
            return Err(Refused::Question(problem));
        }
        let question = Question {
            first,
            end,
            from: Arc::from(request.from_tenant.as_str()),
            to: Arc::from(request.to_tenant.as_str()),
            tenant: Arc::from(request.tenant.as_str()),
            strangers,
        };
        let mut answer = v1::AuditAnswer {
            from_unix_ns: begins_ns(first),
            to_unix_ns: begins_ns(end),
            slot_ns: SLOT_NS,
            pairs: Vec::new(),
        };
        for (cluster, front) in clusters.iter().zip(fronts) {
            let pairs = self.pairs(&reader, cluster, front, question.clone())?;
            let one = |pair| told(cluster, &question, &pair);
            answer.pairs.extend(pairs.into_iter().map(one));
        }
        Ok(answer)
    }

    /// The first slot that is not on the disk yet; those before that are not either were missed.
    fn front(&self, reader: &Reader, cluster: &str) -> Result<u64, Refused> {
        let open = reader.open_hours(cluster, 0, u64::MAX)?;
        let seen = open.iter().rev().find_map(|(number, hour)| {
            let (_, end) = hour.seen.runs().pop()?;
            Some(number * HOUR_SLOTS + end)
        });
        let first = self.hours.get(cluster).map_or(0, |(_, first)| *first);
        Ok(seen.unwrap_or(0).max(first))
    }

    fn pairs(
        &self,
        reader: &Reader,
        cluster: &str,
        front: u64,
        question: Question,
    ) -> Result<Vec<Pair>, Refused> {
        let (first, end) = Answer::hours(&question);
        let asked = question.first / HOUR_SLOTS;
        let keep = question.clone();
        let mut answer = Answer::new(question);
        let mut there = BTreeSet::new();
        let mut open = reader.open_hours(cluster, first, end)?;
        let durable = self.figures().durable;
        let keep = |from: &str, to: &str| keep.asks(from, to);
        reader.hours(cluster, first, end, keep, |number, mut hour| {
            // A part that is still awaited beside one that is complete: none is, but its word would count.
            if let Some(more) = open.remove(&number) {
                hour.add(more);
            }
            there.insert(number);
            answer.add(number, &hour);
        })?;
        for (number, mut hour) in open {
            let begins = number * HOUR_SLOTS;
            let to_come = hour_range(front, begins);
            let is_to_come = |slot: u64| to_come.contains(&slot);
            let mut known = hour.seen;
            for at in (0..HOUR_SLOTS).filter(|at| is_to_come(*at)) {
                known.set(at);
                hour.gaps
                    .entry(anybody(if durable { reason::NOT_YET } else { "disk" }))
                    .or_default()
                    .set(at);
            }
            hour.seen = known;
            hour.close(reason::AGGREGATOR_AWAY);
            there.insert(number);
            answer.add(number, &hour);
        }
        let oldest = reader.oldest_hour(cluster)?.unwrap_or(u64::MAX);
        let is_pruned = reader.is_pruned()?;
        for number in (asked..end).filter(|number| !there.contains(number)) {
            let mut hour = Hour::default();
            let begins = number * HOUR_SLOTS;
            let why = if is_pruned && number < oldest && begins < front {
                reason::PRUNED
            } else {
                reason::AGGREGATOR_AWAY
            };
            for at in hour_range(front, begins) {
                hour.seen.set(at);
                let why = if durable { reason::NOT_YET } else { "disk" };
                hour.gaps.entry(anybody(why)).or_default().set(at);
            }
            hour.close(why);
            answer.add(number, &hour);
        }
        answer.finish().map_err(|TooMany(n)| Refused::TooMany(n))
    }

    /// The newest of what is asked for, oldest first.
    pub fn past(&self, request: &v1::GetHistoryRequest) -> Result<Vec<v1::HistoryEntry>, Refused> {
        self.entries(self.episodes(request)?)
    }

    /// Each time that a breach fired, oldest first, without the chain's records.
    pub(super) fn episodes(&self, request: &v1::GetHistoryRequest) -> Result<Vec<Episode>, Refused> {
        let reader = self.open()?.read()?;
        let to_ns = match request.to_unix_ns {
            0 => u64::MAX,
            ns => ns,
        };
        let end = match request.before.as_str() {
            "" => (to_ns, u64::MAX),
            before => cursor_of(before)?.min((to_ns, u64::MAX)),
        };
        if to_ns <= request.from_unix_ns {
            let problem = format!(
                "{}: not after from_unix_ns {}",
                request.to_unix_ns, request.from_unix_ns
            );
            return Err(Refused::Question(format!("to_unix_ns: {problem}")));
        }
        let limit = match request.limit {
            0 => MAX_EPISODES,
            n => (n as usize).min(MAX_EPISODES),
        };
        let mut out = Vec::new();
        reader.episodes(end, |episode| {
            if wanted(&episode, request) {
                out.push(episode);
            }
            out.len() < limit
        })?;
        out.reverse();
        Ok(out)
    }

    /// Each time that a breach fired whose fingerprint begins so, oldest first.
    pub fn of_fingerprint(&self, digits: &str) -> Result<Vec<v1::HistoryEntry>, Refused> {
        let begins = |breach: &v1::Breach| breach.fingerprint.starts_with(digits);
        let mut episodes = Vec::new();
        let reader = self.open()?.read()?;
        reader.episodes((u64::MAX, u64::MAX), |episode| {
            if episode.breach.as_ref().is_some_and(begins) {
                episodes.push(episode);
            }
            episodes.len() < MAX_EPISODES
        })?;
        episodes.reverse();
        self.entries(episodes)
    }

    /// With what the chain says of them.
    pub(super) fn entries(&self, episodes: Vec<Episode>) -> Result<Vec<v1::HistoryEntry>, Refused> {
        let reader = self.open()?.read()?;
        let now_ns = unix_ns();
        let process = *super::locked(&self.process);
        let mut out = Vec::with_capacity(episodes.len());
        for episode in episodes {
            let sequence = match episode.resolved_sequence {
                0 => episode.fired_sequence,
                sequence => sequence,
            };
            let mut breach = episode.breach.clone();
            if let Some(record) = reader.record(sequence)?
                && let Some(of_record) = body_of(&record)
            {
                breach = Some(of_record);
            }
            if let Some(breach) = &mut breach {
                // One that went on over a restart began when it first did.
                let first = episode.breach.as_ref().map_or(0, |b| b.firing_unix_ns);
                breach.firing_unix_ns = first;
                let since = episode.breach.as_ref().map_or(0, |b| b.since_unix_ns);
                breach.since_unix_ns = since.min(breach.since_unix_ns);
            }
            let mut end_unknown = episode.end_unknown.clone();
            let unseen = episode.seen_by < process.start_sequence;
            let late = now_ns.saturating_sub(process.start_unix_ns) > SAME_EPISODE_NS;
            if episode.resolved_sequence == 0 && unseen && late {
                END_UNKNOWN.clone_into(&mut end_unknown);
            }
            out.push(v1::HistoryEntry {
                breach,
                fired_sequence: episode.fired_sequence,
                resolved_sequence: episode.resolved_sequence,
                end_unknown,
                cursor: cursor(&episode),
            });
        }
        Ok(out)
    }

    /// A part of the chain from `sequence` on, of about a megabyte. `next`: it must begin right there.
    pub(super) fn records(&self, sequence: u64, next: bool) -> Result<Vec<v1::TrailRecord>, Refused> {
        use prost::Message as _;
        let reader = self.open()?.read()?;
        let (mut out, mut bytes) = (Vec::new(), 0);
        reader.records(sequence, |record| {
            bytes += record.encoded_len();
            out.push(record);
            bytes < 1024 * 1024 && out.len() < 512
        })?;
        if next && out.first().is_some_and(|first| first.sequence != sequence) {
            return Err(Refused::Again);
        }
        Ok(out)
    }
}

/// The tenants that a question names.
pub(super) fn named(request: &v1::AuditRequest) -> impl Iterator<Item = (&'static str, &str)> {
    [
        ("from_tenant", request.from_tenant.as_str()),
        ("to_tenant", request.to_tenant.as_str()),
        ("tenant", request.tenant.as_str()),
    ]
    .into_iter()
    .filter(|(_, name)| !name.is_empty())
}

fn anybody(reason: &str) -> GapKey {
    GapKey {
        tenant: Arc::from(""),
        reason: Arc::from(reason),
        node: Arc::from(""),
    }
}

/// Slots of the hour that begins with slot `begins` from `front` on.
fn hour_range(front: u64, begins: u64) -> std::ops::Range<u64> {
    front.saturating_sub(begins).min(HOUR_SLOTS)..HOUR_SLOTS
}

/// The oldest slot that anything is known of.
fn oldest(reader: &Reader, clusters: &[Arc<str>]) -> Result<Option<u64>, Refused> {
    let mut oldest = None;
    for cluster in clusters {
        let open = reader.open_hours(cluster, 0, u64::MAX)?;
        let first = open.iter().find_map(|(number, hour)| {
            let (at, _) = *hour.seen.runs().first()?;
            Some(number * HOUR_SLOTS + at)
        });
        let complete = reader.oldest_hour(cluster)?.map(|number| number * HOUR_SLOTS);
        oldest = [oldest, first, complete].into_iter().flatten().min();
    }
    Ok(oldest)
}

fn body_of(record: &v1::TrailRecord) -> Option<v1::Breach> {
    use prost::Message as _;
    match v1::TrailBody::decode(record.body.clone()).ok()?.what? {
        v1::trail_body::What::Breach(breach) => Some(breach),
        _ => None,
    }
}

/// Its key in the table of episodes.
fn cursor(episode: &Episode) -> String {
    let fired_ns = episode.breach.as_ref().map_or(0, |b| b.firing_unix_ns);
    format!("{fired_ns}-{}", episode.fired_sequence)
}

fn cursor_of(typed: &str) -> Result<(u64, u64), Refused> {
    let parsed = typed.split_once('-').and_then(|(fired_ns, sequence)| {
        let key = (fired_ns.parse().ok()?, sequence.parse().ok()?);
        Some(key)
    });
    parsed.ok_or_else(|| {
        let shown: String = typed.chars().take(80).collect();
        Refused::Question(format!("before: {shown:?}: not the cursor of an entry"))
    })
}

fn wanted(episode: &Episode, request: &v1::GetHistoryRequest) -> bool {
    let Some(breach) = &episode.breach else {
        return false;
    };
    let is = |asked: &str, value: &str| asked.is_empty() || asked == value;
    let over = episode.resolved_sequence > 0 && episode.resolved_unix_ns < request.from_unix_ns;
    let lost = !episode.end_unknown.is_empty() && breach.firing_unix_ns < request.from_unix_ns;
    !over
        && !lost
        && (is(&request.tenant, &breach.tenant) || is(&request.tenant, &breach.against))
        && is(&request.cluster, &breach.cluster)
        && is(&request.fingerprint, &breach.fingerprint)
        && (request.kinds.is_empty() || request.kinds.contains(&breach.kind))
}

fn told(cluster: &str, question: &Question, pair: &Pair) -> v1::PairAnswer {
    let slots = question.end - question.first;
    let summary = summary(pair, slots);
    v1::PairAnswer {
        cluster: cluster.to_owned(),
        from: pair.from.to_string(),
        to: pair.to.to_string(),
        reached: match pair.reached {
            Reached::Yes => v1::Reached::Yes,
            Reached::No => v1::Reached::No,
            Reached::Unknown => v1::Reached::Unknown,
        }
        .into(),
        summary,
        crossings: pair
            .crossings
            .iter()
            .map(|((verdict, delivered), sum)| {
                let (first, last) = sum.slots.unwrap_or_default();
                v1::Crossing {
                    verdict: wire::verdict(*verdict).into(),
                    delivered: *delivered,
                    bytes: sum.bytes,
                    packets: sum.packets,
                    connections: sum.connections,
                    first_unix_ns: begins_ns(first),
                    last_unix_ns: begins_ns(last),
                }
            })
            .collect(),
        covered: pair.covered as f64 / slots.max(1) as f64,
        gaps: pair
            .gaps
            .iter()
            .map(|gap| v1::Gap {
                from_unix_ns: begins_ns(gap.first),
                to_unix_ns: begins_ns(gap.end),
                reason: gap.reason.to_string(),
                node: gap.node.to_string(),
            })
            .collect(),
    }
}

/// The answer as a person would say it.
fn summary(pair: &Pair, slots: u64) -> String {
    let whom = match (&*pair.from, &*pair.to) {
        ("", "") => {
            return format!(
                "of all other pairs nothing can be told for {}",
                share(slots - pair.covered, slots)
            );
        }
        (from, to) => (from, to),
    };
    let (from, to) = whom;
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let tried: u64 = pair
        .crossings
        .iter()
        .filter(|((verdict, delivered), _)| {
            !delivered && *verdict == partywall_aggregator_core::traffic::Verdict::Blocked
        })
        .map(|(_, sum)| sum.connections)
        .sum();
    match pair.reached {
        Reached::Yes => {
            let arrived = pair
                .crossings
                .iter()
                .filter(|((_, delivered), sum)| *delivered && sum.certain);
            let of = arrived.map(|((verdict, _), sum)| {
                format!(
                    "{} ({}, {})",
                    verdict.as_str(),
                    count(sum.connections, "connection"),
                    count(sum.bytes, "byte")
                )
            });
            let of: Vec<String> = of.collect();
            format!("{from} reached {to}: {}", of.join(", "))
        }
        Reached::No if tried > 0 => {
            format!(
                "{from} did not reach {to}: {} tried, none came through, and all of the time was seen",
                count(tried, "connection")
            )
        }
        Reached::No => format!("{from} did not reach {to}, and all of the time was seen"),
        Reached::Unknown => {
            let reasons: BTreeSet<&str> = pair.gaps.iter().map(|gap| &*gap.reason).collect();
            let reasons: Vec<&str> = reasons.into_iter().collect();
            let more = match pair.more_gaps {
                0 => String::new(),
                n => format!(", {n} more gaps are not listed"),
            };
            format!(
                "whether {from} reached {to} is not known: nothing was seen to arrive, and {} is open ({}{more})",
                share(
                    (slots - pair.covered).max(u64::from(!pair.gaps.is_empty())),
                    slots
                ),
                reasons.join(", ")
            )
        }
    }
}

fn share(open: u64, slots: u64) -> String {
    format!(
        "{} s of {} s",
        open * SLOT_NS / 1_000_000_000,
        slots * SLOT_NS / 1_000_000_000
    )
}

#[cfg(test)]
mod tests {
    use partywall_aggregator_core::policy::Policy;
    use partywall_aggregator_core::traffic::Verdict;
    use partywall_aggregator_core::trail::{Moved, Taken};

    use super::*;
    use crate::state::State;
    use crate::trail::{Offline, Store};

    const HOURS: u64 = 6;

    /// Six hours, the newest of them still awaited: red reached blue in the eighth slot of each.
    fn six_hours(dir: &std::path::Path) -> u64 {
        let now_ns = unix_ns();
        let first = slot_of(now_ns) - HOURS * HOUR_SLOTS;
        let mut offline = Offline::open(dir, "default", begins_ns(first)).unwrap();
        for slot in first + 1..first + HOURS * HOUR_SLOTS - 3 {
            let mut taken = Taken::default();
            if (slot - first) % HOUR_SLOTS == 7 {
                taken.moved.push(Moved {
                    from: "red".into(),
                    to: "blue".into(),
                    verdict: Verdict::Leaked,
                    delivered: true,
                    bytes: 100,
                    packets: 2,
                    connections: 1,
                    when: vec![(slot, slot)],
                });
            }
            let at_ns = begins_ns(slot + 1) + 6_000_000_000;
            offline.judged(taken, Vec::new(), at_ns);
            if slot % 50 == 0 {
                offline.write(at_ns).unwrap();
            }
        }
        offline.write(now_ns).unwrap();
        first
    }

    fn ask(trail: &Trail, first: u64, end: u64) -> v1::PairAnswer {
        ask_of(trail, "red", &[], first, end)
    }

    fn ask_of(trail: &Trail, from: &str, strangers: &[&str], first: u64, end: u64) -> v1::PairAnswer {
        let request = v1::AuditRequest {
            from_unix_ns: begins_ns(first),
            to_unix_ns: begins_ns(end),
            from_tenant: from.into(),
            to_tenant: "blue".into(),
            ..v1::AuditRequest::default()
        };
        let strangers = strangers.iter().map(|name| Arc::from(*name)).collect();
        let mut answer = trail.audit(&request, &[Arc::from("default")], strangers).unwrap();
        assert_eq!(answer.pairs.len(), 1);
        answer.pairs.remove(0)
    }

    #[test]
    fn hours_that_are_complete_answer_as_those_that_are_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let first = six_hours(dir.path());
        let state = State::new(&Policy::default(), "default", []);
        let clusters: Vec<_> = state.clusters().cloned().collect();
        let store = Store::open(dir.path(), &clusters).unwrap();
        let trail = &store.trail;
        for hour in 0..HOURS {
            let at = first + hour * HOUR_SLOTS + 7;
            let yes = ask(trail, at, at + 1);
            assert_eq!(yes.reached(), v1::Reached::Yes, "hour {hour}: {yes:?}");
            assert_eq!(yes.crossings[0].verdict(), v1::Verdict::Leaked);
            assert_eq!(yes.crossings[0].first_unix_ns, begins_ns(at));
            for (from, to) in [(at - 3, at), (at + 1, at + 100)] {
                let no = ask(trail, from, to);
                assert_eq!(
                    (no.reached(), no.gaps.len()),
                    (v1::Reached::No, 0),
                    "hour {hour}: {no:?}"
                );
            }
        }
        let all = ask(trail, first + 1, first + HOURS * HOUR_SLOTS - 4);
        let sum = &all.crossings[0];
        assert_eq!(
            (all.reached(), sum.connections, sum.bytes, all.covered),
            (v1::Reached::Yes, 6, 600, 1.0)
        );
        // A name that nobody ever had is no tenant that reached nobody.
        let stranger = ask_of(trail, "rde", &["rde"], first + 8, first + 20);
        let gaps: Vec<&str> = stranger.gaps.iter().map(|gap| gap.reason.as_str()).collect();
        assert_eq!(
            (stranger.reached(), gaps, stranger.covered),
            (v1::Reached::Unknown, vec![reason::NO_SUCH_TENANT], 0.0)
        );
        // One that the cluster has no more, and what was kept has.
        let gone = ask_of(trail, "red", &["red", "blue"], first + 8, first + 20);
        assert_eq!((gone.reached(), gone.covered), (v1::Reached::No, 1.0));
        // Before it began, while nobody lived, and what is to come.
        let reason = |first, end| {
            let unknown = ask(trail, first, end);
            assert_eq!(unknown.reached(), v1::Reached::Unknown);
            unknown.gaps.into_iter().map(|gap| gap.reason).collect::<Vec<_>>()
        };
        assert_eq!(reason(first - 900, first), [reason::AGGREGATOR_AWAY]);
        let end = first + HOURS * HOUR_SLOTS;
        assert_eq!(reason(end - 2, end), [reason::AGGREGATOR_AWAY]);
        assert_eq!(reason(end + 5, end + 900), [reason::NOT_YET]);
        // Once the oldest were taken out.
        let file = trail.file().unwrap();
        let now_ns = unix_ns();
        file.prune(now_ns - 3 * 3_600_000_000_000, u64::MAX, now_ns)
            .unwrap();
        assert_eq!(reason(first + 7, first + 8), [reason::PRUNED]);
        let newest = first + (HOURS - 1) * HOUR_SLOTS + 7;
        assert_eq!(ask(trail, newest, newest + 1).reached(), v1::Reached::Yes);
    }
}
