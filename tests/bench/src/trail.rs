//! What a month of the trail takes: on the disk, in memory, and of the time of whoever asks.
//!
//! **A month.** Every tenant talks to some others, always the same; each pair in a part of all slots, at random. A few times a day a tenant's traffic
//! cannot be told for some minutes, and breaches fire and are resolved. All of it goes through the aggregator's own code with synthetic time, ending now;
//! then a real aggregator is started on the file and asked.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use clap::Args;
use partywall_aggregator::trail::Offline;
use partywall_aggregator_core::{
    traffic::Verdict,
    trail::{Doubt, Moved, SLOT_NS, Taken, reason},
};
use partywall_proto::v1::{
    AuditRequest, Breach, BreachKind, BreachState, Culprit, Figure, GetHistoryRequest, ReadTrailRequest,
    trail_service_client::TrailServiceClient,
};
use serde::Serialize;
use tonic::transport::Endpoint;

use crate::processes::Aggregator;

const MIB: f64 = 1024.0 * 1024.0;
const DAY_NS: u64 = 86_400_000_000_000;
/// Slots written in one commit: the aggregator makes one for each, which here would take its time from the disk alone.
const AT_ONCE: u64 = 30;
const ROUNDS: usize = 5;

#[derive(Args)]
pub(crate) struct Trail {
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u64,
    #[arg(long, value_name = "N", default_value_t = 200)]
    tenants: u64,
    /// Others that each tenant reaches
    #[arg(long, value_name = "N", default_value_t = 5)]
    peers: u64,
    /// Slots in which each of them is reached, in a hundred
    #[arg(long, value_name = "N", default_value_t = 20)]
    busy: u64,
    /// Breaches a day that fire and are resolved
    #[arg(long, value_name = "N", default_value_t = 500)]
    breaches: u64,
    /// Where the file is [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    disk: Option<std::path::PathBuf>,
}

#[derive(Serialize)]
struct Measured {
    days: u64,
    tenants: u64,
    pairs: u64,
    breaches: u64,
    write_seconds: f64,
    file_mib: f64,
    records_mib: f64,
    bytes_per_pair_hour: f64,
    start_seconds: f64,
    memory_before_mib: f64,
    memory_after_mib: f64,
    memory_peak_mib: f64,
    /// Median of several, in milliseconds.
    asked: Vec<(&'static str, f64)>,
}

pub(crate) fn run(args: &Trail) -> Result<serde_json::Value> {
    let dir = match &args.disk {
        Some(disk) => tempfile::tempdir_in(disk)?,
        None => tempfile::tempdir()?,
    };
    let now_ns = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let (state, cluster) = (dir.path().join("state"), dir.path().join("cluster"));
    fs::create_dir_all(&state)?;
    fs::create_dir_all(&cluster)?;
    let mut measured = write(args, &state, now_ns)?;
    let began = Instant::now();
    let aggregator = Aggregator::start_with(Some(&cluster), Some(&state))?;
    measured.start_seconds = began.elapsed().as_secs_f64();
    measured.memory_before_mib = aggregator.own_bytes()? / MIB;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    measured.asked = runtime.block_on(ask(&aggregator, now_ns, args.days))?;
    measured.memory_after_mib = aggregator.own_bytes()? / MIB;
    measured.memory_peak_mib = aggregator.peak_bytes()? / MIB;
    show(&measured);
    Ok(serde_json::to_value(measured)?)
}

/// Xorshift: the same month each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

fn tenant(number: u64) -> Arc<str> {
    format!("tenant-{number:03}").into()
}

fn write(args: &Trail, state: &Path, now_ns: u64) -> Result<Measured> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let names: Vec<Arc<str>> = (0..args.tenants).map(tenant).collect();
    let pairs: Vec<(usize, usize)> = (0..names.len())
        .flat_map(|from| (0..args.peers as usize).map(move |k| (from, k)))
        .map(|(from, k)| (from, (from + 1 + k * 7) % names.len()))
        .filter(|(from, to)| from != to)
        .collect();
    let first = (now_ns - args.days * DAY_NS) / SLOT_NS;
    let last = now_ns / SLOT_NS - 1;
    let mut trail = Offline::open(state, "default", first * SLOT_NS)?;
    let per_breach = 8_640 / args.breaches.max(1);
    let mut breaches = 0;
    let began = Instant::now();
    for slot in first..last {
        // What a slot was is judged some seconds after its end.
        let at_ns = (slot + 1) * SLOT_NS + 6_000_000_000;
        let mut taken = Taken::default();
        for (from, to) in &pairs {
            if random.below(100) < args.busy {
                taken.moved.push(Moved {
                    from: Arc::clone(&names[*from]),
                    to: Arc::clone(&names[*to]),
                    verdict: Verdict::Allowed,
                    delivered: true,
                    bytes: 1_000 + random.below(1_000_000),
                    packets: 10 + random.below(1_000),
                    connections: random.below(4),
                    when: vec![(slot, slot)],
                });
            }
        }
        if random.below(2_000) == 0 {
            taken.doubts.push(Doubt {
                tenant: Arc::clone(&names[random.below(args.tenants) as usize]),
                reason: reason::AGENT_SILENT,
                node: Arc::from("node-0123"),
                when: vec![(slot, slot + 30)],
            });
        }
        let mut changed = Vec::new();
        if per_breach > 0 && slot % per_breach.max(1) == 0 {
            let number = slot / per_breach;
            let (a, b) = (random.below(args.tenants), random.below(args.tenants));
            let fired = breach(number, a, b, at_ns);
            changed.push(Arc::new(fired.clone()));
            changed.push(Arc::new(Breach {
                state: BreachState::Resolved.into(),
                resolved_unix_ns: at_ns + 60_000_000_000,
                ..fired
            }));
            breaches += 1;
        }
        trail.judged(taken, changed, at_ns);
        if slot % AT_ONCE == 0 {
            trail.write(at_ns)?;
        }
    }
    trail.write(now_ns)?;
    let kept = trail.kept_bytes()? as f64;
    Ok(Measured {
        days: args.days,
        tenants: args.tenants,
        pairs: pairs.len() as u64,
        breaches,
        write_seconds: began.elapsed().as_secs_f64(),
        file_mib: trail.file_bytes() as f64 / MIB,
        records_mib: kept / MIB,
        bytes_per_pair_hour: kept / (pairs.len() as u64 * args.days * 24).max(1) as f64,
        start_seconds: 0.0,
        memory_before_mib: 0.0,
        memory_after_mib: 0.0,
        memory_peak_mib: 0.0,
        asked: Vec::new(),
    })
}

