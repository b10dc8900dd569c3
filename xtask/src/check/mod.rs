//! `cargo xtask check`: what can be judged without running Partywall.

mod layers;
mod text;

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    ebpf, paths, run,
    stage::{self, Outcome, Stage},
    tools, vm,
};

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Only these parts
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Name the parts and end
    #[arg(long)]
    list: bool,
}

const PARTS: [Stage; 9] = [
    Stage::new("lock", "Cargo.lock says what the manifests ask for", lock),
    Stage::new(
        "text",
        "left-overs in any file, members without the workspace's lints",
        text::check,
    ),
    Stage::new("fmt", "rustfmt has nothing to change", fmt),
    Stage::new("fresh", "the eBPF objects are those of their sources", fresh),
    Stage::new(
        "layers",
        "crates that must not know a library do not",
        layers::check,
    ),
    Stage::new("clippy", "no warning in any target", clippy),
    Stage::new("docs", "rustdoc without a warning", docs),
    Stage::new("deny", "licences, sources, banned and doubled crates", deny),
    Stage::new("advisories", "no crate with a known vulnerability", advisories),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        stage::list(&PARTS);
        return Ok(());
    }
    let tally = stage::run(&stage::chosen(&PARTS, &args.only)?);
    if tally.failed > 0 {
        bail!(
            "{} of {} parts failed",
            tally.failed,
            tally.failed + tally.passed + tally.skipped
        );
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(paths::root());
    command
}

fn lock() -> Result<Outcome> {
    run::captured(&mut cargo(&["metadata", "--locked", "--format-version", "1"]))?;
    Ok(Outcome::Passed)
}

fn fmt() -> Result<Outcome> {
    run::streamed(&mut cargo(&["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    run::streamed(&mut cargo(&[
        "clippy",
        "--workspace",
        "--features",
        vm::MEMORY_TESTS,
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Outcome::Passed)
}

fn docs() -> Result<Outcome> {
    // One wrong link must not hide the others.
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--keep-going"]);
    run::streamed(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed)
}

fn fresh() -> Result<Outcome> {
    ebpf::check_all()?;
    Ok(Outcome::Passed)
}

fn deny() -> Result<Outcome> {
    let mut check = Command::new(tools::cargo_deny()?);
    check.args([
        "--locked",
        "--all-features",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    run::streamed(check.current_dir(paths::root()))?;
    Ok(Outcome::Passed)
}

fn advisories() -> Result<Outcome> {
    let deny = tools::cargo_deny()?;
    // The database is in a git repository of its own, which not every machine reaches.
    if let Err(error) = run::captured(
        Command::new(&deny)
            .args(["fetch", "db"])
            .current_dir(paths::root()),
    ) {
        eprintln!("{error:#}");
        return Ok(Outcome::Skipped(
            "the RustSec database cannot be fetched here".to_owned(),
        ));
    }
    let mut check = Command::new(&deny);
    run::streamed(
        check
            .args(["--locked", "check", "advisories"])
            .current_dir(paths::root()),
    )?;
    Ok(Outcome::Passed)
}
