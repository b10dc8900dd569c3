//! The whole agent in order: probe, load, read, report; and back.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use partywall_proto::v1;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin;
use crate::clock::{Moment, boot_ns};
use crate::config::Config;
use crate::cost;
use crate::kernel::events;
use crate::kernel::features::{Facts, Feature, plan};
use crate::kernel::load::{Kernel, LoadError};
use crate::memory::Kinds;
use crate::metrics::Status;
use crate::reader::{self, Reader};
use crate::report;
use crate::uplink::{Uplink, UplinkConfig};

/// How long the last reports may take to reach the aggregator after SIGTERM. Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(5);

/// An agent that runs.
pub struct Running {
    /// Where /metrics, /healthz and /readyz are.
    pub http_addr: SocketAddr,
    stop: CancellationToken,
    reader: JoinHandle<()>,
    admin: JoinHandle<()>,
    uplink: Arc<Uplink>,
}

impl Running {
    /// Reads once more, sends what waits for at most `DRAIN`, and takes every program and map out of the kernel.
    ///
    /// # Errors
    /// Reports are left that the aggregator did not acknowledge in time.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        // The reader owns the kernel side: when it has ended, everything is detached.
        self.reader.await.context("the reading task")?;
        let left = self.uplink.drain(DRAIN).await;
        self.admin.await.context("the HTTP server")?;
        anyhow::ensure!(
            left == 0,
            "{left} reports were not acknowledged within {DRAIN:?} and are lost"
        );
        info!("stopped, everything reported");
        Ok(())
    }
}

/// Starts an agent. Returns once its programs are attached and its HTTP server listens.
///
/// Where the kernel lets nothing be counted, the agent runs all the same: it is not ready, and its reports say that nothing is seen and why, so
/// that the node shows as blind. An agent that ended would leave no trace at the aggregator.
///
/// # Errors
/// The object given by the user cannot be read or loaded, or the address cannot be bound.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    config.check()?;
    let object = match &config.object {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("--object {}", path.display()))?),
        None => None,
    };
    let listener = admin::bind(config.http_listen).await?;
    let http_addr = listener.local_addr().context("the HTTP server's address")?;

    let facts = Facts::probe(config.cgroup_root.as_deref());
    let (plan, mut features) = plan(&facts);
    let sight = match (
        Kernel::load(&plan, &mut features, object.as_deref()),
        facts.cgroup_root,
    ) {
        (Ok(kernel), Ok(cgroup_root)) => Some((kernel, cgroup_root)),
        (Err(error @ (LoadError::Object(_) | LoadError::Program { .. })), _) if object.is_some() => {
            return Err(error.into());
        }
        (Err(error), _) => {
            tracing::error!(%error, "nothing can be counted here: reports say so, and nothing else");
            blind(&mut features, &error.to_string());
            None
        }
        (Ok(_), Err(reason)) => {
            blind(&mut features, &reason);
            None
        }
    };
    for feature in features.iter().filter(|feature| !feature.present) {
        warn!(
            feature = feature.name,
            reason = feature.reason,
            lost = feature.lost_without,
            "not available"
        );
    }

    let stop = CancellationToken::new();
    if config.insecure_plaintext {
        warn!("--insecure-plaintext: reports and receipts can be read and changed on their way");
    }
    let uplink = Arc::new(Uplink::new(UplinkConfig {
        link: config.link.clone(),
        queue_bytes: config.queue_bytes,
        spool: config.spool.clone(),
    })?);
    let (status, watched) = watch::channel(Status::default());
    let admin = tokio::spawn(admin::serve(listener, watched, config.interval, stop.clone()));
    let has = |name| {
        features
            .iter()
            .any(|feature| feature.name == name && feature.present)
    };
    let files = Kinds {
        memory: has("memory"),
        pressure: has("psi"),
    };
    let sight = match sight {
        Some((kernel, cgroup_root)) => Some(Sight {
            ring: events::readiness(&kernel.events).context("the ring of cgroup events")?,
            reader: Reader::new(kernel, cgroup_root, files, boot_ns()),
        }),
        None => None,
    };
    let started = Moment::now();
    let reading = Reading {
        sight,
        started,
        reclaim: has("reclaim"),
        features,
        uplink: Arc::clone(&uplink),
        status,
        header: Header::new(config.node, config.link.cluster, started)?,
        interval: config.interval,
        sequence: 0,
        captured_boot_ns: None,
    };
    let reader = tokio::spawn(reading.run(stop.clone()));
    info!(http = %http_addr, "listening");
    Ok(Running {
        http_addr,
        stop,
        reader,
        admin,
        uplink,
    })
}

