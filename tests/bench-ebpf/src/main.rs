//! What `cargo xtask bench` measures Partywall's probe against. Never part of the product.
//!
//! `empty_*` is the physical limit: the cost of being called at all. `classic_*` is the design that most tools use
//! (runqlat and its descendants), counting the same two sums per cgroup as Partywall does: CPU time and run-queue wait.
//! A wakeup stores a time stamp by pid in a hash, the switch looks it up; run time comes from a stamp per CPU. It keeps
//! no histogram and no record of who ran meanwhile, so the comparison
//! favours it; everything is inlined, as a careful author would have it.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "reading kernel structures is what a probe does")]

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::{HashMap, PerCpuArray, PerCpuHashMap},
    helpers::{bpf_get_current_cgroup_id, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, cgroup_skb},
    programs::{BtfTracePointContext, SkBuffContext},
};
use partywall_bench_ebpf::Offsets;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_pid: 0,
    task_cgroups: 0,
    css_set_dfl_cgrp: 0,
    cgroup_kn: 0,
    kernfs_node_id: 0,
};

/// pid → when it became runnable.
#[btf_map]
static QUEUED: HashMap<u32, u64, 65_536> = HashMap::new();

/// When this CPU last switched.
#[btf_map]
static SINCE: PerCpuArray<u64, 1> = PerCpuArray::new();

#[repr(C)]
#[derive(Clone, Copy)]
struct Sums {
    run_ns: u64,
    wait_ns: u64,
}

/// cgroup id → sums on each CPU.
#[btf_map]
static SUMS: PerCpuHashMap<u64, Sums, 4_096> = PerCpuHashMap::new();

#[btf_tracepoint(function = "sched_switch")]
fn empty_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[cgroup_skb(ingress)]
fn empty_received(_ctx: SkBuffContext) -> i32 {
    1
}

#[cgroup_skb(egress)]
fn empty_sent(_ctx: SkBuffContext) -> i32 {
    1
}

#[btf_tracepoint(function = "sched_wakeup")]
fn classic_wakeup(ctx: BtfTracePointContext) -> i32 {
    queued(ctx.arg(0))
}

#[btf_tracepoint(function = "sched_wakeup_new")]
fn classic_wake_new(ctx: BtfTracePointContext) -> i32 {
    queued(ctx.arg(0))
}

/// Arguments as Linux 5.19 and later have them: preempt, prev, next, prev_state.
#[btf_tracepoint(function = "sched_switch")]
fn classic_switch(ctx: BtfTracePointContext) -> i32 {
    switched(ctx.arg(1), ctx.arg(2), ctx.arg(3))
}

#[inline(always)]
fn switched(prev: *const u8, next: *const u8, prev_state: u32) -> i32 {
    // SAFETY: a helper without arguments.
    let (now, cgroup) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    if let Some(since) = SINCE.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, and a probe is not preempted by itself.
        let before = unsafe { core::ptr::replace(since, now) };
        if before != 0 {
            add(cgroup, now - before, 0);
        }
    }
    if prev_state == 0 {
        queued(prev); // preempted: it waits from now on
    }
    let pid = pid(next);
    // SAFETY: the value is copied at once.
    if pid != 0
        && let Some(&since) = unsafe { QUEUED.get(pid) }
    {
        let _: Result<(), i32> = QUEUED.remove(pid);
        add(cgroup_of(next), 0, now.saturating_sub(since));
    }
    0
}

#[inline(always)]
fn queued(task: *const u8) -> i32 {
    let pid = pid(task);
    if pid != 0 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let _: Result<(), i32> = QUEUED.insert(pid, now, u64::from(BPF_ANY));
    }
    0
}

#[inline(always)]
fn add(cgroup: u64, run_ns: u64, wait_ns: u64) {
    if let Some(sums) = SUMS.get_ptr_mut(cgroup) {
        // SAFETY: this CPU's own entry, and a probe is not preempted by itself.
        unsafe {
            (*sums).run_ns += run_ns;
            (*sums).wait_ns += wait_ns;
        }
    } else {
        let _: Result<(), i32> = SUMS.insert(cgroup, Sums { run_ns, wait_ns }, u64::from(BPF_ANY));
    }
}

#[inline(always)]
fn pid(task: *const u8) -> u32 {
    // SAFETY: `task` is a tracepoint argument, which the verifier lets a probe read directly. The offset is loaded
    // bare, because the compiler must not take for a constant what the loader sets.
    unsafe { load::<u32>(task, core::ptr::read_volatile(&raw const OFFSETS.task_pid)) }
}

#[inline(always)]
fn cgroup_of(task: *const u8) -> u64 {
    // SAFETY: as above; the verifier follows each pointer by its BTF type.
    unsafe {
        let css_set: *const u8 = load(task, core::ptr::read_volatile(&raw const OFFSETS.task_cgroups));
        let cgroup: *const u8 = load(
            css_set,
            core::ptr::read_volatile(&raw const OFFSETS.css_set_dfl_cgrp),
        );
        let kn: *const u8 = load(cgroup, core::ptr::read_volatile(&raw const OFFSETS.cgroup_kn));
        load(kn, core::ptr::read_volatile(&raw const OFFSETS.kernfs_node_id))
    }
}

/// # Safety
/// `base + offset` must be readable.
#[inline(always)]
unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: as the caller promises.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
