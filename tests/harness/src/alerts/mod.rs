//! From noise in real cgroups to an alert in real Alertmanagers, while a real Prometheus scrapes both daemons: how long it takes, and that there is
//! neither a second alert nor a missing end, whoever is killed on the way.

mod hooks;
mod life;
mod scraped;
mod servers;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use partywall_workload::{Pod, PodSpec, Work, WorkHandle};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    cluster::Cluster,
    manifests::Documents,
    processes::{Binaries, Daemon, free_address},
    run::cpu_request,
};
use hooks::Hooks;
use servers::{Programs, Server, alertmanager, prometheus};

/// What the run needs beside the daemons.
pub(crate) struct Files {
    /// Directory with prometheus-alertmanager, amtool, prometheus and promtool.
    pub(crate) servers: PathBuf,
    /// Rule files that Prometheus is to judge by.
    pub(crate) rules: Vec<PathBuf>,
    /// The webhook's bodies are kept here, one in a line.
    pub(crate) bodies: Option<PathBuf>,
}

/// The project's own limit for a breach; an alert has no more.
const GOAL_S: f64 = 5.0;
/// A blue that was not there before is not yet known to be quiet.
const QUIET: Duration = Duration::from_millis(2_500);
const NAMED_PATIENCE: Duration = Duration::from_secs(20);
/// The breach clears after 5 s without its condition, which takes up to a window of 10 s to go; then the Alertmanager tells.
const CLEAR_PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

const ALERT: &str = "TenantNoisyNeighbour";

#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// From the start of the noise until the first Alertmanager shows it.
    seconds: Vec<f64>,
    median_s: f64,
    worst_s: f64,
    #[serde(flatten)]
    life: life::Life,
    #[serde(flatten)]
    scraped: scraped::Scraped,
}

impl Shown {
    pub(crate) fn line(&self) -> String {
        format!(
            "alerts: {} runs from noise to Alertmanager: median {:.1} s, worst {:.1} s (goal {GOAL_S:.0} s)\n{}\n{}",
            self.seconds.len(),
            self.median_s,
            self.worst_s,
            self.life.line(),
            self.scraped.line()
        )
    }

    pub(crate) fn is_right(&self) -> bool {
        self.worst_s <= GOAL_S
    }
}

pub(crate) async fn alerts(
    binaries: &Binaries,
    files: Files,
    cgroup_mount: &Path,
    times: usize,
    dir: &Path,
) -> Result<Shown> {
    ensure!(times > 0, "--times 0 measures nothing");
    let programs = Programs::find(files.servers.clone())?;
    let mut node = Node::start(binaries, &programs, &files, cgroup_mount, times, dir).await?;
    let run = async {
        let mut seconds = Vec::new();
        for round in 0..times {
            let took = node
                .round(round)
                .await
                .with_context(|| format!("run {}", round + 1))?;
            eprintln!("alerts {}/{times}: in Alertmanager after {took:.2} s", round + 1);
            seconds.push(took);
        }
        let life = life::life(&mut node).await?;
        let scraped = scraped::scraped(&mut node).await?;
        Ok((seconds, life, scraped))
    };
    let ended: Result<_> = run.await;
    if let Some(path) = &files.bodies {
        let lines: String = node
            .hooks
            .posted("/hook")
            .iter()
            .map(|body| format!("{body}\n"))
            .collect();
        fs::write(path, lines).with_context(|| path.display().to_string())?;
    }
    let (seconds, life, scraped) = match ended {
        Ok(ended) => ended,
        Err(error) => bail!(
            "{error:#}\n{}\n{}",
            node.aggregator.log_tail(20),
            node.agent.log_tail(10)
        ),
    };
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(times - 1) / 2], sorted[times / 2]);
    let shown = Shown {
        median_s: f64::midpoint(low, high),
        worst_s: sorted[times - 1],
        seconds,
        life,
        scraped,
    };
    let Node {
        agent, aggregator, ..
    } = node;
    agent.stop().await?;
    aggregator.stop().await?;
    Ok(shown)
}

/// A node with tenants, both daemons, and everybody who is told.
struct Node<'a> {
    binaries: &'a Binaries,
    programs: &'a Programs,
    cgroup_mount: &'a Path,
    cpus: [usize; 1],
    dir: &'a Path,
    cluster: Cluster,
    hooks: Hooks,
    /// Two, who are to know the same.
    alertmanagers: [Server; 2],
    prometheus: Server,
    aggregator: Daemon,
    agent: Daemon,
    grpc: SocketAddr,
    /// What the aggregator is given beside its addresses.
    arguments: Vec<String>,
    /// A target where nobody listens, and one that never answers.
    closed: SocketAddr,
}

