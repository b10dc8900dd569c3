//! `TrailService`: what clients ask of the past.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use partywall_proto::v1;
use partywall_proto::v1::trail_service_server::TrailService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Trail;
use crate::state::{Cluster, State};

/// Entries of a history read at once.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub struct Service {
    state: Arc<State>,
    stop: CancellationToken,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub fn new(state: Arc<State>, stop: CancellationToken) -> Self {
        Self { state, stop }
    }

    fn trail(&self) -> Result<Arc<Trail>, Status> {
        self.state.trail.get().cloned().ok_or_else(|| {
            Status::failed_precondition(
                "this aggregator keeps no trail: it was started without --state-dir DIR",
            )
        })
    }
}

/// Asks the file: not on a thread that serves sockets, and in turn with all other questions.
async fn ask<T: Send + 'static>(
    state: &State,
    what: impl FnOnce() -> Result<T, super::Refused> + Send + 'static,
) -> Result<T, Status> {
    let turn = state.turns.next(&state.metrics).await?;
    let asked = tokio::task::spawn_blocking(move || {
        // Given back when the work is done, also where nobody waits for it any more.
        let _turn = turn;
        what()
    });
    let answer = asked.await.map_err(|error| Status::internal(error.to_string()))?;
    Ok(answer?)
}

/// What follows a part of a stream: where to go on, and what there is.
type Part<T, P> = Result<Option<(Vec<T>, P)>, Status>;

/// Parts as one stream. Each is read when the one before was taken: a slow client holds nothing but its place.
///
/// A stream that just ended would pass for a whole one: an aggregator that stops says so.
fn parts<T, P, F>(first: P, stop: CancellationToken, next: impl Fn(P) -> F + Send + 'static) -> Streamed<T>
where
    T: Send + 'static,
    P: Send + 'static,
    F: Future<Output = Part<T, P>> + Send + 'static,
{
    let parts = stream::unfold((Some(first), next), |(place, next)| async move {
        match next(place?).await {
            Ok(Some((part, place))) => {
                let part: Vec<Result<T, Status>> = part.into_iter().map(Ok).collect();
                Some((stream::iter(part), (Some(place), next)))
            }
            Ok(None) => None,
            Err(status) => Some((stream::iter(vec![Err(status)]), (None, next))),
        }
    });
    let parts = parts.flatten().take_until(stop.clone().cancelled_owned());
    let cut_off = stream::once(async move { stop.is_cancelled() }).filter_map(async |is_stopped| {
        is_stopped.then(|| Err(Status::unavailable("the aggregator stops: this is not all")))
    });
    Box::pin(parts.chain(cut_off))
}

#[tonic::async_trait]
impl TrailService for Service {
    type GetHistoryStream = Streamed<v1::HistoryEntry>;

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Result<Response<Self::GetHistoryStream>, Status> {
        let trail = self.trail()?;
        let request = request.into_inner();
        crate::query::named(&self.state, &request.cluster)?;
        let asked = Arc::clone(&trail);
        let mut episodes = ask(&self.state, move || asked.episodes(&request)).await?;
        episodes.reverse();
        let state = Arc::clone(&self.state);
        let stream = parts(episodes, self.stop.clone(), move |mut episodes| {
            let (state, trail) = (Arc::clone(&state), Arc::clone(&trail));
            async move {
                if episodes.is_empty() {
                    return Ok(None);
                }
                // Taken from the end: they stand the other way round.
                let mut part = episodes.split_off(episodes.len().saturating_sub(AT_ONCE));
                part.reverse();
                let entries = ask(&state, move || trail.entries(part)).await?;
                Ok(Some((entries, episodes)))
            }
        });
        Ok(Response::new(stream))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditAnswer>, Status> {
        let trail = self.trail()?;
        let request = request.into_inner();
        let asked = crate::query::named(&self.state, &request.cluster)?;
        let is_known = |name: &str| {
            let has = |cluster: &Arc<Cluster>| cluster.lock().directory().tenants.find(name).is_some();
            asked.iter().any(has)
        };
        let strangers = super::ask::named(&request)
            .filter(|(_, name)| !is_known(name))
            .map(|(_, name)| Arc::from(name))
            .collect();
        let clusters: Vec<_> = asked.iter().map(|c| Arc::clone(&c.name)).collect();
        let answer = ask(&self.state, move || trail.audit(&request, &clusters, strangers)).await?;
        Ok(Response::new(answer))
    }

    type ReadTrailStream = Streamed<v1::TrailRecord>;

    async fn read_trail(
        &self,
        request: Request<v1::ReadTrailRequest>,
    ) -> Result<Response<Self::ReadTrailStream>, Status> {
        let trail = self.trail()?;
        let from = request.into_inner().from_sequence;
        let state = Arc::clone(&self.state);
        let stream = parts((from, false), self.stop.clone(), move |(sequence, goes_on)| {
            let (state, trail) = (Arc::clone(&state), Arc::clone(&trail));
            async move {
                let records = ask(&state, move || trail.records(sequence, goes_on)).await?;
                let last = records.last().map(|record| record.sequence);
                Ok(last.map(|last| (records, (last + 1, true))))
            }
        });
        Ok(Response::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_stop_cuts_off_does_not_pass_for_all() {
        let stop = CancellationToken::new();
        let numbers = |n: u32| async move { Ok((n < 4).then_some((vec![n, n], n + 1))) };
        let all: Vec<_> = parts(0, stop.clone(), numbers).collect().await;
        assert_eq!(all.len(), 8);
        assert!(all.iter().all(Result::is_ok));
        let mut cut = parts(0, stop.clone(), numbers);
        assert!(matches!(cut.next().await, Some(Ok(0))));
        stop.cancel();
        let rest: Vec<_> = cut.collect().await;
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].as_ref().unwrap_err().code(), tonic::Code::Unavailable);
    }
}
