//! One end's record of a flow.

use std::sync::Arc;

use super::ends::End;
use super::totals::Verdict;
use crate::node::slot::Kind;
use crate::report::{Flow, Role, Traffic};
use crate::trail::Moments;
use crate::world::Now;

/// There are hundreds of thousands: what only some have is boxed, and what is equal is kept once. A test holds the sizes.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) node: Arc<str>,
    pub(super) flow: Flow,
    pub(super) owner: Kind,
    now: Traffic,
    /// What of it is from before this aggregator.
    base: Option<Box<Base>>,
    /// The aggregator's monotonic clock when its agent read it first and last.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) first_unix_ns: u64,
    pub(super) last_unix_ns: u64,
    /// The aggregator's monotonic clock; `u64::MAX`: goes on.
    ended_ns: u64,
    /// What was not judged yet happened after this; the aggregator's monotonic clock.
    pub(super) grew_after_ns: u64,
    /// Between its growth and its judgement.
    unjudged: Option<Box<Unjudged>>,
    /// What of it is in the totals under this record; from the opener's side, above `base`. `None`: as it was settled, or nothing, which it mostly is.
    counted: Option<Box<Traffic>>,
    /// The same under the records of its receivers.
    pub(super) matched: Seldom,
    /// Of what is judged by this record; an opener's whose receivers tell is not.
    settled: Option<Box<Settled>>,
    /// Judged by its receivers' records: its marks are its view as of that.
    handed_over: bool,
    pub(super) queued: bool,
    /// The flow is counted and shown by this record, not by the other end's.
    pub(super) primary: bool,
    /// A connection was made against the policies in force.
    pub(super) leaked: bool,
}

#[derive(Debug)]
struct Base {
    traffic: Traffic,
    /// When it stood there, on the aggregator's monotonic clock.
    at_ns: u64,
}

/// What waits for its judgement.
#[derive(Debug, Default)]
struct Unjudged {
    /// Grew, and was not judged yet: since when, on the aggregator's monotonic clock.
    since_ns: Option<u64>,
    /// When that was, for the trail.
    moments: Moments,
    /// A receiver's: when its opener's record grew, which is judged with it.
    theirs: Moments,
    /// Marks of what was handed over and grew since.
    marks: Option<Traffic>,
}

/// As of the last judgement.
#[derive(Debug)]
pub(super) struct Settled {
    /// Everything, from the opener's side, with what only the opener knows.
    marks: Traffic,
    /// A receiver's: what the opener's own record said. An opener's is its marks.
    pub(super) told: Seldom,
    /// A receiver's: its opener.
    pub(super) partner: Option<u32>,
    /// A receiver's: when its opener was last heard of.
    pub(super) opener_ns: u64,
    pub(super) judged: Option<Judged>,
    rate: Rate,
}

/// Traffic that most flows have none of: it takes no room then, and there are hundreds of thousands.
#[derive(Debug, Default)]
pub(super) struct Seldom(Option<Box<Traffic>>);

impl Seldom {
    pub(super) fn get(&self) -> Traffic {
        self.0.as_deref().copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, traffic: Traffic) {
        match &mut self.0 {
            Some(held) => **held = traffic,
            None if traffic == Traffic::default() => {}
            none => *none = Some(Box::new(traffic)),
        }
    }
}

/// What was last said of a flow.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) verdict: Verdict,
    pub(super) reason: Arc<str>,
    pub(super) delivered: bool,
}

/// Bytes at two moments, half a window and more apart.
#[derive(Clone, Copy, Debug)]
struct Rate {
    marks: [(u64, u64); 2],
}

impl Record {
    pub(super) fn new(node: Arc<str>, flow: Flow, owner: Kind, at_ns: u64, unix_ns: u64) -> Self {
        Self {
            node,
            flow,
            owner,
            now: Traffic::default(),
            base: None,
            first_ns: at_ns,
            last_ns: at_ns,
            first_unix_ns: unix_ns,
            last_unix_ns: unix_ns,
            ended_ns: u64::MAX,
            grew_after_ns: 0,
            unjudged: None,
            counted: None,
            matched: Seldom::default(),
            settled: None,
            handed_over: false,
            queued: false,
            primary: false,
            leaked: false,
        }
    }

    /// The aggregator's monotonic clock.
    pub(super) fn ended_ns(&self) -> Option<u64> {
        (self.ended_ns != u64::MAX).then_some(self.ended_ns)
    }

