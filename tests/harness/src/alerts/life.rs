//! One breach from its beginning to its end, past pauses of the culprit, an Alertmanager that is killed and an aggregator that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{ALERT, CLEAR_PATIENCE, NAMED_PATIENCE, Node, servers};

const RED: &str = "red-life";
/// The aggregator tells all that fires every 30 s.
const AGAIN_PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Serialize)]
pub(super) struct Life {
    /// Breaches of one culprit against two pods: so many alerts, and notifications about them.
    alerts: usize,
    notifications: usize,
    /// From the restart of a killed Alertmanager until it knows the alerts again.
    learned_again_s: f64,
    /// From the kill of the aggregator until the next one has told of the same breaches.
    told_again_s: f64,
    /// From the end of the noise until both Alertmanagers show nothing.
    resolved_s: f64,
    webhook_bodies: usize,
}

impl Life {
    pub(super) fn line(&self) -> String {
        format!(
            "one culprit, two victims: {} alerts in {} notifications, one end each; pauses of 3 s make none; an Alertmanager killed knew them again \
             after {:.1} s, an aggregator killed told of them again after {:.1} s, both without a second alert; resolved {:.1} s after the noise; {} bodies \
             to the webhook",
            self.alerts,
            self.notifications,
            self.learned_again_s,
            self.told_again_s,
            self.resolved_s,
            self.webhook_bodies
        )
    }
}

pub(super) async fn life(node: &mut Node<'_>) -> Result<Life> {
    let victims = [
        node.pod("blue-life", "web", 0.5)?,
        node.pod("blue-life", "api", 0.5)?,
    ];
    let culprit = node.pod(RED, "batch", 0.1)?;
    let serving = [node.serve(&victims[0])?, node.serve(&victims[1])?];
    sleep(Duration::from_secs(3)).await;

    let mut spinning = node.spin(&culprit)?;
    let mut first = until("both alerts are there", NAMED_PATIENCE, async || {
        let alerts = [node.alerts(0, RED).await?, node.alerts(1, RED).await?];
        Ok((alerts[0].len() == 2 && alerts[1].len() == 2).then_some(alerts))
    })
    .await?;
    for alerts in &mut first {
        alerts.sort_by_key(|alert| alert["labels"]["pod"].to_string());
    }
    documented(&first[0])?;
    ensure!(
        identity(&first[0]) == identity(&first[1]),
        "the two Alertmanagers were told different things: {first:?}"
    );
    with_amtool(node)?;

    // A culprit that comes and goes is one.
    for _ in 0..2 {
        drop(spinning);
        sleep(Duration::from_secs(3)).await;
        spinning = node.spin(&culprit)?;
        sleep(Duration::from_secs(3)).await;
    }
    same(node, &first[0]).await?;

    let learned_again_s = restart_alertmanager(node, &first[0]).await?;

    let killed = Instant::now();
    node.restart_aggregator().await?;
    let fingerprints: BTreeSet<String> = first[0]
        .iter()
        .filter_map(|alert| alert["annotations"]["fingerprint"].as_str())
        .map(str::to_owned)
        .collect();
    until(
        "the new aggregator tells of them too",
        NAMED_PATIENCE,
        async || {
            let told = told(node);
            let both = fingerprints.iter().all(|f| {
                told.iter()
                    .filter(|(of, status, _)| of == f && status == "firing")
                    .count()
                    == 2
            });
            Ok(both.then_some(()))
        },
    )
    .await?;
    let told_again_s = killed.elapsed().as_secs_f64();
    same(node, &first[0]).await?;

    drop(spinning);
    let ended = Instant::now();
    until("both alerts are gone", CLEAR_PATIENCE, async || {
        let left = node.alerts(0, RED).await?.len() + node.alerts(1, RED).await?.len();
        Ok((left == 0).then_some(()))
    })
    .await?;
    let resolved_s = ended.elapsed().as_secs_f64();
    let notifications = until("the receiver is told of the end", CLEAR_PATIENCE, async || {
        let notifications = notifications(node);
        let last = notifications
            .last()
            .is_some_and(|last| last["status"] == "resolved");
        Ok(last.then_some(notifications))
    })
    .await?;
    no_flapping(&notifications, 2)?;
    one_end_each(&told(node), &fingerprints)?;
    drop(serving);
    for pod in victims {
        node.remove(pod)?;
    }
    node.remove(culprit)?;
    Ok(Life {
        alerts: first[0].len(),
        notifications: notifications.len(),
        learned_again_s,
        told_again_s,
        resolved_s,
        webhook_bodies: node.hooks.posted("/hook").len(),
    })
}

