//! The whole aggregator in order: policy, cluster, judge, sockets; and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use partywall_aggregator_core::policy::Policy;
use partywall_proto::MAX_MESSAGE_BYTES;
use partywall_proto::v1::ingest_service_server::IngestServiceServer;
use partywall_proto::v1::query_service_server::QueryServiceServer;
use partywall_proto::v1::trail_service_server::TrailServiceServer;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::interceptor::InterceptedService;
use tracing::{info, warn};

use crate::auth::Auth;
use crate::config::{Config, NamedSource};
use crate::ingest::Ingest;
use crate::limits::{
    CONNECTION_GRACE, CONNECTION_LIFE, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_HEADER_BYTES,
    MAX_PENDING_RESETS, STREAMS_PER_CONNECTION,
};
use crate::link::tls::{self, InForce};
use crate::link::{accept, at_the_door};
use crate::query::Query;
use crate::sinks::prometheus::Exporter;
use crate::sinks::push;
use crate::state::State;
use crate::store::Store;
use crate::{admin, identify, policy_file, trail};

/// How long open connections may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// An aggregator that runs. Dropped, it tells all parts to end and waits for none.
#[derive(Debug)]
pub struct Running {
    /// Where agents report and clients ask.
    pub grpc_addr: SocketAddr,
    /// Where the page, /metrics, /healthz and /readyz are.
    pub http_addr: SocketAddr,
    stop: DropGuard,
    /// In the order of their start.
    tasks: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)>,
    /// Where totals survive the process.
    store: Option<Store>,
    /// Where breaches and what crossed do.
    trail: Option<trail::Store>,
}

impl Running {
    /// Ends every stream after the receipt it owes, and waits for all parts, the last started first.
    ///
    /// # Errors
    /// A part failed or did not end in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        let mut outcome = Ok(());
        for (name, mut task) in self.tasks.into_iter().rev() {
            let ended = match tokio::time::timeout(DRAIN, &mut task).await {
                Ok(ended) => ended.context("panicked").and_then(|done| done),
                Err(_) => {
                    task.abort();
                    Err(anyhow::anyhow!("did not end within {DRAIN:?}"))
                }
            };
            if let Err(error) = ended {
                outcome = Err(error.context(name));
            }
        }
        // After all that writes into it.
        if let Some(store) = self.store {
            outcome = outcome.and(store.stop().await.context("the state"));
        }
        if let Some(trail) = self.trail {
            outcome = outcome.and(trail.stop().await.context("the trail"));
        }
        info!("stopped");
        outcome
    }
}

