//! The agent's own metrics: a snapshot of what it last did, written out on each scrape.

use std::fmt;
use std::time::{Duration, Instant};

use partywall_abi::{FLOWS, SLOTS, SOCKETS};
use partywall_proto::v1::{AgentCost, Coverage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::reader::Tracked;
use crate::uplink::{SpoolStats, UplinkStats};

/// What the agent last did. Counters count since its start.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Readings done.
    pub reading: u64,
    /// When the last one ended; `None` before the first.
    pub read_at: Option<Instant>,
    /// Wanted time between two.
    pub interval: Duration,
    /// What the last one took.
    pub read_duration: Duration,
    /// Whether the kernel lets anything be counted.
    pub counting: bool,
    pub tracked: Tracked,
    /// Context switches seen.
    pub switches: u64,
    /// How far the wall clock went ahead of the time that passed since the agent's start.
    pub wall_clock_shift_ns: i128,
    pub coverage: Coverage,
    pub cost: AgentCost,
    pub uplink: UplinkStats,
}

/// Everything under `partywall_agent_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(status: watch::Receiver<Status>) -> Self {
        let mut registry = Registry::with_prefix("partywall_agent");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The agent's version", build);
        registry.register_collector(Box::new(Snapshot(status)));
        Self { registry }
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    ///
    /// None in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Snapshot(watch::Receiver<Status>);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let status = self.0.borrow().clone();
        let mut out = Out(encoder);
        readings(&mut out, &status)?;
        coverage(&mut out, &status.coverage)?;
        cost(&mut out, &status.cost)?;
        uplink(&mut out, &status.uplink)
    }
}

fn readings(out: &mut Out<'_>, status: &Status) -> fmt::Result {
    let Tracked {
        cgroups,
        pods,
        containers,
        slots,
        watched,
        flows,
        sockets,
    } = status.tracked;
    out.counter("readings", "Readings of the kernel side's maps", status.reading)?;
    out.seconds("interval", "Wanted time between two readings", status.interval)?;
    out.seconds(
        "read_duration",
        "Time that the last reading took",
        status.read_duration,
    )?;
    out.gauge(
        "counting",
        "1: something is counted. 0: nothing is, see `partywall-agent check`",
        u64::from(status.counting),
    )?;
    out.one(
        "wall_clock_shift",
        "How far the wall clock was set ahead of the time that passed since the agent's start; below 0: back",
        Some(&Unit::Seconds),
        &ConstGauge::new(status.wall_clock_shift_ns as f64 / 1e9),
    )?;
    out.counter("switches", "Context switches seen", status.switches)?;
    out.gauge("cgroups", "Cgroups whose identity is kept", cgroups)?;
    out.gauge("pods", "Pods that are counted", pods)?;
    out.gauge("containers", "Containers that are counted", containers)?;
    out.gauge(
        "memory_cgroups",
        "Cgroups whose memory and pressure files are read",
        watched,
    )?;
    out.gauge("slots_used", "Kernel slots that hold a cgroup's counters", slots)?;
    out.gauge("slots", "Kernel slots in all", SLOTS)?;
    out.gauge("flows_used", "Places that hold a flow's counters", flows)?;
    out.gauge("flows", "Places for flows in all", FLOWS)?;
    out.gauge(
        "sockets_used",
        "Sockets of which the kernel side remembers something",
        sockets,
    )?;
    out.gauge("sockets", "Sockets of which it may", SOCKETS)
}

fn coverage(out: &mut Out<'_>, coverage: &Coverage) -> fmt::Result {
    let features = coverage.features.iter();
    let features = features.map(|feature| ([("feature", feature.name.as_str())], u64::from(feature.present)));
    out.gauges(
        "feature",
        "1: present and used. 0: not, see `partywall-agent check`",
        features,
    )?;
    let losses = coverage.losses.iter().map(|loss| {
        let labels = [
            ("stage", loss.stage.as_str()),
            ("reason", loss.reason.as_str()),
            ("unit", loss.unit.as_str()),
        ];
        (labels, loss.count)
    });
    out.counters(
        "losses",
        "What could not be counted or was lost on the way, by stage and reason",
        losses,
    )
}