    pub(super) fn end(&mut self, at_ns: u64) {
        self.ended_ns = at_ns;
    }

    /// Grew between `from_ns` and `at_ns`: in one of the slots of `moment`.
    #[expect(clippy::too_many_arguments, reason = "one caller")]
    pub(super) fn grow(
        &mut self,
        to: Traffic,
        base: Option<Traffic>,
        from_ns: u64,
        at_ns: u64,
        unix_ns: u64,
        moment: Option<(u64, u64)>,
        now: Now,
    ) {
        let before = base.unwrap_or(self.now);
        // What was given up or reset by a clock alone is no traffic.
        let moved = to.packets() > before.packets() || to.opened > before.opened;
        if let Some(moment) = moment.filter(|_| moved) {
            self.waiting().moments.push(moment);
        }
        if let Some(base) = base {
            self.base = Some(Box::new(Base { traffic: base, at_ns }));
            let rate = self.begun();
            self.settled.iter_mut().for_each(|settled| settled.rate = rate);
        }
        if self.handed_over {
            let marks = self.marks();
            self.waiting().marks = Some(marks);
        }
        self.now = to;
        self.last_ns = at_ns;
        self.last_unix_ns = unix_ns;
        if self.waits_since_ns().is_none() {
            self.wait_since(Some(now.mono_ns));
            self.grew_after_ns = from_ns;
        }
    }

    fn waiting(&mut self) -> &mut Unjudged {
        self.unjudged.get_or_insert_default()
    }

    /// Grew, and was not judged yet: since when, on the aggregator's monotonic clock.
    pub(super) fn waits_since_ns(&self) -> Option<u64> {
        self.unjudged.as_ref()?.since_ns
    }

    /// Waits from then on, if it does not wait already.
    pub(super) fn wait_since(&mut self, since_ns: Option<u64>) {
        if since_ns.is_some() {
            let waiting = self.waiting();
            waiting.since_ns = waiting.since_ns.or(since_ns);
        }
    }

    /// Was judged.
    pub(super) fn rest(&mut self) {
        if let Some(waiting) = &mut self.unjudged {
            waiting.since_ns = None;
        }
        self.unjudged = self
            .unjudged
            .take()
            .filter(|w| !w.moments.is_empty() || !w.theirs.is_empty() || w.marks.is_some());
    }

    /// When it grew, and when its opener did.
    pub(super) fn moments(&self) -> impl Iterator<Item = &Moments> {
        self.unjudged.iter().flat_map(|w| [&w.moments, &w.theirs])
    }

    pub(super) fn take_moments(&mut self) -> (Moments, Moments) {
        let both = |w: &mut Box<Unjudged>| (w.moments.take(), w.theirs.take());
        self.unjudged.as_mut().map(both).unwrap_or_default()
    }

    /// When it grew alone.
    pub(super) fn take_own_moments(&mut self) -> Moments {
        let own = |w: &mut Box<Unjudged>| w.moments.take();
        self.unjudged.as_mut().map(own).unwrap_or_default()
    }

    /// Its opener grew.
    pub(super) fn add_theirs(&mut self, grew: &Moments) {
        if !grew.is_empty() {
            self.waiting().theirs.add(grew);
        }
    }

    /// As of the last judgement by this record, if there was one.
    pub(super) fn settled(&self) -> Option<&Settled> {
        self.settled.as_deref()
    }

    pub(super) fn settle(&mut self) -> &mut Settled {
        let (marks, counted, rate) = (self.marks(), self.counted(), self.begun());
        if self.settled.is_none() {
            self.handed_over = false;
            self.unjudged.iter_mut().for_each(|w| w.marks = None);
            self.counted = (counted != marks).then(|| Box::new(counted));
        }
        self.settled.get_or_insert_with(|| {
            Box::new(Settled {
                marks,
                told: Seldom::default(),
                partner: None,
                opener_ns: 0,
                judged: None,
                rate,
            })
        })
    }

    pub(super) fn judged(&self) -> Option<&Judged> {
        self.settled()?.judged.as_ref()
    }

    pub(super) fn partner(&self) -> Option<u32> {
        self.settled()?.partner
    }

    /// Everything as of the last judgement, from the opener's side, with what only the opener knows.
    pub(super) fn marks(&self) -> Traffic {
        match &self.settled {
            Some(settled) => settled.marks,
            None if self.handed_over => {
                let before = self.unjudged.as_ref().and_then(|w| w.marks);
                before.unwrap_or_else(|| self.view())
            }
            None => Traffic::default(),
        }
    }

