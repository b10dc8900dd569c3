//! Whose stream it is: a service account's token, reviewed by the API of the cluster that the stream is about, names the node.
//!
//! A token is reviewed before the first report is read. What a review said is remembered for a while under the token's hash, so that neither streams
//! that come again nor whoever sends many wrong tokens is a load on the API; see `cache` for how long, and [`Auth`] for what is bounded.

mod cache;
mod review;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Api, Client};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::{debug, warn};

use crate::metrics::StreamRefusal;
use crate::pace::Bucket;
use crate::state::{Cluster, State};
use cache::{Cache, Found};
pub use review::Expected;
use review::{Holder, Verdict};

/// Names the cluster of a stream's reports before the first of them; absent or empty: the aggregator's own.
pub const CLUSTER_KEY: &str = "partywall-cluster";

/// A service account's token has some 1,500 bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Reviews at once, and how long one may take and wait. API servers answer within milliseconds.
const REVIEWS_AT_ONCE: usize = 16;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
const REVIEW_PATIENCE: Duration = Duration::from_secs(2);
/// All reviews together: a thousand agents that come back at once are known again after twenty seconds, and the API bears it.
const REVIEWS_PER_SECOND: f64 = 50.0;
const REVIEWS_IN_A_ROW: f64 = 200.0;
/// Tokens that were refused, of one address; after that its unknown tokens are not reviewed for a while.
const BAD_TOKENS_PER_SECOND: f64 = 0.5;
const BAD_TOKENS_IN_A_ROW: f64 = 20.0;
/// Addresses that this is remembered of.
const MAX_PEERS: usize = 10_000;

/// What a stream is bound to.
#[derive(Clone, Debug)]
pub struct Bound {
    pub cluster: Arc<Cluster>,
    pub node: Arc<str>,
}

/// Why a stream was not let in: what is counted, and what its peer is told.
#[derive(Debug)]
pub struct Denied {
    pub refusal: StreamRefusal,
    pub status: Status,
}

impl Denied {
    fn new(refusal: StreamRefusal, status: Status) -> Self {
        Self { refusal, status }
    }
}

/// Asks whose tokens are.
pub struct Auth {
    state: Arc<State>,
    expected: Expected,
    /// By cluster. One without a client cannot be asked: its streams are refused.
    apis: BTreeMap<Arc<str>, Client>,
    cache: Mutex<Cache>,
    slots: Semaphore,
    rate: Mutex<Bucket>,
    peers: Mutex<BTreeMap<IpAddr, Bucket>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Auth {
    pub fn new(state: Arc<State>, expected: Expected, apis: BTreeMap<Arc<str>, Client>) -> Self {
        for cluster in state.clusters().filter(|c| !apis.contains_key(&c.name)) {
            warn!(cluster = %cluster.name, "--agent-tokens: this cluster has no API that could review tokens, its agents are refused");
        }
        Self {
            state,
            expected,
            apis,
            cache: Mutex::default(),
            slots: Semaphore::new(REVIEWS_AT_ONCE),
            rate: Mutex::new(Bucket::new(REVIEWS_PER_SECOND, REVIEWS_IN_A_ROW, Instant::now())),
            peers: Mutex::default(),
        }
    }

    /// Which node the stream with this metadata may report of.
    ///
    /// # Errors
    /// None, or it cannot be known now.
    pub async fn admit(&self, metadata: &MetadataMap, peer: Option<SocketAddr>) -> Result<Bound, Denied> {
        let cluster = named_cluster(&self.state, metadata)?;
        let token = bearer(metadata)?;
        let Some(api) = self.apis.get(&cluster.name) else {
            let words = format!("cluster {:?} has no API that could review tokens", &*cluster.name);
            return Err(Denied::new(
                StreamRefusal::NoApi,
                Status::failed_precondition(words),
            ));
        };
        let key = Sha256::new()
            .chain_update(cluster.name.as_bytes())
            .chain_update([0])
            .chain_update(token)
            .finalize()
            .into();
        let found = lock(&self.cache).find(&key, Instant::now());
        let verdict = match found {
            Found::Fresh(verdict) => {
                self.state.metrics.reviewed("remembered");
                verdict
            }
            Found::Stale(before) => match self.review(api, &cluster, token, None).await {
                Ok(verdict) => lock(&self.cache).keep(key, verdict, Instant::now()),
                Err(denied) => {
                    debug!(cluster = %cluster.name, reason = denied.refusal.as_str(), "no review, an earlier one stands");
                    self.state.metrics.reviewed("earlier");
                    before
                }
            },
            Found::Nothing => {
                let verdict = self.review(api, &cluster, token, peer.map(|p| p.ip())).await?;
                lock(&self.cache).keep(key, verdict, Instant::now())
            }
        };
        match verdict {
            Verdict::Refused { refusal, problem } => Err(Denied::new(refusal, refusal.status(&problem))),
            Verdict::Of(holder) => {
                let node = self.node_of(&cluster, &holder)?;
                Ok(Bound { cluster, node })
            }
        }
    }

    /// `peer`: whose wrong tokens are counted.
    async fn review(
        &self,
        api: &Client,
        cluster: &Cluster,
        token: &str,
        peer: Option<IpAddr>,
    ) -> Result<Verdict, Denied> {
        let busy = || {
            self.state.metrics.reviewed("busy");
            Denied::new(
                StreamRefusal::ReviewsBusy,
                Status::unavailable("too many tokens are being reviewed"),
            )
        };
        if peer.is_some_and(|peer| self.is_suspect(peer)) {
            let words = "too many wrong tokens came from this address";
            return Err(Denied::new(
                StreamRefusal::TooManyBadTokens,
                Status::resource_exhausted(words),
            ));
        }
        let Ok(Ok(_slot)) = timeout(REVIEW_PATIENCE, self.slots.acquire()).await else {
            return Err(busy());
        };
        if !lock(&self.rate).try_take(1.0, Instant::now()) {
            return Err(busy());
        }
        let api = Api::all(api.clone());
        let asked = review::ask(&api, &self.expected.audience, token);
        let away = |problem: String| {
            self.state.metrics.reviewed("failed");
            let words = format!("the API of cluster {:?} reviews no token now", &*cluster.name);
            debug!(cluster = %cluster.name, problem, "a token could not be reviewed");
            Denied::new(StreamRefusal::ApiAway, Status::unavailable(words))
        };
        let status = match timeout(REVIEW_TIMEOUT, asked).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(away(error.to_string())),
            Err(_) => return Err(away(format!("no answer within {REVIEW_TIMEOUT:?}"))),
        };
        let verdict = self.expected.judge(status);
        match (&verdict, peer) {
            (Verdict::Of(_), _) => self.state.metrics.reviewed("accepted"),
            (Verdict::Refused { .. }, peer) => {
                self.state.metrics.reviewed("refused");
                if let Some(peer) = peer {
                    self.suspect(peer);
                }
            }
        }
        Ok(verdict)
    }

