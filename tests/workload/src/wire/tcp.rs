//! TCP clients: one connection after the other, one that is kept, or one to port after port.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketType, connect, recv, send,
        sockopt::{set_tcp_nodelay, socket_error},
    },
};

use super::{Pace, Parent, raise_file_limit, ready, socket};
use crate::traffic::Traffic;

/// Connections open at once; more wait for their turn.
const OPEN_MOST: usize = 512;
/// Two requests are sent again by then, one second after the other, and no third is under way.
const CONNECT_PATIENCE: Duration = Duration::from_millis(2_500);
/// A scanner does not ask twice.
const SCAN_PATIENCE: Duration = Duration::from_millis(700);
/// Without a byte in either direction.
const TALK_PATIENCE: Duration = Duration::from_secs(10);

/// What to open and what to say there.
pub(super) struct Client {
    to: SocketAddr,
    /// The last of the ports, where they are taken in turn.
    last_port: u16,
    /// Sent on a connection, and awaited back.
    bytes: u64,
    /// One connection for all.
    keep: bool,
    patience: Duration,
    open: Vec<Attempt>,
    traffic: Traffic,
    buffer: Vec<u8>,
}

struct Attempt {
    socket: OwnedFd,
    connected: bool,
    to_send: u64,
    to_receive: u64,
    deadline: Instant,
}

impl Client {
    pub(super) fn talking(to: SocketAddr, bytes: u64, keep: bool) -> Self {
        Self {
            to,
            last_port: to.port(),
            bytes,
            keep,
            patience: CONNECT_PATIENCE,
            open: Vec::new(),
            traffic: Traffic::default(),
            buffer: vec![0; 1 << 16],
        }
    }

    /// The ports one after the other, and from the first again.
    pub(super) fn scanning(to: IpAddr, first_port: u16, last_port: u16) -> Self {
        Self {
            last_port,
            patience: SCAN_PATIENCE,
            ..Self::talking(SocketAddr::new(to, first_port), 0, false)
        }
    }

    /// One connection more, or what is to be said on the one that is kept.
    fn turn(&mut self, now: Instant) {
        if self.keep
            && let Some(kept) = self.open.first_mut()
        {
            kept.say(self.bytes, now);
            return;
        }
        let ports = u64::from(self.last_port.saturating_sub(self.to.port())) + 1;
        let offset = u16::try_from(self.traffic.attempted % ports).unwrap_or(0);
        let to = SocketAddr::new(self.to.ip(), self.to.port().saturating_add(offset));
        self.traffic.attempted += 1;
        let begun = socket(to.ip(), SocketType::STREAM, None).and_then(|socket| {
            let connected = match connect(&socket, &to) {
                Ok(()) => true,
                Err(Errno::INPROGRESS) => false,
                Err(error) => return Err(error.into()),
            };
            Ok(Attempt {
                socket,
                connected,
                to_send: self.bytes,
                to_receive: self.bytes,
                deadline: now + self.patience,
            })
        });
        match begun {
            Ok(attempt) => {
                self.traffic.established += u64::from(attempt.connected);
                self.open.push(attempt);
            }
            Err(error) => self.traffic.count_failed(Errno::from_io_error(&error)),
        }
    }

    fn has_room(&self) -> bool {
        self.keep || self.open.len() < OPEN_MOST
    }

    /// Whether all that was said has been answered.
    fn is_quiet(&self) -> bool {
        self.open
            .iter()
            .all(|attempt| self.keep && attempt.connected && attempt.is_answered())
    }

