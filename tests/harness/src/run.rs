//! One scenario, from an empty machine to an empty machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_apiserver::Server;
use partywall_workload::Resources;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, sleep_until};

use crate::{
    api::Api,
    cluster::Cluster,
    fabric,
    intake::Intake,
    judge::{Began, Raised, Verdict, judge},
    measure::{Measured, Tenants, measure},
    observe::{Observer, SETTLE},
    plan::{Place, before_agent, plan},
    processes::{Binaries, Daemon, Source, free_address},
    scenario::{Scenario, ScenarioPod},
    stage::{Lost, Sent, Stage},
};

/// The default reporting interval is one second; three are two missed in a row.
const REPORT_PATIENCE: Duration = Duration::from_secs(3);

/// What a run showed.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) verdict: Verdict,
    pub(crate) measures: Vec<Measured>,
    pub(crate) raised: Vec<Raised>,
    /// Anything that makes the run worthless or wrong beside the verdict.
    pub(crate) faults: Vec<String>,
    /// Work that the kernel killed because memory ran out: the pods' names, once for each piece of work.
    pub(crate) killed: Vec<String>,
    /// What network work sent, by its own count.
    pub(crate) sent: Vec<Sent>,
    /// What was dropped on the way, by the node's.
    pub(crate) lost: Vec<Lost>,
    /// What ran on the machine beside the scenario, in cores by cgroup: it slows everybody down.
    pub(crate) beside: Vec<(String, f64)>,
    /// Ends of the daemons' logs, where there is something to explain.
    pub(crate) log_tails: Vec<String>,
}

impl Shown {
    pub(crate) fn is_right(&self) -> bool {
        self.faults.is_empty()
            && self.verdict.falses.is_empty()
            && self.verdict.expected.iter().all(|judged| judged.found)
            && self.measures.iter().all(|measured| measured.ok)
    }
}

/// What stays the same for every scenario.
pub(crate) struct Bench {
    pub(crate) binaries: Binaries,
    pub(crate) cgroup_mount: PathBuf,
    /// The aggregator learns of the cluster from an API server, not from files.
    pub(crate) api: bool,
}

impl Bench {
    /// Runs `scenario`; logs go to `dir`. An error: it could not be run at all.
    pub(crate) async fn run(&self, scenario: &Scenario, dir: &Path) -> Result<Shown> {
        let namespaces: BTreeSet<&str> = scenario
            .pods
            .iter()
            .map(|pod| pod.spec.namespace.as_str())
            .collect();
        let manifests = scenario.manifests.as_deref();
        let cluster = Cluster::create(dir.join("cluster"), manifests, &scenario.documents, &namespaces)?;
        if scenario.networked {
            cluster.add_node()?;
        }
        for pod in scenario.pods.iter().filter(|pod| pod.start.is_zero()) {
            cluster.add_pod(&pod.spec)?;
        }
        let policy = scenario.policy.as_ref().map(|text| -> Result<PathBuf> {
            let path = dir.join("policy.yaml");
            fs::write(&path, text)?;
            Ok(path)
        });
        let policy = policy.transpose()?;
        let grpc = free_address()?;
        let api = match self.api {
            true => Some(Api::serve(Server::on_loopback().await?, cluster.dir())?),
            false => None,
        };
        let kubeconfig = api.as_ref().map(|api| api.kubeconfig(dir)).transpose()?;
        let source = match &kubeconfig {
            Some(kubeconfig) => Source::Api(kubeconfig),
            None => Source::Files(cluster.dir()),
        };
        let mut aggregator = Daemon::aggregator(&self.binaries, grpc, source, policy.as_deref(), dir).await?;
        let intake = Intake::start(Some(grpc)).await?;
        let mut stage = Stage::new(scenario, cluster, &self.cgroup_mount);
        if scenario.begins_before_agent() {
            stage.set()?;
            for action in before_agent(scenario) {
                stage.perform(action, None)?;
            }
            // Connections are open by then.
            sleep(SETTLE).await;
        }
        let mut agent = Daemon::agent(&self.binaries, intake.address, dir).await?;
        intake
            .report_since(1, REPORT_PATIENCE)
            .await
            .context("after the agent's start")?;

        let observed = self.observe(scenario, stage, &intake, grpc).await;
        let mut shown = match observed {
            Ok(shown) => shown,
            Err(error) => bail!("{error:#}\n{}\n{}", agent.log_tail(10), aggregator.log_tail(10)),
        };
        for daemon in [&mut agent, &mut aggregator] {
            if let Err(error) = daemon.still_runs() {
                shown.faults.push(error.to_string());
            }
        }
        if !shown.is_right() {
            shown.log_tails = vec![agent.log_tail(10), aggregator.log_tail(10)];
        }
        for daemon in [agent, aggregator] {
            if let Err(error) = daemon.stop().await {
                shown.faults.push(error.to_string());
            }
        }
        Ok(shown)
    }

