//! Flows' places: found, handed out within each unit's share, and what stands in for one where there is none.

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id};
use partywall_abi::{
    FLOWS as FLOW_PLACES, FlowName, LossReason, NO_FLOW, ROLE_ACCEPTED, SOCKETS, TAKEN_FLOWS, TAKEN_SOCKETS,
    Traffic, UNIT_FLOWS, UNIT_FLOWS_KEPT, UNIT_SOCKETS, UNIT_SOCKETS_KEPT,
};

use crate::losses::not_inserted;
use crate::maps::{FLOW_FREE, FLOW_NAMES, FLOW_OF, FLOWS, TAKEN, UNIT_FREE, UNIT_OF, UNITS, add};

/// How deep below the cgroup root pods are told apart; what is deeper belongs to the cgroup there. Set by the agent before loading.
///
/// A pod may make cgroups of its own below its containers'. Were each a unit, its share would be without end.
#[unsafe(no_mangle)]
static UNIT_LEVEL: u32 = 0;

/// The unit's cgroup of the socket that a packet belongs to.
#[inline(always)]
pub(crate) fn cgroup_of(skb: *mut __sk_buff) -> u64 {
    // SAFETY: a helper on the program's own context; read as the agent set it.
    unsafe {
        let level = core::ptr::read_volatile(&raw const UNIT_LEVEL);
        match bpf_skb_ancestor_cgroup_id(skb, level as i32) {
            // It is not that deep.
            0 => bpf_skb_cgroup_id(skb),
            id => id,
        }
    }
}

/// The place of a flow that has one.
#[inline(always)]
pub(crate) fn find(name: &FlowName) -> Option<u32> {
    // SAFETY: the value is copied at once.
    unsafe { FLOW_OF.get(name) }.copied()
}

/// The place of a flow, a new one where it has none, or [`NO_FLOW`]: its unit has had its share.
#[inline(always)]
pub(crate) fn find_or_take(name: &FlowName) -> u32 {
    match find(name) {
        Some(place) => place,
        None => take(name),
    }
}

/// Not inlined: it runs once per flow.
#[inline(never)]
fn take(name: &FlowName) -> u32 {
    let unit = unit_of(name.cgroup);
    let (Some(unit_entry), Some(taken)) = (UNITS.get_ptr_mut(unit), TAKEN.get_ptr_mut(TAKEN_FLOWS)) else {
        return NO_FLOW;
    };
    if unit == 0 {
        return NO_FLOW;
    }
    // SAFETY: elements of maps; other CPUs add at the same time, so that a few places more may be taken than there should be.
    unsafe {
        let held = (&raw const (*unit_entry).flows).read_volatile();
        let plenty = taken.read_volatile() < FLOW_PLACES as u64 / 2;
        let share = if plenty { UNIT_FLOWS } else { UNIT_FLOWS_KEPT };
        let own = if name.role == ROLE_ACCEPTED { share / 4 } else { 0 };
        if held >= share - own {
            return NO_FLOW;
        }
    }
    let Ok(Some(place)) = FLOW_FREE.pop() else {
        return NO_FLOW;
    };
    let (Some(flow), Some(known)) = (FLOWS.get_ptr_mut(place), FLOW_NAMES.get_ptr_mut(place)) else {
        return NO_FLOW;
    };
    // SAFETY: elements of maps; until its name is in the hash the place is this CPU's alone. The cgroup is written last: it is what
    // the agent looks for.
    unsafe {
        (&raw mut (*flow).unit).write_volatile(unit);
        (&raw mut (*known).local).write_volatile(name.local);
        (&raw mut (*known).peer).write_volatile(name.peer);
        (&raw mut (*known).port).write_volatile(name.port);
        (&raw mut (*known).protocol).write_volatile(name.protocol);
        (&raw mut (*known).role).write_volatile(name.role);
    }
    match FLOW_OF.insert(name, place, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            // SAFETY: as above.
            unsafe {
                add(&raw mut (*unit_entry).flows, 1);
                add(taken, 1);
                (&raw mut (*known).cgroup).write_volatile(name.cgroup);
            }
            place
        }
        Err(error) => {
            // Another CPU was first, or the map refused. The place is nobody's in either case.
            let _ = FLOW_FREE.push(place, 0);
            // SAFETY: a helper without arguments.
            not_inserted(
                unsafe { bpf_get_smp_processor_id() },
                error,
                LossReason::FlowInsert,
            );
            find(name).unwrap_or(NO_FLOW)
        }
    }
}

