//! `cargo xtask vm`: Debian's own kernels in QEMU, with cgroup v2 and all its controllers, running our tests.

mod debian;
mod guests;
mod initramfs;
mod instructions;
mod kernels;
mod qemu;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_vm::{JOB_FILE, Job, SCRATCH, Said, Step};
use serde::{Deserialize, Serialize};

use crate::{paths, programs, run, tools};
use debian::Suites;
use guests::Kind;
use initramfs::Initramfs;
use instructions::Counts;
use kernels::{Expected, Kernel, Tested};
use target::{Arch, Cross};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this kernel of tests/vm/kernels.toml, such as 6.1 or 6.1-arm64; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Every kernel with every scenario that the host cannot run, not only those that the table asks for; arm64 has kernel tests alone
    #[arg(long)]
    all: bool,
    /// The scenarios of this directory, all of them, and no kernel tests
    #[arg(long, value_name = "DIR", conflicts_with = "test")]
    scenarios: Option<PathBuf>,
    /// Only scenarios whose name contains this; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["test", "shell"])]
    only: Vec<String>,
    /// Only kernel tests whose name contains this, and no scenarios
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// A shell in the guest, with our programs in /bin; its exit powers off
    #[arg(long, conflicts_with_all = ["test", "scenarios", "all"])]
    shell: bool,
    /// Write the verified instruction counts to tests/vm/instructions.toml
    #[arg(long)]
    record: bool,
    /// Write the table as one JSON document
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// CPUs of a guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Only what the table marks as tested
    #[arg(skip)]
    short: bool,
    /// Memory of a guest, where no scenario needs a small one
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            kernel: Vec::new(),
            all: false,
            scenarios: None,
            only: Vec::new(),
            test: None,
            shell: false,
            record: false,
            json: None,
            cpus: 2,
            short: false,
            memory: 1024,
        }
    }
}

const INIT: &str = "partywall-vm-init";
const AGENT: &str = "partywall-agent";

/// What a guest has in /bin.
const PROGRAMS: [&str; 4] = ["partywall", AGENT, "partywall-aggregator", "partywall-harness"];

/// Feature of the kernel tests that a host may lack the controller for: every guest has it.
pub(crate) const MEMORY_TESTS: &str = "partywall-agent/v2-memory-tests";

const CHECK: &str = "check";
const TESTS: &str = "tests";
const SCENARIOS: &str = "scenarios";
const SCENARIO_RESULT: &str = "/tmp/scenarios.json";

/// What a scenario takes in a guest beyond the time that it observes: pods and daemons start under emulation.
const SCENARIO_LIMIT: Duration = Duration::from_secs(120);

/// One guest's row.
#[derive(Debug, Default, Serialize)]
struct Row {
    /// The kernel's series, and what kind of guest it was where it was no ordinary one.
    guest: String,
    series: String,
    version: String,
    boot_seconds: Option<f64>,
    check_seconds: Option<f64>,
    programs: BTreeMap<String, Option<u32>>,
    /// Passed.
    tests: Option<usize>,
    skipped_tests: usize,
    test_seconds: Option<f64>,
    /// Found as expected, of those that ran.
    scenarios: Option<ScenarioSummary>,
    scenario_seconds: Option<f64>,
    seconds: f64,
    failures: Vec<String>,
}

/// The part of the harness's document that the table shows.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct ScenarioSummary {
    run: usize,
    expected: usize,
    found: usize,
    #[serde(rename = "false")]
    wrong: usize,
}