/// As large as a real one.
fn breach(number: u64, from: u64, to: u64, at_ns: u64) -> Breach {
    let culprit = |n: u64| Culprit {
        tenant: tenant(from).to_string(),
        pod: format!("tenant-{from:03}/worker-{n}-7d9f8b6c5-x{n:04}"),
        stolen_cores: 0.2,
        share: 0.3,
        ..Culprit::default()
    };
    let figure = |name: &str| Figure {
        name: name.to_owned(),
        value: 0.5,
    };
    Breach {
        fingerprint: format!("{number:016x}"),
        kind: BreachKind::NoisyNeighbour.into(),
        state: BreachState::Firing.into(),
        tenant: tenant(from).to_string(),
        against: tenant(to).to_string(),
        node: format!("node-{:04}", number % 100),
        subject: format!("tenant-{to:03}/web-{number}"),
        summary: format!(
            "tenant-{from:03} made tenant-{to:03}/web-{number} wait 0.42 cores, 1.8 times slower, on node-{:04}",
            number % 100
        ),
        since_unix_ns: at_ns - 3_000_000_000,
        firing_unix_ns: at_ns,
        evidence: [
            "stolen_cores",
            "used_cores",
            "entitled_cores",
            "slowdown",
            "wait_cores",
            "window_seconds",
        ]
        .map(figure)
        .to_vec(),
        culprits: (0..4).map(culprit).collect(),
        covered: 1.0,
        cluster: "default".to_owned(),
        ..Breach::default()
    }
}

async fn ask(aggregator: &Aggregator, now_ns: u64, days: u64) -> Result<Vec<(&'static str, f64)>> {
    let channel = Endpoint::from_shared(format!("http://{}", aggregator.grpc))?
        .connect()
        .await?;
    let mut client = TrailServiceClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    let pair = |days: f64| AuditRequest {
        from_unix_ns: now_ns - (days * DAY_NS as f64) as u64,
        to_unix_ns: now_ns,
        from_tenant: tenant(3).to_string(),
        to_tenant: tenant(4).to_string(),
        ..AuditRequest::default()
    };
    let of_tenant = |days: f64| AuditRequest {
        from_tenant: String::new(),
        to_tenant: String::new(),
        tenant: tenant(3).to_string(),
        ..pair(days)
    };
    let all = days as f64;
    let questions = [
        ("audit, one pair, an hour", pair(1.0 / 24.0)),
        ("audit, one pair, a day", pair(1.0)),
        ("audit, one pair, all of it", pair(all)),
        ("audit, one tenant, all of it", of_tenant(all)),
    ];
    let mut out = Vec::new();
    for (name, question) in questions {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let answer = client.audit(question.clone()).await?.into_inner();
            times.push(began.elapsed());
            ensure!(!answer.pairs.is_empty(), "{name}: no pair");
        }
        out.push((name, median(times)));
    }
    for (name, limit) in [("history, the newest 50", 50), ("history, all of it", 0)] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let request = GetHistoryRequest {
                limit,
                ..GetHistoryRequest::default()
            };
            let mut entries = client.get_history(request).await?.into_inner();
            let mut n = 0;
            while entries.message().await?.is_some() {
                n += 1;
            }
            times.push(began.elapsed());
            ensure!(n > 0, "{name}: no entry");
        }
        out.push((name, median(times)));
    }
    let began = Instant::now();
    let mut records = client.read_trail(ReadTrailRequest::default()).await?.into_inner();
    let mut verifier = partywall_proto::trail::Verifier::default();
    while let Some(record) = records.message().await? {
        verifier.take(&record)?;
    }
    verifier.finish()?;
    out.push((
        "the whole chain, read and verified",
        began.elapsed().as_secs_f64() * 1e3,
    ));
    Ok(out)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn show(m: &Measured) {
    println!(
        "{} days, {} tenants, {} pairs, {} breaches: written in {:.0} s\n\
         file {:.1} MiB, records {:.1} MiB, {:.0} bytes for a pair and hour\n\
         start {:.2} s; memory {:.1} MiB, after all questions {:.1} MiB, file pages included at most {:.1} MiB",
        m.days,
        m.tenants,
        m.pairs,
        m.breaches,
        m.write_seconds,
        m.file_mib,
        m.records_mib,
        m.bytes_per_pair_hour,
        m.start_seconds,
        m.memory_before_mib,
        m.memory_after_mib,
        m.memory_peak_mib
    );
    for (name, ms) in &m.asked {
        println!("{name:<40} {ms:>9.1} ms");
    }
}
