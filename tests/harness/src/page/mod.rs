//! The page in a real browser, and the dashboards' queries in a real Prometheus, of a scene in which something of everything happens.

mod prometheus;
mod queries;
mod standin;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_proto::v1::{Snapshot, Verdict};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::json;
use tokio::{
    process::Command,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    cluster::Cluster,
    observe::Observer,
    plan::plan,
    processes::{Binaries, Daemon, Source, free_address},
    scenario,
    stage::Stage,
};
use prometheus::Prometheus;
use queries::Judged;
use standin::Standin;

/// What is needed beside the daemons.
pub(crate) struct Tools<'a> {
    /// A directory with node_modules/playwright-core.
    pub(crate) playwright: &'a Path,
    pub(crate) chromium: &'a Path,
    /// The scene, the browser's script.
    pub(crate) dir: &'a Path,
    pub(crate) dashboards: &'a Path,
    /// Where pictures of the page go.
    pub(crate) pictures: &'a Path,
}

/// A browser's part of the run is a minute and a half.
const BROWSER_LIMIT: Duration = Duration::from_secs(240);
/// Nobody has reported for longer than the page lets pass, and something of what was reported is in the window (10 s) yet.
const SILENT: Duration = Duration::from_millis(5_500);
/// Until a change of the policy is in force and was judged by.
const STILL: Duration = Duration::from_millis(2_000);
/// Judged now and then, or not again in this run.
const MOVING: &str = "windows: {step_seconds: 0.5}\n";
const STANDING: &str = "windows: {length_seconds: 60, fast_seconds: 60, step_seconds: 60}\n";
const CROWD: usize = 200;

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    judged: Judged,
    /// What the browser's script measured and checked, by part.
    live: serde_json::Value,
    still: serde_json::Value,
    crowd: serde_json::Value,
}

impl Shown {
    pub(crate) fn line(&self) -> String {
        let checks = |part: &serde_json::Value| part["checks"].as_u64().unwrap_or_default();
        format!(
            "page: {} queries and {} variables of the dashboards return data; {} checks in Chromium, {} against the gRPC snapshot; with {CROWD} tenants \
             drawn {} ms after the navigation, a ledger of {} cells drawn anew in {} ms",
            self.judged.queries,
            self.judged.variables,
            checks(&self.live) + checks(&self.crowd),
            checks(&self.still),
            self.crowd["first_render_ms"],
            self.crowd["cells"],
            self.crowd["redraw_ms"],
        )
    }
}

pub(crate) async fn page(tools: &Tools<'_>, binaries: &Binaries, mount: &Path, dir: &Path) -> Result<Shown> {
    fs::create_dir_all(tools.pictures).with_context(|| tools.pictures.display().to_string())?;
    let (judged, live, still) = scene(tools, binaries, mount, dir).await?;
    let crowd = crowd(tools, binaries, dir).await?;
    Ok(Shown {
        judged,
        live,
        still,
        crowd,
    })
}

async fn scene(
    tools: &Tools<'_>,
    binaries: &Binaries,
    mount: &Path,
    dir: &Path,
) -> Result<(Judged, serde_json::Value, serde_json::Value)> {
    let file = tools.dir.join("scene.toml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let scenario = scenario::parse(&text).with_context(|| file.display().to_string())?;
    let namespaces: BTreeSet<&str> = scenario
        .pods
        .iter()
        .map(|pod| pod.spec.namespace.as_str())
        .collect();
    let cluster = Cluster::create(
        dir.join("cluster"),
        scenario.manifests.as_deref(),
        &scenario.documents,
        &namespaces,
    )?;
    cluster.add_node()?;
    for pod in &scenario.pods {
        cluster.add_pod(&pod.spec)?;
    }
    let grpc = free_address()?;
    let source = Source::Files(cluster.dir());
    let policy = dir.join("policy.yaml");
    fs::write(&policy, MOVING)?;
    let mut aggregator = Daemon::aggregator(binaries, grpc, source, Some(&policy), dir).await?;
    let mut agent = Daemon::agent(binaries, grpc, dir).await?;
    let node_b = Standin::start(grpc, "node-b", standin::node_b()).await?;
    let targets = [("partywall", aggregator.http), ("partywall-agents", agent.http)];
    let mut prometheus = Prometheus::start(&targets, dir).await?;
    prometheus.scraped(targets.len()).await?;
    let observer = Observer::connect(grpc).await?;

    let mut stage = Stage::new(&scenario, cluster, mount);
    stage.set()?;
    let start = Instant::now();
    for (at, action) in plan(&scenario) {
        sleep_until((start + at).into()).await;
        stage.perform(action, Some(start))?;
    }
    sleep_until((start + scenario.observed).into()).await;
    eprintln!("page: {} s of the scene were played", scenario.observed.as_secs());

    let judged = queries::judge(&prometheus, tools.dashboards).await?;
    if !judged.empty.is_empty() {
        bail!("queries that return nothing:\n  {}", judged.empty.join("\n  "));
    }
    eprintln!("page: {} queries return data", judged.queries);
    let live = browse(tools, "live", aggregator.http, None, dir).await;
    let live = match live {
        Ok(live) => live,
        Err(error) => bail!("{error:#}\n{}", aggregator.log_tail(5)),
    };

    // Nothing reports any more, and nothing is judged: what is known stands still, and must be the same whoever asks.
    drop(node_b);
    pause(&agent, Signal::STOP)?;
    sleep(SILENT).await;
    fs::write(&policy, STANDING)?;
    sleep(STILL).await;
    let before = observer.snapshot().await?;
    let still = browse(tools, "still", aggregator.http, Some(&before), dir).await;
    let after = observer.snapshot().await?;
    pause(&agent, Signal::CONT)?;
    if cells(&before) != cells(&after) {
        bail!("the ledger moved while nobody judged: what the page shows cannot be held against it");
    }
    let still = still?;

    stage.stop_all_work();
    let faults = stage.faults();
    stage.clear()?;
    for daemon in [&mut agent, &mut aggregator] {
        daemon.still_runs()?;
    }
    prometheus.stop().await?;
    agent.stop().await?;
    aggregator.stop().await?;
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok((judged, live, still))
}

fn pause(daemon: &Daemon, signal: Signal) -> Result<()> {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("a daemon without a pid")?, signal).context("stopping the agent for a while")
}