/// The part of `partywall-agent check --json` that is compared.
#[derive(Debug, Deserialize)]
struct Check {
    able: bool,
    features: Vec<Feature>,
    programs: Vec<Program>,
    load_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Feature {
    name: String,
    present: bool,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Program {
    name: String,
    verified_instructions: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut expected = kernels::expected(&args.kernel)?;
    if args.shell {
        expected.drain(..expected.len().saturating_sub(1));
    }
    if args.scenarios.is_some() || !args.only.is_empty() {
        expected.retain(|line| line.arch == Arch::Amd64);
        if expected.is_empty() {
            bail!("scenarios run on amd64 alone: arm64 guests have the kernel tests");
        }
    }
    let (suites, kernels) = fetch(&expected)?;
    let parts = arches(&expected)
        .into_iter()
        .map(|arch| Ok((arch, Parts::build(&suites, args, arch)?)))
        .collect::<Result<BTreeMap<Arch, Parts>>>()?;
    fs::create_dir_all(logs())?;
    if args.shell {
        let (line, kernel) = expected.last().zip(kernels.last()).context("no kernel")?;
        return shell(&parts[&line.arch], args, line, kernel);
    }

    let mut counts = Counts::read()?;
    let mut rows = Vec::new();
    for (line, kernel) in expected.iter().zip(&kernels) {
        let parts = &parts[&line.arch];
        for kind in parts.kinds(args, line) {
            let row = boot(kernel, parts, args, line, kind, &mut counts);
            println!("{}", shown(&row));
            for failure in &row.failures {
                println!("  {}", failure.replace('\n', "\n  "));
            }
            rows.push(row);
        }
    }
    println!("\n{HEADER}");
    for row in &rows {
        println!("{}", shown(row));
    }
    if args.record {
        counts.write()?;
    }
    if let Some(path) = &args.json {
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&rows)?))
            .with_context(|| path.display().to_string())?;
    }
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| !row.failures.is_empty())
        .map(|row| row.guest.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("guests that failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Installs and fetches all that [`test()`] needs, and builds nothing.
pub(crate) fn prepare() -> Result<()> {
    fetch(&kernels::expected(&kernels::tested()?)?).map(drop)
}

/// The part of the table that `cargo xtask test` has time for.
pub(crate) fn test() -> Result<()> {
    run(&Args {
        kernel: kernels::tested()?,
        short: true,
        ..Args::default()
    })
}

fn fetch(expected: &[Expected]) -> Result<(Suites, Vec<Kernel>)> {
    for arch in arches(expected) {
        qemu::install(arch)?;
        if arch == Arch::Arm64 {
            Cross::find()?;
        }
    }
    guests::install()?;
    tools::debian_packages(&["binutils"], "strip the guests' programs")?;
    let suites = Suites::open("kernels", &kernels::SUITES)?;
    let kernels = kernels::fetch(&suites, expected)?;
    Ok((suites, kernels))
}

fn arches(expected: &[Expected]) -> BTreeSet<Arch> {
    expected.iter().map(|line| line.arch).collect()
}

/// What every guest of an architecture gets.
struct Parts {
    arch: Arch,
    init: PathBuf,
    programs: Vec<PathBuf>,
    tests: PathBuf,
    busybox: PathBuf,
    /// Names that busybox answers to.
    applets: String,
    /// Scenario files by name, for each kind of guest that they need.
    scenarios: BTreeMap<Kind, BTreeMap<String, String>>,
}

impl Parts {
    fn build(suites: &Suites, args: &Args, arch: Arch) -> Result<Self> {
        // Kernel tests need the agent alone, and for another architecture each program is compiled for this alone.
        let whole = arch == Arch::Amd64;
        let dir = match &args.scenarios {
            Some(dir) => dir.clone(),
            None => paths::root().join("tests/scenarios"),
        };
        let wanted = args.test.is_none() && !args.shell && whole;
        let lacking = if wanted && args.scenarios.is_none() {
            Some(lacking(&programs::release("partywall-harness")?, &dir)?)
        } else {
            None
        };
        let mut scenarios: BTreeMap<Kind, BTreeMap<String, String>> = BTreeMap::new();
        for file in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = file?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let stem = name.trim_end_matches(".toml");
            let chosen = wanted
                && stem != name
                && (args.only.is_empty() || args.only.iter().any(|part| stem.contains(part.as_str())))
                && lacking
                    .as_ref()
                    .is_none_or(|names| names.iter().any(|lacking| lacking == stem));
            if chosen {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let kind = Kind::of(&text).with_context(|| path.display().to_string())?;
                scenarios.entry(kind).or_default().insert(name.to_owned(), text);
            }
        }
        if wanted && scenarios.is_empty() && (args.scenarios.is_some() || !args.only.is_empty()) {
            bail!(
                "no scenario to run: {} has none whose name contains any of {:?}{}",
                dir.display(),
                args.only,
                if lacking.is_some() {
                    " and that this host cannot run itself (--scenarios DIR takes those too)"
                } else {
                    ""
                }
            );
        }
        let busybox = |arch: Arch| -> Result<PathBuf> {
            Ok(suites
                .unpacked(&format!("busybox-static:{}", arch.debian()))?
                .join("usr/bin/busybox"))
        };
        let (init, tests) = match arch {
            Arch::Amd64 => (
                programs::release(INIT)?,
                kernel_tests(&mut Command::new("cargo"))?,
            ),
            Arch::Arm64 => {
                let cross = Cross::find()?;
                run::streamed(programs::build(&mut cross.cargo(), &[INIT, AGENT]))?;
                (Cross::release(INIT), kernel_tests(&mut cross.cargo())?)
            }
        };
        let release = |name: &str| init.with_file_name(name);
        Ok(Self {
            arch,
            programs: PROGRAMS
                .iter()
                .filter(|name| whole || **name == AGENT)
                .map(|name| release(name))
                .collect(),
            init,
            tests,
            busybox: busybox(arch)?,
            // Asked of the one that runs here.
            applets: run::captured(Command::new(busybox(Arch::Amd64)?).arg("--list"))?,
            scenarios,
        })
    }

    /// The guests to boot for a kernel: the ordinary one for the kernel tests, and each that one of its scenarios needs.
    fn kinds(&self, args: &Args, line: &Expected) -> Vec<Kind> {
        let mut kinds: BTreeSet<Kind> = args
            .scenarios
            .is_none()
            .then_some(Kind::ORDINARY)
            .into_iter()
            .collect();
        if args.all || line.scenarios || args.scenarios.is_some() {
            kinds.extend(self.scenarios.keys());
        }
        kinds.into_iter().collect()
    }

    /// Writes it to `path` and gives its size.
    fn initramfs(&self, job: &Job, kind: Kind, path: &Path) -> Result<u64> {
        let mut archive = Initramfs::new(self.arch.machine().strip)?;
        archive.program("init", &self.init)?;
        archive.program("bin/busybox", &self.busybox)?;
        for applet in self.applets.lines().filter(|applet| *applet != "busybox") {
            archive.link(&format!("bin/{applet}"), "busybox")?;
        }
        // What is in the archive is in the guest's memory.
        if kind == Kind::ORDINARY {
            archive.program("bin/kernel-tests", &self.tests)?;
        }
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?;
            archive.program(&format!("bin/{}", name.to_string_lossy()), program)?;
        }
        for (name, text) in self.scenarios.get(&kind).into_iter().flatten() {
            archive.file(&format!("scenarios/{name}"), text.as_bytes())?;
        }
        archive.file(JOB_FILE, &serde_json::to_vec(job)?)?;
        archive.write(path)
    }
}