/// Starts an aggregator. Returns once the policy and the cluster data were read and both sockets listen.
///
/// # Errors
/// A setting makes no sense, the policy is broken, or an address cannot be bound.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    config.check()?;
    let certificates = config.tls.as_ref().map(tls::load).transpose()?;
    let policy = match &config.policy {
        Some(path) => policy_file::read(path).context("--policy")?,
        None => Policy::default(),
    };
    let grpc = bind("--grpc-listen", config.grpc_listen)?;
    let http = bind("--http-listen", config.http_listen)?;
    let (grpc_addr, http_addr) = (grpc.local_addr()?, http.local_addr()?);

    let files = config.cluster_from.iter().map(|source| &source.cluster);
    let apis = config.kube_api.iter().map(|source| &source.cluster);
    let others = files.chain(apis).flatten().cloned();
    let state = Arc::new(State::new(&policy, &config.cluster, others));
    let stop = CancellationToken::new();
    // Before the first task: whoever gives up on a start half way leaves none behind.
    let guard = stop.clone().drop_guard();
    let mut tasks: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)> = Vec::new();

    let in_force = certificates.map(|loaded| InForce::new(loaded, &state));
    if let (Some(files), Some(in_force)) = (config.tls.clone(), in_force.clone()) {
        let follow = tls::follow(files, in_force, Arc::clone(&state), stop.clone());
        tasks.push(("the certificates", tokio::spawn(done(follow))));
    } else {
        warn!(
            "--insecure-plaintext: nothing on the way is secret, and whoever reaches {grpc_addr} may report as any node and read everything"
        );
    }
    if let Some(path) = config.policy.clone() {
        let follow = policy_file::follow(path, Arc::clone(&state), stop.clone());
        tasks.push(("the policy file", tokio::spawn(done(follow))));
    }
    for NamedSource { cluster, source: dir } in config.cluster_from.clone() {
        let Some(cluster) = state.cluster(cluster.as_deref().unwrap_or_default()).cloned() else {
            continue;
        };
        // Read once before anything is listened to: the first report finds its pods named.
        let source = identify::dir::Source::open(dir, cluster).await;
        tasks.push((
            "the cluster source",
            tokio::spawn(done(source.follow(stop.clone()))),
        ));
    }
    let mut apis = BTreeMap::new();
    for NamedSource {
        cluster,
        source: target,
    } in &config.kube_api
    {
        let Some(cluster) = state.cluster(cluster.as_deref().unwrap_or_default()).cloned() else {
            continue;
        };
        let timing = identify::api::Timing::default();
        let opened = identify::api::Source::open(target, Arc::clone(&cluster), &timing).await;
        let (source, client) = opened.with_context(|| format!("--kube-api {target}"))?;
        apis.insert(Arc::clone(&cluster.name), client);
        tasks.push(("the API source", tokio::spawn(done(source.follow(stop.clone())))));
    }
    let store = match config.state_dir.clone() {
        Some(dir) => {
            let clusters = state.clusters().cloned().collect();
            let opened = tokio::task::spawn_blocking(move || Store::open(&dir, clusters)).await?;
            Some(opened.context("--state-dir")?)
        }
        None => None,
    };
    if let Some(store) = &store {
        let _ = state.journal.set(Arc::clone(&store.journal));
    }
    let trail = match config.state_dir.clone() {
        Some(dir) => {
            let clusters: Vec<_> = state.clusters().cloned().collect();
            let opened = tokio::task::spawn_blocking(move || trail::Store::open(&dir, &clusters)).await?;
            Some(opened.context("--state-dir")?)
        }
        None => None,
    };
    if let Some(trail) = &trail {
        let _ = state.trail.set(Arc::clone(&trail.trail));
    }
    tasks.push((
        "the judge",
        tokio::spawn(done(judge(Arc::clone(&state), stop.clone()))),
    ));
    let (senders, figures) = push::senders(&config.push, &state)?;
    let _ = state.pushed.set(figures);
    for sender in senders {
        tasks.push(("a sender of alerts", tokio::spawn(done(sender.run(stop.clone())))));
    }
    let auth = config
        .agent_tokens
        .map(|expected| Auth::new(Arc::clone(&state), expected, apis));
    let server = Server {
        state: Arc::clone(&state),
        life: (in_force.is_some() || auth.is_some()).then_some(config.stream_life),
        tls: in_force,
        auth,
        stop: stop.clone(),
    };
    tasks.push(("the gRPC server", tokio::spawn(server.serve(grpc))));
    let exporter = Exporter::new(
        Arc::clone(&state),
        config.max_series_per_tenant,
        config.max_tenants,
    );
    let admin = admin::serve(
        http,
        Arc::clone(&state),
        exporter,
        config.page,
        config.http_hosts,
        stop.clone(),
    );
    tasks.push(("the HTTP server", tokio::spawn(done(admin))));
    info!(grpc = %grpc_addr, http = %http_addr, "listening");
    Ok(Running {
        grpc_addr,
        http_addr,
        stop: guard,
        tasks,
        store,
        trail,
    })
}

/// Every agent of a cluster may come at once, and the usual 128 are fewer. The kernel's own bound is `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;

fn bind(flag: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("{flag} {address}"))
}

async fn done(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// Judges every step of the policy in force.
async fn judge(state: Arc<State>, stop: CancellationToken) {
    loop {
        let judging = Arc::clone(&state);
        // Some milliseconds with a thousand nodes: not on a thread that serves sockets.
        if let Err(error) = tokio::task::spawn_blocking(move || judging.judge()).await {
            tracing::error!(%error, "a judgement failed");
        }
        let step = Duration::from_secs_f64(state.step_seconds());
        if stop.run_until_cancelled(tokio::time::sleep(step)).await.is_none() {
            return;
        }
    }
}

/// What agents and clients talk to.
struct Server {
    state: Arc<State>,
    tls: Option<InForce>,
    auth: Option<Auth>,
    /// How long a stream lasts: who is at the other end is known, and must be known anew after a while.
    life: Option<Duration>,
    stop: CancellationToken,
}

impl Server {
    async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let Self {
            state,
            tls,
            auth,
            life,
            stop,
        } = self;
        let door = at_the_door(Arc::clone(&state));
        let ingest = Ingest::new(Arc::clone(&state), auth, life, stop.clone());
        let ingest = IngestServiceServer::new(ingest).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let query = Query::new(Arc::clone(&state), life, stop.clone());
        let query = QueryServiceServer::new(query).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let past = trail::Service::new(Arc::clone(&state), stop.clone());
        let past = TrailServiceServer::new(past).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .max_concurrent_streams(STREAMS_PER_CONNECTION);
        if life.is_some() {
            server = server
                .max_connection_age(CONNECTION_LIFE)
                .max_connection_age_grace(CONNECTION_GRACE);
        }
        let conns = accept(listener, tls, state, stop.clone());
        server
            .add_service(InterceptedService::new(ingest, door.clone()))
            .add_service(InterceptedService::new(query, door.clone()))
            .add_service(InterceptedService::new(past, door))
            .serve_with_incoming_shutdown(conns, stop.cancelled_owned())
            .await
            .context("serving")
    }
}
