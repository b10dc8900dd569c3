//! A UDP server: one datagram back for each, the same.

use std::{io, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketType, bind, recvfrom, sendto, sockopt::set_ipv6_v6only},
};

use super::{
    Parent,
    datagrams::{BURST, set_buffers},
    ready, socket,
};
use crate::{Family, traffic::Traffic};

pub(super) fn run(port: u16, family: Family) -> io::Result<()> {
    let any = family.any_address(port);
    let socket = socket(any.ip(), SocketType::DGRAM, None)?;
    set_buffers(&socket);
    if any.is_ipv6() {
        set_ipv6_v6only(&socket, family == Family::Ipv6)?;
    }
    bind(&socket, &any).map_err(|error| io::Error::other(format!("port {port}: {error}")))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut traffic, mut parent) = (ready()?, Parent::default());
    while !parent.is_gone() {
        for _ in 0..BURST {
            if !answer_one(&socket, &mut buffer, &mut traffic)? {
                break;
            }
        }
        parent.wait(&mut vec![PollFd::new(&socket, PollFlags::IN)], None)?;
    }
    Ok(())
}

/// False: there is nothing to answer.
fn answer_one(socket: &OwnedFd, buffer: &mut [u8], traffic: &mut Traffic) -> io::Result<bool> {
    let (length, peer) = match recvfrom(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((length, _, Some(peer))) => (length, peer),
        Ok((.., None)) => return Ok(true),
        Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
        // What became of an earlier answer.
        Err(_) => {
            traffic.failed += 1;
            return Ok(true);
        }
    };
    traffic.packets_received += 1;
    traffic.bytes_received += length as u64;
    match sendto(socket, &buffer[..length], SendFlags::empty(), &peer) {
        Ok(sent) => {
            traffic.packets_sent += 1;
            traffic.bytes_sent += sent as u64;
        }
        Err(_) => traffic.failed += 1,
    }
    traffic.publish()?;
    Ok(true)
}
