//! Agents and the aggregator killed without warning, again and again, under load: no total is lost, and nothing counts twice.
//!
//! Six nodes exist in reports alone, so that the sums of what they send are known to the nanosecond. Of half of them what has no receipt outlives the
//! agent, as on a disk, and is sent again by the next: their totals are what was sent. Of the other half a kill takes the queue with it. Of what
//! was on its way then a first part may have been counted; there must be such parts, one for each kill, with which all sums fit exactly. Beside them
//! a real agent reports through a tap: its CPU time in the totals is at least what was acknowledged and at most what was sent.
//!
//! Before each kill and after each start the totals are read: none ever goes back.

mod full;
mod node;
mod tally;
mod tap;

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    http,
    processes::{Binaries, Daemon, NODE, free_address},
};
pub(crate) use node::Random;
use node::{Control, Node, PODS, Sent, tenant, uid};
use tally::Tally;
use tap::Tap;

const NODES: usize = 6;
/// A real agent takes a second to load its programs: it is killed once in this many rounds.
const REAL_EVERY: u32 = 10;
/// Until everything has its receipt, and is in the totals.
const DRAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
pub(crate) struct Restarts {
    aggregator_kills: u32,
    /// Before it was ready.
    early_kills: u32,
    agent_kills: u32,
    real_agent_kills: u32,
    reports: u64,
    duplicates: u64,
    streams: u64,
    /// Killed with their queue while something was on its way.
    open: usize,
    cpu_seconds: f64,
    ledger_seconds: f64,
    real_reports: u64,
    real_cpu_seconds: f64,
    real_open_seconds: f64,
    longest_start_ms: u128,
    receipt_p50_ms: u32,
    receipt_p99_ms: u32,
    file_mib: f64,
    full_disk_reports: u64,
}

impl Restarts {
    pub(crate) fn line(&self) -> String {
        format!(
            "restarts: aggregator killed {} times ({} before it was ready), agents {} times, the real agent {} times; {} reports acknowledged, \
             {} of them counted before, {} streams; {:.3} s of CPU time and {:.3} s of the ledger exact ({} queues ended on the way); \
             real agent: {} reports, {:.3} s of CPU time, within {:.3} s; slowest start {} ms, receipt p50 {} ms, p99 {} ms, file {:.1} MiB; \
             disk full and put right: {} reports, exact",
            self.aggregator_kills,
            self.early_kills,
            self.agent_kills,
            self.real_agent_kills,
            self.reports,
            self.duplicates,
            self.streams,
            self.cpu_seconds,
            self.ledger_seconds,
            self.open,
            self.real_reports,
            self.real_cpu_seconds,
            self.real_open_seconds,
            self.longest_start_ms,
            self.receipt_p50_ms,
            self.receipt_p99_ms,
            self.file_mib,
            self.full_disk_reports,
        )
    }
}

struct Bench<'a> {
    binaries: &'a Binaries,
    dir: &'a Path,
    grpc: std::net::SocketAddr,
    /// Totals as they were exported last.
    seen: Tally,
    longest_start: Duration,
}

impl Bench<'_> {
    fn spawn(&self) -> Result<Daemon> {
        let (cluster, state) = (self.dir.join("cluster"), self.dir.join("state"));
        Daemon::durable_aggregator(self.binaries, self.grpc, &cluster, &state, self.dir)
    }

    async fn start(&mut self) -> Result<Daemon> {
        let began = Instant::now();
        let mut daemon = self.spawn()?;
        daemon.wait_ready().await?;
        self.longest_start = self.longest_start.max(began.elapsed());
        Ok(daemon)
    }

    /// The totals now. An error where one went back.
    async fn look(&mut self, daemon: &Daemon) -> Result<()> {
        let (code, text) = http::get(daemon.http, "/metrics").await?;
        ensure!(code == 200, "/metrics answers {code}");
        let now = Tally::of_scrape(&text)?;
        let fallen = now.fallen(&self.seen);
        ensure!(fallen.is_empty(), "totals went back: {}", fallen.join("; "));
        self.seen = now;
        Ok(())
    }
}

