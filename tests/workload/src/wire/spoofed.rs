//! UDP under a source address that is not ours, by writing the IP header ourselves.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use rustix::net::{SendFlags, SocketType, ipproto, sendto};

use super::{datagrams::send_and_count, port_of, socket};

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const TTL: u8 = 64;
/// IANA's number of UDP.
const UDP: u8 = 17;
/// Any will do: nobody answers to us.
const SOURCE_PORT: u16 = 40_000;

pub(super) fn run(
    source: Ipv4Addr,
    to: SocketAddr,
    per_second: f64,
    bytes: u32,
    flows: u32,
) -> io::Result<()> {
    let IpAddr::V4(address) = to.ip() else {
        return Err(io::Error::other("a source address is for IPv4 only"));
    };
    // Of the protocol "raw", the socket takes headers as they are, and receives nothing.
    let socket = socket(to.ip(), SocketType::RAW, Some(ipproto::RAW))?;
    let give = |number| {
        let packet = packet(source, address, port_of(to, number, flows).port(), bytes as usize);
        let sent = sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::new(to.ip(), 0));
        sent.map(|_whole| bytes as usize)
    };
    send_and_count(&socket, per_second, give, None)
}

fn packet(source: Ipv4Addr, to: Ipv4Addr, port: u16, bytes: usize) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0; IP_HEADER + UDP_HEADER + bytes];
    // Version 4, five words of header. Identification and checksum are zero: the kernel fills them in.
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length(IP_HEADER + UDP_HEADER + bytes));
    packet[8] = TTL;
    packet[9] = UDP;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&SOURCE_PORT.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[24..26].copy_from_slice(&length(UDP_HEADER + bytes));
    // Over IPv4 a checksum of zero says that there is none (RFC 768).
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_where_it_claims_to_come_from() {
        let packet = packet([10, 9, 8, 7].into(), [10, 1, 2, 3].into(), 53, 3);
        assert_eq!(packet.len(), 31);
        assert_eq!(packet[..4], [0x45, 0, 0, 31]);
        assert_eq!(packet[12..20], [10, 9, 8, 7, 10, 1, 2, 3]);
        assert_eq!(packet[22..26], [0, 53, 0, 11]);
    }
}
