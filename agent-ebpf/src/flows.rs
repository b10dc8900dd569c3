//! What sockets send and receive, by flow.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SkBuffContext;
use partywall_abi::{
    FlowName, NO_FLOW, ROLE_ACCEPTED, ROLE_OPENED, STAGE_DATAGRAMS, STAGE_ENDED, STAGE_OPEN, STAGE_OPENING,
    Sock, Traffic,
};

use crate::maps::{FLOWS, add};
use crate::packet::{self, ACK, Header, ICMP, ICMPV6, RST, SYN, TCP, UDP, tcp_flags, tcp_sequence};
use crate::places::{cgroup_of, find, find_or_take, folded, traffic};
use crate::socks::{self, Kind};

/// No packet that only says that a connection begins or ends is longer: an IPv6 header, TCP's longest, and some extension headers. One with
/// data is not looked at: a socket used once more whose SYN carries data, which is rarer than rare, goes on in its old flow.
const CONTROL_BYTES: u64 = 40 + 60 + 28;

/// How long a socket that received what found no place opens no flow, in units of 2^30 ns: until an idle flow's place is given back.
const FOLDED_FOR: u32 = 75;

/// Who opens a connection takes a port from here on where the kernel chooses it. Set by the agent from ip_local_port_range.
#[unsafe(no_mangle)]
static EPHEMERAL_FROM: u16 = 32_768;

/// One packet on its way.
#[derive(Clone, Copy)]
struct Passing {
    skb: *mut __sk_buff,
    sent: bool,
    packets: u64,
    bytes: u64,
}

impl Passing {
    /// Adds it to what was sent or received.
    #[inline(always)]
    fn count(&self, traffic: *mut Traffic) {
        // SAFETY: within an element of a map.
        unsafe {
            if self.sent {
                add(&raw mut (*traffic).sent_packets, self.packets);
                add(&raw mut (*traffic).sent_bytes, self.bytes);
            } else {
                add(&raw mut (*traffic).received_packets, self.packets);
                add(&raw mut (*traffic).received_bytes, self.bytes);
            }
        }
    }
}

/// A socket sent a packet.
#[inline(always)]
pub(crate) fn sent(ctx: &SkBuffContext) {
    pass(ctx, true);
}

/// A socket is handed a packet.
#[inline(always)]
pub(crate) fn received(ctx: &SkBuffContext) {
    pass(ctx, false);
}

#[inline(always)]
fn pass(ctx: &SkBuffContext, sent: bool) {
    let skb = ctx.skb.skb;
    // SAFETY: fields of the context.
    let (sock, bytes, segments) = unsafe { ((*skb).__bindgen_anon_2.sk, (*skb).len, (*skb).gso_segs) };
    let passing = Passing {
        skb,
        sent,
        packets: u64::from(segments.max(1)),
        bytes: u64::from(bytes),
    };
    if sock.is_null() {
        return;
    }
    if let Some(known) = socks::known(sock) {
        // SAFETY: the socket's storage, which lives while the socket does.
        unsafe {
            if (*known).stage != STAGE_DATAGRAMS {
                connection(&passing, known);
            } else if let Some(at) = same_as_before(&passing, known) {
                passing.count(at);
            } else {
                datagram(&passing, known);
            }
        }
    } else {
        unknown(&passing, sock);
    }
}