/// Scenarios of `dir` that this machine lacks something for.
fn lacking(harness: &Path, dir: &Path) -> Result<Vec<String>> {
    let names = run::captured(
        Command::new(harness)
            .args(["scenarios", "--lacking", "--dir"])
            .arg(dir)
            .current_dir(paths::root()),
    )?;
    Ok(names
        .lines()
        .filter_map(|line| line.split('\t').next())
        .map(str::to_owned)
        .collect())
}

/// The kernel tests of the agent as a program. Optimised: most of a test's time under emulation is reading the kernel's BTF. The same
/// selection of packages as for the programs, so that nothing is built twice.
fn kernel_tests(cargo: &mut Command) -> Result<PathBuf> {
    let messages = run::captured(
        cargo
            .args(["test", "--no-run", "--release", "--locked", "--workspace"])
            .args([
                "--exclude",
                "xtask",
                "--features",
                MEMORY_TESTS,
                "--test",
                "kernel",
                "--message-format",
                "json",
            ])
            .current_dir(paths::root()),
    )?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            (message["target"]["name"] == "kernel")
                .then(|| message["executable"].as_str().map(PathBuf::from))
                .flatten()
        })
        .context("cargo test --no-run named no program for the kernel tests")
}

fn steps(parts: &Parts, args: &Args, line: &Expected, kind: Kind) -> Vec<Step> {
    let step = |name: &str, program: &str, args: &[&str], limit| Step {
        name: name.to_owned(),
        program: format!("/bin/{program}"),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: [
            ("PATH", "/bin"),
            ("HOME", "/tmp"),
            ("RUST_BACKTRACE", "1"),
            ("PARTYWALL_SCRATCH", SCRATCH),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        limit,
        captured: false,
        file: None,
    };
    let mut steps = Vec::new();
    if kind == Kind::ORDINARY {
        steps.push(Step {
            captured: true,
            ..step(
                CHECK,
                "partywall-agent",
                &["check", "--json"],
                Duration::from_secs(60),
            )
        });
    }
    if kind == Kind::ORDINARY && args.scenarios.is_none() && !(args.short && line.tested == Tested::Scenarios)
    {
        let mut words = vec!["--test-threads=1", "--show-output"];
        for name in line.skip.keys() {
            words.extend(["--skip", name]);
        }
        words.extend(args.test.as_deref().or(line.only.as_deref()));
        steps.push(Step {
            captured: true,
            ..step(TESTS, "kernel-tests", &words, Duration::from_mins(10))
        });
    }
    let scenarios = parts.scenarios.get(&kind).map_or(0, BTreeMap::len);
    if scenarios > 0 && (args.all || line.scenarios || args.scenarios.is_some()) {
        let words = [
            "scenarios",
            "--dir",
            "/scenarios",
            "--require-all",
            "--json",
            SCENARIO_RESULT,
        ];
        let limit = SCENARIO_LIMIT * u32::try_from(scenarios).unwrap_or(u32::MAX);
        steps.push(Step {
            file: Some(SCENARIO_RESULT.to_owned()),
            ..step(SCENARIOS, "partywall-harness", &words, limit)
        });
    }
    steps
}

fn boot(
    kernel: &Kernel,
    parts: &Parts,
    args: &Args,
    line: &Expected,
    kind: Kind,
    counts: &mut Counts,
) -> Row {
    let began = Instant::now();
    let mut row = Row {
        guest: format!("{}{}", line.name(), kind.suffix()),
        series: line.name(),
        skipped_tests: line.skip.len(),
        ..Row::default()
    };
    if let Err(error) = boot_into(kernel, parts, args, line, kind, counts, &mut row) {
        row.failures.push(format!("{error:#}"));
    }
    row.seconds = began.elapsed().as_secs_f64();
    row
}

fn boot_into(
    kernel: &Kernel,
    parts: &Parts,
    args: &Args,
    line: &Expected,
    kind: Kind,
    counts: &mut Counts,
    row: &mut Row,
) -> Result<()> {
    row.version.clone_from(&kernel.version);
    let job = Job {
        settings: kind.settings(),
        steps: steps(parts, args, line, kind),
        ..Job::default()
    };
    let limit = Duration::from_mins(2) + job.steps.iter().map(|step| step.limit).sum::<Duration>();
    let files = Files::of(&row.guest);
    let initramfs_bytes = parts.initramfs(&job, kind, &files.initramfs)?;
    guests::disk(&files.disk)?;
    eprintln!(
        "booting {} ({}): {}",
        row.guest,
        kernel.version,
        job.steps
            .iter()
            .map(|step| step.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    );
    let booted = Instant::now();
    let mut said = Vec::new();
    let ended = guest(kernel, &files, initramfs_bytes, args, line, kind, limit).run(|heard| {
        match &heard {
            Said::Booted { .. } => row.boot_seconds = Some(booted.elapsed().as_secs_f64()),
            Said::Ended {
                step, code, seconds, ..
            } => {
                let how = code.map_or_else(|| "killed".to_owned(), |code| format!("exit {code}"));
                eprintln!("  {step}: {how}, {seconds:.1} s");
            }
            Said::Done | Said::Failed { .. } => {}
        }
        said.push(heard);
    });
    for heard in said {
        if let Said::Ended {
            step,
            code,
            seconds,
            output,
            file,
        } = heard
        {
            match step.as_str() {
                CHECK => {
                    row.check_seconds = Some(seconds);
                    judge_check(line, &output.unwrap_or_default(), counts, args.record, row);
                }
                TESTS => {
                    row.test_seconds = Some(seconds);
                    judge_tests(code, &output.unwrap_or_default(), &files.log, row);
                }
                _ => {
                    row.scenario_seconds = Some(seconds);
                    judge_scenarios(code, file.as_deref(), &files.log, row);
                }
            }
        }
    }
    ended
}

fn guest<'a>(
    kernel: &'a Kernel,
    files: &'a Files,
    initramfs_bytes: u64,
    args: &Args,
    line: &'a Expected,
    kind: Kind,
    limit: Duration,
) -> qemu::Guest<'a> {
    qemu::Guest {
        arch: kernel.arch,
        kernel: &kernel.image,
        initramfs: &files.initramfs,
        disk: &files.disk,
        psi: kind.psi(),
        lockdown: line.lockdown.as_deref(),
        cpus: args.cpus,
        memory_mib: kind.memory_mib(args.memory, initramfs_bytes),
        log: &files.log,
        limit,
    }
}