fn cost(out: &mut Out<'_>, cost: &AgentCost) -> fmt::Result {
    let cpu = seconds(cost.cpu_ns);
    out.counter(
        "cpu_seconds",
        "User and system CPU time of the agent's process",
        cpu,
    )?;
    let memory = [([("source", cost.memory_source.as_str())], cost.memory_bytes)];
    out.gauges(
        "memory_bytes",
        "Memory of the agent: of its cgroup (memory.current), else resident (rss)",
        memory.into_iter(),
    )?;
    out.gauge("map_bytes", "Kernel memory of the agent's maps", cost.map_bytes)?;
    let programs = || {
        cost.programs
            .iter()
            .map(|program| ([("program", program.name.as_str())], program))
    };
    out.counters(
        "program_run_seconds",
        "Time spent in an eBPF program; 0 unless kernel.bpf_stats_enabled = 1",
        programs().map(|(label, program)| (label, seconds(program.run_ns))),
    )?;
    out.counters(
        "program_runs",
        "Runs of an eBPF program; 0 unless kernel.bpf_stats_enabled = 1",
        programs().map(|(label, program)| (label, program.runs)),
    )
}

fn uplink(out: &mut Out<'_>, uplink: &UplinkStats) -> fmt::Result {
    out.gauge(
        "uplink_connected",
        "1: a stream to the aggregator is open",
        u64::from(uplink.connected),
    )?;
    out.counter(
        "uplink_reconnects",
        "Streams opened after the first",
        uplink.reconnects,
    )?;
    let failures = uplink
        .failures
        .iter()
        .map(|(reason, count)| ([("reason", *reason)], *count));
    out.counters(
        "uplink_failures",
        "Connections and streams to the aggregator that failed, by reason",
        failures,
    )?;
    if let Some(to) = uplink.certificate_to_unix_s {
        out.gauge(
            "certificate_expiry_timestamp_seconds",
            "Until when the agent's own certificate is good, as it was read last",
            to as f64,
        )?;
    }
    if let Some(age) = uplink.last_receipt_age {
        out.seconds(
            "uplink_last_receipt_age",
            "Time since the aggregator last answered",
            age,
        )?;
    }
    out.counter("reports_sent", "Reports sent, the repeated ones too", uplink.sent)?;
    out.counter(
        "reports_sent_bytes",
        "Size of the reports sent, encoded",
        uplink.sent_bytes,
    )?;
    let receipts = [
        ("accepted", uplink.acknowledged),
        ("duplicate", uplink.duplicate),
        ("refused", uplink.refused()),
    ];
    let receipts = receipts
        .into_iter()
        .map(|(outcome, count)| ([("outcome", outcome)], count));
    out.counters(
        "receipts",
        "Reports answered by the aggregator, by outcome",
        receipts,
    )?;
    let refused = uplink
        .refused_by_reason
        .iter()
        .map(|(reason, count)| ([("field", reason.as_str())], *count));
    out.counters(
        "reports_refused",
        "Reports refused by the aggregator, by the field it found wrong",
        refused,
    )?;
    out.gauge(
        "queue_reports",
        "Reports in memory without a receipt",
        uplink.queued_reports,
    )?;
    out.gauge(
        "queue_bytes",
        "Size of the reports in memory without a receipt, encoded",
        uplink.queued_bytes,
    )?;
    uplink.spool.as_ref().map_or(Ok(()), |spool| spooled(out, spool))
}

fn spooled(out: &mut Out<'_>, spool: &SpoolStats) -> fmt::Result {
    out.gauge(
        "spool_usable",
        "1: reports can be kept on disk. 0: they wait in memory alone",
        u64::from(spool.usable),
    )?;
    out.gauge("spool_reports", "Reports on disk", spool.reports)?;
    out.gauge("spool_bytes", "What the reports on disk take there", spool.bytes)?;
    out.counter(
        "spool_errors",
        "Times that the spool could not be opened, read or written",
        spool.errors,
    )
}

#[allow(
    clippy::cast_precision_loss,
    reason = "2^53 ns are 104 days, and then it is exact to a microsecond"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// One line each for a metric without and with labels. A metric without samples is left out whole.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        self.one(name, help, None, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.one(name, help, None, &ConstGauge::new(value))
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        self.one(
            name,
            help,
            Some(&Unit::Seconds),
            &ConstGauge::new(value.as_secs_f64()),
        )
    }

    fn one(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &impl EncodeMetric,
    ) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, unit, metric.metric_type())?)
    }

    fn counters<'l, const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = ([(&'l str, &'l str); N], V)>,
    ) -> fmt::Result {
        self.many(
            name,
            help,
            samples.map(|(labels, value)| (labels, ConstCounter::new(value))),
        )
    }

    fn gauges<'l, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = ([(&'l str, &'l str); N], V)>,
    ) -> fmt::Result {
        self.many(
            name,
            help,
            samples.map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    fn many<'l, const N: usize, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = ([(&'l str, &'l str); N], M)>,
    ) -> fmt::Result {
        let mut samples = samples.peekable();
        let Some((_, first)) = samples.peek() else {
            return Ok(());
        };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        samples.try_for_each(|(labels, metric)| metric.encode(family.encode_family(&labels)?))
    }
}
