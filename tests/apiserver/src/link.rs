//! The server's socket, which can be closed with every connection of it and opened again at the same port: a server that goes away.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Opens and closes the socket.
#[derive(Debug)]
pub(crate) struct Switch {
    is_open: watch::Sender<bool>,
    /// Of the connections that are open.
    connections: Mutex<CancellationToken>,
}

impl Switch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            is_open: watch::Sender::new(true),
            connections: Mutex::default(),
        })
    }

    /// Connections end now; new ones are refused until [`Switch::open`].
    pub(crate) fn close(&self) {
        self.is_open.send_replace(false);
        self.cut();
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Connections end now, in the middle of whatever they carry.
    pub(crate) fn cut(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.cancel();
        *connections = CancellationToken::new();
    }

    fn token(&self) -> CancellationToken {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A client that does not finish its handshake keeps others waiting no longer.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection's bytes, encrypted or not.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

pub(crate) struct Socket {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    /// `None` while it is closed.
    listener: Option<TcpListener>,
    is_open: watch::Receiver<bool>,
    switch: Arc<Switch>,
}

impl Socket {
    pub(crate) fn new(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        switch: Arc<Switch>,
    ) -> io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            tls,
            listener: Some(listener),
            is_open: switch.is_open.subscribe(),
            switch,
        })
    }
}

impl Listener for Socket {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            if !*self.is_open.borrow_and_update() {
                self.listener = None;
                let _ = self.is_open.wait_for(|open| *open).await;
            }
            let Some(listener) = &self.listener else {
                // Nobody else takes the port in so short a time; whoever does gives it back.
                match TcpListener::bind(self.address).await {
                    Ok(listener) => self.listener = Some(listener),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                continue;
            };
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, peer)) = accepted {
                    let _ = stream.set_nodelay(true);
                    let ended = Box::pin(self.switch.token().cancelled_owned());
                    let stream: Box<dyn Bytes> = match &self.tls {
                        None => Box::new(stream),
                        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                            Ok(Ok(stream)) => Box::new(stream),
                            _ => continue,
                        },
                    };
                    return (Connection { stream, ended }, peer);
                },
                _ = self.is_open.changed() => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that the switch can end.
pub(crate) struct Connection {
    stream: Box<dyn Bytes>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_ended(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