pub(crate) async fn restarts(binaries: &Binaries, times: u32, seed: u64, dir: &Path) -> Result<Restarts> {
    fs::create_dir_all(dir.join("cluster"))?;
    fs::create_dir_all(dir.join("state"))?;
    fs::write(dir.join("cluster/pods.yaml"), objects())?;
    let mut random = Random::new(seed);
    let mut bench = Bench {
        binaries,
        dir,
        grpc: free_address()?,
        seen: Tally::default(),
        longest_start: Duration::ZERO,
    };
    let mut aggregator = bench.start().await?;
    let tap = Tap::start(bench.grpc).await?;
    let mut real = Daemon::agent(binaries, tap.address, dir).await?;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let (orders, control) = mpsc::channel(4);
        let node = Node::new(number, number % 2 == 0);
        nodes.push((orders, tokio::spawn(node.run(bench.grpc, control))));
    }
    let (mut early, mut real_kills, mut kills) = (0, 0, 0);
    while kills < times {
        // Agents die while it lives, while it is away, and while it starts.
        let victim = random.below(NODES as u64) as usize;
        let when = random.below(3);
        if when == 0 {
            order(&nodes[victim].0).await;
        }
        sleep(Duration::from_millis(100 + random.below(500))).await;
        bench.look(&aggregator).await?;
        sleep(Duration::from_millis(random.below(60))).await;
        aggregator.kill()?;
        kills += 1;
        if when == 1 {
            order(&nodes[victim].0).await;
        }
        if kills < times && random.below(5) == 0 {
            let daemon = bench.spawn()?;
            sleep(Duration::from_millis(random.below(120))).await;
            daemon.kill()?;
            kills += 1;
            early += 1;
            order(&nodes[(victim + 1) % NODES].0).await;
        }
        aggregator = bench.start().await?;
        if when == 2 {
            order(&nodes[victim].0).await;
        }
        bench.look(&aggregator).await?;
        if kills % REAL_EVERY == REAL_EVERY / 2 {
            real.kill()?;
            real = Daemon::agent(binaries, tap.address, dir).await?;
            real_kills += 1;
        }
        if kills % 10 == 0 {
            eprintln!("restarts {kills}/{times}");
        }
    }
    let sent = drain(nodes).await?;
    real.stop().await?;
    settle(&mut bench, &aggregator, &sent).await?;
    let exact = check(&bench.seen, &sent)?;
    // And once more from the disk alone.
    aggregator.kill()?;
    aggregator = bench.start().await?;
    bench.look(&aggregator).await?;
    check(&bench.seen, &sent)?;
    let (acknowledged, all) = tap.bounds();
    let counted = bench.seen.sum(&format!("cpu/{NODE}/"));
    ensure!(
        (acknowledged..=all).contains(&counted),
        "the real agent: {counted} ns of CPU time are in the totals, {acknowledged} were acknowledged, {all} sent"
    );
    aggregator.stop().await?;
    let file = fs::metadata(dir.join("state/state.redb"))?.len();
    bench.seen = Tally::default();
    fs::remove_dir_all(dir.join("state"))?;
    let full_disk_reports = full::full(&mut bench).await?;
    let mut receipts: Vec<u32> = sent.iter().flat_map(|s| s.receipt_ms.iter().copied()).collect();
    receipts.sort_unstable();
    let quantile = |q: usize| receipts.get(receipts.len() * q / 100).copied().unwrap_or(0);
    Ok(Restarts {
        aggregator_kills: kills + 1,
        early_kills: early,
        agent_kills: sent.iter().map(|s| s.kills).sum::<u32>() + real_kills,
        real_agent_kills: real_kills,
        reports: sent.iter().map(|s| s.reports + s.duplicates).sum(),
        duplicates: sent.iter().map(|s| s.duplicates).sum(),
        streams: sent.iter().map(|s| s.streams).sum(),
        open: sent.iter().map(|s| s.open.len()).sum(),
        cpu_seconds: exact.sum("cpu/") as f64 / 1e9,
        ledger_seconds: exact.sum("ledger/") as f64 / 1e9,
        real_reports: tap.reports(),
        real_cpu_seconds: counted as f64 / 1e9,
        real_open_seconds: (all - acknowledged) as f64 / 1e9,
        longest_start_ms: bench.longest_start.as_millis(),
        receipt_p50_ms: quantile(50),
        receipt_p99_ms: quantile(99),
        file_mib: file as f64 / (1024.0 * 1024.0),
        full_disk_reports,
    })
}

