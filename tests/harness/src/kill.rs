//! The agent killed without warning, again and again: the kernel must keep nothing of it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    bpf::Objects,
    intake::Intake,
    processes::{Binaries, Daemon},
};

/// The kernel frees programs and maps after a grace period, not at once.
const FREED_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
pub(crate) struct Killed {
    times: u32,
    programs: usize,
    maps: usize,
    links: usize,
    longest_to_free_ms: u128,
}

impl Killed {
    pub(crate) fn line(&self) -> String {
        let Self {
            times,
            programs,
            maps,
            links,
            longest_to_free_ms,
        } = self;
        format!(
            "kill: {times} times, {programs} programs, {maps} maps, {links} links in all; \
             none left, the slowest gone after {longest_to_free_ms} ms"
        )
    }
}

pub(crate) async fn kill(binaries: &Binaries, times: u32, dir: &Path) -> Result<Killed> {
    let mut killed = Killed {
        times,
        programs: 0,
        maps: 0,
        links: 0,
        longest_to_free_ms: 0,
    };
    let intake = Intake::start(None).await?;
    for round in 1..=times {
        let agent = Daemon::agent(binaries, intake.address, dir).await?;
        let objects = Objects::of(agent.pid())?;
        if objects.programs.is_empty() || objects.maps.is_empty() {
            bail!("round {round}: the agent is ready but has no program or no map: {objects:?}");
        }
        agent.kill()?;
        let start = Instant::now();
        loop {
            let left = objects.left()?;
            if left.is_empty() {
                break;
            }
            if start.elapsed() > FREED_PATIENCE {
                bail!(
                    "round {round}: {} s after SIGKILL the kernel still has {left:?}",
                    FREED_PATIENCE.as_secs()
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
        killed.programs += objects.programs.len();
        killed.maps += objects.maps.len();
        killed.links += objects.links.len();
        killed.longest_to_free_ms = killed.longest_to_free_ms.max(start.elapsed().as_millis());
        eprintln!(
            "kill {round}/{times}: {} programs, {} maps, {} links gone",
            objects.programs.len(),
            objects.maps.len(),
            objects.links.len()
        );
    }
    Ok(killed)
}
