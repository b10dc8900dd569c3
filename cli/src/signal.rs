//! SIGINT and SIGTERM, awaited: nothing is torn down behind the back of what must clean up.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Registers at once, resolves at the first SIGINT or SIGTERM after that.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
