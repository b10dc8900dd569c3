//! What a packet says: addresses, protocol, ports.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use partywall_abi::FlowName;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Extension headers that are stepped over; a packet with more is of protocol 0 here.
const EXTENSIONS: usize = 6;

/// What a packet says beside its addresses and its protocol.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// Of the socket whose packet it is, in the machine's order; 0: none.
    pub(crate) own_port: u16,
    pub(crate) peer_port: u16,
    /// Flags of TCP, type of ICMP.
    pub(crate) kind: u8,
}

/// Copies bytes of the packet, from its IP header on, where they lie in one piece as headers nearly always do; else has them copied.
///
/// The place is a constant: the verifier then knows what is within bounds.
#[inline(always)]
fn load_at<const AT: usize, T: Copy>(skb: *mut __sk_buff, into: &mut T) -> Option<()> {
    // SAFETY: fields of the context; what is read is before the end. Ts here are integers.
    unsafe {
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + AT + size_of::<T>() <= end {
            *into = ((data + AT) as *const T).read_unaligned();
            return Some(());
        }
    }
    load(skb, AT as u32, into)
}

/// Of what follows the IP header at `at`: 20 and 40 is where it does nearly always.
#[inline(always)]
fn load_behind<const MORE: usize, T: Copy>(skb: *mut __sk_buff, at: u32, into: &mut T) -> Option<()> {
    match (at, MORE) {
        (20, 0) => load_at::<20, T>(skb, into),
        (40, 0) => load_at::<40, T>(skb, into),
        (20, 13) => load_at::<33, T>(skb, into),
        (40, 13) => load_at::<53, T>(skb, into),
        _ => load(skb, at + MORE as u32, into),
    }
}

/// Copies bytes of the packet, wherever they lie.
#[inline(always)]
fn load<T>(skb: *mut __sk_buff, at: u32, into: &mut T) -> Option<()> {
    let to = (&raw mut *into).cast();
    // SAFETY: the helper writes as many bytes as a T has, or fails; Ts here are integers.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), at, to, size_of::<T>() as u32) };
    (failed == 0).then_some(())
}

/// An IPv4 address, as it stands on the wire, mapped into IPv6.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    [0, u64::from(0xffff_u32.to_be()) | u64::from(address) << 32]
}

/// Enters a packet's addresses and protocol into `name`. `None`: no IP, or cut off.
#[inline(always)]
pub(crate) fn read(skb: *mut __sk_buff, sent: bool, name: &mut FlowName) -> Option<Header> {
    // SAFETY: a field of the context.
    let (source, destination, protocol, at) = match unsafe { (*skb).protocol } {
        ETH_P_IP => {
            let mut header = [0_u32; 5];
            load_at::<0, _>(skb, &mut header)?;
            let [first, fragment, _, _] = [header[0], header[1], 0, 0].map(u32::from_be);
            let protocol = (u32::from_be(header[2]) >> 16) as u8;
            let at = if fragment & 0x1fff != 0 {
                0 // All but the first fragment begin in the middle: they have no ports.
            } else {
                (first >> 24 & 0x0f) * 4
            };
            (mapped(header[3]), mapped(header[4]), protocol, at)
        }
        ETH_P_IPV6 => {
            let mut header = [0_u64; 5];
            load_at::<0, _>(skb, &mut header)?;
            let next = (u64::from_be(header[0]) >> 8) as u8;
            let (protocol, at) = after_extensions(skb, next)?;
            ([header[1], header[2]], [header[3], header[4]], protocol, at)
        }
        _ => return None,
    };
    (name.local, name.peer) = if sent {
        (source, destination)
    } else {
        (destination, source)
    };
    name.protocol = protocol;
    let mut header = Header {
        own_port: 0,
        peer_port: 0,
        kind: 0,
    };
    if at == 0 {
        return Some(header);
    }
    match protocol {
        TCP | UDP | SCTP => {
            let mut ports = [0_u16; 2];
            load_behind::<0, _>(skb, at, &mut ports)?;
            let [source, destination] = ports.map(u16::from_be);
            (header.own_port, header.peer_port) = if sent {
                (source, destination)
            } else {
                (destination, source)
            };
            if protocol == TCP {
                load_behind::<13, _>(skb, at, &mut header.kind)?;
            }
        }
        ICMP | ICMPV6 => load(skb, at, &mut header.kind)?,
        _ => (),
    }
    Some(header)
}