/// A packet of a TCP connection that is known.
///
/// # Safety
/// `known` is the storage of the packet's socket.
#[inline(always)]
unsafe fn connection(passing: &Passing, known: *mut Sock) {
    // SAFETY: the caller's promise; packets of one socket that pass at the same moment may both write, and write the same.
    unsafe {
        let control = passing.bytes <= CONTROL_BYTES;
        let flags = if control { tcp_flags(passing.skb) } else { 0 };
        if passing.sent && flags & (SYN | ACK) == SYN && tcp_sequence(passing.skb) != (*known).sequence {
            // The socket is used once more: what it tried before is over.
            give_up(known);
            return begin_again(passing, known);
        }
        let place = (*known).flow;
        let at = match FLOWS.get_ptr_mut(place) {
            Some(flow) if (&raw const (*flow).generation).read_volatile() == (*known).generation => {
                Some(&raw mut (*flow).traffic)
            }
            _ => again(passing, known),
        };
        let Some(at) = at else { return };
        passing.count(at);
        if !control {
            return;
        }
        let stage = (*known).stage;
        if flags & RST != 0 {
            (*known).stage = STAGE_ENDED;
            match stage {
                STAGE_OPENING if !passing.sent => count_one(&raw mut (*at).refused),
                STAGE_OPENING => count_one(&raw mut (*at).timed_out),
                STAGE_OPEN => count_one(&raw mut (*at).reset),
                _ => (),
            }
        } else if stage == STAGE_OPENING && !passing.sent && flags & (SYN | ACK) == SYN | ACK {
            (*known).stage = STAGE_OPEN;
            count_one(&raw mut (*at).established);
        }
    }
}

/// A known connection's place was given to another flow, or there was none: looks for one.
///
/// # Safety
/// As for [`connection`].
#[inline(never)]
unsafe fn again(passing: &Passing, known: *mut Sock) -> Option<*mut Traffic> {
    let mut name = FlowName::default();
    let header = packet::read(passing.skb, passing.sent, &mut name);
    name.cgroup = cgroup_of(passing.skb);
    if header.is_none() {
        return folded(name.cgroup);
    }
    // SAFETY: the caller's promise.
    unsafe {
        name.role = (*known).role as u8;
        name.port = (*known).port as u16;
        let place = find_or_take(&name);
        (*known).generation = generation_of(place);
        (*known).flow = place;
        traffic(place, name.cgroup)
    }
}

/// A socket that has tried before begins another connection, maybe to somebody else.
///
/// # Safety
/// As for [`connection`].
#[inline(never)]
unsafe fn begin_again(passing: &Passing, known: *mut Sock) {
    let mut name = FlowName::default();
    let Some(header) = packet::read(passing.skb, passing.sent, &mut name) else {
        return fold(passing);
    };
    name.cgroup = cgroup_of(passing.skb);
    (name.role, name.port) = (ROLE_OPENED, header.peer_port);
    let place = find_or_take(&name);
    // SAFETY: the caller's promise.
    unsafe {
        (*known).stage = STAGE_OPENING;
        (*known).role = u32::from(name.role);
        (*known).port = u32::from(name.port);
        (*known).sequence = tcp_sequence(passing.skb);
        (*known).generation = generation_of(place);
        (*known).flow = place;
        if let Some(at) = traffic(place, name.cgroup) {
            passing.count(at);
            count_one(&raw mut (*at).opened);
        }
    }
}

/// Counts a connection that was begun and never answered, if this socket's is one.
///
/// # Safety
/// `known` is the storage of a socket.
#[inline(always)]
unsafe fn give_up(known: *mut Sock) {
    // SAFETY: the caller's promise; elements of maps.
    unsafe {
        if (*known).stage != STAGE_OPENING {
            return;
        }
        (*known).stage = STAGE_ENDED;
        let at = match FLOWS.get_ptr_mut((*known).flow) {
            Some(flow) if (&raw const (*flow).generation).read_volatile() == (*known).generation => {
                Some(&raw mut (*flow).traffic)
            }
            // It found no place, or its place is another flow's by now.
            _ => folded((*known).cgroup),
        };
        if let Some(at) = at {
            count_one(&raw mut (*at).timed_out);
        }
    }
}

#[inline(always)]
fn generation_of(place: u32) -> u32 {
    FLOWS
        .get_ptr_mut(place)
        // SAFETY: an element of the map.
        .map_or(0, |flow| unsafe {
            (&raw const (*flow).generation).read_volatile()
        })
}