/// Every feature must be as the table says: one that is absent and not listed fails, and one that is listed and there.
fn judge_check(line: &Expected, output: &str, counts: &mut Counts, record: bool, row: &mut Row) {
    let check: Check = match serde_json::from_str(output) {
        Ok(check) => check,
        Err(error) => {
            row.failures
                .push(format!("partywall-agent check: {error}: {output}"));
            return;
        }
    };
    if !check.able {
        row.failures.push(format!(
            "partywall-agent check: cannot run: {}",
            check.load_error.unwrap_or_default()
        ));
    }
    for Feature {
        name,
        present,
        reason,
    } in &check.features
    {
        match (present, line.absent.contains_key(name)) {
            (false, false) => row.failures.push(format!("feature {name} is absent: {reason}")),
            (true, true) => row.failures.push(format!(
                "feature {name} is there, and tests/vm/kernels.toml says that it is not"
            )),
            _ => {}
        }
    }
    for name in line.absent.keys() {
        if !check.features.iter().any(|feature| feature.name == *name) {
            row.failures
                .push(format!("tests/vm/kernels.toml: absent.{name} is no feature"));
        }
    }
    for Program {
        name,
        verified_instructions,
    } in check.programs
    {
        if let Some(count) = verified_instructions {
            if record {
                counts.set(&line.name(), &name, count);
            } else if let Err(error) = counts.judge(&line.name(), &name, count) {
                row.failures.push(error.to_string());
            }
        }
        row.programs.insert(name, verified_instructions);
    }
}

