//! One end's record of a flow.

use std::sync::Arc;

use super::ends::End;
use super::totals::Verdict;
use crate::node::slot::Kind;
use crate::report::{Flow, Role, Traffic};
use crate::trail::Moments;
use crate::world::Now;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) node: Arc<str>,
    pub(super) flow: Flow,
    pub(super) owner: Kind,
    now: Traffic,
    base: Seldom,
    /// The aggregator's monotonic clock when its agent read it first and last.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) first_unix_ns: u64,
    pub(super) last_unix_ns: u64,
    /// The aggregator's monotonic clock.
    pub(super) ended_ns: Option<u64>,
    pub(super) queued: bool,
    /// Grew, and was not judged yet: since when, on the aggregator's monotonic clock.
    pub(super) waits_since_ns: Option<u64>,
    /// What was not judged yet happened after this; the aggregator's monotonic clock.
    pub(super) grew_after_ns: u64,
    /// When that was, for the trail.
    pub(super) moments: Moments,
    /// A receiver's: when its opener's record grew, which is judged with it.
    pub(super) theirs: Moments,
    /// What of it is in the totals under this record, and under the records of its receivers; from the opener's side, above `base`.
    pub(super) counted: Traffic,
    pub(super) matched: Seldom,
    /// Everything as of the last judgement, from the opener's side, with what only the opener knows.
    pub(super) marks: Traffic,
    /// A receiver's: its opener.
    pub(super) partner: Option<u32>,
    /// A receiver's: when its opener was last heard of, as of the last judgement.
    pub(super) opener_ns: u64,
    /// A receiver's: what the opener's own record said, as of the last judgement. An opener's is `marks`.
    pub(super) told: Seldom,
    /// The flow is counted and shown by this record, not by the other end's.
    pub(super) primary: bool,
    /// A connection was made against the policies in force.
    pub(super) leaked: bool,
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
#[derive(Clone, Copy, Debug, Default)]
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
            base: Seldom::default(),
            first_ns: at_ns,
            last_ns: at_ns,
            first_unix_ns: unix_ns,
            last_unix_ns: unix_ns,
            ended_ns: None,
            queued: false,
            waits_since_ns: None,
            grew_after_ns: 0,
            moments: Moments::default(),
            theirs: Moments::default(),
            counted: Traffic::default(),
            matched: Seldom::default(),
            marks: Traffic::default(),
            partner: None,
            opener_ns: 0,
            told: Seldom::default(),
            primary: false,
            leaked: false,
            judged: None,
            rate: Rate {
                marks: [(at_ns, 0); 2],
            },
        }
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
            self.moments.push(moment);
        }
        if let Some(base) = base {
            self.base.set(base);
            let bytes = base.bytes();
            self.rate.marks = [(at_ns, bytes); 2];
        }
        self.now = to;
        self.last_ns = at_ns;
        self.last_unix_ns = unix_ns;
        if self.waits_since_ns.is_none() {
            self.waits_since_ns = Some(now.mono_ns);
            self.grew_after_ns = from_ns;
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
            Role::Opened | Role::Unknown => self.now.less(&self.base.get()),
            Role::Accepted => self.now.less(&self.base.get()).turned(),
        }
    }

    /// Keeps two moments of which the older is half a window to a whole one ago.
    pub(super) fn mark_rate(&mut self, now_ns: u64, window_ns: u64) {
        if now_ns.saturating_sub(self.rate.marks[1].0) >= window_ns / 2 {
            self.rate.marks = [self.rate.marks[1], (now_ns, self.now.bytes())];
        }
    }

    /// Bytes per second over the window.
    pub(super) fn rate(&self, now_ns: u64, window_ns: u64) -> f64 {
        if now_ns.saturating_sub(self.last_ns) > window_ns {
            return 0.0;
        }
        let (at_ns, bytes) = self.rate.marks[0];
        let over = now_ns.saturating_sub(at_ns).max(window_ns / 2).max(1);
        self.now.bytes().saturating_sub(bytes) as f64 * 1e9 / over as f64
    }
}
