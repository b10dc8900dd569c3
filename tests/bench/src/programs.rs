//! What the kernel counts about loaded eBPF programs.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use anyhow::{Context, Result, bail};
use aya::{programs::loaded_programs, sys};

/// Run time is counted while this lives. Counting itself costs each run some nanoseconds.
pub(crate) struct Counting(
    #[allow(dead_code, reason = "held, not used: closing it ends the counting")] OwnedFd,
);

pub(crate) fn count() -> Result<Counting> {
    let fd =
        sys::enable_stats(sys::Stats::RunTime).context("cannot switch on the kernel's eBPF statistics")?;
    Ok(Counting(fd))
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Runs {
    pub(crate) nanoseconds: u64,
    pub(crate) count: u64,
}

/// Program id → name and runs, of every program that is loaded now.
pub(crate) type Loaded = BTreeMap<u32, (String, Runs)>;

pub(crate) fn loaded() -> Result<Loaded> {
    let mut found = Loaded::new();
    for program in loaded_programs() {
        // One that went away while the list was read is none of ours.
        let Ok(program) = program else { continue };
        let nanoseconds = u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
        let name = program.name_as_str().unwrap_or_default().to_owned();
        found.insert(
            program.id(),
            (
                name,
                Runs {
                    nanoseconds,
                    count: program.run_count(),
                },
            ),
        );
    }
    Ok(found)
}

/// What the programs of `ids` did between two readings.
pub(crate) struct Cost {
    /// All of them together.
    pub(crate) nanoseconds: f64,
    /// Runs of those on the switch tracepoint.
    pub(crate) switches: f64,
    /// Runs of those on the tracepoints of reclaim.
    pub(crate) reclaims: f64,
}

impl Cost {
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
    pub(crate) fn between(before: &Loaded, after: &Loaded, ids: &[u32]) -> Self {
        let mut cost = Self {
            nanoseconds: 0.0,
            switches: 0.0,
            reclaims: 0.0,
        };
        for id in ids {
            let (Some((name, then)), Some((_, now))) = (before.get(id), after.get(id)) else {
                continue;
            };
            cost.nanoseconds += now.nanoseconds.saturating_sub(then.nanoseconds) as f64;
            let more = now.count.saturating_sub(then.count) as f64;
            if name.contains("switch") {
                cost.switches += more;
            } else if name.contains("reclaim") {
                cost.reclaims += more;
            }
        }
        cost
    }

    pub(crate) fn per_switch(&self) -> Result<f64> {
        if self.switches < 1.0 {
            bail!("the switch program was not run once: is it attached?");
        }
        Ok(self.nanoseconds / self.switches)
    }
}
