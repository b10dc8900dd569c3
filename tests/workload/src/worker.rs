//! What a worker process does.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Read},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::{Work, memory, network, scratch, wire};

/// The hidden first argument that turns a program into a worker.
pub(crate) const MARK: &str = "__partywall-work";

/// In place of a network namespace: the parent's own.
pub(crate) const STAY: &str = "-";

/// CPU time that a child of [`Work::Fork`] spins.
const FORKED_SPIN: Duration = Duration::from_millis(1);

/// Runs as a worker, where this process was started as one, and gives its exit code. Call it first thing in `main`.
///
/// A worker ends when its parent does, however that ended: its standard input is a pipe that the parent holds. (The
/// kernel's parent-death signal would fire when the *thread* that started it ends, which in an async program may be
/// any time.)
pub fn run_if_worker() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(MARK) {
        return None;
    }
    let (Some(namespace), Some(work)) = (args.next(), Work::from_args(args)) else {
        return Some(ExitCode::from(2));
    };
    let mut parent = io::stdin().lock();
    // Until this returns, nothing but start-up has run; see `spawn`.
    if parent.read_exact(&mut [0]).is_err() {
        return Some(ExitCode::SUCCESS);
    }
    // By now in its cgroup: a socket belongs to the cgroup and to the namespace in which it was made.
    if namespace != STAY
        && let Err(error) = File::open(&namespace).and_then(network::enter)
    {
        eprintln!("work: {namespace}: {error}");
        return Some(ExitCode::FAILURE);
    }
    if work.is_of_network() {
        return Some(wire::run(work));
    }
    match work {
        Work::Duty {
            busy_ms,
            idle_ms,
            threads,
        } => {
            let (busy, idle) = (milliseconds(busy_ms), milliseconds(idle_ms));
            on_threads(threads, move || {
                spin(busy);
                sleep(idle);
            });
        }
        Work::Spin { threads } => on_threads(threads, || spin(Duration::from_secs(1))),
        Work::Fork { per_second } => {
            ignore_children();
            let every = Duration::from_secs_f64(1.0 / per_second.max(0.001));
            let mut next = Instant::now();
            on_threads(1, move || {
                fork_one();
                next += every;
                sleep(next.saturating_duration_since(Instant::now()));
            });
        }
        Work::Memory {
            bytes,
            step_bytes,
            every_ms,
            keep,
        } => {
            let every = milliseconds(every_ms);
            apart(move || memory::work(bytes, step_bytes, keep, || sleep(every)));
        }
        Work::FileCache { bytes } => apart(move || scratch::read_round(bytes)),
        // Done with above.
        Work::TcpServe { .. }
        | Work::UdpServe { .. }
        | Work::Tcp { .. }
        | Work::Udp { .. }
        | Work::Icmp { .. }
        | Work::Scan { .. } => {}
    }
    let mut end = Vec::new();
    let _closed = parent.read_to_end(&mut end);
    Some(ExitCode::SUCCESS)
}

fn on_threads(threads: u32, turn: impl FnMut() + Clone + Send + 'static) {
    for _ in 0..threads {
        let mut turn = turn.clone();
        thread::spawn(move || {
            loop {
                turn();
            }
        });
    }
}

/// On a thread of its own, for ever: an error ends the worker and is said on standard error.
fn apart(work: impl FnOnce() -> io::Result<Infallible> + Send + 'static) {
    thread::spawn(move || {
        let Err(error) = work();
        eprintln!("work: {error}");
        #[allow(
            clippy::disallowed_methods,
            reason = "main waits for the parent's end, which says nothing of ours"
        )]
        std::process::exit(1);
    });
}

/// Uses this much CPU time of the calling thread.
fn spin(cpu_time: Duration) {
    let end = thread_cpu_time() + cpu_time;
    while thread_cpu_time() < end {
        // Long enough that the clock's system call is not the work, short enough to stop within microseconds.
        for _ in 0..2_000 {
            std::hint::spin_loop();
        }
    }
}

fn thread_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[allow(
    clippy::disallowed_methods,
    reason = "a worker's own thread, no runtime around it: sleeping is its work"
)]
fn sleep(duration: Duration) {
    thread::sleep(duration);
}

fn milliseconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value / 1_000.0).unwrap_or_default()
}

/// Lets the kernel reap forked children.
#[allow(unsafe_code, reason = "signal dispositions have no safe interface")]
fn ignore_children() {
    // SAFETY: SIG_IGN installs no handler; no other code of a worker waits for children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

#[allow(unsafe_code, reason = "fork without exec is the work itself")]
fn fork_one() {
    // SAFETY: the child touches only its own stack and makes only async-signal-safe system calls before _exit.
    unsafe {
        if libc::fork() == 0 {
            spin(FORKED_SPIN);
            libc::_exit(0);
        }
    }
}
