//! `cargo xtask test`: everything, from a fresh machine.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    alerts, bench, check, deploy, ebpf, harness, image, page, paths, run,
    stage::{self, Outcome, Stage},
    tools, vm,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these stages
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Name the stages and end
    #[arg(long)]
    list: bool,
}

const STAGES: [Stage; 18] = [
    Stage::new(
        "tools",
        "install what is missing: eBPF compiler, nextest, cargo-deny, perf, nftables, QEMU, kernels, helm, runc, Prometheus, Alertmanager, Chromium",
        install,
    ),
    Stage::new(
        "check",
        "fmt, clippy, docs, licences, layers, fresh objects",
        checks,
    ),
    Stage::new(
        "ebpf",
        "the eBPF objects, built again from their sources",
        rebuild,
    ),
    Stage::new(
        "deploy",
        "the Helm chart: linted, rendered, valid for Kubernetes, wrong values refused by name",
        chart,
    ),
    Stage::new("tests", "unit, property, integration and kernel tests", nextest),
    Stage::new("doctests", "the examples in the documentation", doctests),
    Stage::new(
        "scenarios",
        "every breach found, none false, against ground truth",
        scenarios,
    ),
    Stage::new(
        "vm",
        "Debian's kernels in QEMU: kernel tests, and scenarios that need v2 controllers",
        kernels,
    ),
    Stage::new("demo", "the command in the README names the culprit", demo),
    Stage::new(
        "page",
        "the page in Chromium, every query of the dashboards in Prometheus",
        page::test,
    ),
    Stage::new(
        "image",
        "the image, started by runc as the chart says, names a culprit with three capabilities",
        image::test,
    ),
    Stage::new(
        "ledger",
        "run time, wait and classes against the kernel's own figures",
        ledger,
    ),
    Stage::new(
        "traffic",
        "counted packets and bytes against what was sent, also beside a flood",
        traffic,
    ),
    Stage::new(
        "alerts",
        "the rules' own tests; from noise to real Alertmanagers, one alert and one end; a real Prometheus scrapes",
        alerts::test,
    ),
    Stage::new(
        "kill",
        "kill -9 of the agent leaves nothing in the kernel, of either side loses no total",
        kill,
    ),
    Stage::new(
        "trail",
        "\"did A reach B\" right for 100 random questions; kill -9 loses nothing that was answered",
        trail,
    ),
    Stage::new(
        "churn",
        "cgroups made and removed: memory flat, map entries back",
        churn,
    ),
    Stage::new(
        "bench",
        "a short look at the cost; figures are shown, not judged",
        cost,
    ),
];

/// They compile only; everything else loads eBPF programs or makes cgroups.
const WITHOUT_ROOT: [&str; 4] = ["check", "ebpf", "deploy", "doctests"];

/// Pods and namespaces, ResourceQuota, LimitRange, NetworkPolicy that comes late, Service.
const BY_THE_API: [&str; 5] = [
    "cpu-hog-over-request",
    "quota-near-over-and-back",
    "limit-above-limit-range",
    "policy-added-while-traffic-flows",
    "itself-through-a-cluster-ip",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        stage::list(&STAGES);
        return Ok(());
    }
    let chosen = stage::chosen(&STAGES, &args.only)?;
    if let Some(stage) = chosen.iter().find(|stage| !WITHOUT_ROOT.contains(&stage.name)) {
        tools::need_root(&format!("stage `{}`", stage.name))?;
    }
    let tally = stage::run(&chosen);
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    if tally.failed > 0 {
        bail!("{} stages failed", tally.failed);
    }
    Ok(())
}

fn install() -> Result<Outcome> {
    let toolchain = ebpf::toolchain::find(ebpf::toolchain::Choice::Auto)?;
    let record = toolchain.record();
    eprintln!(
        "eBPF: {}, LLVM {}, bpf-linker {}",
        record.rustc, record.llvm, record.bpf_linker
    );
    eprintln!("nextest: {}", tools::nextest()?.display());
    eprintln!("cargo-deny: {}", paths::shown(&tools::cargo_deny()?));
    tools::perf()?;
    tools::network()?;
    tools::monitoring()?;
    // Now, and not when their stage comes: what cannot be fetched is known in the first minutes.
    vm::prepare()?;
    image::prepare()?;
    page::prepare()?;
    Ok(Outcome::Passed)
}

fn checks() -> Result<Outcome> {
    check::run(&check::Args::default())?;
    Ok(Outcome::Passed)
}

fn rebuild() -> Result<Outcome> {
    // A clone that CI throws away may be changed, a developer's tree may not.
    ebpf::rebuild_all(tools::in_ci())?;
    Ok(Outcome::Passed)
}

fn chart() -> Result<Outcome> {
    deploy::run(&deploy::Args { check: true })?;
    Ok(Outcome::Passed)
}

/// The kernel tests are among these. They run the object in the repository: stage `ebpf` has proved or replaced it.
fn nextest() -> Result<Outcome> {
    let mut command = Command::new(tools::nextest()?);
    command
        .args(["nextest", "run", "--workspace", "--locked"])
        .current_dir(paths::root());
    if tools::in_ci() {
        command.args(["--profile", "ci"]);
    }
    run::streamed(&mut command)?;
    Ok(Outcome::Passed)
}

fn doctests() -> Result<Outcome> {
    let mut command = Command::new("cargo");
    run::streamed(
        command
            .args(["test", "--workspace", "--doc", "--locked"])
            .current_dir(paths::root()),
    )?;
    Ok(Outcome::Passed)
}

fn demo() -> Result<Outcome> {
    let mut command = Command::new("cargo");
    run::streamed(
        command
            .args(["build", "--release", "--locked"])
            .current_dir(paths::root()),
    )?;
    let mut command = Command::new("cargo");
    command
        .args(["run", "--release", "--locked", "--", "demo", "--json"])
        .current_dir(paths::root());
    run::within(&mut command, Duration::from_secs(120))?;
    Ok(Outcome::Passed)
}

fn scenarios() -> Result<Outcome> {
    harness::run("scenarios", &[], Duration::from_mins(25))?;
    // The same objects by the other way, one of each kind that a rule reads: `cargo xtask scenarios --api` runs all.
    let mut args = vec!["--api"];
    for name in BY_THE_API {
        args.extend(["--only", name]);
    }
    harness::run("scenarios", &args, Duration::from_mins(5))
}

fn kernels() -> Result<Outcome> {
    vm::test()?;
    Ok(Outcome::Passed)
}

fn ledger() -> Result<Outcome> {
    harness::run("ledger", &[], Duration::from_mins(10))
}

fn traffic() -> Result<Outcome> {
    harness::run("traffic", &[], Duration::from_mins(5))
}

fn kill() -> Result<Outcome> {
    harness::run("kill", &["--times", "3"], Duration::from_mins(5))?;
    harness::run("restarts", &["--times", "6"], Duration::from_mins(3))
}

fn trail() -> Result<Outcome> {
    harness::run("audit", &[], Duration::from_mins(5))?;
    harness::run("audit", &["--real"], Duration::from_mins(4))?;
    harness::run("trail-kill", &["--times", "12"], Duration::from_mins(3))
}

fn churn() -> Result<Outcome> {
    harness::run(
        "churn",
        &["--cgroups", "1000", "--seconds", "60"],
        Duration::from_mins(5),
    )
}

fn cost() -> Result<Outcome> {
    bench::run(&["--quick"], Duration::from_mins(10))
}
