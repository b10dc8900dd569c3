//! Telling others of breaches: one task, one queue and one connection for each target, so that who is slow holds up nobody else, and never the judge.
//!
//! The judge's changes come over a channel that nobody can hold up (who is behind begins anew, from what lives). While a request is on its way the task goes
//! on listening, so that the queue is the only place where something waits.

pub mod alert;
mod config;
mod endpoint;
mod figures;
mod outbox;
mod post;

use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use partywall_proto::v1::Breach;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use config::{PushArgs, PushConfig};
pub use endpoint::Endpoint;
pub use figures::Figures;
pub(super) use figures::write;

use super::{alertmanager, webhook};
use crate::clock::unix_ns;
use crate::state::State;
use alert::{Alert, Links};
use outbox::{Batch, Outbox};
use post::{Failure, Post};

/// The pause after a first failure. It doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Alertmanager,
    Webhook,
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A target and all that it has to be told.
pub struct Sender {
    sink: Sink,
    to: Endpoint,
    token: Option<std::path::PathBuf>,
    links: Links,
    post: Post,
    state: Arc<State>,
    figures: Arc<Figures>,
    outbox: Outbox,
    started_unix_ns: u64,
    /// Failures in a row.
    failures: u32,
    /// Said once until it is taken again.
    refused: bool,
}

/// One for each target of `config`, and what they say of themselves.
///
/// # Errors
/// Authorities cannot be read.
pub fn senders(config: &PushConfig, state: &Arc<State>) -> anyhow::Result<(Vec<Sender>, Vec<Arc<Figures>>)> {
    let all = || {
        let alertmanagers = config.alertmanagers.iter().map(|to| (Sink::Alertmanager, to));
        alertmanagers.chain(config.webhooks.iter().map(|to| (Sink::Webhook, to)))
    };
    let post = Post::new(config.ca.as_deref(), all().any(|(_, to)| to.is_https()))?;
    let mut senders: Vec<Sender> = Vec::new();
    for (sink, to) in all() {
        let (name, token) = match sink {
            Sink::Alertmanager => ("alertmanager", &config.alertmanager_token),
            Sink::Webhook => ("webhook", &config.webhook_token),
        };
        // Two webhooks of one host are two targets.
        let same = |s: &&Sender| s.sink == sink && s.to.host() == to.host();
        let target = match senders.iter().filter(same).count() {
            0 => to.host().to_owned(),
            n => format!("{}#{}", to.host(), n + 1),
        };
        senders.push(Sender {
            sink,
            to: to.clone(),
            token: token.clone(),
            links: config.links.clone(),
            post: post.clone(),
            state: Arc::clone(state),
            figures: Arc::new(Figures::new(name, target)),
            outbox: Outbox::default(),
            started_unix_ns: unix_ns(),
            failures: 0,
            refused: false,
        });
    }
    let figures = senders.iter().map(|s| Arc::clone(&s.figures)).collect();
    Ok((senders, figures))
}

impl Sender {
    /// Tells the target until `stop`. Nothing is told of the end: an Alertmanager's alerts end by themselves, or go on with the next aggregator.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.compare(None);
        let mut repeat = tokio::time::interval(alertmanager::REPEAT);
        let mut sending: Option<(Batch, Answer)> = None;
        let mut paused_until: Option<tokio::time::Instant> = None;
        // An Alertmanager is asked now and then whether it is there, whatever there is to tell.
        let mut greet = false;
        loop {
            if sending.is_none() && paused_until.is_none() {
                let batch = self.outbox.batch(self.most(), Instant::now());
                let batch = batch.or_else(|| greet.then(Batch::default));
                greet &= batch.is_none();
                sending = batch.map(|batch| self.send(batch));
            }
            self.note();
            let answer = async {
                match &mut sending {
                    Some((_, answer)) => answer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            let pause = async {
                match paused_until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(breach) => self.take(&breach),
                    Err(RecvError::Lagged(missed)) => {
                        self.outbox.lost.missed += missed;
                        changes = self.compare(Some(changes));
                    }
                    Err(RecvError::Closed) => return,
                },
                _ = repeat.tick() => {
                    changes = self.compare(Some(changes));
                    if self.sink == Sink::Alertmanager {
                        self.outbox.repeat();
                        greet = true;
                    }
                }
                answer = answer => {
                    if let Some((batch, _)) = sending.take() {
                        paused_until = self.answered(&batch, answer).map(|pause| tokio::time::Instant::now() + pause);
                    }
                }
                () = pause => paused_until = None,
            }
        }
    }

    fn most(&self) -> usize {
        match self.sink {
            Sink::Alertmanager => alertmanager::MOST,
            Sink::Webhook => webhook::MOST,
        }
    }

