//! What the harness does, with the release programs built first: `cargo xtask scenarios | ledger | traffic | churn | kill | restarts | audit | trail-kill`.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{paths, programs, run, stage::Outcome, tools};

/// Everything after the command's name goes to the harness as it is, `--help` included.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl Args {
    pub(crate) fn rest(&self) -> Vec<&str> {
        self.rest.iter().map(String::as_str).collect()
    }
}

pub(crate) fn run(command: &str, args: &[&str], limit: Duration) -> Result<Outcome> {
    let help = args.iter().any(|arg| matches!(*arg, "--help" | "-h"));
    if !help {
        tools::need_root(&format!("`cargo xtask {command}`"))?;
    }
    let harness = programs::release("partywall-harness")?;
    run::within(
        Command::new(harness)
            .arg(command)
            .args(args)
            .current_dir(paths::root()),
        limit,
    )?;
    Ok(Outcome::Passed)
}