    pub(super) fn set_marks(&mut self, marks: Traffic) {
        let counted = self.counted();
        self.settle().marks = marks;
        self.set_counted(counted);
    }

    /// Its receivers' records are judged instead, up to now.
    pub(super) fn hand_over(&mut self) {
        self.primary = false;
        if self.settled.is_some() {
            self.set_marks(self.view());
        } else {
            self.handed_over = true;
            self.unjudged.iter_mut().for_each(|w| w.marks = None);
        }
    }

    /// What of it is in the totals under this record; from the opener's side, above `base`.
    pub(super) fn counted(&self) -> Traffic {
        match &self.counted {
            Some(counted) => **counted,
            None => self.settled().map_or_else(Traffic::default, |s| s.marks),
        }
    }

    pub(super) fn set_counted(&mut self, counted: Traffic) {
        self.counted = None;
        if counted != self.counted() {
            self.counted = Some(Box::new(counted));
        }
    }

    /// All that it counted, from the opener's side.
    pub(super) fn view(&self) -> Traffic {
        match self.flow.role {
            Role::Opened | Role::Unknown => self.now,
            Role::Accepted => self.now.turned(),
        }
    }

    /// The same, as far as it was counted under this aggregator.
    pub(super) fn above_base(&self) -> Traffic {
        match self.flow.role {
            Role::Opened | Role::Unknown => self.now.less(&self.base()),
            Role::Accepted => self.now.less(&self.base()).turned(),
        }
    }

    fn base(&self) -> Traffic {
        self.base
            .as_ref()
            .map_or_else(Traffic::default, |base| base.traffic)
    }

    /// Where its rate begins.
    fn begun(&self) -> Rate {
        let first = match &self.base {
            Some(base) => (base.at_ns, base.traffic.bytes()),
            None => (self.first_ns, 0),
        };
        Rate { marks: [first; 2] }
    }

    /// Keeps two moments of which the older is half a window to a whole one ago.
    pub(super) fn mark_rate(&mut self, now_ns: u64, window_ns: u64) {
        let bytes = self.now.bytes();
        let rate = &mut self.settle().rate;
        if now_ns.saturating_sub(rate.marks[1].0) >= window_ns / 2 {
            rate.marks = [rate.marks[1], (now_ns, bytes)];
        }
    }

    /// Bytes per second over the window.
    pub(super) fn rate(&self, now_ns: u64, window_ns: u64) -> f64 {
        if now_ns.saturating_sub(self.last_ns) > window_ns {
            return 0.0;
        }
        let rate = self.settled().map_or_else(|| self.begun(), |s| s.rate);
        let (at_ns, bytes) = rate.marks[0];
        let over = now_ns.saturating_sub(at_ns).max(window_ns / 2).max(1);
        self.now.bytes().saturating_sub(bytes) as f64 * 1e9 / over as f64
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// 256 and 320 are sizes that the allocator rounds up to: one byte more costs 64, and there may be 262,144.
    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 256, "{}", size_of::<Record>());
        assert!(size_of::<Settled>() <= 320, "{}", size_of::<Settled>());
    }

    fn sent(bytes: u64) -> Traffic {
        Traffic {
            sent_packets: bytes,
            sent_bytes: bytes,
            ..Traffic::default()
        }
    }

    proptest! {
        /// However they are kept, they are what was put there.
        #[test]
        fn marks_and_counts_are_kept(steps in vec((0..6u8, 0..4u64), 0..30)) {
            let flow = Flow {
                index: 1,
                entity: 1,
                local: IpAddr::from([10, 0, 0, 1]),
                peer: IpAddr::from([10, 0, 0, 2]),
                protocol: 6,
                port: 80,
                role: Role::Opened,
            };
            let mut record = Record::new(Arc::from("node"), flow, Kind::Host(Arc::from("/")), 1, 1);
            let (mut now, mut marks, mut counted) = (0, Traffic::default(), Traffic::default());
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        now += n;
                        record.grow(sent(now), None, 1, 2, 2, None, Now::default());
                    }
                    2 => {
                        marks = record.view();
                        record.hand_over();
                    }
                    3 => {
                        marks = sent(n);
                        record.set_marks(marks);
                    }
                    4 => {
                        counted = sent(n);
                        record.set_counted(counted);
                    }
                    _ => record.rest(),
                }
                prop_assert_eq!((record.marks(), record.counted()), (marks, counted));
            }
        }
    }
}
