//! ICMP echo requests, over a socket that needs no privilege.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::{
    io::Errno,
    net::{SendFlags, SocketType, connect, ipproto, send},
};

use super::{
    datagrams::{Payload, send_and_count, set_buffers},
    socket,
};

const HEADER_BYTES: usize = 8;
/// As `ping` sends by default.
const PAYLOAD_BYTES: usize = 56;

/// Message types, RFC 792 and RFC 4443.
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Counts replies.
pub(super) fn run(to: IpAddr, per_second: f64) -> io::Result<()> {
    let (protocol, request, payload): (_, _, Payload) = match to {
        IpAddr::V4(_) => (ipproto::ICMP, REQUEST_V4, |message| of_reply(message, REPLY_V4)),
        IpAddr::V6(_) => (ipproto::ICMPV6, REQUEST_V6, |message| of_reply(message, REPLY_V6)),
    };
    let socket = socket(to, SocketType::DGRAM, Some(protocol))?;
    set_buffers(&socket);
    connect(&socket, &SocketAddr::new(to, 0))?;
    let give = |number: u64| -> Result<usize, Errno> {
        let mut message = [0; HEADER_BYTES + PAYLOAD_BYTES];
        message[0] = request;
        // Bytes 2..4 checksum, 4..6 identifier: the kernel's. Then the sequence number.
        let sequence = number.to_be_bytes();
        message[6..8].copy_from_slice(&sequence[6..]);
        send(&socket, &message, SendFlags::empty()).map(|_whole| PAYLOAD_BYTES)
    };
    send_and_count(&socket, per_second, give, Some(payload))
}

fn of_reply(message: &[u8], kind: u8) -> Option<usize> {
    let is_reply = message.first() == Some(&kind);
    is_reply.then(|| message.len().saturating_sub(HEADER_BYTES))
}
