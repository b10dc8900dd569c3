//! What is remembered of sockets, and what can be asked of them.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_CURRENT_NETNS, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_release, bpf_sk_storage_get, bpf_tcp_sock,
};
use partywall_abi::{FlowName, Sock};

use crate::maps::SOCKS;
use crate::packet::{TCP, is_ipv4};
use crate::places::{give_socket, take_socket};

/// States of a TCP socket.
pub(crate) const SYN_SENT: u32 = 2;
pub(crate) const CLOSE: u32 = 7;
pub(crate) const LISTEN: u32 = 10;
pub(crate) const NEW_SYN_RECV: u32 = 12;

const SOCK_RAW: u32 = 3;

/// What is remembered of a socket, if anything is.
#[inline(always)]
pub(crate) fn known(sock: *mut bpf_sock) -> Option<*mut Sock> {
    storage(sock, core::ptr::null_mut(), 0)
}

/// Remembers `first` of a socket of `cgroup`. `None`: its unit has had its share, or the kernel has no memory for it.
#[inline(always)]
pub(crate) fn remember(sock: *mut bpf_sock, cgroup: u64, mut first: Sock) -> Option<*mut Sock> {
    if !take_socket(cgroup) {
        return None;
    }
    first.cgroup = cgroup;
    let known = storage(sock, &raw mut first, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if known.is_none() {
        give_socket(cgroup);
    }
    known
}

/// The socket is nobody's any more. The kernel keeps what is remembered while it still has packets to send.
///
/// # Safety
/// `known` is the storage of a socket.
#[inline(always)]
pub(crate) unsafe fn release(known: *mut Sock) {
    // SAFETY: the caller's promise.
    let cgroup = unsafe { core::mem::take(&mut (*known).cgroup) };
    if cgroup != 0 {
        give_socket(cgroup);
    }
}

#[inline(always)]
fn storage(sock: *mut bpf_sock, first: *mut Sock, flags: u64) -> Option<*mut Sock> {
    let map = (&raw const SOCKS).cast_mut().cast();
    // SAFETY: the helper checks the socket and copies `first`.
    let at = unsafe { bpf_sk_storage_get(map, sock.cast(), first.cast(), flags) }.cast::<Sock>();
    (!at.is_null()).then_some(at)
}

/// Whether nothing but a handshake that somebody else began has passed on this connection, and `sending` packets that it sends now.
#[inline(always)]
pub(crate) fn is_fresh(sock: *mut bpf_sock, sending: u64) -> bool {
    // SAFETY: the helper checks the socket.
    let tcp = unsafe { bpf_tcp_sock(sock) };
    // It counts the two packets of the handshake that came, not those that are coming now, and those that it is sending, but none of the
    // handshake: whoever opened a connection sent two there.
    // SAFETY: checked for null.
    !tcp.is_null() && unsafe { (*tcp).segs_in <= 2 && u64::from((*tcp).segs_out) <= sending }
}

/// What kind of socket it is, as far as the two that are no datagram sockets go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Is handed copies of what others receive, and sends whatever it likes.
    Raw,
    Tcp,
    Other,
}

#[inline(always)]
pub(crate) fn kind(sock: *mut bpf_sock) -> Kind {
    // SAFETY: the helper checks the socket.
    let full = unsafe { bpf_sk_fullsock(sock) };
    if full.is_null() {
        return Kind::Other;
    }
    // SAFETY: checked for null.
    match unsafe { ((*full).type_, (*full).protocol) } {
        (SOCK_RAW, _) => Kind::Raw,
        (_, protocol) if protocol == u32::from(TCP) => Kind::Tcp,
        _ => Kind::Other,
    }
}

/// Whether somebody listens on `port` of the address in `name`, in the network namespace of the packet.
#[inline(always)]
pub(crate) fn has_listener(skb: *mut __sk_buff, name: &FlowName, port: u16) -> bool {
    // SAFETY: plain numbers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    // The peer's port is left at 0, which no connection has: only a listener is found.
    let size = if is_ipv4(name.local) {
        tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: halves(name.peer[1])[1],
            daddr: halves(name.local[1])[1],
            sport: 0,
            dport: port.to_be(),
        };
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
    } else {
        let words = |address: [u64; 2]| {
            let ([a, b], [c, d]) = (halves(address[0]), halves(address[1]));
            [a, b, c, d]
        };
        tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: words(name.peer),
            daddr: words(name.local),
            sport: 0,
            dport: port.to_be(),
        };
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
    };
    // SAFETY: the helper reads the tuple; what it returns is given back.
    unsafe {
        let netns = BPF_F_CURRENT_NETNS as u64;
        let found = bpf_sk_lookup_tcp(skb.cast(), &raw mut tuple, size as u32, netns, 0);
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}
