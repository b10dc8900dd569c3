//! cgroups made and removed: the rare events.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_log_ebpf::warn;
use partywall_abi::{CgroupEvent, LossReason, PATH_MAX};

use crate::kread::{Kread, cgroup_id, in_v2_hierarchy};
use crate::losses::lose;
use crate::maps::EVENTS;

/// Reports that the cgroup at `path` was made or removed, if it is in the v2 hierarchy.
///
/// # Safety
/// `cgroup` is a `struct cgroup` that lives while the program runs; `path` is a kernel string.
#[inline(always)]
pub(crate) unsafe fn report<K: Kread>(ctx: &impl EbpfContext, kind: u32, cgroup: *const u8, path: *const u8) {
    // SAFETY: the caller's promise.
    if !unsafe { in_v2_hierarchy::<K>(cgroup) } {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<CgroupEvent>(0) else {
        // SAFETY: a helper without arguments.
        lose(unsafe { bpf_get_smp_processor_id() }, LossReason::RingFull);
        warn!(
            ctx,
            "no room for a cgroup event: the agent reads the cgroup tree again"
        );
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved memory is as large as the event; every byte that the reader looks at is written: the helper
    // writes `path_len` bytes of the path, the last of them the zero.
    unsafe {
        (*event).id = cgroup_id::<K>(cgroup);
        (*event).kind = kind;
        let copied = bpf_probe_read_kernel_str((&raw mut (*event).path).cast(), PATH_MAX as u32, path.cast());
        (*event).path_len = if copied > 0 { copied as u32 - 1 } else { 0 };
    }
    entry.submit(0);
}