    async fn observe(
        &self,
        scenario: &Scenario,
        mut stage: Stage<'_>,
        intake: &Intake,
        aggregator: SocketAddr,
    ) -> Result<Shown> {
        let observer = Observer::connect(aggregator).await?;
        stage.set()?;
        let start = Instant::now();
        for (at, action) in plan(scenario) {
            sleep_until((start + at).into()).await;
            stage.perform(action, Some(start))?;
        }
        sleep_until((start + scenario.observed).into()).await;

        let raised = observer.raised(start)?;
        let snapshot = observer.snapshot().await?;
        stage.stop_all_work();
        let observed = start.elapsed();
        intake
            .report_since(boot_ns(), REPORT_PATIENCE)
            .await
            .context("after the work ended")?;
        sleep(SETTLE).await;

        let of_namespace: BTreeMap<String, String> = snapshot
            .tenants
            .iter()
            .flat_map(|tenant| {
                tenant
                    .namespaces
                    .iter()
                    .map(|name| (name.clone(), tenant.name.clone()))
            })
            .collect();
        let tenant_of = |namespace: &str| {
            of_namespace
                .get(namespace)
                .map_or(namespace, String::as_str)
                .to_owned()
        };
        let tenant_of_pod = |pod: &ScenarioPod| tenant_of(&pod.spec.namespace);
        let tenants = Tenants {
            by_uid: scenario
                .pods
                .iter()
                .map(|pod| (pod.spec.uid.clone(), tenant_of_pod(pod)))
                .collect(),
            addresses: scenario
                .pods
                .iter()
                .map(|pod| {
                    let addresses = pod.spec.pod_ips.iter().filter_map(|ip| ip.parse().ok());
                    (pod.full_name(), addresses.collect())
                })
                .collect(),
        };
        let began: Vec<Began> = stage
            .began
            .iter()
            .map(|(place, at_s)| {
                let tenant = match place {
                    Place::Pod(index) => tenant_of_pod(&scenario.pods[*index]),
                    Place::Host(_) => "system".to_owned(),
                };
                Began { tenant, at_s: *at_s }
            })
            .collect();
        let mut faults = stage.faults();
        let killed = stage.killed();
        let (sent, lost) = (std::mem::take(&mut stage.sent), stage.lost()?);
        let record = intake.record();
        faults.extend(record.faults.iter().cloned());
        faults.extend(
            record
                .refused
                .iter()
                .map(|why| format!("the aggregator refused {why}")),
        );
        let measures = scenario.measure.iter().map(|entry| {
            let named = || scenario.pods.iter().filter(|pod| pod.full_name() == entry.pod);
            let totals: Vec<_> = named().map(|pod| record.pod(&pod.spec.uid)).collect();
            let own = named().next().map(tenant_of_pod).unwrap_or_default();
            let counted = sent.iter().filter(|sent| sent.of == entry.pod);
            let datagrams = counted.map(|sent| sent.traffic.packets_sent + sent.traffic.packets_received);
            measure(entry, &totals, datagrams.sum(), &own, &tenants, observed)
        });
        let measures = measures.collect();
        let of_scenario = |path: &str| scenario.hosts.iter().any(|host| host.cgroup == path);
        let since_start = Duration::from_nanos(record.covered_ns());
        let beside = record
            .hosts()
            .into_iter()
            .filter(|(path, _)| !of_scenario(path) && *path != fabric::OUTSIDE)
            .map(|(path, ns)| {
                (
                    path.to_owned(),
                    Duration::from_nanos(ns).div_duration_f64(since_start),
                )
            })
            .take_while(|(_, cores)| *cores >= 0.01)
            .collect();
        drop(record);
        stage.clear()?;
        Ok(Shown {
            verdict: judge(
                &scenario.expect,
                &scenario.refuse,
                scenario.exhaustive,
                &raised,
                &began,
            ),
            measures,
            raised,
            faults,
            killed,
            sent,
            lost,
            beside,
            log_tails: Vec::new(),
        })
    }
}

/// CLOCK_BOOTTIME, the clock of reports.
pub(crate) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// CPU requests in cores, memory left open: what most pods of the other commands ask for.
pub(crate) fn cpu_request(cores: f64) -> Resources {
    Resources {
        cpu_cores: Some(cores),
        memory_bytes: None,
    }
}
