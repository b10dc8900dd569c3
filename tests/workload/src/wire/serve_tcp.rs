//! A TCP server: as many bytes back as come, on any number of connections.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv, send,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr, set_tcp_nodelay},
    },
};

use super::{Parent, raise_file_limit, ready, socket};
use crate::{Family, traffic::Traffic};

/// Connections that wait to be accepted; the kernel's own bound, so that a burst is not refused.
const BACKLOG: i32 = 4_096;
/// A peer that does not read its answers is not read from beyond this.
const OWED_MOST: u64 = 1 << 20;

/// An accepted connection.
struct Peer {
    socket: OwnedFd,
    /// Bytes received and not yet answered.
    owed: u64,
    /// It has said all it will say.
    finished: bool,
}

pub(super) fn run(port: u16, family: Family) -> io::Result<()> {
    raise_file_limit();
    let any = family.any_address(port);
    let listener = socket(any.ip(), SocketType::STREAM, None)?;
    set_socket_reuseaddr(&listener, true)?;
    if any.is_ipv6() {
        set_ipv6_v6only(&listener, family == Family::Ipv6)?;
    }
    bind(&listener, &any)
        .and_then(|()| listen(&listener, BACKLOG))
        .map_err(|error| io::Error::other(format!("port {port}: {error}")))?;
    let mut buffer = vec![0; 1 << 16];
    let mut peers: Vec<Peer> = Vec::new();
    let (mut traffic, mut parent) = (ready()?, Parent::default());
    while !parent.is_gone() {
        let mut sockets: Vec<PollFd<'_>> = peers
            .iter()
            .map(|peer| PollFd::new(&peer.socket, peer.wanted()))
            .collect();
        sockets.push(PollFd::new(&listener, PollFlags::IN));
        parent.wait(&mut sockets, None)?;
        let ready: Vec<bool> = sockets
            .iter()
            .map(|socket| !socket.revents().is_empty())
            .collect();
        let before = traffic;
        let mut ready = ready.into_iter();
        peers.retain_mut(|peer| !ready.next().unwrap_or(false) || peer.goes_on(&mut buffer, &mut traffic));
        if ready.next().unwrap_or(false) {
            accept_all(&listener, &mut peers, &mut traffic);
        }
        if traffic != before {
            traffic.publish()?;
        }
    }
    Ok(())
}

fn accept_all(listener: impl AsFd, peers: &mut Vec<Peer>, traffic: &mut Traffic) {
    loop {
        match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => {
                traffic.established += 1;
                let _as_it_is = set_tcp_nodelay(&socket, true);
                peers.push(Peer {
                    socket,
                    owed: 0,
                    finished: false,
                });
            }
            // The peer gave up while it waited.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

impl Peer {
    fn wanted(&self) -> PollFlags {
        let read = !self.finished && self.owed < OWED_MOST;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, read);
        wanted.set(PollFlags::OUT, self.owed > 0);
        wanted
    }

    /// False: the connection is over.
    fn goes_on(&mut self, buffer: &mut [u8], traffic: &mut Traffic) -> bool {
        while !self.finished && self.owed < OWED_MOST {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => self.finished = true,
                Ok((length, _)) => {
                    traffic.bytes_received += length as u64;
                    self.owed += length as u64;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return self.broke(traffic),
            }
        }
        while self.owed > 0 {
            let length = usize::try_from(self.owed).map_or(buffer.len(), |owed| owed.min(buffer.len()));
            match send(&self.socket, &buffer[..length], SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    traffic.bytes_sent += sent as u64;
                    self.owed -= sent as u64;
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => return self.broke(traffic),
            }
        }
        !(self.finished && self.owed == 0)
    }

    fn broke(&self, traffic: &mut Traffic) -> bool {
        traffic.broken += 1;
        false
    }
}
