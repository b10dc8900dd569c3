//! Follows the aggregator's breaches as any client would, and notes when each was raised and when it cleared.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_proto::v1::{
    Breach, BreachKind, BreachState, GetSnapshotRequest, Snapshot, WatchBreachesRequest,
    query_service_client::QueryServiceClient,
};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::judge::Raised;

/// A client of the query service. Leaves when dropped.
pub(crate) struct Observer {
    client: QueryServiceClient<Channel>,
    seen: Arc<Mutex<Seen>>,
    follower: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    raised: Vec<(Raised, Instant, Option<Instant>)>,
    lost: Option<String>,
}

impl Observer {
    pub(crate) async fn connect(aggregator: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{aggregator}"))?;
        let channel = endpoint
            .connect()
            .await
            .context("cannot reach the aggregator's query service")?;
        let mut client = QueryServiceClient::new(channel);
        let mut changes = client
            .watch_breaches(WatchBreachesRequest::default())
            .await?
            .into_inner();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let follower = tokio::spawn(async move {
            loop {
                let change = changes.message().await;
                let mut seen = noted.lock().unwrap_or_else(PoisonError::into_inner);
                match change {
                    Ok(Some(breach)) => seen.note(breach, Instant::now()),
                    Ok(None) => break seen.lost = Some("the aggregator ended it".to_owned()),
                    Err(status) => break seen.lost = Some(status.to_string()),
                }
            }
        });
        Ok(Self {
            client,
            seen,
            follower,
        })
    }

    /// Everything raised so far, in seconds since `start`.
    pub(crate) fn raised(&self, start: Instant) -> Result<Vec<Raised>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &seen.lost {
            bail!("lost sight of the breaches: {why}");
        }
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        let raised = seen.raised.iter().map(|(raised, fired, resolved)| Raised {
            fired_s: since(*fired),
            resolved_s: resolved.map(since),
            ..raised.clone()
        });
        Ok(raised.collect())
    }

    pub(crate) async fn snapshot(&self) -> Result<Snapshot> {
        let request = GetSnapshotRequest {
            include_resolved: true,
            ..GetSnapshotRequest::default()
        };
        Ok(self.client.clone().get_snapshot(request).await?.into_inner())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Seen {
    fn note(&mut self, breach: Breach, now: Instant) {
        let live = self
            .raised
            .iter_mut()
            .find(|(known, _, resolved)| known.fingerprint == breach.fingerprint && resolved.is_none());
        match (breach.state(), live) {
            // Still firing: only what is said of it changes.
            (BreachState::Firing, Some((known, ..))) => known.summary = breach.summary,
            (BreachState::Firing, None) => {
                let raised = Raised {
                    kind: kind_name(breach.kind()),
                    fingerprint: breach.fingerprint,
                    tenant: breach.tenant,
                    against: breach.against,
                    subject: breach.subject,
                    summary: breach.summary,
                    culprits: breach.culprits.into_iter().map(|culprit| culprit.pod).collect(),
                    fired_s: 0.0,
                    resolved_s: None,
                };
                self.raised.push((raised, now, None));
            }
            (BreachState::Resolved, Some((.., resolved))) => *resolved = Some(now),
            // Pending is not raised, and what was never seen firing cannot clear.
            _ => {}
        }
    }
}

/// "BREACH_KIND_NOISY_NEIGHBOUR" → "NoisyNeighbour", the name that design, metrics and scenarios use.
fn kind_name(kind: BreachKind) -> String {
    let name = kind.as_str_name().trim_start_matches("BREACH_KIND_");
    let capitalised = name.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        format!("{first}{}", rest.to_lowercase())
    });
    capitalised.collect()
}

/// How long the aggregator may take to notice what the agent's last report says.
pub(crate) const SETTLE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn breach(state: BreachState, summary: &str) -> Breach {
        Breach {
            fingerprint: "ab".to_owned(),
            kind: BreachKind::NodeOvercommitted.into(),
            state: state.into(),
            tenant: "system".to_owned(),
            summary: summary.to_owned(),
            ..Breach::default()
        }
    }

    #[test]
    fn a_breach_is_raised_when_it_fires_and_each_time_it_does() {
        let mut seen = Seen::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        seen.note(breach(BreachState::Pending, "x"), at(1));
        assert!(seen.raised.is_empty());
        seen.note(breach(BreachState::Firing, "x"), at(2));
        seen.note(breach(BreachState::Firing, "y"), at(3));
        seen.note(breach(BreachState::Resolved, "y"), at(4));
        seen.note(breach(BreachState::Resolved, "y"), at(5));
        seen.note(breach(BreachState::Firing, "z"), at(6));
        let times: Vec<_> = seen
            .raised
            .iter()
            .map(|(r, fired, resolved)| (&*r.summary, *fired, *resolved))
            .collect();
        assert_eq!(times, [("y", at(2), Some(at(4))), ("z", at(6), None)]);
        assert_eq!(seen.raised[0].0.kind, "NodeOvercommitted");
    }
}
