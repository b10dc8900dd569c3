//! What one target has still to be told. Pure: time is an argument, sending is the caller's.
//!
//! The truth is the set of breaches that fire, not the stream of their changes: it is compared with the judge's own now and then, and a change that was
//! missed on the way is found so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use partywall_proto::v1::{Breach, BreachState};

use super::alert::Alert;

/// Changes that wait for a target: as many as breaches may live in a cluster. Some 2 KiB each, shared among targets: 20 MiB in the worst case.
pub(super) const MAX_WAITING: usize = 10_000;
/// How long a change waits at most: who was away for longer wants to know what fires now, which is told in any case.
pub(super) const MAX_AGE: Duration = Duration::from_mins(15);
/// One part of a request out of so many is for repeats, whatever changes: 10,000 alerts are repeated in 100 requests of an Alertmanager's 200.
const REPEATED: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By fingerprint, as it was last told or is to be.
    firing: BTreeMap<String, Arc<Alert>>,
    /// By its place in the queue.
    changes: BTreeMap<u64, Change>,
    /// Where a life's change stands: thousands change at once while a target is away.
    places: BTreeMap<Life, u64>,
    /// Fingerprints of what fires, was never taken and is no change any more: it becomes one again as soon as there is room.
    untold: BTreeSet<String>,
    /// Fingerprints of what is to be told again, the oldest first.
    repeats: VecDeque<String>,
    number: u64,
    pub(super) lost: Lost,
}

/// Fingerprint, and when it began to fire.
type Life = (String, u64);

fn life(alert: &Alert) -> Life {
    (alert.breach.fingerprint.clone(), alert.breach.firing_unix_ns)
}

#[derive(Debug)]
struct Change {
    /// Tells it from one that took its place while it was on its way.
    number: u64,
    since: Instant,
    alert: Arc<Alert>,
}

/// Changes that the target was never told of, and never will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// More than [`MAX_WAITING`] waited. As with what expired, what fires all the same is told later, and not counted.
    pub(super) full: u64,
    /// It waited for [`MAX_AGE`].
    pub(super) expired: u64,
    /// The target said that it does not take it.
    pub(super) refused: u64,
    /// More changes came at once than the stream of them holds. What fires is found by comparing; only what fired and ended meanwhile is never told.
    pub(super) missed: u64,
}

/// What goes into one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) alerts: Vec<Arc<Alert>>,
    /// (place, number) of each.
    changes: Vec<(u64, u64)>,
}

impl Outbox {
    pub(super) fn firing(&self) -> usize {
        self.firing.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.changes.len() + self.untold.len()
    }

    /// Takes over a change, or what is known already. `make`: the alert of a breach that begins to fire; `None`: nobody is to be told of it.
    pub(super) fn note(&mut self, breach: Breach, make: impl FnOnce(Breach) -> Option<Alert>, now: Instant) {
        let known = self.firing.get(&breach.fingerprint).cloned();
        match (breach.state(), known) {
            (BreachState::Firing, Some(known)) if known.breach.firing_unix_ns == breach.firing_unix_ns => {
                // The same, as it is by now.
                let fingerprint = breach.fingerprint.clone();
                self.firing.insert(fingerprint, Arc::new(known.with(breach)));
            }
            (BreachState::Firing, known) => {
                // It fires anew: that it ended meanwhile was missed.
                if let Some(known) = known {
                    self.resolve(&known, breach.firing_unix_ns, now);
                }
                if let Some(alert) = make(breach) {
                    let alert = Arc::new(alert);
                    self.firing
                        .insert(alert.breach.fingerprint.clone(), Arc::clone(&alert));
                    self.change(alert, now);
                }
            }
            (BreachState::Resolved, Some(known)) if known.breach.firing_unix_ns == breach.firing_unix_ns => {
                self.firing.remove(&breach.fingerprint);
                self.change(Arc::new(known.with(breach)), now);
            }
            // Pending is nobody's business yet, and what was never told needs no end.
            _ => {}
        }
    }

    /// Compares with what lives by the judge's own word.
    pub(super) fn reconcile(
        &mut self,
        live: Vec<Breach>,
        make: impl Fn(Breach) -> Option<Alert>,
        now: Instant,
        now_unix_ns: u64,
    ) {
        let fires = |breach: &Breach| breach.state() == BreachState::Firing;
        let there: BTreeSet<String> = live
            .iter()
            .filter(|breach| fires(breach))
            .map(|breach| breach.fingerprint.clone())
            .collect();
        let gone = self
            .firing
            .values()
            .filter(|alert| !there.contains(&alert.breach.fingerprint));
        let gone: Vec<_> = gone.cloned().collect();
        for alert in gone {
            self.resolve(&alert, now_unix_ns, now);
        }
        for breach in live.into_iter().filter(fires) {
            self.note(breach, &make, now);
        }
    }

