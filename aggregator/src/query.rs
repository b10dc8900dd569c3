//! `QueryService`: what clients ask.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use partywall_aggregator_core::breach::Story;
use partywall_proto::v1;
use partywall_proto::v1::query_service_server::QueryService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::limits::MAX_WATCHES;
use crate::metrics::StreamRefusal;
use crate::state::{Cluster, State};
use crate::wire;

#[derive(Debug)]
pub struct Query {
    state: Arc<State>,
    /// How long a watch lasts; `None`: as long as its client wants.
    life: Option<Duration>,
    stop: CancellationToken,
    watching: Arc<Semaphore>,
}

impl Query {
    pub fn new(state: Arc<State>, life: Option<Duration>, stop: CancellationToken) -> Self {
        Self {
            state,
            life,
            stop,
            watching: Arc::new(Semaphore::new(MAX_WATCHES)),
        }
    }

    /// Held while a question is answered.
    async fn turn(&self) -> Result<[OwnedSemaphorePermit; 2], Status> {
        self.state.turns.next(&self.state.metrics).await
    }

    /// The clusters that a request asks for: all where it names none.
    fn named(&self, name: &str) -> Result<Vec<Arc<Cluster>>, Status> {
        named(&self.state, name)
    }
}

/// The clusters that a request asks for: all where it names none.
pub(crate) fn named(state: &State, name: &str) -> Result<Vec<Arc<Cluster>>, Status> {
    if name.is_empty() {
        return Ok(state.clusters().cloned().collect());
    }
    match state.cluster(name) {
        Some(cluster) => Ok(vec![Arc::clone(cluster)]),
        None => Err(no_such_cluster(state, name)),
    }
}

