//! `cargo xtask deploy`: the chart, held against helm and Kubernetes' schemas, and what is rendered from it.

mod cases;
mod monitored;
mod refused;
mod tools;
mod values;
mod wrong;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{dashboards, paths, run};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Change nothing: fail where rendered files are not what the chart makes
    #[arg(long)]
    pub(crate) check: bool,
}

/// The namespace that rendered manifests are for.
const NAMESPACE: &str = "partywall";

/// Before the chart's objects: `helm install` brings its namespace itself, `kubectl apply` has to be given one.
const PREFACE: &str = "\
# Rendered from deploy/helm/partywall by `cargo xtask deploy`; do not edit.
apiVersion: v1
kind: Namespace
metadata:
  name: partywall
  labels:
    # Agents mount the node's cgroup tree and have three capabilities: more than `baseline` admits.
    pod-security.kubernetes.io/enforce: privileged
";

/// Files of the chart that are of use without it, and what says where they come from.
pub(crate) const RULES: [&str; 2] = ["partywall.rules.yaml", "partywall-breaches.rules.yaml"];
const RULES_PREFACE: &str =
    "# Copied from deploy/helm/partywall/files by `cargo xtask deploy`; do not edit.\n";

/// Kinds that are not Kubernetes' own: it has no schema for them.
const FOREIGN: [&str; 5] = [
    "Certificate",
    "Issuer",
    "ServiceMonitor",
    "PodMonitor",
    "PrometheusRule",
];

/// Installs and fetches all that [`run()`] needs.
pub(crate) fn prepare() -> Result<()> {
    eprintln!("helm: {}", paths::shown(&tools::helm()?));
    eprintln!(
        "kubernetes-validate: {}",
        paths::shown(&tools::kubernetes_validate()?)
    );
    dashboards::prepare()?;
    Ok(())
}

/// A Python that can judge by JSON Schema.
pub(crate) fn python() -> Result<PathBuf> {
    Ok(tools::kubernetes_validate()?.with_file_name("python"))
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // The chart has them in it.
    dashboards::run(args.check)?;
    let chart = Chart {
        helm: tools::helm()?,
        dir: paths::root().join("deploy/helm/partywall"),
    };
    versions(&chart.dir)?;
    let scratch = tempfile::tempdir()?;
    let mut rendered = Vec::new();
    for case in &cases::CASES {
        let values = scratch.path().join(format!("{}.values.yaml", case.name));
        fs::write(&values, case.values)?;
        chart
            .lint(&values)
            .with_context(|| format!("case {}", case.name))?;
        let objects = chart
            .rendered(&values)
            .with_context(|| format!("case {}", case.name))?;
        case.judge(&objects)
            .with_context(|| format!("case {}", case.name))?;
        refused::judge(&objects).with_context(|| format!("case {}", case.name))?;
        monitored::judge(&objects).with_context(|| format!("case {}", case.name))?;
        let path = scratch.path().join(format!("{}.yaml", case.name));
        fs::write(&path, &objects)?;
        rendered.push(path);
        if let Some(name) = case.kept {
            let manifests = format!("{PREFACE}{objects}");
            let kept = paths::root().join("deploy/manifests").join(name);
            keep(&kept, &manifests, args.check)?;
            let path = scratch.path().join(name);
            fs::write(&path, manifests)?;
            rendered.push(path);
        }
    }
    for name in RULES {
        let path = chart.dir.join("files").join(name);
        let rules = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let kept = paths::root().join("deploy/prometheus").join(name);
        keep(&kept, &format!("{RULES_PREFACE}{rules}"), args.check)?;
    }
    let values = fs::read_to_string(chart.dir.join("values.yaml"))?;
    keep(
        &paths::root().join("docs/values.md"),
        &values::document(&values)?,
        args.check,
    )?;
    let validated = validate(&rendered)?;
    for (set, needles) in wrong::WRONG {
        chart.refuses(set, needles)?;
    }
    println!(
        "deploy: {} ways to install, {} objects as Kubernetes {} has them, {} of kinds that it has no schema for ({}), {} wrong values refused by name",
        cases::CASES.len(),
        validated.passed,
        validated.version,
        validated.foreign,
        FOREIGN.join(", "),
        wrong::WRONG.len()
    );
    Ok(())
}

