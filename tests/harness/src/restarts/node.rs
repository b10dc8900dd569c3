//! A node that exists in reports alone: the sums of what it sends are known, and it ends at any moment as an agent does that is killed.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use partywall_proto::v1::{
    CpuSample, Entity, LedgerRow, Outcome, Pod, Receipt, Report, entity::Kind,
    ingest_service_client::IngestServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::tally::Tally;

pub(super) const PODS: usize = 12;
pub(super) const TENANTS: usize = 4;
const EVERY: Duration = Duration::from_millis(40);
/// Sent and without a receipt.
const WINDOW: usize = 4;
const CONNECT: Duration = Duration::from_millis(300);

/// Xorshift: the same load from the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }

    fn pick(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }
}

pub(super) fn uid(node: usize, pod: usize) -> String {
    format!("{node:08x}-0000-4000-8000-{pod:012x}")
}

pub(super) fn tenant(pod: usize) -> String {
    format!("tenant-{}", pod % TENANTS)
}

pub(super) enum Control {
    /// As by SIGKILL.
    Kill,
    /// No new reports; ends when everything has its receipt.
    Drain,
}

/// What a node knows of what it sent.
#[derive(Default)]
pub(super) struct Sent {
    /// With a receipt.
    pub(super) acknowledged: Tally,
    /// Of each run that was killed and whose queue went with it: what was on its way, in order. A first part of it may have been counted.
    pub(super) open: Vec<Vec<Tally>>,
    pub(super) reports: u64,
    pub(super) duplicates: u64,
    pub(super) kills: u32,
    pub(super) streams: u64,
    pub(super) receipt_ms: Vec<u32>,
}

struct Live {
    pod: usize,
    cpu: CpuSample,
    row: LedgerRow,
    ran: BTreeMap<u32, u64>,
}

pub(super) struct Node {
    number: usize,
    name: String,
    /// What has no receipt outlives the agent.
    spool: bool,
    random: Random,
    began: Instant,
    run: u64,
    sequence: u64,
    next_index: u32,
    live: BTreeMap<u32, Live>,
    announce_all: bool,
    /// With what each adds, and when it was sent last.
    queue: VecDeque<(Report, Tally, Instant)>,
    in_flight: usize,
    /// Sent on any stream: it may have been counted.
    ever_sent: usize,
    sent: Sent,
}

type Stream = (mpsc::Sender<Report>, Streaming<Receipt>);

impl Node {
    pub(super) fn new(number: usize, spool: bool) -> Self {
        Self {
            number,
            name: format!("sim-{number}"),
            spool,
            random: Random::new(number as u64 + 1),
            began: Instant::now(),
            run: 1,
            sequence: 0,
            next_index: 1,
            live: BTreeMap::new(),
            announce_all: false,
            queue: VecDeque::new(),
            in_flight: 0,
            ever_sent: 0,
            sent: Sent::default(),
        }
    }