/// Addresses and ports of a UDP packet over IPv4 whose headers lie in one piece, without options, which is nearly every datagram.
///
/// Own address and port in the low halves; as they stand on the wire.
#[inline(always)]
pub(crate) fn plain_datagram(skb: *mut __sk_buff, sent: bool) -> Option<(u64, u32)> {
    let mut header = [0_u32; 6];
    // SAFETY: fields of the context; what is read is before the end.
    unsafe {
        if (*skb).protocol != ETH_P_IP {
            return None;
        }
        let (data, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if data + size_of_val(&header) > end {
            return None;
        }
        header[0] = (data as *const u32).read_unaligned();
        header[1] = ((data + 4) as *const u32).read_unaligned();
        header[2] = ((data + 8) as *const u32).read_unaligned();
        header[3] = ((data + 12) as *const u32).read_unaligned();
        header[4] = ((data + 16) as *const u32).read_unaligned();
        header[5] = ((data + 20) as *const u32).read_unaligned();
    }
    let plain = u32::from_be(header[0]) >> 24 == 0x45
        && u32::from_be(header[1]) & 0x3fff == 0
        && (u32::from_be(header[2]) >> 16) as u8 == UDP;
    if !plain {
        return None;
    }
    let [source, destination] = [header[3], header[4]].map(u64::from);
    Some(if sent {
        (source | destination << 32, header[5])
    } else {
        (destination | source << 32, header[5].rotate_left(16))
    })
}

/// What [`plain_datagram`] says of a packet between these IPv4 addresses.
#[inline(always)]
pub(crate) fn plain(local: [u64; 2], peer: [u64; 2], [own_port, peer_port]: [u16; 2]) -> (u64, u32) {
    let ports = u32::from_ne_bytes([
        own_port.to_be_bytes()[0],
        own_port.to_be_bytes()[1],
        peer_port.to_be_bytes()[0],
        peer_port.to_be_bytes()[1],
    ]);
    (local[1] >> 32 | peer[1] >> 32 << 32, ports)
}

/// Whether an address is an IPv4 one.
#[inline(always)]
pub(crate) fn is_ipv4(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == 0xffff_u32.to_be()
}

/// Sequence number of a TCP packet, as it stands on the wire.
#[inline(always)]
pub(crate) fn tcp_sequence(skb: *mut __sk_buff) -> u32 {
    let mut sequence = 0_u32;
    if let Some(at) = tcp_at(skb) {
        let _ = load_behind::<4, _>(skb, at, &mut sequence);
    }
    sequence
}

/// Flags of a TCP packet, without looking at more.
#[inline(always)]
pub(crate) fn tcp_flags(skb: *mut __sk_buff) -> u8 {
    let mut flags = 0_u8;
    if let Some(at) = tcp_at(skb) {
        let _ = load_behind::<13, _>(skb, at, &mut flags);
    }
    flags
}

/// Where a TCP packet's header begins. `None`: it is not within the packet, or behind too much.
#[inline(always)]
fn tcp_at(skb: *mut __sk_buff) -> Option<u32> {
    // SAFETY: a field of the context.
    if unsafe { (*skb).protocol } == ETH_P_IP {
        // The whole first word: of a single byte at 0 the compiler makes a comparison that tells the verifier nothing.
        let mut first = [0_u8; 4];
        let _ = load_at::<0, _>(skb, &mut first);
        let [byte, ..] = first;
        Some(u32::from(byte & 0x0f) * 4)
    } else {
        let mut next = 0_u8;
        let _ = load_at::<6, _>(skb, &mut next);
        match next {
            TCP => Some(40),
            next => after_extensions(skb, next)
                .filter(|(_, at)| *at != 0)
                .map(|(_, at)| at),
        }
    }
}

/// Protocol and place of what follows IPv6's extension headers; place 0: nothing that has ports.
#[inline(always)]
fn after_extensions(skb: *mut __sk_buff, first: u8) -> Option<(u8, u32)> {
    let (mut protocol, mut at) = (first, 40_u32);
    for _ in 0..EXTENSIONS {
        let mut header = [0_u8; 4];
        match protocol {
            // Hop by hop, routing, destination options: length in words of 8 bytes, the first not counted.
            0 | 43 | 60 => {
                load(skb, at, &mut header)?;
                protocol = header[0];
                at += (u32::from(header[1]) + 1) * 8;
            }
            // Fragment. All but the first have no ports.
            44 => {
                load(skb, at, &mut header)?;
                protocol = header[0];
                at += 8;
                if header[2] != 0 || header[3] & 0xf8 != 0 {
                    return Some((protocol, 0));
                }
            }
            _ => return Some((protocol, at)),
        }
    }
    Some((0, 0))
}