    fn send(&self, batch: Batch) -> (Batch, Answer) {
        let body = match self.sink {
            Sink::Alertmanager => alertmanager::body(&batch.alerts, &self.links, unix_ns()),
            Sink::Webhook => webhook::body(&batch.alerts, &self.links, self.started_unix_ns),
        };
        let post = self.post.clone();
        let answer = post.send(self.sink, self.to.clone(), self.token.clone(), body);
        (batch, Box::pin(answer))
    }

    /// Returns how long to wait before the next request.
    fn answered(&mut self, batch: &Batch, answer: Result<(), Failure>) -> Option<Duration> {
        let (target, sink) = (self.to.shown(), self.figures.sink);
        let outcome = match &answer {
            Ok(()) => "accepted",
            Err(Failure::Failed(_)) => "failed",
            Err(Failure::Refused(_)) => "refused",
        };
        self.figures.update(|c| {
            *c.requests.entry(outcome).or_default() += 1;
            c.up = Some(answer.is_ok());
            if answer.is_ok() {
                c.taken += batch.alerts.len() as u64;
            }
        });
        match answer {
            Ok(()) => {
                self.outbox.accepted(batch);
                if self.failures > 0 {
                    info!(sink, target, failures = self.failures, "takes alerts again");
                    // It may have been started anew, and know nothing.
                    if self.sink == Sink::Alertmanager {
                        self.outbox.repeat();
                    }
                }
                (self.failures, self.refused) = (0, false);
                None
            }
            Err(Failure::Refused(reason)) => {
                self.outbox.refused(batch);
                if !std::mem::replace(&mut self.refused, true) {
                    error!(
                        sink,
                        target,
                        reason,
                        alerts = batch.alerts.len(),
                        "refuses alerts: they are not sent again"
                    );
                }
                None
            }
            Err(Failure::Failed(reason)) => {
                if self.failures == 0 {
                    warn!(sink, target, reason, "takes no alerts: they wait");
                }
                self.failures = self.failures.saturating_add(1);
                Some(pause(self.failures))
            }
        }
    }

    /// Compares with what lives. What has not been listened to yet comes first: it knows more of what ended.
    fn compare(&mut self, changes: Option<Receiver<Arc<Breach>>>) -> Receiver<Arc<Breach>> {
        if let Some(mut changes) = changes {
            loop {
                match changes.try_recv() {
                    Ok(breach) => self.take(&breach),
                    Err(TryRecvError::Lagged(missed)) => self.outbox.lost.missed += missed,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
        let (live, changes) = self.state.watch_breaches();
        let state = Arc::clone(&self.state);
        self.outbox
            .reconcile(live, |breach| make(&state, breach), Instant::now(), unix_ns());
        changes
    }

    fn take(&mut self, breach: &Breach) {
        let state = Arc::clone(&self.state);
        self.outbox
            .note(breach.clone(), |breach| make(&state, breach), Instant::now());
    }

    fn note(&self) {
        self.figures.update(|c| {
            c.waiting = self.outbox.waiting();
            c.up = up(self.sink, c.up, c.waiting);
            c.firing = self.outbox.firing();
            c.lost = self.outbox.lost;
        });
    }
}

/// Whether the target takes what it is told, as far as that is known. Nobody asks a webhook for which nothing waits, so that its last failure says nothing of it
/// any more; an Alertmanager is greeted.
fn up(sink: Sink, last: Option<bool>, waiting: usize) -> Option<bool> {
    last.filter(|up| *up || waiting > 0 || sink == Sink::Alertmanager)
}

/// As the policy in force has it; `None`: it keeps the kind back.
fn make(state: &State, breach: Breach) -> Option<Alert> {
    let kind = crate::wire::known_kind(breach.kind())?;
    let told = state.told(kind);
    told.push.then(|| Alert::new(breach, told.severity)).flatten()
}

/// Doubles, and never the same for two: targets that were away together do not all come back at once.
fn pause(failures: u32) -> Duration {
    let longest = FIRST_PAUSE
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LAST_PAUSE);
    let random = RandomState::new().hash_one(failures) % 1_000;
    longest.mul_f64(0.5 + 0.5 * random as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_as_long_as_somebody_tries() {
        let (bad, good) = (Some(false), Some(true));
        assert_eq!(up(Sink::Webhook, bad, 1), bad);
        assert_eq!(up(Sink::Webhook, bad, 0), None, "nobody knows");
        assert_eq!(up(Sink::Webhook, good, 0), good);
        assert_eq!(up(Sink::Alertmanager, bad, 0), bad, "greeted again and again");
        assert_eq!(up(Sink::Alertmanager, None, 0), None);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for (failures, most) in [(1, FIRST_PAUSE), (2, FIRST_PAUSE * 2), (30, LAST_PAUSE)] {
            let pause = pause(failures);
            assert!(pause <= most && pause >= most / 2, "{failures}: {pause:?}");
        }
    }
}