    fn is_suspect(&self, peer: IpAddr) -> bool {
        let now = Instant::now();
        lock(&self.peers)
            .get_mut(&peer)
            .is_some_and(|bucket| bucket.take(0.0, now) > Duration::ZERO)
    }

    fn suspect(&self, peer: IpAddr) {
        let now = Instant::now();
        let mut peers = lock(&self.peers);
        if peers.len() >= MAX_PEERS {
            peers.retain(|_, bucket| !bucket.is_full(now));
        }
        if peers.len() < MAX_PEERS || peers.contains_key(&peer) {
            let full = || Bucket::new(BAD_TOKENS_PER_SECOND, BAD_TOKENS_IN_A_ROW, now);
            peers.entry(peer).or_insert_with(full).take(1.0, now);
        }
    }

    fn node_of(&self, cluster: &Cluster, holder: &Holder) -> Result<Arc<str>, Denied> {
        match holder {
            Holder::Node(node) => Ok(Arc::clone(node)),
            Holder::Pod(uid) => {
                let world = cluster.lock();
                let node = world.directory().pod(uid).and_then(|pod| pod.node.clone());
                // Its object may still be on the way, as that of any new pod.
                node.ok_or_else(|| {
                    let words = "the token's pod is not in the cluster data, or on no node, yet";
                    Denied::new(StreamRefusal::PodUnknown, Status::unavailable(words))
                })
            }
        }
    }
}

fn named_cluster(state: &State, metadata: &MetadataMap) -> Result<Arc<Cluster>, Denied> {
    let name = metadata.get(CLUSTER_KEY).map_or(Ok(""), |value| value.to_str());
    let name = name.unwrap_or("?");
    state.cluster(name).cloned().ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        let words = format!("{CLUSTER_KEY}: {name:?} is none of the clusters of this aggregator");
        Denied::new(StreamRefusal::WrongCluster, Status::not_found(words))
    })
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Denied> {
    let value = metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    match token {
        Some(token) if !token.is_empty() && token.len() <= MAX_TOKEN_BYTES => Ok(token),
        Some(_) => Err(Denied::new(
            StreamRefusal::BadToken,
            Status::unauthenticated("authorization: the token is empty or too long"),
        )),
        None => Err(Denied::new(
            StreamRefusal::NoToken,
            Status::unauthenticated("authorization: a service account's token is wanted (--token-file)"),
        )),
    }
}
