//! The whole agent in order: probe, load, read, report; and back.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use partywall_proto::v1;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin;
use crate::config::Config;
use crate::cost;
use crate::kernel::events;
use crate::kernel::features::{Facts, Feature, plan};
use crate::kernel::load::Kernel;
use crate::memory::Kinds;
use crate::metrics::Status;
use crate::reader::Reader;
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
/// # Errors
/// The kernel refuses what is required, the object cannot be read, or the address cannot be bound.
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
    let kernel = Kernel::load(&plan, &mut features, object.as_deref())?;
    let cgroup_root = facts.cgroup_root.map_err(anyhow::Error::msg)?;
    for feature in features.iter().filter(|feature| !feature.present) {
        warn!(
            feature = feature.name,
            reason = feature.reason,
            lost = feature.lost_without,
            "not available"
        );
    }

    let ring = events::readiness(&kernel.events).context("the ring of cgroup events")?;
    let stop = CancellationToken::new();
    let uplink = Arc::new(Uplink::new(UplinkConfig {
        endpoint: config.aggregator.clone(),
        queue_bytes: config.queue_bytes,
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
    let reading = Reading {
        reader: Reader::new(kernel, cgroup_root, files, boot_ns()),
        reclaim: has("reclaim"),
        features,
        uplink: Arc::clone(&uplink),
        status,
        header: Header::new(config.node)?,
        interval: config.interval,
        sequence: 0,
        captured_boot_ns: None,
    };
    let reader = tokio::spawn(reading.run(ring, stop.clone()));
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
    boot_id: String,
    agent_start_unix_ns: u64,
}

impl Header {
    fn new(node: String) -> anyhow::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot_id")?;
        Ok(Self {
            node,
            boot_id: boot_id.trim().to_owned(),
            agent_start_unix_ns: unix_ns(),
        })
    }
}

/// The reading task.
struct Reading {
    reader: Reader,
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
    async fn run(mut self, ring: AsyncFd<OwnedFd>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.interval);
        // A reading that comes late closes a longer interval: the report says how long. Two at once would say nothing.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.read(),
                ready = ring.readable() => {
                    // An error means a closed descriptor, which this task holds open; the ring is drained at each reading too.
                    if let Ok(mut guard) = ready {
                        guard.clear_ready();
                    }
                    self.reader.drain_events(boot_ns());
                }
            }
        }
        self.read();
    }

    /// One reading, one report.
    fn read(&mut self) {
        let began = std::time::Instant::now();
        let slots = self.reader.slots();
        let now_ns = boot_ns();
        self.reader.drain_events(now_ns);
        let reading = self.reader.read(&slots, now_ns);
        self.reader.kernel.flush_log();

        self.sequence += 1;
        let mut report = v1::Report {
            node: self.header.node.clone(),
            boot_id: self.header.boot_id.clone(),
            agent_start_unix_ns: self.header.agent_start_unix_ns,
            sequence: self.sequence,
            captured_unix_ns: unix_ns(),
            captured_boot_ns: now_ns,
            interval_ns: self
                .captured_boot_ns
                .replace(now_ns)
                .map_or(0, |before_ns| now_ns.saturating_sub(before_ns)),
            online_cpus: aya::util::online_cpus()
                .map_or(0, |cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX)),
            ..v1::Report::default()
        };
        report::fill(&mut report, reading, self.reclaim);
        let coverage = report::coverage(&self.features, &self.reader, self.uplink.stats().losses());
        let cost = report::cost(&cost::read(), &self.reader.kernel);
        report.coverage = Some(coverage.clone());
        report.cost = Some(cost.clone());
        self.uplink.push(report);

        self.status.send_replace(Status {
            reading: self.sequence,
            read_at: Some(std::time::Instant::now()),
            interval: self.interval,
            read_duration: began.elapsed(),
            tracked: self.reader.tracked(),
            switches: self.reader.kernel.maps.switches(),
            coverage,
            cost,
            uplink: self.uplink.stats(),
        });
    }
}

fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec
        .unsigned_abs()
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec.unsigned_abs())
}

fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