fn judge_tests(code: Option<i32>, output: &str, log: &Path, row: &mut Row) {
    // `test result: ok. 8 passed; 0 failed; …`
    row.tests = output.lines().find_map(|line| {
        line.strip_prefix("test result: ")?
            .split_once(". ")?
            .1
            .split(' ')
            .next()?
            .parse()
            .ok()
    });
    if code != Some(0) {
        row.failures.push(format!("kernel tests:\n{}", output.trim_end()));
    } else if row.tests.unwrap_or(0) == 0 {
        row.failures
            .push(format!("no kernel test ran; see {}", paths::shown(log)));
    }
}

fn judge_scenarios(code: Option<i32>, file: Option<&str>, log: &Path, row: &mut Row) {
    #[derive(Deserialize)]
    struct Document {
        summary: ScenarioSummary,
    }
    match file.map(serde_json::from_str::<Document>) {
        Some(Ok(document)) => row.scenarios = Some(document.summary),
        Some(Err(error)) => row.failures.push(format!("{SCENARIO_RESULT}: {error}")),
        None => row
            .failures
            .push(format!("the harness wrote no {SCENARIO_RESULT}")),
    }
    if code != Some(0) {
        row.failures
            .push(format!("scenarios: not as expected; see {}", paths::shown(log)));
    }
}

fn shell(parts: &Parts, args: &Args, line: &Expected, kernel: &Kernel) -> Result<()> {
    let job = Job {
        shell: true,
        ..Job::default()
    };
    let files = Files::of(&line.name());
    let initramfs_bytes = parts.initramfs(&job, Kind::ORDINARY, &files.initramfs)?;
    guests::disk(&files.disk)?;
    guest(
        kernel,
        &files,
        initramfs_bytes,
        args,
        line,
        Kind::ORDINARY,
        Duration::MAX,
    )
    .interactive()
}

/// What is made for a guest, and what it leaves.
struct Files {
    initramfs: PathBuf,
    disk: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(guest: &str) -> Self {
        Self {
            initramfs: paths::vm().join(format!("{guest}.cpio")),
            disk: paths::vm().join(format!("{guest}.ext4")),
            log: logs().join(format!("{guest}.log")),
        }
    }
}

fn logs() -> PathBuf {
    paths::vm().join("logs")
}

const HEADER: &str = "GUEST                VERSION                BOOT  PROGRAMS  TESTS  SCENARIOS (found of expected, false)   TOTAL";

fn shown(row: &Row) -> String {
    let seconds =
        |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"));
    let scenarios = row.scenarios.as_ref().map_or_else(
        || "-".to_owned(),
        |summary| {
            format!(
                "{}: {} of {}, {} false",
                summary.run, summary.found, summary.expected, summary.wrong
            )
        },
    );
    format!(
        "{:<20} {:<20} {:>6}  {:>8}  {:>5}  {:<38} {:>6}  {}",
        row.guest,
        row.version,
        seconds(row.boot_seconds),
        row.check_seconds
            .map_or_else(|| "-".to_owned(), |_| row.programs.len().to_string()),
        row.tests
            .map_or_else(|| "-".to_owned(), |tests| tests.to_string()),
        scenarios,
        seconds(Some(row.seconds)),
        if row.failures.is_empty() { "ok" } else { "FAILED" }
    )
}