/// Of 200 tenants that all wait for each other: does the page still draw, and how fast?
async fn crowd(tools: &Tools<'_>, binaries: &Binaries, dir: &Path) -> Result<serde_json::Value> {
    let dir = dir.join("crowd");
    let objects = dir.join("cluster");
    fs::create_dir_all(&objects)?;
    let mut text = String::new();
    for at in 0..CROWD {
        let name = format!("tenant-{at:03}");
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: app, namespace: {name}, uid: \
             uid-{at}}}\nspec: {{nodeName: node-c, containers: [{{name: a, resources: {{requests: {{cpu: 20m}}}}}}]}}\nstatus: {{phase: Running}}\n"
        ));
    }
    fs::write(objects.join("all.yaml"), text)?;
    let grpc = free_address()?;
    let aggregator = Daemon::aggregator(binaries, grpc, Source::Files(&objects), None, &dir).await?;
    let node = Standin::start(grpc, "node-c", standin::crowd(CROWD)).await?;
    // The window fills, and breaches fire.
    sleep(Duration::from_secs(8)).await;
    let crowd = browse(tools, "crowd", aggregator.http, None, &dir).await;
    drop(node);
    aggregator.stop().await?;
    crowd
}

type Cell<'a> = (&'a str, &'a str, f64);

fn cells(snapshot: &Snapshot) -> Vec<Cell<'_>> {
    let cells = snapshot.ledger.iter();
    cells
        .map(|cell| (&*cell.waiter, &*cell.runner, cell.cores))
        .collect()
}

/// "VERDICT_OPEN" → "open"
fn word(verdict: Verdict) -> String {
    verdict
        .as_str_name()
        .trim_start_matches("VERDICT_")
        .to_lowercase()
}

/// Runs one part of the browser's script; what it said.
async fn browse(
    tools: &Tools<'_>,
    part: &str,
    http: SocketAddr,
    truth: Option<&Snapshot>,
    dir: &Path,
) -> Result<serde_json::Value> {
    let truth = truth.map(|snapshot| {
        let traffic: Vec<_> = snapshot
            .traffic
            .iter()
            .map(|t| json!({ "from": t.from, "to": t.to, "verdict": word(t.verdict()) }))
            .collect();
        let tenants: Vec<_> = snapshot
            .tenants
            .iter()
            .map(|t| json!({ "name": t.name, "stolen_cores": t.stolen_cores }))
            .collect();
        json!({ "ledger": cells(snapshot), "traffic": traffic, "tenants": tenants })
    });
    let asked = dir.join(format!("browser-{part}.json"));
    let asked_of = json!({
        "part": part,
        "origin": format!("http://{http}"),
        "playwright": tools.playwright,
        "chromium": tools.chromium,
        "pictures": tools.pictures,
        "profile": dir.join(format!("profile-{part}")),
        "truth": truth,
    });
    fs::write(&asked, asked_of.to_string())?;
    let mut command = Command::new("node");
    command
        .arg(tools.dir.join("check.mjs"))
        .arg(&asked)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(BROWSER_LIMIT, command.output())
        .await
        .with_context(|| format!("the browser's part {part} was not done in time"))?
        .context("cannot start node")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("the page, part {part}: {}\n{why}", output.status);
    }
    serde_json::from_str(&said).with_context(|| format!("the browser's script said {said:?}"))
}
