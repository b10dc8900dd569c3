//! The accept loop: bounds first, then the handshake, each in a task of its own, then the gRPC server.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::tls::InForce;
use super::{Conn, Refusal};
use crate::limits::{
    ACCEPT_PAUSE, HANDSHAKE, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, MAX_HANDSHAKES,
    MAX_HANDSHAKES_PER_PEER,
};
use crate::state::State;

/// Connections that were let in and that the server has not taken yet: it takes them at once.
const WAITING: usize = 16;

/// Accepts until `stop`. `tls` `None`: plain text.
pub fn accept(
    listener: TcpListener,
    tls: Option<InForce>,
    state: Arc<State>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Conn>> {
    let (conns, accepted) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let book = Arc::new(Book::new(state));
        // Also when the server has ended and takes none any more.
        let ends = conns.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = ends.closed() => {}
            () = run(&listener, tls.as_ref(), &book, &conns) => {}
        }
    });
    ReceiverStream::new(accepted)
}

async fn run(
    listener: &TcpListener,
    tls: Option<&InForce>,
    book: &Arc<Book>,
    conns: &mpsc::Sender<io::Result<Conn>>,
) {
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A peer that went between is not this process' trouble, all else is.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) {
                    book.state.metrics.accept_failed();
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let Some(held) = Held::new(book, addr, tls.is_some()) else {
            continue;
        };
        // Receipts are small and waited for. A socket that cannot be told is no reason to turn its peer away.
        let _ = stream.set_nodelay(true);
        let conns = conns.clone();
        match tls.and_then(InForce::config) {
            None => {
                if conns.send(Ok(Conn::plain(stream, addr, held))).await.is_err() {
                    return;
                }
            }
            Some(config) => {
                tokio::spawn(async move {
                    if let Some(conn) = handshake(config, stream, addr, held).await {
                        let _ = conns.send(Ok(conn)).await;
                    }
                });
            }
        }
    }
}

async fn handshake(
    config: Arc<rustls::ServerConfig>,
    stream: TcpStream,
    addr: SocketAddr,
    mut held: Held,
) -> Option<Conn> {
    let done = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    let (refusal, why) = match done {
        Ok(Ok(stream)) => {
            held.end_handshake();
            return Some(Conn::tls(stream, addr, held));
        }
        Ok(Err(error)) => (Refusal::of_handshake(&error), error.to_string()),
        Err(_) => (
            Refusal::HandshakeTimeout,
            format!("not finished after {HANDSHAKE:?}"),
        ),
    };
    held.refused_for(refusal, &why);
    None
}

/// Who is connected.
#[derive(Debug)]
struct Book {
    state: Arc<State>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    handshakes: usize,
    /// Connections, handshakes among them.
    by_peer: BTreeMap<IpAddr, [usize; 2]>,
}

impl Book {
    fn new(state: Arc<State>) -> Self {
        Self {
            state,
            counts: Mutex::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever may take many IPv6 addresses has a /64 of them: that is one peer.
fn peer_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// A connection's place among those that may be; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    book: Arc<Book>,
    addr: SocketAddr,
    peer: IpAddr,
    in_handshake: bool,
}

impl Held {
    fn new(book: &Arc<Book>, addr: SocketAddr, in_handshake: bool) -> Option<Self> {
        let peer = peer_of(addr.ip());
        let mut counts = book.counts();
        let [of_peer, hands_of_peer] = counts.by_peer.get(&peer).copied().unwrap_or_default();
        let refusal = if counts.connections >= MAX_CONNECTIONS {
            Some(Refusal::TooMany)
        } else if of_peer >= MAX_CONNECTIONS_PER_PEER {
            Some(Refusal::TooManyOfPeer)
        } else if in_handshake && counts.handshakes >= MAX_HANDSHAKES {
            Some(Refusal::TooManyHandshakes)
        } else if in_handshake && hands_of_peer >= MAX_HANDSHAKES_PER_PEER {
            Some(Refusal::TooManyHandshakesOfPeer)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            drop(counts);
            refuse(&book.state, addr, refusal, "");
            return None;
        }
        counts.connections += 1;
        counts.handshakes += usize::from(in_handshake);
        let of_peer = counts.by_peer.entry(peer).or_default();
        of_peer[0] += 1;
        of_peer[1] += usize::from(in_handshake);
        book.state.metrics.connections(counts.connections);
        drop(counts);
        Some(Self {
            book: Arc::clone(book),
            addr,
            peer,
            in_handshake,
        })
    }

    fn end_handshake(&mut self) {
        if std::mem::take(&mut self.in_handshake) {
            let mut counts = self.book.counts();
            counts.handshakes = counts.handshakes.saturating_sub(1);
            if let Some([_, handshakes]) = counts.by_peer.get_mut(&self.peer) {
                *handshakes = handshakes.saturating_sub(1);
            }
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refused_for(refusal, "");
    }

    fn refused_for(&self, refusal: Refusal, why: &str) {
        refuse(&self.book.state, self.addr, refusal, why);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end_handshake();
        let mut counts = self.book.counts();
        counts.connections = counts.connections.saturating_sub(1);
        self.book.state.metrics.connections(counts.connections);
        if let Some([connections, _]) = counts.by_peer.get_mut(&self.peer) {
            *connections = connections.saturating_sub(1);
            if *connections == 0 {
                counts.by_peer.remove(&self.peer);
            }
        }
    }
}

/// The first of a reason and then every tenfold is a warning: a flood must not fill the log.
fn refuse(state: &State, peer: SocketAddr, refusal: Refusal, why: &str) {
    let (reason, refused) = (refusal.as_str(), state.metrics.refuse_connection(refusal));
    if refused
        .checked_ilog10()
        .is_some_and(|digits| 10u64.pow(digits) == refused)
    {
        warn!(%peer, reason, refused, why, "connection refused");
    } else {
        tracing::debug!(%peer, reason, why, "connection refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let peer = |text: &str| peer_of(text.parse().unwrap());
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::9"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }
}