    fn resolve(&mut self, known: &Alert, at_unix_ns: u64, now: Instant) {
        self.firing.remove(&known.breach.fingerprint);
        let mut breach = known.breach.clone();
        breach.state = BreachState::Resolved.into();
        breach.resolved_unix_ns = at_unix_ns;
        self.change(Arc::new(known.with(breach)), now);
    }

    fn change(&mut self, alert: Arc<Alert>, now: Instant) {
        self.untold.remove(&alert.breach.fingerprint);
        self.number += 1;
        let number = self.number;
        // Its end says all that its beginning would have said.
        let place = self.places.get(&life(&alert));
        if let Some(same) = place.and_then(|place| self.changes.get_mut(place)) {
            (same.number, same.alert) = (number, alert);
            return;
        }
        if self.changes.len() >= MAX_WAITING
            && let Some(oldest) = self.take_oldest(|_| true)
            && !self.still_fires(&oldest)
        {
            self.lost.full += 1;
        }
        self.places.insert(life(&alert), number);
        let change = Change {
            number,
            since: now,
            alert,
        };
        self.changes.insert(number, change);
    }

    fn take_oldest(&mut self, is_due: impl Fn(&Change) -> bool) -> Option<Change> {
        let oldest = self.changes.first_entry()?;
        if !is_due(oldest.get()) {
            return None;
        }
        let change = oldest.remove();
        self.places.remove(&life(&change.alert));
        Some(change)
    }

    /// Whether what is taken out of the queue has to come back into it: it is not over, and the target knows nothing of it.
    fn still_fires(&mut self, change: &Change) -> bool {
        let fingerprint = &change.alert.breach.fingerprint;
        let fires = self
            .firing
            .get(fingerprint)
            .is_some_and(|a| a.is_same_life(&change.alert));
        if fires {
            self.untold.insert(fingerprint.clone());
        }
        fires
    }

    /// All that fires is told again, in turn: what still waits to be keeps its place.
    pub(super) fn repeat(&mut self) {
        let firing = &self.firing;
        self.repeats
            .retain(|fingerprint| firing.contains_key(fingerprint));
        let queued: BTreeSet<&String> = self.repeats.iter().collect();
        let new = firing.keys().filter(|fingerprint| !queued.contains(fingerprint));
        let new: Vec<_> = new.cloned().collect();
        self.repeats.extend(new);
    }

    /// Up to `most` alerts: changes, and what has to be repeated, which has its share however much changes. `None`: there is nothing to tell.
    pub(super) fn batch(&mut self, most: usize, now: Instant) -> Option<Batch> {
        self.expire(now);
        let mut batch = Batch::default();
        let repeated = self.repeats.len().min(most / REPEATED);
        for (place, change) in self.changes.iter().take(most - repeated) {
            batch.alerts.push(Arc::clone(&change.alert));
            batch.changes.push((*place, change.number));
        }
        if self.repeats.is_empty() {
            return (!batch.alerts.is_empty()).then_some(batch);
        }
        // What waits as a change is not repeated before it was told once.
        let waiting: BTreeSet<&str> = self.places.keys().map(|(name, _)| name.as_str()).collect();
        while batch.alerts.len() < most
            && let Some(fingerprint) = self.repeats.pop_front()
        {
            if !waiting.contains(fingerprint.as_str()) {
                batch.alerts.extend(self.firing.get(&fingerprint).cloned());
            }
        }
        (!batch.alerts.is_empty()).then_some(batch)
    }

    /// Changes that waited for too long go. Of them, what fires all the same begins to wait anew.
    fn expire(&mut self, now: Instant) {
        let old = |c: &Change| now.saturating_duration_since(c.since) > MAX_AGE;
        while let Some(oldest) = self.take_oldest(old) {
            if !self.still_fires(&oldest) {
                self.lost.expired += 1;
            }
        }
        while self.changes.len() < MAX_WAITING
            && let Some(fingerprint) = self.untold.pop_first()
        {
            if let Some(alert) = self.firing.get(&fingerprint).cloned() {
                self.change(alert, now);
            }
        }
    }

    /// The target has taken it.
    pub(super) fn accepted(&mut self, batch: &Batch) {
        self.drop_changes(batch);
    }

    /// The target will not take it, however often it is told.
    pub(super) fn refused(&mut self, batch: &Batch) {
        self.lost.refused += self.drop_changes(batch);
    }