type Running = (mpsc::Sender<Control>, tokio::task::JoinHandle<Result<Sent>>);

/// Until every report has its receipt.
async fn drain(nodes: Vec<Running>) -> Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for (orders, _) in &nodes {
        let _ended = orders.send(Control::Drain).await;
    }
    for (_, node) in nodes {
        let ended = tokio::time::timeout(DRAIN, node).await;
        sent.push(ended.context("a queue was not worked off")???);
    }
    Ok(sent)
}

async fn order(to: &mpsc::Sender<Control>) {
    // A node that ended has failed, and says so when it is waited for.
    let _ended = to.send(Control::Kill).await;
}

/// Until what was reported is in the totals: they stand still.
async fn settle(bench: &mut Bench<'_>, aggregator: &Daemon, sent: &[Sent]) -> Result<()> {
    let began = Instant::now();
    loop {
        let before = bench.seen.clone();
        sleep(Duration::from_millis(1_500)).await;
        bench.look(aggregator).await?;
        let checked = check(&bench.seen, sent);
        match checked {
            Ok(_) if before == bench.seen => return Ok(()),
            Err(error) if began.elapsed() > DRAIN => return Err(error),
            _ if began.elapsed() > DRAIN => bail!("the totals do not stand still"),
            _ => {}
        }
    }
}

/// What of the totals is of the nodes that only exist in reports, where it is what they sent.
fn check(totals: &Tally, sent: &[Sent]) -> Result<Tally> {
    let mut expected = Tally::default();
    for (number, node) in sent.iter().enumerate() {
        let own = format!("/sim-{number}/");
        let of_node = |key: &str| key.contains(&own);
        let acknowledged = node.acknowledged.only(of_node);
        let found = totals.only(of_node);
        let Some(rest) = found.less(&acknowledged) else {
            let differences = acknowledged.differences(&found);
            bail!(
                "sim-{number}: less than was acknowledged: {}",
                shorten(&differences)
            );
        };
        let Some(parts) = parts(&rest, &node.open, &of_node) else {
            bail!(
                "sim-{number}: what is beyond what was acknowledged was never sent, or counted twice: {}",
                shorten(&rest.differences(&Tally::default()))
            );
        };
        expected.take_over(&node.acknowledged);
        for (open, counted) in node.open.iter().zip(parts) {
            open[..counted].iter().for_each(|adds| expected.take_over(adds));
        }
    }
    let of_tenants = |key: &str| key.contains("/tenant-") || key.contains("/sim-");
    let found = totals.only(of_tenants);
    let differences = expected.differences(&found);
    ensure!(
        differences.is_empty(),
        "not what was sent: {}",
        shorten(&differences)
    );
    Ok(expected)
}

/// How much of each list was counted, so that all that was counted of them is `rest`. There are too many ways to try each: those of either half of the lists are
/// brought together by their CPU time, which hardly ever is the same by chance, and then looked at in full.
fn parts(rest: &Tally, open: &[Vec<Tally>], of_node: &impl Fn(&str) -> bool) -> Option<Vec<usize>> {
    let wanted = rest.sum("cpu/");
    let sums = |list: &Vec<Tally>| {
        let mut sum = 0;
        let each = list.iter().map(|adds| {
            sum += adds.sum("cpu/");
            sum
        });
        [0].into_iter().chain(each).collect()
    };
    let sums: Vec<Vec<u64>> = open.iter().map(sums).collect();
    let (left, right) = sums.split_at(sums.len() / 2);
    let mut others = ways(right, wanted);
    others.sort_unstable();
    for (sum, way) in ways(left, wanted) {
        let first = others.partition_point(|(other, _)| *other < wanted - sum);
        for (_, other) in others[first..]
            .iter()
            .take_while(|(other, _)| *other == wanted - sum)
        {
            let parts: Vec<usize> = taken(way, left.len()).chain(taken(*other, right.len())).collect();
            let mut counted = Tally::default();
            for (list, n) in open.iter().zip(&parts) {
                list[..*n]
                    .iter()
                    .for_each(|adds| counted.take_over(&adds.only(of_node)));
            }
            if counted == *rest {
                return Some(parts);
            }
        }
    }
    None
}