/// A packet of a socket of which nothing is known. Not inlined: it needs most of the stack that a program may have.
#[inline(never)]
fn unknown(passing: &Passing, sock: *mut bpf_sock) {
    let mut name = FlowName::default();
    let Some(header) = packet::read(passing.skb, passing.sent, &mut name) else {
        return fold(passing);
    };
    name.cgroup = cgroup_of(passing.skb);
    match name.protocol {
        TCP => first_of_connection(passing, sock, &mut name, &header),
        ICMP => icmp(passing, &mut name, (header.kind == 8, header.kind == 0)),
        ICMPV6 => icmp(passing, &mut name, (header.kind == 128, header.kind == 129)),
        _ => match socks::kind(sock) {
            // Of UDP it receives copies of what others do. What is remembered of a socket would hide what it sends besides.
            Kind::Raw if name.protocol == UDP && !passing.sent => (),
            Kind::Raw => of_either(passing, &mut name, &header, None),
            // Behind more extension headers than are stepped over: no packet's ports say whose it is.
            Kind::Tcp => fold(passing),
            Kind::Other => {
                let fresh = Sock {
                    stage: STAGE_DATAGRAMS,
                    flow: NO_FLOW,
                    ..Sock::default()
                };
                let known = socks::remember(sock, name.cgroup, fresh);
                of_either(passing, &mut name, &header, known);
            }
        },
    }
}

/// Where to count a datagram that goes the way of the last one, as nearly all do.
///
/// # Safety
/// `known` is the storage of the packet's socket.
#[inline(always)]
unsafe fn same_as_before(passing: &Passing, known: *mut Sock) -> Option<*mut Traffic> {
    let (addresses, ports) = packet::plain_datagram(passing.skb, passing.sent)?;
    // SAFETY: the caller's promise.
    unsafe {
        if (*known).plain_addresses != addresses || (*known).plain_ports != ports {
            return None;
        }
        place_of(known, addresses, ports)
    }
}

/// Where the last datagram was counted, if what is remembered of it is all of one datagram, between `addresses` and `ports`, and its place
/// still is its flow's.
///
/// # Safety
/// `known` is the storage of a socket.
#[inline(always)]
unsafe fn place_of(known: *mut Sock, addresses: u64, ports: u32) -> Option<*mut Traffic> {
    // SAFETY: the caller's promise. Read once each: packets of the same socket may pass on other CPUs.
    unsafe {
        let place = (&raw const (*known).flow).read_volatile();
        let generation = (&raw const (*known).generation).read_volatile();
        let flow = FLOWS.get_ptr_mut(place)?;
        (generation == (&raw const (*flow).generation).read_volatile()
            && (&raw const (*known).sum).read_volatile() == sum(addresses, ports, place, generation))
        .then_some(&raw mut (*flow).traffic)
    }
}

/// Differs between two datagrams' remembered parts mixed up and either of them, but for one case in 2^32.
#[inline(always)]
fn sum(addresses: u64, ports: u32, place: u32, generation: u32) -> u32 {
    // Odd numbers without a pattern: those of splitmix64.
    const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
    const SECOND: u64 = 0x94d0_49bb_1331_11eb;
    let words = (addresses ^ u64::from(ports).rotate_left(40)).wrapping_mul(FIRST);
    let words = words ^ words >> 31 ^ (u64::from(place) << 32 | u64::from(generation));
    (words.wrapping_mul(SECOND) >> 32) as u32
}

/// What [`sum`] takes for a datagram's ends.
#[inline(always)]
fn ends_of(name: &FlowName, header: &Header) -> (u64, u32) {
    let ports = [header.own_port, header.peer_port];
    if packet::is_ipv4(name.local) {
        return packet::plain(name.local, name.peer, ports);
    }
    let [a, b] = name.local;
    let [c, d] = name.peer;
    let addresses = a ^ b.rotate_left(16) ^ c.rotate_left(32) ^ d.rotate_left(48);
    (addresses, packet::plain(name.local, name.peer, ports).1)
}

