//! A disk that is full, and put right: judging goes on, and then everything is there again.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Bench, NODES, check, drain,
    node::{Control, Node},
    settle,
};
use crate::{http, processes::Daemon};

/// The journal of the load has some two.
const SMALL: &str = "size=2m";
const LARGE: &str = "remount,size=256m";
/// The disk fills within seconds and is tried again every ten.
const PATIENCE: Duration = Duration::from_secs(45);

/// A file system in memory, of a size of its own. Unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&at)?;
        mount(&["-t", "tmpfs", "-o", SMALL, "partywall-harness"], &at)?;
        Ok(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _already_gone = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) -> Result<()> {
    let status = Command::new("mount")
        .args(args)
        .arg(at)
        .status()
        .context("cannot run mount")?;
    ensure!(status.success(), "mount {args:?} {}: {status}", at.display());
    Ok(())
}

async fn until(aggregator: &Daemon, line: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let (_, text) = http::get(aggregator.http, "/metrics").await?;
        if text.lines().any(|l| l.replace("{}", "") == line) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("{line}: not within {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Returns how many reports were acknowledged in all.
pub(super) async fn full(bench: &mut Bench<'_>) -> Result<u64> {
    let disk = Disk::mount(bench.dir.join("state"))?;
    let mut aggregator = bench.start().await?;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let (orders, control) = mpsc::channel::<Control>(4);
        let node = Node::new(number, true);
        nodes.push((orders, tokio::spawn(node.run(bench.grpc, control))));
    }
    until(&aggregator, "partywall_aggregator_store_durable 0").await?;
    bench.look(&aggregator).await?;
    let before = bench.seen.sum("reports/");
    sleep(Duration::from_secs(3)).await;
    bench.look(&aggregator).await?;
    ensure!(
        bench.seen.sum("reports/") > before,
        "no report was taken while the disk was full"
    );
    mount(&["-o", LARGE], &disk.0)?;
    until(&aggregator, "partywall_aggregator_store_durable 1").await?;
    sleep(Duration::from_secs(2)).await;
    aggregator.kill()?;
    aggregator = bench.start().await?;
    let sent = drain(nodes).await?;
    settle(bench, &aggregator, &sent).await?;
    check(&bench.seen, &sent)?;
    aggregator.stop().await?;
    Ok(sent.iter().map(|s| s.reports + s.duplicates).sum())
}
