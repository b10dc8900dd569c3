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

/// Remembers `first` of a socket, unless there is something already. `None`: the kernel has no memory for it.
#[inline(always)]
pub(crate) fn remember(sock: *mut bpf_sock, mut first: Sock) -> Option<*mut Sock> {
    storage(sock, &raw mut first, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn storage(sock: *mut bpf_sock, first: *mut Sock, flags: u64) -> Option<*mut Sock> {
    let map = (&raw const SOCKS).cast_mut().cast();
    // SAFETY: the helper checks the socket and copies `first`.
    let at = unsafe { bpf_sk_storage_get(map, sock.cast(), first.cast(), flags) }.cast::<Sock>();
    (!at.is_null()).then_some(at)
}

/// Whether this is a connection that somebody else began, and that has just been made.
#[inline(always)]
pub(crate) fn just_accepted(sock: *mut bpf_sock) -> bool {
    // SAFETY: the helper checks the socket.
    let tcp = unsafe { bpf_tcp_sock(sock) };
    // It counts the two packets of the handshake that came, and none of those that went before its own first: whoever opened sent two.
    // SAFETY: checked for null.
    !tcp.is_null() && unsafe { (*tcp).segs_in <= 2 && (*tcp).segs_out <= 1 }
}

/// Whether this socket is handed copies of what others receive.
#[inline(always)]
pub(crate) fn is_raw(sock: *mut bpf_sock) -> bool {
    // SAFETY: the helper checks the socket.
    let full = unsafe { bpf_sk_fullsock(sock) };
    // SAFETY: checked for null.
    !full.is_null() && unsafe { (*full).type_ } == SOCK_RAW
}

/// Whether somebody listens on `port` of the address in `name`, in the network namespace of the packet.
#[inline(always)]
pub(crate) fn has_listener(skb: *mut __sk_buff, name: &FlowName, port: u16) -> bool {
    // SAFETY: plain numbers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let halves = |word: u64| [word as u32, (word >> 32) as u32];
    // The peer's port is left at 0, which no connection has: only a listener is found.
    let size = if name.local[0] == 0 && halves(name.local[1])[0] == 0xffff_u32.to_be() {
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