/// A datagram of a socket that was seen before.
///
/// # Safety
/// `known` is the storage of the packet's socket.
#[inline(never)]
unsafe fn datagram(passing: &Passing, known: *mut Sock) {
    let mut name = FlowName::default();
    let Some(header) = packet::read(passing.skb, passing.sent, &mut name) else {
        return fold(passing);
    };
    let (addresses, ports) = ends_of(&name, &header);
    // SAFETY: as in `same_as_before`.
    unsafe {
        if (*known).ports == [header.own_port, header.peer_port]
            && (*known).local == name.local
            && (*known).peer == name.peer
            && let Some(at) = place_of(known, addresses, ports)
        {
            return passing.count(at);
        }
    }
    name.cgroup = cgroup_of(passing.skb);
    of_either(passing, &mut name, &header, Some(known));
}

/// A packet of a protocol without connections: who was first opened. `known`: what is remembered of its socket.
#[inline(always)]
fn of_either(passing: &Passing, name: &mut FlowName, header: &Header, known: Option<*mut Sock>) {
    // An answer belongs to what it answers.
    let (answers, begins) = if passing.sent {
        ((ROLE_ACCEPTED, header.own_port), (ROLE_OPENED, header.peer_port))
    } else {
        ((ROLE_OPENED, header.peer_port), (ROLE_ACCEPTED, header.own_port))
    };
    let folded = known.is_some_and(|known| has_folded(known));
    (name.role, name.port) = answers;
    let place = match find(name) {
        Some(place) => place,
        None => {
            (name.role, name.port) = begins;
            if passing.sent && folded {
                // It may answer what found no place: then it is nobody's opening.
                find(name).unwrap_or(NO_FLOW)
            } else {
                find_or_take(name)
            }
        }
    };
    if let Some(known) = known {
        // SAFETY: as above.
        unsafe {
            if place == NO_FLOW && !passing.sent {
                (*known).folded = seconds() | 1;
            }
            let (addresses, ports) = ends_of(name, header);
            let generation = generation_of(place);
            (*known).local = name.local;
            (*known).peer = name.peer;
            (*known).ports = [header.own_port, header.peer_port];
            let plain = name.protocol == UDP && packet::is_ipv4(name.local);
            ((*known).plain_addresses, (*known).plain_ports) =
                if plain { (addresses, ports) } else { (0, 0) };
            (*known).generation = generation;
            (*known).flow = place;
            (*known).sum = sum(addresses, ports, place, generation);
        }
    }
    if let Some(at) = traffic(place, name.cgroup) {
        passing.count(at);
    }
}

/// Whether a socket received something that found no place not long ago.
#[inline(always)]
fn has_folded(known: *mut Sock) -> bool {
    // SAFETY: the socket's storage.
    let folded = unsafe { (*known).folded };
    folded != 0 && seconds().wrapping_sub(folded) < FOLDED_FOR
}

/// The time in units of 2^30 ns, nearly seconds.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_ns() } >> 30) as u32
}

/// Echo requests open a flow, replies belong to it; the rest is the kernel's.
#[inline(always)]
fn icmp(passing: &Passing, name: &mut FlowName, (request, reply): (bool, bool)) {
    if !request && !reply {
        return fold(passing);
    }
    name.role = if request == passing.sent {
        ROLE_OPENED
    } else {
        ROLE_ACCEPTED
    };
    let place = if request {
        find_or_take(name)
    } else {
        find(name).unwrap_or(NO_FLOW)
    };
    if let Some(at) = traffic(place, name.cgroup) {
        passing.count(at);
    }
}

