//! UDP clients.

use std::{io, net::SocketAddr, os::fd::AsFd, time::Instant};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketType, connect, recv, send, sendto,
        sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force},
    },
};

use super::{Pace, Parent, port_of, ready, socket};
use crate::traffic::Traffic;

/// For bursts after a pause; the kernel's default holds some 270 small datagrams.
pub(super) const BUFFER_BYTES: usize = 4 << 20;

/// Most that is sent before answers are looked at.
pub(super) const BURST: u32 = 64;

/// The bytes of a received packet that are payload; `None`: it is no answer.
pub(super) type Payload = fn(&[u8]) -> Option<usize>;

/// One datagram after the other, each to the next of `flows` ports; counts what comes back.
pub(super) fn run(to: SocketAddr, per_second: f64, bytes: u32, flows: u32) -> io::Result<()> {
    let socket = socket(to.ip(), SocketType::DGRAM, None)?;
    set_buffers(&socket);
    // Connected, it is told of ICMP errors.
    let connected = flows <= 1;
    if connected {
        connect(&socket, &to)?;
    }
    let payload = vec![0; bytes as usize];
    let give = |number| {
        if connected {
            send(&socket, &payload, SendFlags::empty())
        } else {
            sendto(&socket, &payload, SendFlags::empty(), &port_of(to, number, flows))
        }
    };
    send_and_count(&socket, per_second, give, Some(|datagram| Some(datagram.len())))
}

pub(super) fn set_buffers(socket: impl AsFd) {
    // Beyond the system's limit only as root; without, the default is what there is.
    let _default = set_socket_recv_buffer_size_force(socket.as_fd(), BUFFER_BYTES);
    let _default = set_socket_send_buffer_size_force(socket.as_fd(), BUFFER_BYTES);
}

/// `give` sends the datagram of a number, counted from zero; `payload` says of a received one how many
/// bytes of it count, if it does. Nobody answers to a foreign source: then `payload` is `None`.
pub(super) fn send_and_count(
    socket: impl AsFd,
    per_second: f64,
    give: impl Fn(u64) -> Result<usize, Errno>,
    payload: Option<Payload>,
) -> io::Result<()> {
    let mut received = vec![0; 1 << 16];
    let mut traffic = ready()?;
    let (mut pace, mut parent) = (Pace::new(per_second), Parent::default());
    loop {
        let now = Instant::now();
        let mut left = BURST;
        while !parent.is_gone() && left > 0 && pace.is_due(now) {
            left -= 1;
            send_one(&give, &mut traffic);
            traffic.publish()?;
        }
        if let Some(payload) = payload {
            receive_all(&socket, &mut received, payload, &mut traffic)?;
        }
        let answered =
            payload.is_none() || traffic.packets_received + traffic.refused >= traffic.packets_sent;
        if parent.is_gone() && (answered || parent.drained(now)) {
            return Ok(());
        }
        let next = (!parent.is_gone()).then_some(pace.next);
        let mut sockets = vec![PollFd::new(&socket, PollFlags::IN)];
        parent.wait(&mut sockets, next)?;
    }
}

fn send_one(give: impl Fn(u64) -> Result<usize, Errno>, traffic: &mut Traffic) {
    // An error of an earlier datagram is told in place of sending this one, once.
    for _ in 0..2 {
        match give(traffic.packets_sent) {
            Ok(bytes) => {
                traffic.packets_sent += 1;
                traffic.bytes_sent += bytes as u64;
                return;
            }
            Err(Errno::CONNREFUSED) => traffic.refused += 1,
            Err(_) => {
                traffic.failed += 1;
                return;
            }
        }
    }
}

fn receive_all(
    socket: impl AsFd,
    buffer: &mut [u8],
    payload: Payload,
    traffic: &mut Traffic,
) -> io::Result<()> {
    let before = *traffic;
    for _ in 0..BURST * 2 {
        match recv(socket.as_fd(), &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => {
                if let Some(bytes) = payload(&buffer[..length]) {
                    traffic.packets_received += 1;
                    traffic.bytes_received += bytes as u64;
                }
            }
            Err(Errno::CONNREFUSED) => traffic.refused += 1,
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(_) => traffic.failed += 1,
        }
    }
    if *traffic != before {
        traffic.publish()?;
    }
    Ok(())
}
