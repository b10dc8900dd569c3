//! What became of a flow since it was last judged: did anything arrive?

use crate::limits::NS_PER_S;
use crate::report::Traffic;

/// What was begun may still be answered, or be told of by the receiver's agent, for this long.
pub(super) const GRACE_NS: u64 = 2 * NS_PER_S;
pub(super) const TCP: u8 = 6;
/// No packet of a handshake or of its refusal is larger: two headers with all options. A flow whose packets are, on average, has data in it.
const BARE_BYTES: u64 = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A connection was made, or a packet arrived.
    Delivered,
    /// More came over connections made before.
    Continues,
    /// Begun, and came to nothing.
    Failed,
    /// Nothing that was seen tells whether it arrived.
    Unseen,
    /// Some packets, but nothing was begun by them: as it was.
    Nothing,
    /// Too early to say.
    Wait,
}

/// What is known of a flow, from the opener's side.
pub(super) struct Seen {
    pub(super) protocol: u8,
    pub(super) now: Traffic,
    /// At the last judgement.
    pub(super) before: Traffic,
    /// What the opener's own record says, then and now; nothing where none is about this flow alone. What the receiver has as established may be older
    /// than that record, and would hide what fails.
    pub(super) told: Traffic,
    pub(super) told_before: Traffic,
    /// `now.sent_packets` is what the receiver's end got.
    pub(super) by_receiver: bool,
    /// The receiver's agent would have told.
    pub(super) receiver_is_covered: bool,
    /// An agent may still tell of what would be taken for a failure.
    pub(super) patient: bool,
    /// `now.opened` is all that was begun.
    pub(super) opener_tells: bool,
    /// The opener goes on, and the receiver has heard nothing for a while.
    pub(super) in_vain: bool,
}

impl Seen {
    pub(super) fn outcome(&self) -> Outcome {
        let grown = self.now.less(&self.before);
        let told = self.told.less(&self.told_before);
        let arrived = if self.by_receiver {
            grown.sent_packets
        } else {
            grown.received_packets
        };
        let unless_patient = |outcome| if self.patient { Outcome::Wait } else { outcome };
        if self.protocol != TCP {
            // Its agent would have told, and nothing came back.
            let in_vain = self.in_vain && self.receiver_is_covered && told.received_packets == 0;
            return match (arrived > 0, grown.sent_packets > 0) {
                (true, _) => Outcome::Delivered,
                (false, false) if !(self.by_receiver && in_vain) => Outcome::Nothing,
                _ if self.receiver_is_covered => unless_patient(Outcome::Failed),
                _ => unless_patient(Outcome::Unseen),
            };
        }
        if grown.established > 0 {
            Outcome::Delivered
        } else if (arrived > 0 && carries_data(&grown)) || (told.received_packets > 0 && carries_data(&told))
        {
            // Whatever failed beside it, this came through, and its bytes are not those of the failure.
            Outcome::Continues
        } else if grown.refused > 0 || grown.timed_out > 0 {
            Outcome::Failed
        } else if pending(&self.told) > pending(&self.told_before) {
            // Not by what was opened: the receiver may have told before of the very connection.
            unless_patient(Outcome::Failed)
        } else if arrived > 0 && self.is_connected() {
            Outcome::Continues
        } else if self.before == Traffic::default() {
            unless_patient(Outcome::Unseen)
        } else {
            Outcome::Nothing
        }
    }

    /// A handshake was seen, or there is more in it than one: it was before the agent's time, or before the flow rested.
    fn is_connected(&self) -> bool {
        let t = &self.now;
        // Both ways, and the opener began nothing and was refused nothing: a connection that was there before this record.
        let older = self.opener_tells && t.opened == 0 && t.refused == 0;
        t.established > 0 || carries_data(t) || (older && t.sent_packets > 0 && t.received_packets > 0)
    }

    /// Something of it was ever delivered.
    pub(super) fn is_delivered(&self) -> bool {
        if self.protocol == TCP {
            return self.is_connected();
        }
        if self.by_receiver {
            self.now.sent_packets > 0
        } else {
            self.now.received_packets > 0
        }
    }

    /// The same of what moved now. That a connection was made once does not tell whether its packets still arrive.
    pub(super) fn passes(&self, outcome: Outcome) -> bool {
        let in_vain = self.protocol == TCP
            && outcome == Outcome::Nothing
            && self.told.less(&self.told_before).received_packets == 0;
        self.is_delivered() && !in_vain
    }
}

/// Connections begun of which it is not known yet what became of them.
fn pending(t: &Traffic) -> u64 {
    let known = t
        .established
        .saturating_add(t.refused)
        .saturating_add(t.timed_out);
    t.opened.saturating_sub(known)
}

fn carries_data(t: &Traffic) -> bool {
    t.bytes() > BARE_BYTES.saturating_mul(t.packets())
}
