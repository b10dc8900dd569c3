//! The aggregator killed without warning while it writes its trail: what was read from it once is there ever after, and the chain verifies.
//!
//! A node that exists in reports alone has its pods reach others all the time, so that breaches fire and are resolved many times a second. Beside it a
//! reader follows the chain: what it was given was on the disk, for the aggregator answers from there alone. In some rounds the aggregator lives until a
//! slot was written, and is asked who reached whom: a yes is a yes after every kill.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use partywall_proto::{
    trail::Verifier,
    v1::{
        AuditRequest, Coverage, Entity, Feature, Flow, FlowSample, Pod, Reached, ReadTrailRequest, Report,
        Role, Traffic, entity::Kind, ingest_service_client::IngestServiceClient, trail_body::What,
        trail_service_client::TrailServiceClient,
    },
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    audit::client,
    processes::{Binaries, Daemon, free_address},
    restarts::Random,
};

const PODS: u32 = 40;
const EVERY: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(300);
const SLOT: u64 = 10_000_000_000;
/// So seldom a round lasts until a slot was written.
const LONG_EVERY: u32 = 12;
/// Breaches come and go as fast as they can.
const POLICY: &str =
    "windows: {fast_seconds: 1, step_seconds: 0.1}\nflat_network: {clear_after_seconds: 0}\n";

#[derive(Debug, Serialize)]
pub(crate) struct Killed {
    times: u32,
    /// Read from a live aggregator, and found again after each kill.
    acknowledged: usize,
    records: u64,
    breaches: u64,
    hours: u64,
    /// Pairs of tenants and slots that were answered with yes.
    answers: usize,
    longest_start_ms: u128,
    file_mib: f64,
}

impl Killed {
    pub(crate) fn line(&self) -> String {
        format!(
            "trail-kill: killed {} times while it wrote; {} records acknowledged, none lost; {} in the chain ({} breaches, {} hours), verified after each kill; \
             {} times yes, still yes; slowest start {} ms, file {:.1} MiB",
            self.times,
            self.acknowledged,
            self.records,
            self.breaches,
            self.hours,
            self.answers,
            self.longest_start_ms,
            self.file_mib
        )
    }
}

/// Sequence → hash, of what a live aggregator gave.
type Acknowledged = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

pub(crate) async fn kill(binaries: &Binaries, times: u32, seed: u64, dir: &Path) -> Result<Killed> {
    let (cluster, state, policy) = (dir.join("cluster"), dir.join("state"), dir.join("policy.yaml"));
    fs::create_dir_all(&cluster)?;
    fs::create_dir_all(&state)?;
    fs::write(cluster.join("pods.yaml"), objects())?;
    fs::write(&policy, POLICY)?;
    let grpc = free_address()?;
    let mut random = Random::new(seed);
    let acknowledged = Acknowledged::default();
    let load = tokio::spawn(load(grpc, seed));
    let mut asked: BTreeSet<(String, String, u64)> = BTreeSet::new();
    let mut killed = Killed {
        times: 0,
        acknowledged: 0,
        records: 0,
        breaches: 0,
        hours: 0,
        answers: 0,
        longest_start_ms: 0,
        file_mib: 0.0,
    };
    while killed.times < times {
        let began = Instant::now();
        let mut aggregator = Daemon::judging_aggregator(binaries, grpc, &cluster, &state, &policy, dir)?;
        aggregator.wait_ready().await?;
        killed.longest_start_ms = killed.longest_start_ms.max(began.elapsed().as_millis());
        let mut client = client(grpc).await?;
        check(&mut client, &acknowledged, &mut killed).await?;
        for (from, to, slot) in &asked {
            let reached = reached(&mut client, from, to, *slot).await?;
            ensure!(
                reached == Reached::Yes,
                "{from} to {to} in slot {slot}: yes before a kill, {reached:?} after it"
            );
        }
        let follower = tokio::spawn(follow(grpc, Arc::clone(&acknowledged)));
        if killed.times % LONG_EVERY == LONG_EVERY / 2 {
            answers(&mut client, &mut asked).await?;
        }
        sleep(Duration::from_millis(400 + random.below(900))).await;
        aggregator.kill()?;
        killed.times += 1;
        // It ends with its connection.
        let _ended = timeout(Duration::from_secs(5), follower).await;
        ensure!(!load.is_finished(), "the load ended by itself");
        if killed.times.is_multiple_of(10) {
            eprintln!("trail-kill {}/{times}", killed.times);
        }
    }
    load.abort();
    let mut aggregator = Daemon::judging_aggregator(binaries, grpc, &cluster, &state, &policy, dir)?;
    aggregator.wait_ready().await?;
    check(&mut client(grpc).await?, &acknowledged, &mut killed).await?;
    aggregator.stop().await?;
    killed.answers = asked.len();
    killed.file_mib = fs::metadata(state.join("trail.redb"))?.len() as f64 / (1024.0 * 1024.0);
    ensure!(
        killed.acknowledged > times as usize,
        "hardly anything was written: {killed:?}"
    );
    ensure!(
        times < LONG_EVERY || killed.answers > 0,
        "no slot was ever written: {killed:?}"
    );
    Ok(killed)
}

