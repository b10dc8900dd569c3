//! Says when files may have changed: at once where the kernel tells, and now and then in any case.

use std::path::Path;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::warn;

/// A writer is given this long to finish after its first change.
const SETTLE: Duration = Duration::from_millis(50);
/// Looked at this often in any case: network file systems do not tell, and a watch can be lost.
const RESCAN: Duration = Duration::from_secs(5);
/// The same where nothing tells at all.
const RESCAN_ALONE: Duration = Duration::from_secs(1);

/// Watches the entries of one directory.
pub struct Watch {
    /// `None`: the kernel refused, see the log.
    watcher: Option<RecommendedWatcher>,
    /// Capacity 1: "something changed" needs no queue, so nothing is lost when it is full.
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// `dir` need not exist (yet): then only looking again finds it.
    pub fn new(dir: &Path) -> Self {
        let (send, events) = mpsc::channel(1);
        let tell = move |event: notify::Result<Event>| {
            // Reading a file is an event too; reacting to it would never end.
            let reads = |kind: &EventKind| matches!(kind, EventKind::Access(a) if !matches!(a, AccessKind::Close(AccessMode::Write)));
            if !event.is_ok_and(|e| reads(&e.kind)) {
                let _ = send.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watcher
            .inspect_err(
                |error| warn!(dir = %dir.display(), %error, "cannot watch, looking every second instead"),
            )
            .ok();
        Self { watcher, events }
    }

    /// Returns when it is worth looking: soon after a change, and every few seconds.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() {
            return tokio::time::sleep(RESCAN_ALONE).await;
        }
        if let Ok(Some(())) = tokio::time::timeout(RESCAN, self.events.recv()).await {
            tokio::time::sleep(SETTLE).await;
            let _ = self.events.try_recv();
        }
    }
}
