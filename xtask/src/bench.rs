//! `cargo xtask bench`: what Partywall costs, beside an empty program and the classic design in the same run.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, programs, run, stage::Outcome, tools};

pub(crate) fn run(args: &[&str], limit: Duration) -> Result<Outcome> {
    let help = args.iter().any(|arg| matches!(*arg, "--help" | "-h"));
    if !help {
        tools::need_root("`cargo xtask bench`")?;
        tools::perf()?;
    }
    let bench = programs::release("partywall-bench")?;
    run::within(Command::new(bench).args(args).current_dir(paths::root()), limit)?;
    Ok(Outcome::Passed)
}
