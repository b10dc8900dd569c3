//! What network work does: one thread, one poll, no blocking call, so that every count is exact and a worker that is told
//! to stop first collects what is still on its way.

mod datagrams;
mod echo;
mod serve_tcp;
mod serve_udp;
mod spoofed;
mod tcp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    stdio::stdin,
};

use crate::{
    Work,
    traffic::{self, Traffic},
};

/// How long a worker that was told to stop waits for answers to what it sent.
const DRAIN: Duration = Duration::from_millis(300);

/// Does `work` until standard input ends, which is when the parent says so or is gone.
pub(crate) fn run(work: Work) -> ExitCode {
    let ended = match work {
        Work::TcpServe { port, family } => serve_tcp::run(port, family),
        Work::UdpServe { port, family } => serve_udp::run(port, family),
        Work::Tcp {
            to,
            per_second,
            bytes,
            keep,
        } => tcp::run(&mut tcp::Client::talking(to, bytes, keep), per_second),
        Work::Scan {
            to,
            first_port,
            last_port,
            per_second,
        } => tcp::run(&mut tcp::Client::scanning(to, first_port, last_port), per_second),
        Work::Udp {
            to,
            per_second,
            bytes,
            flows,
            source: None,
        } => datagrams::run(to, per_second, bytes, flows),
        Work::Udp {
            to,
            per_second,
            bytes,
            flows,
            source: Some(source),
        } => spoofed::run(source, to, per_second, bytes, flows),
        Work::Icmp { to, per_second } => echo::run(to, per_second),
        // Not of the network.
        _ => Ok(()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("work: {error}");
            traffic::fail(&error);
            ExitCode::FAILURE
        }
    }
}

/// When the next thing is due. What is late is made up for: the rate holds over time.
struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self {
            every: Duration::from_secs_f64(1.0 / per_second.clamp(0.001, 1e6)),
            next: Instant::now(),
        }
    }

    /// True, once, for every thing that is due by `now`.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next += self.every;
        }
        due
    }
}

/// Whether the parent still wants us. Once it does not, answers are awaited for a while.
#[derive(Default)]
struct Parent {
    gone: Option<Instant>,
}

impl Parent {
    /// Since when this worker is to stop, if it is.
    fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Nothing that is still on its way is waited for any longer.
    fn drained(&self, now: Instant) -> bool {
        self.gone.is_some_and(|at| now >= at + DRAIN)
    }

    /// Waits until one of `sockets` is ready, `until` has come, or the parent is gone.
    fn wait(&mut self, sockets: &mut Vec<PollFd<'_>>, until: Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        let until = [until, self.gone.map(|at| at + DRAIN)]
            .into_iter()
            .flatten()
            .min();
        let left = until.map(|until| until.saturating_duration_since(now));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        if self.gone.is_none() {
            sockets.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        match poll(sockets, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Nothing more is ever written to it: whatever it says is the end.
        if self.gone.is_none() && sockets.pop().is_some_and(|stdin| !stdin.revents().is_empty()) {
            self.gone = Some(Instant::now());
        }
        Ok(())
    }
}

fn socket(to: IpAddr, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, protocol)?)
}

/// Hundreds of connections at once take more than the usual 1,024 files.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _as_it_was = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// The `number`th of `flows` destination ports, from `to`'s own on.
fn port_of(to: SocketAddr, number: u64, flows: u32) -> SocketAddr {
    let offset = number % u64::from(flows.max(1));
    let mut to = to;
    to.set_port(to.port().wrapping_add(u16::try_from(offset).unwrap_or(0)));
    to
}

/// Says that everything is set up: until then the parent waits.
fn ready() -> io::Result<Traffic> {
    let traffic = Traffic::default();
    traffic.publish()?;
    Ok(traffic)
}