/// The first packet seen of a TCP socket, or one without a connection.
#[inline(always)]
fn first_of_connection(passing: &Passing, sock: *mut bpf_sock, name: &mut FlowName, header: &Header) {
    // SAFETY: a field that every kind of socket has.
    let state = unsafe { (*sock).state };
    let begins = passing.sent && header.kind & (SYN | ACK) == SYN;
    let (opened, accepted) = ((ROLE_OPENED, header.peer_port), (ROLE_ACCEPTED, header.own_port));
    let (mut just_opened, mut just_refused) = (false, false);
    let stage;
    (stage, (name.role, name.port)) = match state {
        socks::LISTEN | socks::NEW_SYN_RECV if !begins => (0, accepted),
        // Where the SYN was not seen, or not remembered, this is its answer.
        socks::SYN_SENT if !passing.sent && header.kind & RST != 0 => {
            just_refused = true;
            (STAGE_ENDED, opened)
        }
        socks::SYN_SENT if !passing.sent && header.kind & (SYN | ACK) == SYN | ACK => {
            just_opened = true;
            (STAGE_OPEN, opened)
        }
        socks::SYN_SENT => (STAGE_OPENING, opened),
        // A raw socket.
        socks::CLOSE if begins => (0, opened),
        // What a raw socket receives are copies. What it or the kernel sends besides belongs to no connection of a socket.
        socks::CLOSE if passing.sent => return fold(passing),
        socks::CLOSE => return,
        _ if socks::is_fresh(sock, if passing.sent { passing.packets } else { 0 })
            && handshake_seen(name, accepted) =>
        {
            just_opened = true;
            (STAGE_OPEN, accepted)
        }
        _ => (STAGE_OPEN, of_old(passing, name, header)),
    };
    let place = find_or_take(name);
    if stage != 0 {
        let fresh = Sock {
            stage,
            flow: place,
            generation: generation_of(place),
            role: u32::from(name.role),
            port: u32::from(name.port),
            sequence: if begins { tcp_sequence(passing.skb) } else { 0 },
            ..Sock::default()
        };
        let _ = socks::remember(sock, name.cgroup, fresh);
    }
    let Some(at) = traffic(place, name.cgroup) else {
        return;
    };
    passing.count(at);
    // SAFETY: within an element of a map.
    unsafe {
        if begins {
            count_one(&raw mut (*at).opened);
        }
        if just_opened {
            count_one(&raw mut (*at).established);
        }
        if just_refused {
            count_one(&raw mut (*at).refused);
        }
        if stage == STAGE_OPEN && header.kind & RST != 0 {
            count_one(&raw mut (*at).reset);
        }
    }
}

/// Whether the flow is there to which the listener's packets of a handshake belong. A connection that has idled since its handshake looks
/// as if it were new, however old it is: without this it would be one that was made while somebody was looking.
#[inline(always)]
fn handshake_seen(name: &mut FlowName, accepted: (u8, u16)) -> bool {
    (name.role, name.port) = accepted;
    find(name).is_some()
}

/// Who opened a connection that is older than these programs, and on which port.
#[inline(always)]
fn of_old(passing: &Passing, name: &FlowName, header: &Header) -> (u8, u16) {
    // SAFETY: read as the agent set it.
    let ephemeral_from = unsafe { core::ptr::read_volatile(&raw const EPHEMERAL_FROM) };
    if socks::has_listener(passing.skb, name, header.own_port) {
        (ROLE_ACCEPTED, header.own_port)
    } else if header.own_port >= ephemeral_from && header.peer_port < ephemeral_from {
        (ROLE_OPENED, header.peer_port)
    } else {
        (0, header.peer_port)
    }
}

/// Counts a packet that belongs to no flow.
#[inline(always)]
fn fold(passing: &Passing) {
    if let Some(at) = traffic(NO_FLOW, cgroup_of(passing.skb)) {
        passing.count(at);
    }
}

/// Nobody uses the socket any more.
#[inline(always)]
pub(crate) fn socket_released(sock: *mut bpf_sock) {
    let Some(known) = socks::known(sock) else {
        return;
    };
    // SAFETY: the socket's storage.
    unsafe {
        give_up(known);
        socks::release(known);
    }
}

/// Adds one to a counter that other CPUs add to as well.
///
/// # Safety
/// `counter` is within an element of a map.
#[inline(always)]
unsafe fn count_one(counter: *mut u32) {
    // SAFETY: the caller's promise.
    unsafe {
        core::intrinsics::atomic_xadd::<u32, u32, { core::intrinsics::AtomicOrdering::Relaxed }>(counter, 1);
    }
}
