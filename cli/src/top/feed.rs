//! Asks the aggregator every second; after a loss, tries again with growing pauses.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::client::Client;
use crate::model::Snapshot;

/// The aggregator judges once a second; asking more often shows nothing new.
const EVERY: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// An aggregator that comes back is noticed within this.
const LAST_RETRY: Duration = Duration::from_secs(8);

/// The newest that is known, and whether it still is.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub snapshot: Arc<Snapshot>,
    pub received: Instant,
    pub lost: Option<Lost>,
}

/// The aggregator does not answer.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub since: Instant,
    pub since_unix_seconds: f64,
    pub why: String,
    pub next_try: Instant,
}

/// The first answer is at hand already, so that the screen never starts empty. Ends when the receiver is dropped.
pub(crate) fn start(mut client: Client, first: Snapshot) -> watch::Receiver<Update> {
    let update = Update {
        snapshot: Arc::new(first),
        received: Instant::now(),
        lost: None,
    };
    let (sender, receiver) = watch::channel(update);
    tokio::spawn(async move {
        let mut pause = EVERY;
        while !sender.is_closed() {
            tokio::time::sleep(pause).await;
            // The channel reconnects by itself when it is asked again.
            match client.snapshot(true).await {
                Ok(snapshot) => {
                    pause = EVERY;
                    sender.send_replace(Update {
                        snapshot: Arc::new(snapshot),
                        received: Instant::now(),
                        lost: None,
                    });
                }
                Err(failure) => sender.send_modify(|update| {
                    pause = if update.lost.is_some() {
                        (pause * 2).min(LAST_RETRY)
                    } else {
                        FIRST_RETRY
                    };
                    update.lost = Some(still_lost(update.lost.take(), failure.to_string(), pause));
                }),
            }
        }
    });
    receiver
}

/// The same loss with its newest reason, or a new one.
fn still_lost(before: Option<Lost>, why: String, pause: Duration) -> Lost {
    let now = Instant::now();
    let wall = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64())
    };
    let (since, since_unix_seconds) =
        before.map_or_else(|| (now, wall()), |lost| (lost.since, lost.since_unix_seconds));
    Lost {
        since,
        since_unix_seconds,
        why,
        next_try: now + pause,
    }
}