/// The first digits of a fingerprint, as it was typed.
fn breach_digits(typed: &str) -> Result<String, Status> {
    let digits = typed.trim().to_ascii_lowercase();
    if (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    let shown: String = typed.chars().take(80).collect();
    Err(Status::invalid_argument(format!(
        "fingerprint: {shown:?} is not the beginning of one: 1 to 16 hexadecimal digits"
    )))
}

/// Breaches named where several begin so.
const CANDIDATES: usize = 10;

/// A breach, and what else is not known of it.
struct Told {
    cluster: Arc<Cluster>,
    story: Story,
    doubt: Option<String>,
}

/// The one breach of these clusters whose fingerprint begins so: one that lives, or was resolved lately; else one of the trail.
fn explain(state: &State, clusters: &[Arc<Cluster>], digits: &str) -> Result<v1::BreachExplanation, Status> {
    let mut found: Vec<Told> = Vec::new();
    for cluster in clusters {
        let stories = cluster.lock().book().stories(digits);
        found.extend(stories.into_iter().map(|story| Told {
            cluster: Arc::clone(cluster),
            story,
            doubt: None,
        }));
    }
    let mut where_else = "nor is there a trail to ask";
    if found.is_empty()
        && let Some(trail) = state.trail.get()
    {
        where_else = "nor is one in the trail";
        found = of_trail(trail.of_fingerprint(digits)?, clusters);
    }
    if found.len() > 1 {
        let named = |told: &Told| {
            let breach = &told.story.breach;
            let (key, cluster) = (&breach.key, &told.cluster.name);
            format!(
                "{} ({} of {} in {cluster})",
                breach.fingerprint, key.kind, key.tenant
            )
        };
        let named: Vec<String> = found.iter().take(CANDIDATES).map(named).collect();
        let more = match found.len().saturating_sub(CANDIDATES) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        return Err(Status::invalid_argument(format!(
            "fingerprint: {digits:?} is the beginning of {} breaches: {}{more}",
            found.len(),
            named.join(", ")
        )));
    }
    match found.pop() {
        Some(Told {
            cluster,
            story,
            doubt,
        }) => {
            let mut explanation = cluster.lock().explain(story, cluster.now());
            explanation.doubts.extend(doubt);
            Ok(wire::breach_explanation(explanation))
        }
        None => Err(Status::not_found(format!(
            "breach: none that lives, or was resolved within the last hour, has a fingerprint that begins with {digits:?}, {where_else}"
        ))),
    }
}

/// Of each breach the last time that it fired, with those before it.
fn of_trail(entries: Vec<v1::HistoryEntry>, clusters: &[Arc<Cluster>]) -> Vec<Told> {
    let mut by_breach: BTreeMap<String, Vec<v1::HistoryEntry>> = BTreeMap::new();
    for entry in entries {
        let fingerprint = entry.breach.as_ref().map(|breach| breach.fingerprint.clone());
        by_breach
            .entry(fingerprint.unwrap_or_default())
            .or_default()
            .push(entry);
    }
    let told = |mut times: Vec<v1::HistoryEntry>| {
        let last = times.pop()?;
        let before = times.iter().filter_map(|time| time.breach.as_ref());
        // Of one whose end nobody saw only the beginning is told.
        let before = before.map(|b| (b.firing_unix_ns, b.resolved_unix_ns.max(b.firing_unix_ns)));
        let breach = last.breach?;
        let cluster = clusters.iter().find(|c| *c.name == *breach.cluster)?;
        Some(Told {
            cluster: Arc::clone(cluster),
            story: wire::story(breach, before.collect())?,
            doubt: Some(last.end_unknown)
                .filter(|why| !why.is_empty())
                .map(|why| format!("its end is not known: {why}")),
        })
    };
    by_breach.into_values().filter_map(told).collect()
}

fn no_such_cluster(state: &State, name: &str) -> Status {
    let known: Vec<&str> = state.clusters().map(|c| &*c.name).collect();
    let name: String = name.chars().take(80).collect();
    Status::not_found(format!(
        "cluster: {name:?} is not known; there is {}",
        known.join(", ")
    ))
}

type Breaches = Pin<Box<dyn Stream<Item = Result<v1::Breach, Status>> + Send>>;

#[tonic::async_trait]
impl QueryService for Query {
    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        let request = request.into_inner();
        let clusters = self.named(&request.cluster)?;
        let turn = self.turn().await?;
        // A large cluster is some hundred thousand rows: not on a thread that serves sockets.
        let snapshot = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also where nobody waits for it any more.
            let _turn = turn;
            let mut all = v1::Snapshot::default();
            for cluster in &clusters {
                let mut world = cluster.lock();
                let snapshot = world.snapshot(&request.node, request.include_resolved, cluster.now());
                let losses = wire::losses(world.losses());
                drop(world);
                wire::add_snapshot(&mut all, wire::cluster_view(cluster), snapshot, losses);
            }
            all
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
        let request = request.into_inner();
        let clusters = self.named(&request.cluster)?;
        let filter = wire::flow_filter(request).map_err(Status::invalid_argument)?;
        let turn = self.turn().await?;
        // A quarter of a million flows at the most: not on a thread that serves sockets.
        let list = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut all = v1::FlowList::default();
            for cluster in &clusters {
                let list = cluster.lock().flows(&filter);
                wire::add_flows(&mut all, &cluster.name, &list);
            }
            wire::close_flows(&mut all);
            all
        });
        let list = list.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(list))
    }

    async fn explain_namespace(
        &self,
        request: Request<v1::ExplainNamespaceRequest>,
    ) -> Result<Response<v1::NamespaceExplanation>, Status> {
        let request = request.into_inner();
        let Some(cluster) = self.state.cluster(&request.cluster) else {
            return Err(no_such_cluster(&self.state, &request.cluster));
        };
        let _turn = self.turn().await?;
        let world = cluster.lock();
        match world.directory().explain(world.policy(), &request.namespace) {
            Some(said) => {
                let answer = wire::explanation(&cluster.name, request.namespace, said);
                Ok(Response::new(answer))
            }
            None => {
                let name: String = request.namespace.chars().take(80).collect();
                let problem = format!(
                    "namespace: {name:?} is in no object of cluster {:?} and in no rule of the policy",
                    &*cluster.name
                );
                Err(Status::not_found(problem))
            }
        }
    }

    async fn explain_breach(
        &self,
        request: Request<v1::ExplainBreachRequest>,
    ) -> Result<Response<v1::BreachExplanation>, Status> {
        let request = request.into_inner();
        let clusters = self.named(&request.cluster)?;
        let digits = breach_digits(&request.fingerprint)?;
        let turn = self.turn().await?;
        let state = Arc::clone(&self.state);
        // It may look at a quarter of a million flows.
        let told = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            explain(&state, &clusters, &digits)
        });
        let told = told.await.map_err(|error| Status::internal(error.to_string()))?;
        told.map(Response::new)
    }

    async fn get_headroom(
        &self,
        request: Request<v1::GetHeadroomRequest>,
    ) -> Result<Response<v1::Headroom>, Status> {
        let clusters = self.named(&request.into_inner().cluster)?;
        let turn = self.turn().await?;
        let headroom = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut all = v1::Headroom::default();
            for cluster in &clusters {
                // Without the lock: thousands of pods are placed on thousands of nodes.
                let ground = cluster.lock().ground(cluster.now());
                wire::add_headroom(&mut all, &cluster.name, ground.headroom());
            }
            all
        });
        let headroom = headroom
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(headroom))
    }

    type WatchBreachesStream = Breaches;

    async fn watch_breaches(
        &self,
        request: Request<v1::WatchBreachesRequest>,
    ) -> Result<Response<Breaches>, Status> {
        let v1::WatchBreachesRequest { tenant, cluster } = request.into_inner();
        self.named(&cluster)?;
        let Ok(watching) = Arc::clone(&self.watching).try_acquire_owned() else {
            self.state.metrics.refuse_stream(StreamRefusal::TooManyWatches);
            return Err(Status::resource_exhausted(format!(
                "{MAX_WATCHES} clients watch already"
            )));
        };
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
                let _watching = &watching;
                let named = |b: &v1::Breach| {
                    (tenant.is_empty() || b.tenant == tenant || b.against == tenant)
                        && (cluster.is_empty() || b.cluster == cluster)
                };
                std::future::ready(item.as_ref().map_or(true, named))
            })
            .take_until(self.stop.clone().cancelled_owned());
        if let Some(life) = self.life {
            let end = tokio::time::sleep(life);
            return Ok(Response::new(Box::pin(wanted.take_until(end))));
        }
        Ok(Response::new(Box::pin(wanted)))
    }
}