/// The unit of a cgroup; 0 where none is left.
#[inline(always)]
fn unit_of(cgroup: u64) -> u32 {
    // SAFETY: the value is copied at once.
    if let Some(unit) = unsafe { UNIT_OF.get(cgroup) } {
        return *unit;
    }
    let Ok(Some(unit)) = UNIT_FREE.pop() else {
        return 0;
    };
    match UNIT_OF.insert(cgroup, unit, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            if let Some(entry) = UNITS.get_ptr_mut(unit) {
                // SAFETY: an element of the map; the unit is this cgroup's alone.
                unsafe { (&raw mut (*entry).cgroup).write_volatile(cgroup) };
            }
            unit
        }
        Err(error) => {
            let _ = UNIT_FREE.push(unit, 0);
            // SAFETY: a helper without arguments.
            not_inserted(
                unsafe { bpf_get_smp_processor_id() },
                error,
                LossReason::FlowInsert,
            );
            // SAFETY: as above.
            unsafe { UNIT_OF.get(cgroup) }.copied().unwrap_or(0)
        }
    }
}

/// Enters one more socket in its unit's share, if that has room.
#[inline(always)]
pub(crate) fn take_socket(cgroup: u64) -> bool {
    let unit = unit_of(cgroup);
    let (Some(unit_entry), Some(taken)) = (UNITS.get_ptr_mut(unit), TAKEN.get_ptr_mut(TAKEN_SOCKETS)) else {
        return false;
    };
    // SAFETY: elements of maps; other CPUs add at the same time, so that a few sockets more may be taken than there should be.
    unsafe {
        let sockets = &raw mut (*unit_entry).sockets;
        let held = sockets.read_volatile();
        let plenty = taken.read_volatile() < SOCKETS / 2;
        let share = if plenty { UNIT_SOCKETS } else { UNIT_SOCKETS_KEPT };
        if unit == 0 || held >= share {
            return false;
        }
        add(sockets, 1);
        add(taken, 1);
    }
    true
}

/// Takes a socket out of its unit's share.
#[inline(always)]
pub(crate) fn give_socket(cgroup: u64) {
    // SAFETY: the value is copied at once.
    let Some(unit) = (unsafe { UNIT_OF.get(cgroup) }).copied() else {
        // With the unit the agent gave back its sockets.
        return;
    };
    let (Some(unit_entry), Some(taken)) = (UNITS.get_ptr_mut(unit), TAKEN.get_ptr_mut(TAKEN_SOCKETS)) else {
        return;
    };
    // SAFETY: elements of maps.
    unsafe {
        let sockets = &raw mut (*unit_entry).sockets;
        // A cgroup that came back to life as another unit owes nothing.
        if sockets.read_volatile() != 0 {
            add(sockets, u64::MAX);
            add(taken, u64::MAX);
        }
    }
}

/// Where to count: at the flow's place, else at what its unit has without one.
#[inline(always)]
pub(crate) fn traffic(place: u32, cgroup: u64) -> Option<*mut Traffic> {
    if place != NO_FLOW {
        // SAFETY: the address of a field of an element.
        return FLOWS
            .get_ptr_mut(place)
            .map(|flow| unsafe { &raw mut (*flow).traffic });
    }
    folded(cgroup)
}

/// What a unit has without a place.
#[inline(never)]
pub(crate) fn folded(cgroup: u64) -> Option<*mut Traffic> {
    // SAFETY: as above.
    UNITS
        .get_ptr_mut(unit_of(cgroup))
        .map(|unit| unsafe { &raw mut (*unit).folded })
}