    fn go_on(&mut self, ready: &[bool], now: Instant) {
        let mut ready = ready.iter().copied();
        let mut open = mem::take(&mut self.open);
        open.retain_mut(|attempt| {
            if ready.next().unwrap_or(false) && !attempt.connected {
                match socket_error(&attempt.socket) {
                    Ok(Ok(())) => {
                        attempt.connected = true;
                        attempt.deadline = now + TALK_PATIENCE;
                        self.traffic.established += 1;
                        // What is said is sent as it is said.
                        let _as_it_is = set_tcp_nodelay(&attempt.socket, true);
                    }
                    Ok(Err(error)) | Err(error) => {
                        self.traffic.count_failed(Some(error));
                        return false;
                    }
                }
            }
            if attempt.connected {
                match attempt.talk(&mut self.buffer, &mut self.traffic, now) {
                    Ok(()) if attempt.is_answered() => return self.keep,
                    Ok(()) if now < attempt.deadline => {}
                    _ => {
                        self.traffic.broken += 1;
                        return false;
                    }
                }
            } else if now >= attempt.deadline {
                self.traffic.timed_out += 1;
                return false;
            }
            true
        });
        self.open = open;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waiting = self
            .open
            .iter()
            .filter(|attempt| !attempt.connected || !attempt.is_answered());
        waiting.map(|attempt| attempt.deadline).min()
    }
}

impl Attempt {
    fn say(&mut self, bytes: u64, now: Instant) {
        if self.connected && self.is_answered() {
            self.deadline = now + TALK_PATIENCE;
        }
        self.to_send += bytes;
        self.to_receive += bytes;
    }

    fn is_answered(&self) -> bool {
        self.to_send == 0 && self.to_receive == 0
    }

    fn wanted(&self) -> PollFlags {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.connected);
        wanted.set(PollFlags::OUT, !self.connected || self.to_send > 0);
        wanted
    }

    /// Sends and receives what can be. An error: the connection is over before its time.
    fn talk(&mut self, buffer: &mut [u8], traffic: &mut Traffic, now: Instant) -> Result<(), Errno> {
        while self.to_send > 0 {
            let length = usize::try_from(self.to_send).map_or(buffer.len(), |left| left.min(buffer.len()));
            match send(&self.socket, &buffer[..length], SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    traffic.bytes_sent += sent as u64;
                    self.to_send -= sent as u64;
                    self.deadline = now + TALK_PATIENCE;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
        }
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                // The end, before or after all is said: a kept connection is as broken.
                Ok((0, _)) if self.is_answered() => return Err(Errno::PIPE),
                Ok((0, _)) => return Err(Errno::CONNRESET),
                Ok((length, _)) => {
                    traffic.bytes_received += length as u64;
                    self.to_receive = self.to_receive.saturating_sub(length as u64);
                    self.deadline = now + TALK_PATIENCE;
                    if self.is_answered() {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Traffic {
    fn count_failed(&mut self, why: Option<Errno>) {
        match why {
            Some(Errno::CONNREFUSED) => self.refused += 1,
            Some(Errno::TIMEDOUT) => self.timed_out += 1,
            _ => self.failed += 1,
        }
    }
}

pub(super) fn run(client: &mut Client, per_second: f64) -> io::Result<()> {
    raise_file_limit();
    ready()?;
    let (mut pace, mut parent) = (Pace::new(per_second), Parent::default());
    loop {
        let now = Instant::now();
        let before = client.traffic;
        while !parent.is_gone() && client.has_room() && pace.is_due(now) {
            client.turn(now);
        }
        if client.traffic != before {
            client.traffic.publish()?;
        }
        if parent.is_gone() && (client.is_quiet() || parent.drained(now)) {
            return Ok(());
        }
        let next = (!parent.is_gone() && client.has_room()).then_some(pace.next);
        let until = [next, client.next_deadline()].into_iter().flatten().min();
        let mut sockets: Vec<PollFd<'_>> = client
            .open
            .iter()
            .map(|attempt| PollFd::new(&attempt.socket, attempt.wanted()))
            .collect();
        parent.wait(&mut sockets, until)?;
        let ready: Vec<bool> = sockets
            .iter()
            .map(|socket| !socket.revents().is_empty())
            .collect();
        let before = client.traffic;
        client.go_on(&ready, Instant::now());
        if client.traffic != before {
            client.traffic.publish()?;
        }
    }
}
