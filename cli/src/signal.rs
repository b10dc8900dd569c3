//! SIGINT, SIGTERM and SIGHUP, awaited: nothing is torn down behind the back of what must clean up.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Registers at once, resolves at the first of them after that.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The terminal was closed.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