/// Bits for how much of one list was taken: a window fits.
const BITS: u32 = 3;

/// Each choice of first parts: its CPU time, and how much of each list, the last lowest. None is above `most`.
fn ways(sums: &[Vec<u64>], most: u64) -> Vec<(u64, u64)> {
    let mut ways = vec![(0, 0)];
    for list in sums {
        let longer = ways.iter().flat_map(|(sum, way)| {
            let each = list.iter().zip(0u64..);
            each.map(move |(more, n)| (sum + more, way << BITS | n))
        });
        ways = longer.filter(|(sum, _)| *sum <= most).collect();
    }
    ways
}

fn taken(way: u64, lists: usize) -> impl Iterator<Item = usize> {
    let lists = lists as u32;
    (0..lists).map(move |i| (way >> ((lists - 1 - i) * BITS) & ((1 << BITS) - 1)) as usize)
}

fn shorten(list: &[String]) -> String {
    let mut text = list.iter().take(6).cloned().collect::<Vec<_>>().join("; ");
    if list.len() > 6 {
        let _infallible = write!(text, "; and {} more", list.len() - 6);
    }
    text
}

/// The pods as the API server would list them.
fn objects() -> String {
    let mut text = String::new();
    for number in 0..NODES {
        for pod in 0..PODS {
            let _infallible = writeln!(
                text,
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{number}-{pod}, namespace: {}, uid: {}}}, \
                 spec: {{nodeName: sim-{number}, containers: [{{name: c}}]}}}}",
                tenant(pod),
                uid(number, pod)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(list: &[(&str, u64)]) -> Tally {
        let mut tally = Tally::default();
        list.iter().for_each(|(key, n)| tally.add((*key).to_owned(), *n));
        tally
    }

    fn sent(acknowledged: u64, open: &[&[u64]]) -> Vec<Sent> {
        let of = |n: &u64| tally(&[("cpu/sim-0/tenant-0/", *n), ("waited//tenant-0/", *n)]);
        vec![Sent {
            acknowledged: of(&acknowledged),
            open: open.iter().map(|list| list.iter().map(of).collect()).collect(),
            ..Sent::default()
        }]
    }

    #[test]
    fn a_lost_a_double_and_an_invented_report_are_found() {
        let total = |n: u64| tally(&[("cpu/sim-0/tenant-0/", n), ("waited//tenant-0/", n)]);
        let open: &[&[u64]] = &[&[5, 7], &[11]];
        for fits in [100, 105, 112, 111, 116, 123] {
            check(&total(fits), &sent(100, open)).unwrap();
        }
        for wrong in [99, 107, 118, 101, 110, 200] {
            check(&total(wrong), &sent(100, open)).unwrap_err();
        }
        let mut waits = total(100);
        waits.add("waited//tenant-0/".into(), 1);
        check(&waits, &sent(100, &[])).unwrap_err();
    }

    #[test]
    fn a_scrape_is_read_to_the_nanosecond() {
        let text = "# TYPE x counter\n\
            partywall_tenant_cpu_seconds_total{cluster=\"default\",tenant=\"a\",node=\"n\"} 12345.123456789\n\
            partywall_ledger_wait_seconds_total{cluster=\"default\",node=\"n\",waiter=\"a\",runner=\"<idle>\"} 1e-9\n\
            partywall_node_reports_total{cluster=\"default\",node=\"n\",outcome=\"accepted\"} 7\n\
            partywall_node_reports_total{cluster=\"default\",node=\"n\",outcome=\"refused\"} 9\n";
        let tally = Tally::of_scrape(text).unwrap();
        assert_eq!(tally.get("cpu/n/a/"), 12_345_123_456_789);
        assert_eq!(tally.get("ledger/n/a/<idle>"), 1);
        assert_eq!(tally.get("reports/n//"), 7);
    }
}