    fn drop_changes(&mut self, batch: &Batch) -> u64 {
        let before = self.changes.len();
        for (place, number) in &batch.changes {
            // One that took its place meanwhile was not told yet.
            if let Entry::Occupied(told) = self.changes.entry(*place)
                && told.get().number == *number
            {
                self.places.remove(&life(&told.remove().alert));
            }
        }
        (before - self.changes.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_aggregator_core::policy::alerts::Severity;
    use partywall_proto::v1::BreachKind;

    fn breach(name: &str, state: BreachState, fired: u64) -> Breach {
        Breach {
            fingerprint: name.to_owned(),
            kind: BreachKind::NoisyNeighbour.into(),
            state: state.into(),
            firing_unix_ns: fired,
            ..Breach::default()
        }
    }

    fn make(breach: Breach) -> Option<Alert> {
        Alert::new(breach, Severity::Warning)
    }

    fn told(batch: Option<Batch>) -> Vec<String> {
        let alerts = batch.map(|b| b.alerts).unwrap_or_default();
        let one = |alert: &Arc<Alert>| {
            let state = if alert.is_firing() { "fires" } else { "ended" };
            format!(
                "{} {state} {}",
                alert.breach.fingerprint, alert.breach.firing_unix_ns
            )
        };
        alerts.iter().map(one).collect()
    }

    #[test]
    fn a_change_waits_until_it_is_taken_and_its_end_takes_its_place() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.note(breach("a", BreachState::Pending, 0), make, now);
        outbox.note(breach("a", BreachState::Resolved, 0), make, now);
        assert!(outbox.batch(10, now).is_none(), "it never fired");
        outbox.note(breach("a", BreachState::Firing, 5), make, now);
        let first = outbox.batch(10, now).unwrap();
        assert_eq!(told(outbox.batch(10, now)), ["a fires 5"], "until it is taken");
        outbox.note(breach("a", BreachState::Resolved, 5), make, now);
        outbox.accepted(&first);
        assert_eq!(
            told(outbox.batch(10, now)),
            ["a ended 5"],
            "that was on its way meanwhile"
        );
        outbox.note(breach("a", BreachState::Firing, 9), make, now);
        assert_eq!(
            told(outbox.batch(10, now)),
            ["a ended 5", "a fires 9"],
            "two lives"
        );
        assert_eq!(outbox.firing(), 1);
    }

    #[test]
    fn what_fires_is_repeated_and_what_changes_comes_first() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c"] {
            outbox.note(breach(name, BreachState::Firing, 1), make, now);
        }
        let all = outbox.batch(10, now).unwrap();
        outbox.accepted(&all);
        assert!(outbox.batch(10, now).is_none());
        outbox.repeat();
        outbox.note(breach("b", BreachState::Resolved, 1), make, now);
        let first = outbox.batch(2, now).unwrap();
        outbox.accepted(&first);
        assert_eq!(
            told(Some(first)),
            ["b ended 1", "a fires 1"],
            "and fills what is left"
        );
        assert_eq!(told(outbox.batch(2, now)), ["c fires 1"]);
        assert!(outbox.batch(10, now).is_none());
    }

    /// Fires and is told.
    fn firing(names: &[&str], now: Instant) -> Outbox {
        let mut outbox = Outbox::default();
        for name in names {
            outbox.note(breach(name, BreachState::Firing, 1), make, now);
        }
        let all = outbox.batch(names.len(), now).unwrap();
        outbox.accepted(&all);
        outbox
    }

    #[test]
    fn what_fires_is_repeated_while_changes_keep_coming() {
        let now = Instant::now();
        let mut outbox = firing(&["a", "b", "c"], now);
        outbox.repeat();
        let mut repeated = Vec::new();
        for n in 0..3 {
            // More than a request holds, each time.
            for m in 0..4 {
                outbox.note(breach(&format!("x{n}{m}"), BreachState::Firing, 1), make, now);
            }
            let batch = outbox.batch(4, now).unwrap();
            assert!(batch.alerts.len() == 4 && batch.changes.len() >= 2, "{batch:?}");
            outbox.accepted(&batch);
            let told = told(Some(batch));
            repeated.extend(told.into_iter().filter(|one| !one.starts_with('x')));
        }
        assert_eq!(repeated, ["a fires 1", "b fires 1", "c fires 1"]);
        // What is a change in the same request is not in it twice.
        outbox.repeat();
        let batch = outbox.batch(100, now).unwrap();
        let mut told = told(Some(batch));
        told.sort();
        let count = told.len();
        told.dedup();
        assert_eq!((told.len(), count), (15, 15), "{told:?}");
    }

    #[test]
    fn who_is_slow_is_told_of_all_in_turn() {
        let now = Instant::now();
        let mut outbox = firing(&["a", "b", "c", "d", "e"], now);
        let mut repeated = Vec::new();
        for _ in 0..3 {
            // It is time to repeat before the last round is through.
            outbox.repeat();
            repeated.extend(told(outbox.batch(2, now)));
        }
        let names: Vec<_> = repeated.iter().map(|one| &one[..1]).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e", "a"]);
        outbox.note(breach("b", BreachState::Resolved, 1), make, now);
        outbox.repeat();
        assert_eq!(
            outbox.repeats,
            ["c", "d", "a", "e"],
            "once each, and nothing that is over"
        );
    }

    #[test]
    fn what_was_missed_is_found_by_comparing() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for name in ["a", "b", "c"] {
            outbox.note(breach(name, BreachState::Firing, 1), make, now);
        }
        let all = outbox.batch(10, now).unwrap();
        outbox.accepted(&all);
        // b ended, c ended and fires anew, d is new; e only pends.
        let live = vec![
            breach("a", BreachState::Firing, 1),
            breach("c", BreachState::Firing, 7),
            breach("d", BreachState::Firing, 8),
            breach("e", BreachState::Pending, 0),
        ];
        outbox.reconcile(live, make, now, 9);
        let batch = outbox.batch(10, now).unwrap();
        assert_eq!(batch.alerts[0].breach.resolved_unix_ns, 9);
        assert_eq!(
            told(Some(batch)),
            ["b ended 1", "c ended 1", "c fires 7", "d fires 8"]
        );
    }

    #[test]
    fn everything_is_bounded_and_what_goes_is_counted() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for n in 0..MAX_WAITING + 2 {
            let name = format!("{n:06}");
            outbox.note(breach(&name, BreachState::Firing, 1), make, now);
            outbox.note(breach(&name, BreachState::Resolved, 1), make, now);
        }
        assert_eq!((outbox.waiting(), outbox.lost.full), (MAX_WAITING, 2));
        let refused = outbox.batch(3, now).unwrap();
        outbox.refused(&refused);
        assert_eq!(outbox.lost.refused, 3);
        let later = now + MAX_AGE + Duration::from_secs(1);
        assert!(outbox.batch(3, later).is_none());
        assert_eq!(outbox.lost.expired, (MAX_WAITING - 3) as u64);
        assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn what_fires_and_was_never_taken_waits_until_it_is_or_ends() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.note(breach("a", BreachState::Firing, 1), make, now);
        outbox.note(breach("b", BreachState::Firing, 1), make, now);
        outbox.note(breach("c", BreachState::Firing, 1), make, now);
        outbox.note(breach("c", BreachState::Resolved, 1), make, now);
        let later = now + MAX_AGE + Duration::from_secs(1);
        assert_eq!(told(outbox.batch(10, later)), ["a fires 1", "b fires 1"]);
        assert_eq!(outbox.lost.expired, 1, "c, which is over");
        outbox.note(breach("a", BreachState::Resolved, 1), make, later);
        let taken = outbox.batch(10, later).unwrap();
        outbox.accepted(&taken);
        assert_eq!(told(Some(taken)), ["a ended 1", "b fires 1"]);
        let latest = later + MAX_AGE * 2;
        assert!(outbox.batch(10, latest).is_none(), "told once");
        assert_eq!((outbox.waiting(), outbox.lost.expired), (0, 1));
    }

    #[test]
    fn what_there_was_no_room_for_is_told_when_there_is() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for n in 0..MAX_WAITING + 2 {
            outbox.note(breach(&format!("{n:06}"), BreachState::Firing, 1), make, now);
        }
        assert_eq!(
            (outbox.changes.len(), outbox.waiting()),
            (MAX_WAITING, MAX_WAITING + 2)
        );
        let mut seen = BTreeSet::new();
        while let Some(batch) = outbox.batch(1_000, now) {
            outbox.accepted(&batch);
            seen.extend(told(Some(batch)));
        }
        assert_eq!(seen.len(), MAX_WAITING + 2);
        assert_eq!(outbox.lost, Lost::default());
    }

    #[test]
    fn nobody_is_told_of_what_the_policy_keeps_back() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.note(breach("a", BreachState::Firing, 1), |_| None, now);
        outbox.note(breach("a", BreachState::Resolved, 1), make, now);
        assert!(outbox.batch(10, now).is_none());
    }
}
