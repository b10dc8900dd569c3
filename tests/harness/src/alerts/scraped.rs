//! What a real Prometheus makes of the run: targets, rules, and what promtool thinks of the metrics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{ALERT, Node, servers};
use crate::http;

#[derive(Debug, Serialize)]
pub(super) struct Scraped {
    targets: usize,
    rules: usize,
    metrics_checked: usize,
    judgements: u64,
}

impl Scraped {
    pub(super) fn line(&self) -> String {
        format!(
            "Prometheus: {} targets up, {} rules without an error; promtool has no complaint about {} metrics; {} judgements beside targets that hang or \
             refuse",
            self.targets, self.rules, self.metrics_checked, self.judgements
        )
    }
}

pub(super) async fn scraped(node: &mut Node<'_>) -> Result<Scraped> {
    let targets = targets(node).await?;
    let rules = rules(node).await?;
    // Seen from the metrics, the same breach is the same alert.
    let query = format!(
        "last_over_time(ALERTS{{alertname=%22{ALERT}%22,tenant=%22red-life%22,alertstate=%22firing%22}}[10m])"
    );
    ensure!(
        !result(node, &query).await?.is_empty(),
        "Prometheus raised no {ALERT} of red-life"
    );
    let recorded = "last_over_time(cluster_waiter_runner:partywall_ledger_wait_cores:rate1m%7Brunner=%22red-life%22%7D[10m])";
    ensure!(
        !result(node, recorded).await?.is_empty(),
        "nothing was recorded of red-life"
    );
    // No alert on Partywall itself but on the two targets that are bad on purpose, which have not been for two minutes where a run is short.
    let own = result(
        node,
        "ALERTS%7Balertname=~%22Partywall.*%22,alertstate=%22firing%22%7D",
    )
    .await?;
    let unexpected: Vec<_> = own
        .iter()
        .filter(|alert| {
            let name = alert["metric"]["alertname"].as_str().unwrap_or_default();
            !matches!(name, "PartywallPushFailing" | "PartywallPushLosing")
        })
        .collect();
    ensure!(
        unexpected.is_empty(),
        "alerts on Partywall itself: {unexpected:#?}"
    );

    let mut metrics_checked = 0;
    for address in [node.aggregator.http, node.agent.http] {
        let (code, text) = http::get_as(address, "/metrics", "text/plain; version=0.0.4").await?;
        ensure!(code == 200, "/metrics: {code}");
        let said = servers::said(
            node.programs.command("promtool").args(["check", "metrics"]),
            Some(&text),
        )?;
        ensure!(said.trim().is_empty(), "promtool check metrics: {said}");
        metrics_checked += text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    }
    let (_, metrics) = http::get(node.aggregator.http, "/metrics").await?;
    let judgements = told_apart(node, &metrics)?;
    Ok(Scraped {
        targets,
        rules,
        metrics_checked,
        judgements,
    })
}

async fn targets(node: &Node<'_>) -> Result<usize> {
    let said = node.prometheus.json("/api/v1/targets?state=active").await?;
    let targets = said["data"]["activeTargets"].as_array().context("no targets")?;
    for target in targets {
        ensure!(target["health"] == "up", "a target is not up: {target:#}");
    }
    ensure!(targets.len() == 2, "{} targets", targets.len());
    Ok(targets.len())
}

async fn rules(node: &Node<'_>) -> Result<usize> {
    let said = node.prometheus.json("/api/v1/rules").await?;
    let groups = said["data"]["groups"].as_array().context("no rules")?;
    let rules: Vec<_> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .collect();
    for rule in &rules {
        let wrong = rule["health"] != "ok" || rule["lastError"].as_str().is_some_and(|e| !e.is_empty());
        ensure!(!wrong, "a rule is not well: {rule:#}");
    }
    ensure!(!rules.is_empty(), "no rules");
    Ok(rules.len())
}

async fn result(node: &Node<'_>, query: &str) -> Result<Vec<Value>> {
    let query = query
        .replace('{', "%7B")
        .replace('}', "%7D")
        .replace('[', "%5B")
        .replace(']', "%5D");
    let said = node
        .prometheus
        .json(&format!("/api/v1/query?query={query}"))
        .await?;
    Ok(said["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// Each target's own figures, and that judging went on beside the bad ones.
fn told_apart(node: &Node<'_>, metrics: &str) -> Result<u64> {
    let value = |series: &str| -> Result<f64> {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        let value = line.and_then(|rest| rest.trim().parse().ok());
        value.with_context(|| format!("no {series}"))
    };
    let hooks = node.hooks.address;
    let [a, b] = [0, 1].map(|at| node.alertmanagers[at].address.to_string());
    for (sink, target, up) in [
        ("alertmanager", a, 1.0),
        ("alertmanager", b, 1.0),
        ("alertmanager", node.closed.to_string(), 0.0),
        ("alertmanager", hooks.to_string(), 0.0),
        ("webhook", format!("{hooks}#2"), 1.0),
    ] {
        let of = format!("sink=\"{sink}\",target=\"{target}\"");
        let found = value(&format!("partywall_aggregator_push_up{{{of}}}"))?;
        ensure!((found - up).abs() < 0.5, "push_up of {of} is {found}");
        let taken = value(&format!("partywall_aggregator_push_alerts_total{{{of}}}"))?;
        ensure!((taken > 0.0) == (up > 0.5), "{of} took {taken} alerts");
    }
    let refused = format!(
        "partywall_aggregator_push_lost_total{{sink=\"webhook\",target=\"{hooks}\",reason=\"refused\"}}"
    );
    ensure!(value(&refused)? > 0.0, "what was refused is not counted as lost");
    // Twice a second is wanted; the histogram says what it took.
    let (count, sum) = (
        value("partywall_aggregator_judge_seconds_count")?,
        value("partywall_aggregator_judge_seconds_sum")?,
    );
    ensure!(
        count > 0.0 && sum / count < Duration::from_millis(100).as_secs_f64(),
        "{count} judgements took {sum} s"
    );
    Ok(value("partywall_aggregator_judgements_total")? as u64)
}
