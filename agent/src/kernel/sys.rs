//! The one system call that aya does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_RUN_ON_CPU: u32 = 1;

/// `bpf_attr.test` of linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// Runs a raw tracepoint program once on `cpu`, in an interrupt there. Linux 5.10.
///
/// # Errors
/// ENXIO: that CPU is offline.
pub(super) fn run_on_cpu(program: BorrowedFd<'_>, cpu: u32) -> io::Result<()> {
    run(&TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: BPF_F_TEST_RUN_ON_CPU,
        cpu,
        ..TestRun::default()
    })
}

/// Runs a raw tracepoint program once, here, as if its tracepoint had been passed with `arguments`. Linux 5.10.
///
/// # Errors
/// EINVAL: it wants more arguments.
pub(super) fn run_here(program: BorrowedFd<'_>, arguments: &[u64]) -> io::Result<()> {
    run(&TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ctx_in: arguments.as_ptr() as u64,
        ctx_size_in: u32::try_from(size_of_val(arguments)).map_err(io::Error::other)?,
        ..TestRun::default()
    })
}

fn run(attr: &TestRun) -> io::Result<()> {
    // SAFETY: `attr` is laid out as the kernel reads it, lives through the call, and its length is given.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            std::ptr::from_ref(attr),
            size_of::<TestRun>(),
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether something keeps the wall clock in step, as the kernel was told: NTP or its likes.
///
/// # Errors
/// A sandbox forbids asking.
pub(crate) fn wall_clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: all zeros is a timex, and with `modes` 0 it is only written to.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    match state {
        -1 => Err(io::Error::last_os_error()),
        libc::TIME_ERROR => Ok(false),
        _ => Ok(true),
    }
}