/// One object of a rendered chart with these values (`--set`), as YAML. For who runs what the chart describes.
pub(crate) fn manifests(set: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(tools::helm()?);
    template(&mut command, &paths::root().join("deploy/helm/partywall"));
    for (path, value) in set {
        command.arg("--set-string").arg(format!("{path}={value}"));
    }
    run::captured(&mut command)
}

struct Chart {
    helm: PathBuf,
    dir: PathBuf,
}

impl Chart {
    fn lint(&self, values: &Path) -> Result<()> {
        let mut command = Command::new(&self.helm);
        command.args(["lint", "--strict", "--quiet", "--values"]);
        run::captured(command.arg(values).arg(&self.dir)).map(drop)
    }

    fn rendered(&self, values: &Path) -> Result<String> {
        let mut command = Command::new(&self.helm);
        run::captured(template(&mut command, &self.dir).arg("--values").arg(values))
    }

    fn refuses(&self, set: &str, needles: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.helm);
        let message = match run::captured(template(&mut command, &self.dir).arg("--set").arg(set)) {
            Ok(_) => bail!("helm takes {set}"),
            // Without the command line, which has the value in it.
            Err(error) => error
                .to_string()
                .split_once('\n')
                .map_or_else(String::new, |(_, message)| message.to_owned()),
        };
        for needle in needles {
            ensure!(
                message.contains(needle),
                "helm refuses {set} and does not name {needle}:\n{message}"
            );
        }
        Ok(())
    }
}

fn template<'a>(helm: &'a mut Command, chart: &Path) -> &'a mut Command {
    helm.args(["template", "partywall", "--namespace", NAMESPACE])
        .arg(chart)
}

/// The chart is released with the programs.
fn versions(chart: &Path) -> Result<()> {
    let path = chart.join("Chart.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
        ensure!(
            text.lines().any(|found| found == line),
            "{}: `{line}` is missing: it goes with Cargo.toml's version",
            paths::shown(&path)
        );
    }
    Ok(())
}

/// Writes `text` to `path`, or (`check`) fails unless it is what lies there.
pub(crate) fn keep(path: &Path, text: &str, check: bool) -> Result<()> {
    if check {
        ensure!(
            fs::read_to_string(path).is_ok_and(|found| found == text),
            "{} is not what is made: run `cargo xtask deploy`",
            paths::shown(path)
        );
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

struct Validated {
    passed: usize,
    foreign: usize,
    version: String,
}

/// Holds every object in `files` against the newest schemas, unknown fields refused.
fn validate(files: &[PathBuf]) -> Result<Validated> {
    let said = run::captured(
        Command::new(tools::kubernetes_validate()?)
            .arg("--strict")
            .args(files),
    );
    let said = match said {
        Ok(said) => said,
        Err(error) => bail!("{error}; run it to see which object is wrong"),
    };
    let mut validated = Validated {
        passed: 0,
        foreign: 0,
        version: String::new(),
    };
    for line in said.lines() {
        let foreign = |kind: &&str| line.contains(&format!("find schema for kind {kind} "));
        if let Some((_, version)) = line
            .strip_prefix("INFO ")
            .and_then(|line| line.split_once("against version "))
        {
            validated.passed += 1;
            version.clone_into(&mut validated.version);
        } else if line.starts_with("WARN ") && FOREIGN.iter().any(foreign) {
            validated.foreign += 1;
        } else {
            bail!("kubernetes-validate: {line}");
        }
    }
    let mut objects = 0;
    for file in files {
        let text = fs::read_to_string(file)?;
        objects += text.lines().filter(|line| line.starts_with("kind: ")).count();
    }
    ensure!(
        objects == validated.passed + validated.foreign,
        "kubernetes-validate judged {} of {objects} objects",
        validated.passed + validated.foreign
    );
    Ok(validated)
}
