//! What sockets send and receive, by flow.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::programs::SkBuffContext;
use partywall_abi::{
    FlowName, NO_FLOW, ROLE_ACCEPTED, ROLE_OPENED, STAGE_DATAGRAMS, STAGE_ENDED, STAGE_OPEN, STAGE_OPENING,
    Sock, Traffic,
};

use crate::maps::{FLOWS, add};
use crate::packet::{self, ACK, Header, ICMP, ICMPV6, RST, SYN, TCP, UDP, tcp_flags, tcp_sequence};
use crate::places::{cgroup_of, find, find_or_take, traffic};
use crate::socks;

/// No packet that only says that a connection begins or ends is longer: an IPv6 header, and TCP's longest.
const CONTROL_BYTES: u32 = 40 + 60 + 28;

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
                connection(&passing, known, bytes);
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
unsafe fn connection(passing: &Passing, known: *mut Sock, bytes: u32) {
    // SAFETY: the caller's promise; packets of one socket that pass at the same moment may both write, and write the same.
    unsafe {
        let place = (*known).flow;
        let at = match FLOWS.get_ptr_mut(place) {
            Some(flow) if (&raw const (*flow).generation).read_volatile() == (*known).generation => {
                Some(&raw mut (*flow).traffic)
            }
            _ => again(passing, known),
        };
        let Some(at) = at else { return };
        if bytes > CONTROL_BYTES {
            return passing.count(at);
        }
        let stage = (*known).stage;
        let flags = tcp_flags(passing.skb);
        if passing.sent && flags & (SYN | ACK) == SYN && tcp_sequence(passing.skb) != (*known).sequence {
            // The socket is used once more: what it tried before is over.
            if stage == STAGE_OPENING {
                count_one(&raw mut (*at).timed_out);
            }
            return begin_again(passing, known);
        }
        passing.count(at);
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
    packet::read(passing.skb, passing.sent, &mut name)?;
    name.cgroup = cgroup_of(passing.skb);
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
        return;
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
        // A copy of what another socket receives.
        UDP if !passing.sent && socks::is_raw(sock) => (),
        _ => {
            let fresh = Sock {
                stage: STAGE_DATAGRAMS,
                flow: NO_FLOW,
                ..Sock::default()
            };
            let known = socks::remember(sock, fresh);
            of_either(passing, &mut name, &header, known);
        }
    }
}

/// Where to count a datagram that goes the way of the last one, as nearly all do.
///
/// # Safety
/// `known` is the storage of the packet's socket.
#[inline(always)]
unsafe fn same_as_before(passing: &Passing, known: *mut Sock) -> Option<*mut Traffic> {
    let (addresses, ports) = packet::plain_datagram(passing.skb, passing.sent)?;
    // SAFETY: the caller's promise. Packets of one socket that pass at the same moment may tear what is remembered; the place is taken
    // away before the rest is written and set after it.
    unsafe {
        if (*known).plain_addresses != addresses || (*known).plain_ports != ports {
            return None;
        }
        let flow = FLOWS.get_ptr_mut((*known).flow)?;
        ((&raw const (*flow).generation).read_volatile() == (*known).generation)
            .then_some(&raw mut (*flow).traffic)
    }
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
    // SAFETY: as in `same_as_before`.
    unsafe {
        if (*known).ports == [header.own_port, header.peer_port]
            && (*known).local == name.local
            && (*known).peer == name.peer
            && let Some(flow) = FLOWS.get_ptr_mut((*known).flow)
            && (&raw const (*flow).generation).read_volatile() == (*known).generation
        {
            return passing.count(&raw mut (*flow).traffic);
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
    // SAFETY: the socket's storage.
    let folded = known.is_some_and(|known| unsafe { (*known).folded } != 0);
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
                (*known).folded = 1;
            }
            (&raw mut (*known).flow).write_volatile(NO_FLOW);
            (*known).local = name.local;
            (*known).peer = name.peer;
            (*known).ports = [header.own_port, header.peer_port];
            (*known).generation = generation_of(place);
            ((*known).plain_addresses, (*known).plain_ports) =
                if name.protocol == UDP && packet::is_ipv4(name.local) {
                    packet::plain(name.local, name.peer, (*known).ports)
                } else {
                    (0, 0)
                };
            (&raw mut (*known).flow).write_volatile(place);
        }
    }
    if let Some(at) = traffic(place, name.cgroup) {
        passing.count(at);
    }
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
    let mut just_accepted = false;
    let stage;
    (stage, (name.role, name.port)) = match state {
        socks::LISTEN | socks::NEW_SYN_RECV if !begins => (0, accepted),
        socks::SYN_SENT if begins => (STAGE_OPENING, opened),
        // A raw socket.
        socks::CLOSE if begins => (0, opened),
        // What a raw socket receives are copies. What it or the kernel sends besides belongs to no connection of a socket.
        socks::CLOSE if passing.sent => return fold(passing),
        socks::CLOSE => return,
        _ if socks::just_accepted(sock) => {
            just_accepted = true;
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
        let _ = socks::remember(sock, fresh);
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
        if just_accepted {
            count_one(&raw mut (*at).established);
        }
        if stage == STAGE_OPEN && header.kind & RST != 0 {
            count_one(&raw mut (*at).reset);
        }
    }
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
    // SAFETY: the socket's storage; an element of a map.
    unsafe {
        if (*known).stage != STAGE_OPENING {
            return;
        }
        (*known).stage = STAGE_ENDED;
        if let Some(flow) = FLOWS.get_ptr_mut((*known).flow)
            && (&raw const (*flow).generation).read_volatile() == (*known).generation
        {
            count_one(&raw mut (*flow).traffic.timed_out);
        }
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
