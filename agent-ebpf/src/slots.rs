//! cgroup id → slot.

use aya_ebpf::bindings::BPF_NOEXIST;
use partywall_abi::{CACHE, LossReason, SLOT_NONE};
use partywall_ebpf::cache;

use crate::losses::{lose, not_inserted};
use crate::maps::{FREE, OWNERS, SLOT_CACHE, SLOT_OF};

/// The slot of a cgroup; a new one's is taken from those free. [`SLOT_NONE`] when none is.
#[inline(always)]
pub(crate) fn slot_of(cpu_index: u32, id: u64) -> u16 {
    let Some(words) = SLOT_CACHE.get_ptr_mut(0) else {
        lose(cpu_index, LossReason::Unreachable);
        return SLOT_NONE;
    };
    // SAFETY: both indices are below CACHE. Volatile, because other CPUs write: one word is read or written whole.
    unsafe {
        let home = words.cast::<u64>().add(cache::first(id) & (CACHE - 1));
        if let Some(slot) = cache::slot_in(home.read_volatile(), id) {
            return slot;
        }
        let other = words
            .cast::<u64>()
            .add(cache::second(cache::first(id)) & (CACHE - 1));
        if let Some(slot) = cache::slot_in(other.read_volatile(), id) {
            return slot;
        }
        let slot = find_or_assign(cpu_index, id);
        if slot != SLOT_NONE {
            // First come stays: two cgroups of one place would otherwise write to it at every switch.
            if home.read_volatile() == 0 {
                home.write_volatile(cache::entry(id, slot));
            } else if other.read_volatile() == 0 {
                other.write_volatile(cache::entry(id, slot));
            }
        }
        slot
    }
}

/// Not inlined: it runs once per cgroup, and would cost the switch its registers.
#[inline(never)]
fn find_or_assign(cpu_index: u32, id: u64) -> u16 {
    // SAFETY: the value is copied at once.
    if let Some(slot) = unsafe { SLOT_OF.get(id) } {
        return *slot as u16;
    }
    let Ok(Some(slot)) = FREE.pop() else {
        lose(cpu_index, LossReason::NoSlot);
        return SLOT_NONE;
    };
    match SLOT_OF.insert(id, slot, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            match OWNERS.get_ptr_mut(slot) {
                // SAFETY: an element of the map; the slot is this cgroup's alone.
                Some(owner) => unsafe { owner.write_volatile(id) },
                None => lose(cpu_index, LossReason::Unreachable),
            }
            slot as u16
        }
        Err(error) => {
            // Another CPU was first, or the map refused. The slot is nobody's in either case.
            let _ = FREE.push(slot, 0);
            not_inserted(cpu_index, error, LossReason::SlotInsert);
            // SAFETY: as above.
            unsafe { SLOT_OF.get(id) }.map_or(SLOT_NONE, |slot| *slot as u16)
        }
    }
}
