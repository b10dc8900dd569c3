//! One connection, as the gRPC server reads and writes it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::Refusal;
use super::accept::Held;
use crate::limits::{FIRST_REQUEST, SILENCE};

/// Who is at the other end; in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer {
    pub addr: SocketAddr,
    asked: Arc<AtomicBool>,
}

impl Peer {
    /// Something was asked on this connection: it is in use.
    pub(super) fn asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// A connection that was let in. It ends by itself where its peer asks nothing, or falls silent.
#[derive(Debug)]
pub struct Conn {
    io: Io,
    peer: Peer,
    began: Instant,
    /// The last byte that came.
    heard: Instant,
    timer: Pin<Box<Sleep>>,
    held: Held,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    pub(super) fn plain(stream: TcpStream, addr: SocketAddr, held: Held) -> Self {
        Self::new(Io::Plain(stream), addr, held)
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, addr: SocketAddr, held: Held) -> Self {
        Self::new(Io::Tls(Box::new(stream)), addr, held)
    }

    fn new(io: Io, addr: SocketAddr, held: Held) -> Self {
        let now = Instant::now();
        Self {
            io,
            peer: Peer {
                addr,
                asked: Arc::default(),
            },
            began: now,
            heard: now,
            timer: Box::pin(tokio::time::sleep_until(now + FIRST_REQUEST)),
            held,
        }
    }

    /// `Some`: its time is over.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Option<Refusal> {
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return None;
            }
            let asked = self.peer.asked.load(Ordering::Relaxed);
            let (until, why) = if asked {
                (self.heard + SILENCE, Refusal::Silent)
            } else {
                (self.began + FIRST_REQUEST, Refusal::NoRequest)
            };
            if until <= Instant::now() {
                return Some(why);
            }
            self.timer.as_mut().reset(until);
        }
    }
}

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        };
        if read.is_ready() && buf.filled().len() > before {
            self.heard = Instant::now();
        }
        // Asked on every reading: who sends a byte now and then is not let off.
        if let Some(why) = self.overdue(cx) {
            self.held.refused(why);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why.as_str())));
        }
        read
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }
}
