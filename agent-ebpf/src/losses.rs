//! Counts what is discarded, by reason.

use partywall_abi::{LOSS_REASONS, LossReason};

use crate::maps::LOSSES;

const EEXIST: i32 = -17;

/// Counts that a hash did not take what was not in it yet. That another CPU was first is no loss.
#[inline(always)]
pub(crate) fn not_inserted(cpu_index: u32, error: i32, reason: LossReason) {
    if error != EEXIST {
        lose(cpu_index, reason);
    }
}

/// Counts one loss. Programs that may be interrupted can lose a count to the one that interrupts them, never more.
#[inline(always)]
pub(crate) fn lose(cpu_index: u32, reason: LossReason) {
    if let Some(count) = LOSSES.get_ptr_mut(cpu_index * LOSS_REASONS as u32 + reason as u32) {
        // SAFETY: an element of the map, written by this CPU alone.
        unsafe { *count += 1 };
    }
}
