//! Kernel side of Partywall: the hooks. Each finds its arguments and calls a body.
//!
//! Every hook stands here twice: BTF-typed, whose loads the verifier checks, and raw, for kernels that load
//! BTF-typed tracing programs but cannot attach them (some arm64 ones before 6.4). The agent attaches one of the two.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "atomic addition without its result, the only form that 5.10 runs"
)]
#![allow(unsafe_code, reason = "kernel memory and maps have no safe interface")]

mod cgroups;
mod flows;
mod kread;
mod losses;
mod maps;
mod memory;
mod packet;
mod places;
mod slots;
mod socks;
mod switch;

use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, cgroup_sock, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, SkBuffContext, SockContext};
use partywall_abi::{CGROUP_MADE, CGROUP_REMOVED, SCOPE_LIMIT, SCOPE_NODE};

use kread::{Direct, Probe, Task};

#[btf_tracepoint(function = "sched_switch")]
fn switch_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the arguments are (preempt, prev, next, …): the agent has seen so in the kernel's BTF.
    let (prev, next): (Task<Direct>, Task<Direct>) =
        unsafe { (Task::new(ctx.arg(1)), Task::new(ctx.arg(2))) };
    switch::switched(&prev, &next);
    0
}

#[raw_tracepoint(tracepoint = "sched_switch")]
fn switch_raw(ctx: RawTracePointContext) -> i32 {
    // SAFETY: as above.
    let (prev, next): (Task<Probe>, Task<Probe>) = unsafe { (Task::new(ctx.arg(1)), Task::new(ctx.arg(2))) };
    switch::switched(&prev, &next);
    0
}

/// Never attached: the agent runs it on a CPU of its choice before it reads.
#[raw_tracepoint]
fn flush(_ctx: RawTracePointContext) -> i32 {
    switch::flush();
    0
}

#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroup_made_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's arguments are the cgroup and its path.
    unsafe { cgroups::report::<Direct>(&ctx, CGROUP_MADE, ctx.arg(0), ctx.arg(1)) };
    0
}

#[btf_tracepoint(function = "cgroup_rmdir")]
fn cgroup_removed_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: as above.
    unsafe { cgroups::report::<Direct>(&ctx, CGROUP_REMOVED, ctx.arg(0), ctx.arg(1)) };
    0
}

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn cgroup_made_raw(ctx: RawTracePointContext) -> i32 {
    // SAFETY: as above.
    unsafe { cgroups::report::<Probe>(&ctx, CGROUP_MADE, ctx.arg(0), ctx.arg(1)) };
    0
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn cgroup_removed_raw(ctx: RawTracePointContext) -> i32 {
    // SAFETY: as above.
    unsafe { cgroups::report::<Probe>(&ctx, CGROUP_REMOVED, ctx.arg(0), ctx.arg(1)) };
    0
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
fn limit_reclaim_begins_btf(_ctx: BtfTracePointContext) -> i32 {
    memory::begins(SCOPE_LIMIT);
    0
}

#[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
fn limit_reclaim_ends_btf(ctx: BtfTracePointContext) -> i32 {
    // The first argument is the number of pages.
    memory::ends(ctx.arg(0));
    0
}

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
fn node_reclaim_begins_btf(_ctx: BtfTracePointContext) -> i32 {
    memory::begins(SCOPE_NODE);
    0
}

#[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
fn node_reclaim_ends_btf(ctx: BtfTracePointContext) -> i32 {
    memory::ends(ctx.arg(0));
    0
}

#[btf_tracepoint(function = "mark_victim")]
fn oom_killed_btf(ctx: BtfTracePointContext) -> i32 {
    memory::killed::<Direct>(&ctx, ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
fn limit_reclaim_begins_raw(_ctx: RawTracePointContext) -> i32 {
    memory::begins(SCOPE_LIMIT);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
fn limit_reclaim_ends_raw(ctx: RawTracePointContext) -> i32 {
    memory::ends(ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
fn node_reclaim_begins_raw(_ctx: RawTracePointContext) -> i32 {
    memory::begins(SCOPE_NODE);
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
fn node_reclaim_ends_raw(ctx: RawTracePointContext) -> i32 {
    memory::ends(ctx.arg(0));
    0
}

#[raw_tracepoint(tracepoint = "mark_victim")]
fn oom_killed_raw(ctx: RawTracePointContext) -> i32 {
    memory::killed::<Probe>(&ctx, ctx.arg(0));
    0
}

/// What these return lets the packet, or the socket's end, go its way.
const GO_ON: i32 = 1;

#[cgroup_skb(egress)]
fn sent(ctx: SkBuffContext) -> i32 {
    flows::sent(&ctx);
    GO_ON
}

#[cgroup_skb(ingress)]
fn received(ctx: SkBuffContext) -> i32 {
    flows::received(&ctx);
    GO_ON
}

#[cgroup_sock(sock_release)]
fn socket_released(ctx: SockContext) -> i32 {
    flows::socket_released(ctx.sock);
    GO_ON
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