/// Until there is something, or an error that says what was waited for.
async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(
            began.elapsed() < patience,
            "not within {} s: {what}",
            patience.as_secs()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// Labels and annotations as docs/alerts.md has them.
fn documented(alerts: &[Value]) -> Result<()> {
    for (alert, pod) in alerts.iter().zip(["api", "web"]) {
        let labels = json!({
            "alertname": ALERT,
            "severity": "warning",
            "cluster": "default",
            "node": "node-a",
            "tenant": RED,
            "against": "blue-life",
            "namespace": "blue-life",
            "pod": pod,
        });
        ensure!(
            alert["labels"] == labels,
            "labels: {} are not {labels}",
            alert["labels"]
        );
        let annotations = &alert["annotations"];
        let text = |key: &str| annotations[key].as_str().unwrap_or_default();
        let fingerprint = text("fingerprint");
        let description = text("description");
        let right = annotations.as_object().is_some_and(|all| all.len() == 5)
            && fingerprint.len() == 16
            && text("summary").contains(&format!("from blue-life/{pod} on node-a"))
            && text("command") == format!("partywall explain {fingerprint} --cluster default")
            && text("runbook_url") == "http://docs.example/runbook.md#tenantnoisyneighbour"
            && description.contains("\nEvidence: stolen 0.")
            && description.contains("\nMost: red-life/batch of tenant red-life took 0.")
            && description.contains(" of the window; measured, not inferred.");
        ensure!(right, "annotations: {annotations:#}");
        ensure!(
            alert["generatorURL"] == format!("http://partywall.example/#breach={fingerprint}"),
            "{alert:#}"
        );
    }
    Ok(())
}

/// What makes it the same alert, and since when it is one.
fn identity(alerts: &[Value]) -> BTreeSet<String> {
    let one = |alert: &Value| format!("{} since {}", alert["labels"], alert["startsAt"]);
    alerts.iter().map(one).collect()
}

async fn same(node: &Node<'_>, first: &[Value]) -> Result<()> {
    for at in 0..2 {
        let now = node.alerts(at, RED).await?;
        ensure!(
            identity(&now) == identity(first),
            "Alertmanager {at} shows other alerts than at first: {now:#?}"
        );
    }
    Ok(())
}

/// The same, as somebody at a terminal would see it.
fn with_amtool(node: &Node<'_>) -> Result<()> {
    let url = format!("http://{}", node.alertmanagers[1].address);
    let said = servers::said(
        node.programs
            .command("amtool")
            .args(["alert", "query", "--output=json", "--alertmanager.url", &url])
            .arg(format!("tenant={RED}")),
        None,
    )?;
    let shown: Vec<Value> = serde_json::from_str(&said)?;
    let ours = shown.iter().filter(|alert| alert["labels"]["alertname"] == ALERT);
    ensure!(ours.count() == 2, "amtool shows {said}");
    Ok(())
}

/// Seconds from its new start until it knows the alerts.
async fn restart_alertmanager(node: &mut Node<'_>, first: &[Value]) -> Result<f64> {
    let address = node.alertmanagers[0].address;
    let receiver = node.hooks.url("/notified/a");
    // Nothing of it outlives it but what it has on disk, which alerts are not.
    node.alertmanagers[0].kill()?;
    sleep(Duration::from_secs(2)).await;
    let again = super::alertmanager(node.programs, "a", address, &receiver, node.dir).await?;
    node.alertmanagers[0] = again;
    let began = Instant::now();
    let alerts = until(
        "the restarted Alertmanager knows the alerts",
        AGAIN_PATIENCE,
        async || {
            let alerts = node.alerts(0, RED).await?;
            Ok((alerts.len() >= 2).then_some(alerts))
        },
    )
    .await?;
    ensure!(
        identity(&alerts) == identity(first),
        "it shows others: {alerts:#?}"
    );
    Ok(began.elapsed().as_secs_f64())
}

/// What the second Alertmanager, which was never killed, told its receiver of the culprit.
fn notifications(node: &Node<'_>) -> Vec<Value> {
    let mut all = node.hooks.posted("/notified/b");
    all.retain(|n| n["groupLabels"]["tenant"] == RED && n["groupLabels"]["alertname"] == ALERT);
    all
}

/// Each alert of one group fires, and ends, once.
fn no_flapping(notifications: &[Value], alerts: usize) -> Result<()> {
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for notification in notifications {
        for alert in notification["alerts"].as_array().into_iter().flatten() {
            let life = lives.entry(alert["fingerprint"].to_string()).or_default();
            let status = alert["status"].as_str().unwrap_or_default().to_owned();
            if life.last() != Some(&status) {
                life.push(status);
            }
        }
    }
    let groups: BTreeSet<_> = notifications.iter().map(|n| n["groupKey"].to_string()).collect();
    ensure!(groups.len() == 1, "{} groups: {groups:?}", groups.len());
    ensure!(
        lives.len() == alerts && lives.values().all(|life| life == &["firing", "resolved"]),
        "notifications flap: {lives:?}"
    );
    // Both at once, or one and then both; the ends the same.
    if notifications.len() > 4 {
        bail!("{} notifications of two alerts", notifications.len());
    }
    Ok(())
}

/// What our own webhook was told of the culprit: fingerprint, status, since when it fires.
fn told(node: &Node<'_>) -> Vec<(String, String, String)> {
    let bodies = node.hooks.posted("/hook");
    let breaches = bodies
        .iter()
        .flat_map(|body| body["breaches"].as_array().into_iter().flatten());
    let text = |breach: &Value, key: &str| breach[key].as_str().unwrap_or_default().to_owned();
    breaches
        .filter(|breach| breach["labels"]["tenant"] == RED && breach["labels"]["alertname"] == ALERT)
        .map(|b| (text(b, "fingerprint"), text(b, "status"), text(b, "firing_at")))
        .collect()
}

/// The first aggregator died and told of no end; the second told of one beginning and one end.
fn one_end_each(told: &[(String, String, String)], fingerprints: &BTreeSet<String>) -> Result<()> {
    for fingerprint in fingerprints {
        let of: Vec<_> = told.iter().filter(|(f, ..)| f == fingerprint).collect();
        let statuses: Vec<_> = of.iter().map(|(_, status, _)| status.as_str()).collect();
        ensure!(
            statuses == ["firing", "firing", "resolved"],
            "the webhook was told {of:?}"
        );
        ensure!(of[1].2 == of[2].2, "the end is of another life: {of:?}");
    }
    Ok(())
}
