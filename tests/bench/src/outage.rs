//! What half an hour without an aggregator costs an agent: its queue alone, with 110 busy pods and a report a second, made faster than that.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use partywall_agent::link::LinkConfig;
use partywall_agent::uplink::{SpoolConfig, Uplink, UplinkConfig};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    figure::{Bounds, Figure},
    ingest,
    measure::Effort,
};

const REPORTS: u32 = 1_800;
const MIB: f64 = 1024.0 * 1024.0;
/// Ten reports, which go to disk after ten seconds, are half of it.
const QUEUE_BYTES: usize = 10 * 2 * 16 * 1024;

pub(crate) fn measure(effort: &Effort) -> Result<Vec<Figure>> {
    eprintln!("an outage of half an hour");
    let (mut cpu, mut memory, mut disk, mut opening) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds.min(3) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let dir = tempfile::tempdir()?;
        let without = runtime.block_on(outage(None))?;
        let with = runtime.block_on(outage(Some(dir.path())))?;
        cpu.push((with.cpu_ms - without.cpu_ms) / f64::from(REPORTS));
        memory.push(with.most_bytes / MIB);
        disk.push(fs::metadata(dir.path().join("spool.redb"))?.blocks() as f64 * 512.0 / MIB);
        opening.push(runtime.block_on(open(dir.path()))?.as_secs_f64() * 1e3);
    }
    let section = "half an hour without an aggregator, 110 busy pods";
    Ok(vec![
        Figure::new(section, "CPU to put a report on disk", "ms", &cpu, Bounds::NONE),
        Figure::new(
            section,
            "memory that the queue adds",
            "MiB",
            &memory,
            Bounds::keep(16.0),
        ),
        Figure::new(section, "on disk at its end", "MiB", &disk, Bounds::keep(256.0)),
        Figure::new(
            section,
            "opening it after a restart",
            "ms",
            &opening,
            Bounds::NONE,
        ),
    ])
}

struct Cost {
    cpu_ms: f64,
    /// Above what the process held before.
    most_bytes: f64,
}

fn uplink(spool: Option<&Path>) -> Result<Uplink> {
    // Nobody listens at the discard port.
    Ok(Uplink::new(UplinkConfig {
        link: LinkConfig::plaintext("http://127.0.0.1:9"),
        queue_bytes: QUEUE_BYTES,
        spool: spool.map(|dir| SpoolConfig {
            dir: dir.to_owned(),
            bytes: 256 << 20,
        }),
    })?)
}

/// Without a spool, what is above is generating reports and merging them.
async fn outage(spool: Option<&Path>) -> Result<Cost> {
    let uplink = uplink(spool)?;
    let mut counters = ingest::before(0);
    let (cpu_before, bytes_before) = (cpu_ms(), resident_bytes()?);
    let mut most_bytes = 0.0_f64;
    for at in 0..REPORTS {
        // Only what is spooled is of interest: merging is not what happens then.
        if spool.is_some() || at < 10 {
            uplink.push(ingest::second(&mut counters));
        } else {
            std::hint::black_box(prost::Message::encode_to_vec(&ingest::second(&mut counters)));
        }
        if spool.is_some() && at % 10 == 9 {
            let begun = Instant::now();
            while uplink.stats().queued_bytes > QUEUE_BYTES / 2 {
                ensure!(begun.elapsed() < Duration::from_secs(10), "nothing goes to disk");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        most_bytes = most_bytes.max(resident_bytes()? - bytes_before);
    }
    let cpu_ms = cpu_ms() - cpu_before;
    let left = uplink.drain(Duration::ZERO).await;
    ensure!(spool.is_none() || left == 0, "{left} reports are not on disk");
    Ok(Cost { cpu_ms, most_bytes })
}

async fn open(dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    let uplink = uplink(Some(dir))?;
    while uplink.stats().spool.is_none_or(|spool| spool.reports == 0) {
        ensure!(begun.elapsed() < Duration::from_secs(60), "it does not open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(begun.elapsed())
}

fn cpu_ms() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e3 + used.tv_nsec as f64 / 1e6
}

fn resident_bytes() -> Result<f64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .context("statm has no resident pages")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as f64)
}