/// The whole chain: it verifies, and everything that was ever given is in it, as it was.
async fn check(
    client: &mut TrailServiceClient<Channel>,
    acknowledged: &Acknowledged,
    killed: &mut Killed,
) -> Result<()> {
    let mut records = client.read_trail(ReadTrailRequest::default()).await?.into_inner();
    let mut verifier = Verifier::default();
    let mut found = BTreeMap::new();
    (killed.breaches, killed.hours) = (0, 0);
    while let Some(record) = records.message().await? {
        let body = verifier.take(&record)?;
        match body.what {
            Some(What::Breach(_)) => killed.breaches += 1,
            Some(What::Hour(_)) => killed.hours += 1,
            _ => {}
        }
        found.insert(record.sequence, record.hash.to_vec());
    }
    verifier.finish()?;
    killed.records = found.len() as u64;
    let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    for (sequence, hash) in acknowledged.iter() {
        ensure!(
            found.get(sequence) == Some(hash),
            "record {sequence} was read before a kill, and is gone or another"
        );
    }
    killed.acknowledged = acknowledged.len();
    Ok(())
}

/// Reads on as it grows, until the aggregator is gone.
async fn follow(grpc: SocketAddr, acknowledged: Acknowledged) -> Result<()> {
    let mut client = client(grpc).await?;
    loop {
        let last = acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_key_value()
            .map_or(0, |(sequence, _)| *sequence);
        let request = ReadTrailRequest {
            from_sequence: last + 1,
        };
        let mut records = client.read_trail(request).await?.into_inner();
        while let Some(record) = records.message().await? {
            let mut known = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(record.sequence, record.hash.to_vec());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn reached(
    client: &mut TrailServiceClient<Channel>,
    from: &str,
    to: &str,
    slot: u64,
) -> Result<Reached> {
    let request = AuditRequest {
        from_unix_ns: slot * SLOT,
        to_unix_ns: (slot + 1) * SLOT,
        from_tenant: from.into(),
        to_tenant: to.into(),
        ..AuditRequest::default()
    };
    let answer = client.audit(request).await?.into_inner();
    Ok(answer.pairs.first().context("an answer")?.reached())
}

/// Waits until a slot is written, and keeps some of what it says.
async fn answers(
    client: &mut TrailServiceClient<Channel>,
    asked: &mut BTreeSet<(String, String, u64)>,
) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(40) {
        let slot = crate::audit::now_ns() / SLOT - 1;
        let request = AuditRequest {
            from_unix_ns: slot * SLOT,
            to_unix_ns: (slot + 1) * SLOT,
            ..AuditRequest::default()
        };
        let answer = client.audit(request).await?.into_inner();
        let yes = answer.pairs.iter().filter(|pair| pair.reached() == Reached::Yes);
        let yes: Vec<_> = yes
            .take(5)
            .map(|pair| (pair.from.clone(), pair.to.clone(), slot))
            .collect();
        if !yes.is_empty() {
            asked.extend(yes);
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    bail!("no slot with anything in it was written within 40 s")
}

fn objects() -> String {
    let mut text = String::new();
    for pod in 0..PODS {
        let _infallible = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod, namespace: tenant-{pod}, uid: uid-{pod}}}, \
             spec: {{nodeName: sim, containers: [{{name: c}}]}}, status: {{phase: Running, podIPs: [{{ip: 10.2.0.{}}}]}}}}",
            pod + 1
        );
    }
    text
}

