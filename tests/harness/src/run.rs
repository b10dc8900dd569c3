//! One scenario, from an empty machine to an empty machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_workload::{HostCgroup, LimitState, Limits, Pod, Resources, WorkHandle};
use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};
use tokio::time::{sleep, sleep_until};

use crate::{
    cluster::Cluster,
    intake::Intake,
    judge::{Began, Raised, Verdict, judge},
    measure::{Measured, Tenants, measure},
    observe::{Observer, SETTLE},
    plan::{Action, Place, plan},
    processes::{Binaries, Daemon, free_address},
    scenario::{Need, Scenario, ScenarioPod},
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
}

impl Bench {
    /// Runs `scenario`; logs go to `dir`. An error: it could not be run at all.
    pub(crate) async fn run(&self, scenario: &Scenario, dir: &Path) -> Result<Shown> {
        let namespaces: BTreeSet<&str> = scenario
            .pods
            .iter()
            .map(|pod| pod.spec.namespace.as_str())
            .collect();
        let cluster = Cluster::create(dir.join("cluster"), scenario.manifests.as_deref(), &namespaces)?;
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
        let mut aggregator =
            Daemon::aggregator(&self.binaries, grpc, cluster.dir(), policy.as_deref(), dir).await?;
        let intake = Intake::start(Some(grpc)).await?;
        let mut agent = Daemon::agent(&self.binaries, intake.address, dir).await?;
        intake
            .report_since(1, REPORT_PATIENCE)
            .await
            .context("after the agent's start")?;

        let observed = self.observe(scenario, &cluster, &intake, grpc).await;
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
        cluster: &Cluster,
        intake: &Intake,
        aggregator: SocketAddr,
    ) -> Result<Shown> {
        let observer = Observer::connect(aggregator).await?;
        let mut stage = Stage::new(scenario, cluster, &self.cgroup_mount)?;
        let start = Instant::now();
        for (at, action) in plan(scenario) {
            sleep_until((start + at).into()).await;
            stage.perform(action, start)?;
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
            measure(entry, &totals, &own, &tenants, observed)
        });
        let measures = measures.collect();
        let of_scenario = |path: &str| scenario.hosts.iter().any(|host| host.cgroup == path);
        let since_start = Duration::from_nanos(record.covered_ns());
        let beside = record
            .hosts()
            .into_iter()
            .filter(|(path, _)| !of_scenario(path))
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
            beside,
            log_tails: Vec::new(),
        })
    }
}

/// The pods and the work that are there now.
struct Stage<'a> {
    scenario: &'a Scenario,
    cluster: &'a Cluster,
    cgroup_mount: &'a Path,
    // Before the pods: work is dropped, and so reaped, first.
    works: Vec<(Place, usize, WorkHandle)>,
    pods: BTreeMap<usize, Pod>,
    hosts: Vec<HostCgroup>,
    began: Vec<(Place, f64)>,
    ended: Vec<Ended>,
}

/// Work that ended by itself.
struct Ended {
    place: Place,
    how: ExitStatus,
    /// Killed, in a pod of which the kernel has killed something because memory ran out.
    oom: bool,
}

impl<'a> Stage<'a> {
    /// Makes every pod that is there from the start.
    fn new(scenario: &'a Scenario, cluster: &'a Cluster, cgroup_mount: &'a Path) -> Result<Self> {
        let hosts = scenario
            .hosts
            .iter()
            .map(|host| HostCgroup::create(&host.cgroup, cgroup_mount));
        let hosts = hosts.collect::<Result<_, _>>()?;
        let mut stage = Self {
            scenario,
            cluster,
            cgroup_mount,
            works: Vec::new(),
            pods: BTreeMap::new(),
            hosts,
            began: Vec::new(),
            ended: Vec::new(),
        };
        for (index, _) in scenario
            .pods
            .iter()
            .enumerate()
            .filter(|(_, pod)| pod.start.is_zero())
        {
            stage.make_pod(index)?;
        }
        Ok(stage)
    }