    pub(super) async fn run(mut self, to: SocketAddr, mut control: mpsc::Receiver<Control>) -> Result<Sent> {
        let mut clock = interval(EVERY);
        let mut stream: Option<Stream> = None;
        let mut drains = false;
        loop {
            let receipt = async {
                match &mut stream {
                    Some((_, receipts)) => receipts.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = control.recv() => match order {
                    Some(Control::Kill) => {
                        stream = None;
                        self.die();
                    }
                    Some(Control::Drain) | None => drains = true,
                },
                receipt = receipt => match receipt {
                    Ok(Some(receipt)) => self.receipt(&receipt)?,
                    Ok(None) | Err(_) => stream = None,
                },
                _ = clock.tick() => {
                    if !drains {
                        let report = self.second();
                        self.queue.push_back(report);
                    }
                    if stream.is_none() {
                        stream = self.connect(to).await;
                    }
                }
            }
            if let Some((out, _)) = &stream {
                while self.in_flight < WINDOW.min(self.queue.len()) {
                    let (report, _, at) = &mut self.queue[self.in_flight];
                    *at = Instant::now();
                    if out.try_send(report.clone()).is_err() {
                        break;
                    }
                    self.in_flight += 1;
                    self.ever_sent = self.ever_sent.max(self.in_flight);
                }
            }
            if drains && self.queue.is_empty() {
                return Ok(self.sent);
            }
        }
    }

    async fn connect(&mut self, to: SocketAddr) -> Option<Stream> {
        self.in_flight = 0;
        let endpoint = Endpoint::from_shared(format!("http://{to}")).ok()?;
        let channel = timeout(CONNECT, endpoint.connect()).await.ok()?.ok()?;
        let (out, reports) = mpsc::channel(WINDOW);
        let mut client = IngestServiceClient::new(channel);
        let opened = timeout(CONNECT, client.ingest(ReceiverStream::new(reports))).await;
        self.sent.streams += 1;
        Some((out, opened.ok()?.ok()?.into_inner()))
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<()> {
        let (report, adds, at) = self.queue.pop_front().context("a receipt for nothing")?;
        ensure!(
            report.sequence == receipt.sequence,
            "{}: receipt {} for report {}",
            self.name,
            receipt.sequence,
            report.sequence
        );
        match receipt.outcome() {
            Outcome::Accepted => self.sent.reports += 1,
            Outcome::Duplicate => self.sent.duplicates += 1,
            other => anyhow::bail!(
                "{}: report {}: {other:?} {}",
                self.name,
                report.sequence,
                receipt.reason
            ),
        }
        self.in_flight -= 1;
        self.ever_sent -= 1;
        self.announce_all |= receipt.announce_all;
        self.sent.acknowledged.take_over(&adds);
        self.sent.receipt_ms.push(at.elapsed().as_millis() as u32);
        Ok(())
    }

    /// The process is gone, another follows.
    fn die(&mut self) {
        self.sent.kills += 1;
        if !self.spool {
            let on_the_way = self.queue.drain(..).take(self.ever_sent);
            let open: Vec<Tally> = on_the_way.map(|(_, adds, _)| adds).collect();
            self.queue.clear();
            self.ever_sent = 0;
            if !open.is_empty() {
                self.sent.open.push(open);
            }
        }
        self.in_flight = 0;
        self.run += 1;
        self.sequence = 0;
        self.live.clear();
        self.announce_all = false;
    }

    fn key(&self, kind: &str, of: usize, runner: &str) -> String {
        format!("{kind}/{}/{}/{runner}", self.name, tenant(of))
    }

    /// What happened since the last report, and how much that is.
    fn second(&mut self) -> (Report, Tally, Instant) {
        self.sequence += 1;
        let boot_ns = self.began.elapsed().as_nanos() as u64 + 1_000_000_000;
        let mut report = Report {
            node: self.name.clone(),
            boot_id: "sim".into(),
            agent_start_unix_ns: self.run,
            sequence: self.sequence,
            captured_boot_ns: boot_ns,
            online_cpus: 8,
            ..Report::default()
        };
        let mut adds = Tally::default();
        adds.add(format!("reports/{}//", self.name), 1);
        while self.live.len() < 4 || (self.live.len() < PODS && self.random.below(6) == 0) {
            let taken: Vec<usize> = self.live.values().map(|l| l.pod).collect();
            let free: Vec<usize> = (0..PODS).filter(|pod| !taken.contains(pod)).collect();
            let pod = free[self.random.pick(free.len())];
            let index = self.next_index;
            self.next_index += 1;
            let mut live = Live {
                pod,
                cpu: CpuSample::default(),
                row: LedgerRow::default(),
                ran: BTreeMap::new(),
            };
            live.cpu.entity = index;
            live.row.waiter = index;
            report.entities.push(self.entity(index, pod, boot_ns));
            self.live.insert(index, live);
        }
        if std::mem::take(&mut self.announce_all) {
            let all = self.live.iter();
            report.entities = all
                .map(|(index, live)| self.entity(*index, live.pod, 0))
                .collect();
        }
        // The first report of a run closes no interval: nothing has happened yet.
        if self.sequence > 1 {
            self.happen(&mut report, &mut adds);
            if self.live.len() > 4 && self.random.below(8) == 0 {
                let indices: Vec<u32> = self.live.keys().copied().collect();
                let index = indices[self.random.pick(indices.len())];
                self.live.remove(&index);
                report.ended.push(index);
                report.ended_boot_ns.push(boot_ns);
            }
        }
        (report, adds, Instant::now())
    }

    fn entity(&self, index: u32, pod: usize, born_boot_ns: u64) -> Entity {
        let kind = Some(Kind::Pod(Pod {
            uid: uid(self.number, pod),
        }));
        Entity {
            index,
            born_boot_ns,
            kind,
        }
    }

    fn happen(&mut self, report: &mut Report, adds: &mut Tally) {
        let indices: Vec<u32> = self.live.keys().copied().collect();
        for index in &indices {
            if self.random.below(2) == 0 {
                continue;
            }
            let ran_ns = self.random.below(5_000_000) + 1;
            let waited_ns = self.random.below(2_000_000) + 1;
            let bucket = self.random.pick(16);
            let class = self.random.below(6);
            let runner = indices[self.random.pick(indices.len())];
            let runner_pod = self.live[&runner].pod;
            let Some(live) = self.live.get_mut(index) else {
                continue;
            };
            let pod = live.pod;
            live.cpu.run_ns += ran_ns;
            live.cpu.wait_ns += waited_ns;
            live.cpu.waits.resize(16, 0);
            live.cpu.waits[bucket] += 1;
            let own = tenant(pod);
            let met = match class {
                0 => (&mut live.row.idle_ns, "<idle>"),
                1 => (&mut live.row.steal_ns, "<steal>"),
                2 => (&mut live.row.throttled_ns, "<throttled>"),
                3 => (&mut live.row.unresolved_ns, "<unresolved>"),
                _ if runner == *index => (&mut live.row.self_ns, own.as_str()),
                _ => (live.ran.entry(runner).or_default(), ""),
            };
            *met.0 += waited_ns;
            let who = if met.1.is_empty() {
                tenant(runner_pod)
            } else {
                met.1.to_owned()
            };
            let met = class > 3 && runner != *index;
            live.row.runners = met.then_some(runner).into_iter().collect();
            live.row.ran_ns = met.then(|| live.ran[&runner]).into_iter().collect();
            report.cpu.push(live.cpu.clone());
            report.ledger.push(live.row.clone());
            adds.add(self.key("cpu", pod, ""), ran_ns);
            adds.add(self.key("ledger", pod, &who), waited_ns);
            adds.add(format!("waited//{own}/"), waited_ns);
            adds.add(format!("waits//{own}/"), 1);
        }
    }
}