/// An agent that is started anew with each connection, and in each of whose reports some pods reach some others.
async fn load(grpc: SocketAddr, seed: u64) {
    let mut random = Random::new(seed + 1);
    loop {
        // However it ended: the aggregator is gone, another follows.
        let _ended = reports(grpc, &mut random).await;
        sleep(Duration::from_millis(30)).await;
    }
}

async fn reports(grpc: SocketAddr, random: &mut Random) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{grpc}"))?.connect().await?;
    let (out, reports) = mpsc::channel(64);
    let mut client = IngestServiceClient::new(channel);
    let opened = client.ingest(ReceiverStream::new(reports));
    let mut receipts = timeout(STEP * 10, opened).await??.into_inner();
    let (run, began) = (crate::audit::now_ns(), Instant::now());
    let mut clock = interval(EVERY);
    let mut sequence = 0;
    loop {
        tokio::select! {
            receipt = receipts.message() => {
                if receipt?.is_none() {
                    return Ok(());
                }
            }
            _ = clock.tick() => {
                sequence += 1;
                let boot_ns = began.elapsed().as_nanos() as u64 + 1_000_000_000;
                out.send(report(run, sequence, boot_ns, random)).await?;
            }
        }
    }
}

fn report(run: u64, sequence: u64, boot_ns: u64, random: &mut Random) -> Report {
    let mut report = Report {
        node: "sim".into(),
        boot_id: "sim".into(),
        agent_start_unix_ns: run,
        sequence,
        captured_unix_ns: crate::audit::now_ns(),
        captured_boot_ns: boot_ns,
        waited_ns: Some(0),
        online_cpus: 2,
        coverage: Some(Coverage {
            features: vec![Feature {
                name: "flows".into(),
                present: true,
                reason: String::new(),
            }],
            losses: Vec::new(),
        }),
        ..Report::default()
    };
    if sequence == 1 {
        let entity = |index: u32| Entity {
            index: index + 1,
            born_boot_ns: 0,
            kind: Some(Kind::Pod(Pod {
                uid: format!("uid-{index}"),
            })),
        };
        report.entities = (0..PODS).map(entity).collect();
        return report;
    }
    let a = random.below(u64::from(PODS)) as u32;
    let b = (a + 1 + random.below(u64::from(PODS) - 1) as u32) % PODS;
    let address = |pod: u32| vec![10, 2, 0, pod as u8 + 1];
    for (own, peer, role) in [(a, b, Role::Opened), (b, a, Role::Accepted)] {
        let index = sequence as u32 * 2 + u32::from(role == Role::Accepted);
        report.flows.push(Flow {
            index,
            entity: own + 1,
            local: address(own).into(),
            peer: address(peer).into(),
            protocol: 6,
            port: 1_000 + sequence as u32 % 50_000,
            role: role.into(),
        });
        report.flow_samples.push(FlowSample {
            flow: index,
            traffic: Some(Traffic {
                sent_packets: 5,
                sent_bytes: 2_000,
                received_packets: 5,
                received_bytes: 2_000,
                opened: u64::from(role == Role::Opened),
                established: 1,
                ..Traffic::default()
            }),
        });
        report.flows_ended.push(index);
    }
    report
}
