//! `QueryService`: what clients ask.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use partywall_proto::v1;
use partywall_proto::v1::query_service_server::QueryService;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::state::State;
use crate::wire;

#[derive(Debug)]
pub struct Query {
    state: Arc<State>,
    stop: CancellationToken,
}

impl Query {
    pub fn new(state: Arc<State>, stop: CancellationToken) -> Self {
        Self { state, stop }
    }
}

type Breaches = Pin<Box<dyn Stream<Item = Result<v1::Breach, Status>> + Send>>;

#[tonic::async_trait]
impl QueryService for Query {
    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        let request = request.into_inner();
        let state = Arc::clone(&self.state);
        // A large cluster is some hundred thousand rows: not on a thread that serves sockets.
        let snapshot = tokio::task::spawn_blocking(move || {
            let mut world = state.lock();
            let snapshot = world.snapshot(&request.node, request.include_resolved, state.now());
            let losses = wire::losses(world.losses());
            drop(world);
            wire::snapshot(snapshot, losses)
        });
        let snapshot = snapshot
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(snapshot))
    }

    async fn get_flows(
        &self,
        request: Request<v1::GetFlowsRequest>,
    ) -> Result<Response<v1::FlowList>, Status> {
        let filter = wire::flow_filter(request.into_inner()).map_err(Status::invalid_argument)?;
        let state = Arc::clone(&self.state);
        // A quarter of a million flows at the most: not on a thread that serves sockets.
        let list = tokio::task::spawn_blocking(move || {
            let list = state.lock().flows(&filter);
            wire::flow_list(&list)
        });
        let list = list.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(list))
    }

    type WatchBreachesStream = Breaches;

    async fn watch_breaches(
        &self,
        request: Request<v1::WatchBreachesRequest>,
    ) -> Result<Response<Breaches>, Status> {
        let tenant = request.into_inner().tenant;
        let (live, changes) = self.state.watch_breaches();
        let changes = BroadcastStream::new(changes).map(|change| match change {
            Ok(breach) => Ok(Arc::unwrap_or_clone(breach)),
            Err(BroadcastStreamRecvError::Lagged(missed)) => Err(Status::resource_exhausted(format!(
                "too slow: {missed} changes were missed; watch again to begin with what is live then"
            ))),
        });
        let mut ended = false;
        let wanted = stream::iter(live)
            .map(Ok)
            .chain(changes)
            // Nothing after an error: the client must begin anew.
            .take_while(move |item| {
                let go_on = !ended;
                ended = item.is_err();
                std::future::ready(go_on)
            })
            .filter(move |item| {
                let named = |b: &v1::Breach| tenant.is_empty() || b.tenant == tenant || b.against == tenant;
                std::future::ready(item.as_ref().map_or(true, named))
            })
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(wanted)))
    }
}
