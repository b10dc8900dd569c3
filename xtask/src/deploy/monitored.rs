//! Whether the rule that misses an aggregator looks for the one that the chart has scraped: Prometheus' operator names a job by the Service.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

const ALERT: &str = "PartywallAggregatorAway";
/// What the rule looks for where the chart makes no ServiceMonitor, as in the rule file.
const ANY: &str = "up{job=~\".*partywall.*aggregator.*\"}";
/// A target that does not answer, and none at all.
const ASKED: usize = 2;

/// Judges a rendered chart.
pub(crate) fn judge(objects: &str) -> Result<()> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(objects).map_err(|error| anyhow!("no YAML: {error}"))?;
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    for rules in of_kind("PrometheusRule") {
        let asked = expression(rules)?;
        let mut monitors = of_kind("ServiceMonitor").peekable();
        let looks_for = match monitors.peek() {
            None => ANY.to_owned(),
            Some(monitor) => {
                let (job, namespace) = scraped(monitor, of_kind("Service"))?;
                format!("up{{job=\"{job}\",namespace=\"{namespace}\"}}")
            }
        };
        ensure!(
            asked.matches("up{").count() == ASKED && asked.matches(&looks_for).count() == ASKED,
            "{ALERT} does not look for {looks_for} alone: {asked}"
        );
    }
    Ok(())
}

fn expression(rules: &Value) -> Result<&str> {
    let groups = rules["spec"]["groups"].as_array();
    groups
        .into_iter()
        .flatten()
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .find(|rule| rule["alert"] == ALERT)
        .and_then(|rule| rule["expr"].as_str())
        .with_context(|| format!("no {ALERT}"))
}

/// Name and namespace of the one Service behind which `monitor` finds its port.
fn scraped<'a>(monitor: &Value, services: impl Iterator<Item = &'a Value>) -> Result<(&'a str, &'a str)> {
    let selected = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .context("a ServiceMonitor that selects nothing by label")?;
    let ports: Vec<&Value> = monitor["spec"]["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|endpoint| &endpoint["port"])
        .collect();
    let mut found = services.filter(|service| {
        let labels = &service["metadata"]["labels"];
        let listed = service["spec"]["ports"].as_array();
        selected.iter().all(|(key, value)| labels.get(key) == Some(value))
            && listed
                .into_iter()
                .flatten()
                .any(|port| ports.contains(&&port["name"]))
    });
    let service = found
        .next()
        .with_context(|| format!("no Service has a port of {ports:?}"))?;
    ensure!(found.next().is_none(), "two Services have a port of {ports:?}");
    let text = |key: &str| service["metadata"][key].as_str();
    text("name")
        .zip(text("namespace"))
        .context("a Service without name or namespace")
}

#[cfg(test)]
mod tests {
    use super::judge;

    const WHOLE: &str = "
kind: Service
metadata: {name: a, namespace: ns, labels: {app: a}}
spec: {ports: [{name: grpc}]}
---
kind: Service
metadata: {name: a-metrics, namespace: ns, labels: {app: a}}
spec: {ports: [{name: http}]}
---
kind: PrometheusRule
spec:
  groups:
    - rules:
        - alert: PartywallAggregatorAway
          expr: count(up{job=\"a-metrics\",namespace=\"ns\"} == 0) or absent(up{job=\"a-metrics\",namespace=\"ns\"})
---
kind: ServiceMonitor
spec: {selector: {matchLabels: {app: a}}, endpoints: [{port: http}]}
";

    #[test]
    fn a_rule_that_looks_for_another_job_is_named() {
        judge(WHOLE).expect("nothing is wrong with it");
        for (old, new, named) in [
            ("{name: http}", "{name: grpc}", "no Service has a port"),
            ("{name: grpc}", "{name: http}", "two Services"),
            ("{job=\"a-metrics\"", "{job=\"a\"", "a-metrics"),
            (
                "kind: ServiceMonitor",
                "kind: PodMonitor",
                ".*partywall.*aggregator.*",
            ),
            ("alert: Party", "alert: Other", "no PartywallAggregatorAway"),
            (
                "absent(up{job=\"a-metrics\",namespace=\"ns\"})",
                "absent(up)",
                "absent(up)",
            ),
        ] {
            let wrong = WHOLE.replace(old, new);
            assert_ne!(wrong, WHOLE, "{old}");
            let error = judge(&wrong).expect_err(new);
            assert!(format!("{error:#}").contains(named), "{new}: {error:#}");
        }
    }
}