    fn make_pod(&mut self, index: usize) -> Result<()> {
        let pod = Pod::create(self.scenario.pods[index].spec.clone(), self.cgroup_mount)?;
        // A scenario that is about a limit says so in its needs, and must not pass without it.
        let Limits { cpu, memory } = pod.limits();
        for (limit, need) in [(cpu, Need::CpuController), (memory, Need::Memcg)] {
            if let LimitState::Absent(why) = limit
                && self.scenario.needs(need)
            {
                bail!("{}: {why}", self.scenario.pods[index].full_name());
            }
        }
        self.pods.insert(index, pod);
        Ok(())
    }

    fn perform(&mut self, action: Action, start: Instant) -> Result<()> {
        match action {
            Action::MakePod(index) => {
                self.cluster.add_pod(&self.scenario.pods[index].spec)?;
                self.make_pod(index)?;
            }
            Action::RemovePod(index) => {
                if let Some(pod) = self.pods.remove(&index) {
                    pod.remove()?;
                }
                self.cluster.remove_pod(&self.scenario.pods[index].spec)?;
            }
            Action::StartWork(place, index) => {
                let cpus = self.scenario.cpus.as_deref();
                let handle = match place {
                    Place::Host(host) => {
                        self.hosts[host].start(&self.scenario.hosts[host].work[index].work, cpus)?
                    }
                    Place::Pod(number) => {
                        let timed = &self.scenario.pods[number].work[index];
                        let pod = self
                            .pods
                            .get(&number)
                            .context("work in a pod that is not there")?;
                        match &timed.cgroup {
                            Some(below) => pod.start_below(below, &timed.work, cpus)?,
                            None => pod.start(&timed.work, cpus)?,
                        }
                    }
                };
                self.works.push((place, index, handle));
                self.began.push((place, start.elapsed().as_secs_f64()));
            }
            Action::StopWork(place, index) => {
                self.stop_work(|(at, number)| (at, number) == (place, index));
            }
        }
        Ok(())
    }

    /// Stops the chosen work, and notes what of it had ended before.
    fn stop_work(&mut self, chosen: impl Fn((Place, usize)) -> bool) {
        let works = std::mem::take(&mut self.works);
        for (place, index, mut work) in works {
            if !chosen((place, index)) {
                self.works.push((place, index, work));
            } else if let Some(how) = work.ended() {
                let kills = match place {
                    Place::Pod(number) => self.pods.get(&number).map_or(0, Pod::oom_kills),
                    Place::Host(_) => 0,
                };
                let oom = kills > 0 && how.signal() == Some(Signal::KILL.as_raw());
                self.ended.push(Ended { place, how, oom });
            }
        }
    }

    fn stop_all_work(&mut self) {
        self.stop_work(|_| true);
    }

    /// The names of pods whose work was killed because memory ran out, once for each piece of work.
    fn killed(&self) -> Vec<String> {
        let killed = self.ended.iter().filter(|ended| ended.oom);
        killed.map(|ended| self.name_of(ended.place)).collect()
    }

    /// What ended and should not have, or the other way round.
    fn faults(&self) -> Vec<String> {
        let by_itself = self.ended.iter().filter(|ended| !ended.oom).map(|ended| {
            let (name, how) = (self.name_of(ended.place), ended.how);
            format!("work of {name} ended by itself: {how}")
        });
        let killed = |index| {
            self.ended
                .iter()
                .any(|ended| ended.oom && ended.place == Place::Pod(index))
        };
        let pods = self.scenario.pods.iter().enumerate();
        let unlike = pods.filter_map(|(index, pod)| match (pod.oom_killed?, killed(index)) {
            (true, false) => Some(format!("oom_killed: nothing of {} was killed", pod.full_name())),
            (false, true) => Some(format!("oom_killed: work of {} was killed", pod.full_name())),
            _ => None,
        });
        by_itself.chain(unlike).collect()
    }

    fn name_of(&self, place: Place) -> String {
        match place {
            Place::Pod(index) => self.scenario.pods[index].full_name(),
            Place::Host(index) => self.scenario.hosts[index].cgroup.clone(),
        }
    }

    fn clear(self) -> Result<()> {
        drop(self.works);
        for (_, pod) in self.pods {
            pod.remove()?;
        }
        for host in self.hosts {
            host.remove()?;
        }
        Ok(())
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