/// What is the same in every report of an agent run.
struct Header {
    node: String,
    /// Empty: the aggregator's own.
    cluster: String,
    boot_id: String,
    agent_start_unix_ns: u64,
}

impl Header {
    fn new(node: String, cluster: String, started: Moment) -> anyhow::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot_id")?;
        Ok(Self {
            node,
            cluster,
            boot_id: boot_id.trim().to_owned(),
            agent_start_unix_ns: started.unix_ns,
        })
    }
}

/// Nothing of what could be counted here is.
fn blind(features: &mut [Feature], why: &str) {
    for feature in features.iter_mut().filter(|feature| feature.present) {
        feature.present = false;
        feature.reason = format!("nothing is counted: {why}");
    }
}

/// The kernel side, and what tells that it has something to say.
struct Sight {
    reader: Reader,
    ring: AsyncFd<OwnedFd>,
}

impl Sight {
    /// Enters what the kernel side tells of cgroups, once it does. Pends for ever where there is nothing to see.
    async fn heed(sight: Option<&mut Self>) {
        let Some(Self { reader, ring }) = sight else {
            return std::future::pending().await;
        };
        // An error means a closed descriptor, which this task holds open; the ring is drained at each reading too.
        if let Ok(mut guard) = ring.readable().await {
            guard.clear_ready();
        }
        reader.drain_events(boot_ns());
    }
}

/// The reading task.
struct Reading {
    /// `None`: blind.
    sight: Option<Sight>,
    started: Moment,
    features: Vec<Feature>,
    /// Whether reclaim is counted.
    reclaim: bool,
    uplink: Arc<Uplink>,
    status: watch::Sender<Status>,
    header: Header,
    interval: Duration,
    sequence: u64,
    captured_boot_ns: Option<u64>,
}

impl Reading {
    async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        // A reading that comes late closes a longer interval: the report says how long. Two at once would say nothing.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.read(),
                () = Sight::heed(self.sight.as_mut()) => {}
            }
        }
        self.read();
    }

    /// One reading, one report.
    fn read(&mut self) {
        let began = std::time::Instant::now();
        let slots = self.sight.as_ref().map(|sight| sight.reader.slots());
        let now = Moment::now();
        let mut reading = reader::Reading::default();
        if let (Some(Sight { reader, .. }), Some(slots)) = (&mut self.sight, slots) {
            reader.drain_events(now.boot_ns);
            reading = reader.read(&slots, now.boot_ns);
            reader.kernel.flush_log();
        }

        self.sequence += 1;
        let mut report = v1::Report {
            node: self.header.node.clone(),
            cluster: self.header.cluster.clone(),
            boot_id: self.header.boot_id.clone(),
            agent_start_unix_ns: self.header.agent_start_unix_ns,
            sequence: self.sequence,
            captured_unix_ns: now.unix_ns,
            captured_boot_ns: now.boot_ns,
            interval_ns: self
                .captured_boot_ns
                .replace(now.boot_ns)
                .map_or(0, |before_ns| now.boot_ns.saturating_sub(before_ns)),
            online_cpus: aya::util::online_cpus()
                .map_or(0, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX)),
            ..v1::Report::default()
        };
        report::fill(&mut report, reading, self.reclaim);
        let reader = self.sight.as_ref().map(|sight| &sight.reader);
        let mut losses = reader.map_or_else(Vec::new, report::losses);
        losses.extend(self.uplink.stats().losses());
        let coverage = report::coverage(&self.features, losses);
        let cost = report::cost(&cost::read(), reader.map(|reader| &reader.kernel));
        report.coverage = Some(coverage.clone());
        report.cost = Some(cost.clone());
        self.uplink.push(report);

        self.status.send_replace(Status {
            reading: self.sequence,
            read_at: Some(std::time::Instant::now()),
            interval: self.interval,
            read_duration: began.elapsed(),
            counting: reader.is_some(),
            tracked: reader.map(Reader::tracked).unwrap_or_default(),
            switches: reader.map_or(0, |reader| reader.kernel.maps.switches()),
            wall_clock_shift_ns: self.started.wall_clock_shift_ns(now),
            coverage,
            cost,
            uplink: self.uplink.stats(),
        });
    }
}