impl<'a> Node<'a> {
    async fn start(
        binaries: &'a Binaries,
        programs: &'a Programs,
        files: &Files,
        cgroup_mount: &'a Path,
        times: usize,
        dir: &'a Path,
    ) -> Result<Self> {
        let mut namespaces: BTreeSet<String> = ["red-life", "blue-life"].map(str::to_owned).into();
        for round in 0..times {
            namespaces.extend([format!("red-{round}"), format!("blue-{round}")]);
        }
        let names = namespaces.iter().map(String::as_str).collect();
        let cluster = Cluster::create(dir.join("cluster"), None, &Documents::default(), &names)?;
        cluster.add_node()?;
        let hooks = Hooks::start().await?;
        let alertmanagers = [
            alertmanager(programs, "a", free_address()?, &hooks.url("/notified/a"), dir).await?,
            alertmanager(programs, "b", free_address()?, &hooks.url("/notified/b"), dir).await?,
        ];
        let closed = free_address()?;
        let [a, b] = [&alertmanagers[0], &alertmanagers[1]].map(|server| server.address);
        // Those who are away or never answer are there all the time: they must not hold up the others.
        let arguments = vec![
            format!("--alertmanager=http://{closed}"),
            format!("--alertmanager={}", hooks.url("/hang")),
            format!("--alertmanager=http://{a}"),
            format!("--alertmanager=http://{b}"),
            format!("--webhook={}", hooks.url("/refuse")),
            format!("--webhook={}", hooks.url("/hook")),
            "--external-url=http://partywall.example".to_owned(),
            "--runbook-url=http://docs.example/runbook.md".to_owned(),
        ];
        let (grpc, http) = (free_address()?, free_address()?);
        let mut aggregator =
            Daemon::telling_aggregator(binaries, (grpc, http), cluster.dir(), &arguments, dir)?;
        aggregator.wait_ready().await?;
        let agent = Daemon::agent(binaries, grpc, dir).await?;
        let targets = [("partywall-aggregator", http), ("partywall-agent", agent.http)];
        let prometheus = prometheus(programs, free_address()?, &targets, &files.rules, dir).await?;
        Ok(Self {
            binaries,
            programs,
            cgroup_mount,
            cpus: [last_cpu()?],
            dir,
            cluster,
            hooks,
            alertmanagers,
            prometheus,
            aggregator,
            agent,
            grpc,
            arguments,
            closed,
        })
    }

    fn pod(&self, namespace: &str, name: &str, cores: f64) -> Result<Pod> {
        let mut spec = PodSpec::new(namespace, name);
        spec.requests = cpu_request(cores);
        self.cluster.add_pod(&spec)?;
        Ok(Pod::create(spec, self.cgroup_mount)?)
    }

    fn remove(&self, pod: Pod) -> Result<()> {
        self.cluster.remove_pod(pod.spec())?;
        Ok(pod.remove()?)
    }

    /// Serves below what it was promised, and needs all of it.
    fn serve(&self, pod: &Pod) -> Result<WorkHandle> {
        let work = Work::Duty {
            busy_ms: 4.0,
            idle_ms: 6.0,
            threads: 1,
        };
        Ok(pod.start(&work, Some(&self.cpus))?)
    }

    fn spin(&self, pod: &Pod) -> Result<WorkHandle> {
        Ok(pod.start(&Work::Spin { threads: 1 }, Some(&self.cpus))?)
    }

    /// Tenants of their own each time. Seconds from the noise to the alert.
    async fn round(&mut self, round: usize) -> Result<f64> {
        let (red, blue) = (format!("red-{round}"), format!("blue-{round}"));
        let (victim, culprit) = (self.pod(&blue, "web", 0.5)?, self.pod(&red, "batch", 0.1)?);
        let serving = self.serve(&victim)?;
        // Spread over the agent's interval: by the golden ratio, so that few runs are spread well too.
        let phase = (round as f64 * 0.618).fract();
        sleep(QUIET + Duration::from_secs_f64(phase)).await;
        let began = Instant::now();
        let spinning = self.spin(&culprit)?;
        let alert = loop {
            if let Some(alert) = self.alerts(0, &red).await?.pop() {
                break alert;
            }
            self.aggregator.still_runs()?;
            ensure!(
                began.elapsed() < NAMED_PATIENCE,
                "no alert within {} s",
                NAMED_PATIENCE.as_secs()
            );
            sleep(POLL).await;
        };
        let took = began.elapsed().as_secs_f64();
        ensure!(
            alert["labels"]["against"] == blue.as_str(),
            "another alert: {alert}"
        );
        drop((spinning, serving));
        self.remove(culprit)?;
        self.remove(victim)?;
        Ok(took)
    }

    /// What an Alertmanager shows of a tenant as firing now.
    async fn alerts(&self, at: usize, tenant: &str) -> Result<Vec<Value>> {
        let path = format!(
            "/api/v2/alerts?active=true&filter=alertname%3D%22{ALERT}%22&filter=tenant%3D%22{tenant}%22"
        );
        match self.alertmanagers[at].json(&path).await? {
            Value::Array(alerts) => Ok(alerts),
            other => bail!("{path}: {other}"),
        }
    }

    /// Kills the aggregator without warning, and starts it anew.
    async fn restart_aggregator(&mut self) -> Result<()> {
        let addresses = (self.grpc, self.aggregator.http);
        self.aggregator.kill_now()?;
        let mut aggregator = Daemon::telling_aggregator(
            self.binaries,
            addresses,
            self.cluster.dir(),
            &self.arguments,
            self.dir,
        )?;
        aggregator.wait_ready().await?;
        self.aggregator = aggregator;
        Ok(())
    }
}

/// The first ones serve most interrupts.
fn last_cpu() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| list.trim().rsplit([',', '-']).next()?.parse().ok())
        .context("/proc/self/status names no allowed CPU")
}
