//! `cargo xtask alerts`: the rules held against promtool, then alerts held against real Alertmanagers and a real Prometheus.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{deploy, harness, paths, run, stage::Outcome, tools};

/// Below deploy/prometheus.
const TESTS: &str = "tests";

/// Every metric has a row there, which the daemons' own tests hold against scrapes.
const METRICS: &str = "docs/metrics.md";
const RUNBOOK: &str = "docs/runbook.md";
/// The form of the webhook's body.
const SCHEMA: &str = "docs/webhook.schema.json";

pub(crate) fn run(args: &harness::Args) -> Result<Outcome> {
    let rest = args.rest();
    if !rest.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        rules()?;
    }
    alerts(&rest, Duration::from_mins(30))
}

pub(crate) fn test() -> Result<Outcome> {
    rules()?;
    alerts(&["--times", "3"], Duration::from_mins(6))
}

fn alerts(args: &[&str], limit: Duration) -> Result<Outcome> {
    let servers = tools::monitoring()?;
    let bodies = paths::target().join("webhook-bodies.jsonl");
    if bodies.exists() {
        fs::remove_file(&bodies)?;
    }
    let mut all = vec![
        format!("--servers={}", servers.display()),
        format!("--bodies={}", bodies.display()),
    ];
    all.extend(
        rule_files()
            .iter()
            .map(|file| format!("--rules={}", file.display())),
    );
    let all: Vec<&str> = args
        .iter()
        .copied()
        .chain(all.iter().map(String::as_str))
        .collect();
    let outcome = harness::run("alerts", &all, limit)?;
    if bodies.is_file() {
        valid(&bodies)?;
    }
    Ok(outcome)
}

fn rule_files() -> Vec<PathBuf> {
    let dir = paths::root().join("deploy/prometheus");
    deploy::RULES.iter().map(|name| dir.join(name)).collect()
}

/// Rules as Prometheus reads them, and their tests.
fn rules() -> Result<()> {
    let promtool = tools::monitoring()?.join("promtool");
    run::captured(
        Command::new(&promtool)
            .args(["check", "rules", "--lint=all", "--lint-fatal"])
            .args(rule_files()),
    )?;
    let dir = paths::root().join("deploy/prometheus").join(TESTS);
    let mut tests: Vec<PathBuf> = fs::read_dir(&dir)
        .with_context(|| dir.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    tests.sort();
    run::captured(Command::new(&promtool).args(["test", "rules"]).args(&tests))?;
    let mut texts = String::new();
    for test in &tests {
        texts += &fs::read_to_string(test)?;
    }
    let tested = tested(&texts);
    let metrics = fs::read_to_string(paths::root().join(METRICS)).context(METRICS)?;
    let runbook = fs::read_to_string(paths::root().join(RUNBOOK)).context(RUNBOOK)?;
    let mut alerts = 0;
    for file in rule_files() {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for metric in asked_for(&text) {
            ensure!(
                metrics.contains(&format!("\n| `{metric}` | ")),
                "{}: {metric} is none of {METRICS}",
                paths::shown(&file)
            );
        }
        for alert in values(&text, "- alert: ") {
            let (comes, stays_away) = tested.get(alert).copied().unwrap_or_default();
            ensure!(
                comes,
                "{alert}: no test in deploy/prometheus/tests in which it comes"
            );
            ensure!(
                stays_away,
                "{alert}: no test in deploy/prometheus/tests in which it stays away"
            );
            ensure!(
                runbook.contains(&format!("\n## {alert}\n")),
                "{alert}: no part of {RUNBOOK}"
            );
            alerts += 1;
        }
        for record in values(&text, "- record: ") {
            ensure!(
                texts.contains(&format!("expr: {record}\n")),
                "{record}: no test in deploy/prometheus/tests asks for it"
            );
        }
    }
    ensure!(alerts > 0, "no alerts in deploy/prometheus");
    println!(
        "alerts: {alerts} alert rules, each with a test in which it comes and one in which it stays away"
    );
    Ok(())
}

fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.trim().strip_prefix(key))
}

/// Metrics of ours that the rules' expressions name; what is recorded has a colon in its name.
fn asked_for(rules: &str) -> impl Iterator<Item = &str> {
    let expressions = rules.lines().filter(|line| !line.trim().starts_with('#'));
    let words =
        expressions.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c))));
    words.filter(|word| word.starts_with("partywall_") && !word.contains(':'))
}

/// Of each alert: whether a test has it come, and whether one has it stay away.
fn tested(texts: &str) -> BTreeMap<&str, (bool, bool)> {
    let mut tested: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    let mut alert = "";
    for line in texts.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("alertname: ") {
            alert = name;
        } else if line == "exp_alerts: []" {
            tested.entry(alert).or_default().1 = true;
        } else if line == "exp_alerts:" {
            tested.entry(alert).or_default().0 = true;
        }
    }
    tested
}

/// Holds what the webhook was sent against its documented form.
fn valid(bodies: &Path) -> Result<()> {
    // A validator of JSON Schema that is there for the chart's sake.
    let python = deploy::python()?;
    let program = "import json, sys, jsonschema\n\
                   schema = json.load(open(sys.argv[1]))\n\
                   jsonschema.Draft202012Validator.check_schema(schema)\n\
                   judge = jsonschema.Draft202012Validator(schema)\n\
                   lines = open(sys.argv[2]).read().splitlines()\n\
                   [judge.validate(json.loads(line)) for line in lines]\n\
                   print(len(lines))\n";
    let said = run::captured(
        Command::new(python)
            .args(["-c", program])
            .arg(paths::root().join(SCHEMA))
            .arg(bodies),
    )?;
    match said.trim().parse::<usize>() {
        Ok(count) if count > 0 => {
            println!("alerts: {count} bodies of the webhook are as {SCHEMA} has them");
            Ok(())
        }
        _ => bail!("no body of the webhook was kept: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::tested;

    #[test]
    fn an_alert_is_tested_when_it_comes_once_and_stays_away_once() {
        let texts =
            "alertname: A\n  exp_alerts: []\nalertname: B\nexp_alerts:\n- x\nalertname: A\nexp_alerts:\n";
        let tested = tested(texts);
        assert_eq!((tested["A"], tested["B"]), ((true, true), (true, false)));
    }
}
