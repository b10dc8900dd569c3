//! The whole aggregator in order: policy, cluster, judge, sockets; and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use partywall_aggregator_core::policy::Policy;
use partywall_proto::MAX_MESSAGE_BYTES;
use partywall_proto::v1::ingest_service_server::IngestServiceServer;
use partywall_proto::v1::query_service_server::QueryServiceServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use crate::config::Config;
use crate::ingest::Ingest;
use crate::query::Query;
use crate::sinks::prometheus::Exporter;
use crate::state::State;
use crate::{admin, identify, policy_file};

/// A peer that does not answer a ping for this long is gone: its stream is ended, its agent may come again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests at once on one connection: an agent needs one, a client two.
const STREAMS_PER_CONNECTION: u32 = 16;
/// How long open connections may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// An aggregator that runs. Dropped, it tells all parts to end and waits for none.
#[derive(Debug)]
pub struct Running {
    /// Where agents report and clients ask.
    pub grpc_addr: SocketAddr,
    /// Where /metrics, /healthz and /readyz are.
    pub http_addr: SocketAddr,
    stop: DropGuard,
    /// In the order of their start.
    tasks: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)>,
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
    let policy = match &config.policy {
        Some(path) => policy_file::read(path).context("--policy")?,
        None => Policy::default(),
    };
    let grpc = bind("--grpc-listen", config.grpc_listen).await?;
    let http = bind("--http-listen", config.http_listen).await?;
    let (grpc_addr, http_addr) = (grpc.local_addr()?, http.local_addr()?);

    let state = Arc::new(State::new(policy));
    let stop = CancellationToken::new();
    // Before the first task: whoever gives up on a start half way leaves none behind.
    let guard = stop.clone().drop_guard();
    let mut tasks: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)> = Vec::new();

    if let Some(path) = config.policy.clone() {
        let follow = policy_file::follow(path, Arc::clone(&state), stop.clone());
        tasks.push(("the policy file", tokio::spawn(done(follow))));
    }
    if let Some(dir) = config.cluster_from.clone() {
        // Read once before anything is listened to: the first report finds its pods named.
        let source = identify::dir::Source::open(dir, Arc::clone(&state)).await;
        tasks.push((
            "the cluster source",
            tokio::spawn(done(source.follow(stop.clone()))),
        ));
    }
    tasks.push((
        "the judge",
        tokio::spawn(done(judge(Arc::clone(&state), stop.clone()))),
    ));
    tasks.push((
        "the gRPC server",
        tokio::spawn(serve(grpc, Arc::clone(&state), stop.clone())),
    ));
    let exporter = Exporter::new(
        Arc::clone(&state),
        config.max_series_per_tenant,
        config.max_tenants,
    );
    let admin = admin::serve(http, Arc::clone(&state), exporter, stop.clone());
    tasks.push(("the HTTP server", tokio::spawn(done(admin))));
    info!(grpc = %grpc_addr, http = %http_addr, "listening");
    Ok(Running {
        grpc_addr,
        http_addr,
        stop: guard,
        tasks,
    })
}

async fn bind(flag: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address}"))
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
        let step = Duration::from_secs_f64(state.lock().policy().thresholds.windows.step_seconds);
        if stop.run_until_cancelled(tokio::time::sleep(step)).await.is_none() {
            return;
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) -> anyhow::Result<()> {
    let ingest = IngestServiceServer::new(Ingest::new(Arc::clone(&state), stop.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let query =
        QueryServiceServer::new(Query::new(state, stop.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .tcp_nodelay(true)
        .add_service(ingest)
        .add_service(query)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await
        .context("serving")
}
