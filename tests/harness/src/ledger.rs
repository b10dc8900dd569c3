//! The agent's counters against the kernel's own: run time against `cpu.stat`, wait against `schedstat`, and the ledger
//! against the wait it explains.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use partywall_workload::{Pod, PodSpec, Work, WorkHandle};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    intake::Intake,
    measure::nanoseconds,
    processes::{Binaries, Daemon},
    run::{boot_ns, cpu_request},
};

const RUN_BOUND: f64 = 0.01;
const WAIT_BOUND: f64 = 0.02;
/// Below this a single pod's figure is too short for a bound in percent; it counts in the sum.
const JUDGED_ALONE_NS: u64 = 500_000_000;
/// Until every worker runs.
const WARM_UP: Duration = Duration::from_secs(1);
/// Until every frozen task has left its CPU.
const SETTLE: Duration = Duration::from_secs(1);
const REPORT_PATIENCE: Duration = Duration::from_secs(5);

/// A set of pods on one CPU.
struct Case {
    name: &'static str,
    pods: usize,
    work: Work,
}

const CASES: [Case; 4] = [
    Case {
        name: "2 spinners",
        pods: 2,
        work: Work::Spin { threads: 1 },
    },
    Case {
        name: "3 spinners",
        pods: 3,
        work: Work::Spin { threads: 1 },
    },
    Case {
        name: "8 spinners",
        pods: 8,
        work: Work::Spin { threads: 1 },
    },
    // 200 × 1 ms in 250 ms: four fifths of the CPU, handed round among all.
    Case {
        name: "200 cgroups taking turns",
        pods: 200,
        work: Work::Duty {
            busy_ms: 1.0,
            idle_ms: 249.0,
            threads: 1,
        },
    },
];

/// One case, both accounts of it.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    case: &'static str,
    pods: usize,
    #[serde(flatten)]
    sum: Figures,
    /// Relative to the kernel's figure, of all pods together.
    run_difference: f64,
    wait_difference: f64,
    /// The worst pod of those with a figure long enough to be judged alone.
    worst_run_difference: f64,
    worst_wait_difference: f64,
    unresolved_share: f64,
    /// What the agent's reports said that cannot be.
    faults: Vec<String>,
}

impl Account {
    pub(crate) fn is_right(&self) -> bool {
        self.faults.is_empty()
            && self.sum.ledger_ns == self.sum.agent_wait_ns
            && self.sum.kernel_wait_ns > 0
            && [self.run_difference, self.worst_run_difference]
                .iter()
                .all(|d| d.abs() <= RUN_BOUND)
            && [self.wait_difference, self.worst_wait_difference]
                .iter()
                .all(|d| d.abs() <= WAIT_BOUND)
    }

    pub(crate) const HEADER: &str = "    CASE                       RUN s   KERNEL s    DIFF   WORST     WAIT s   KERNEL s    DIFF   WORST  UNRESOLVED  LEDGER = WAIT";

    pub(crate) fn row(&self) -> String {
        let seconds = |ns| nanoseconds(ns) / 1e9;
        let percent = |share: f64| share * 100.0;
        let sum = if self.sum.ledger_ns == self.sum.agent_wait_ns {
            "exactly"
        } else {
            "NO"
        };
        let faults: String = self
            .faults
            .iter()
            .map(|fault| format!("\n      fault: {fault}"))
            .collect();
        format!(
            "{}  {:<24} {:>7.3}  {:>9.3}  {:>5.2}%  {:>5.2}%  {:>9.3}  {:>9.3}  {:>5.2}%  {:>5.2}%  {:>9.2}%  {sum}{faults}",
            if self.is_right() { "ok" } else { "!!" },
            self.case,
            seconds(self.sum.agent_run_ns),
            seconds(self.sum.kernel_run_ns),
            percent(self.run_difference),
            percent(self.worst_run_difference),
            seconds(self.sum.agent_wait_ns),
            seconds(self.sum.kernel_wait_ns),
            percent(self.wait_difference),
            percent(self.worst_wait_difference),
            percent(self.unresolved_share),
        )
    }
}

pub(crate) async fn ledger(
    binaries: &Binaries,
    cgroup_mount: &Path,
    seconds: f64,
    dir: &Path,
) -> Result<Vec<Account>> {
    let period = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    let mut accounts = Vec::new();
    println!("{}", Account::HEADER);
    for case in &CASES {
        let account = account(case, binaries, cgroup_mount, period, dir)
            .await
            .context(case.name)?;
        println!("{}", account.row());
        accounts.push(account);
    }
    Ok(accounts)
}

async fn account(
    case: &Case,
    binaries: &Binaries,
    cgroup_mount: &Path,
    period: Duration,
    dir: &Path,
) -> Result<Account> {
    let intake = Intake::start(None).await?;
    let agent = Daemon::agent(binaries, intake.address, dir).await?;
    intake.report_since(1, REPORT_PATIENCE).await?;
    let mut pods = Vec::new();
    let mut works = Vec::new();
    for number in 0..case.pods {
        let spec = PodSpec {
            requests: cpu_request(0.1),
            ..PodSpec::new("ledger", format!("pod-{number}"))
        };
        let pod = Pod::create(spec, cgroup_mount)?;
        works.push(pod.start(&case.work, Some(&[0]))?);
        pods.push(pod);
    }
    // What starting a process costs is in one account and not wholly in the other: both are read twice, and differences compared.
    sleep(WARM_UP).await;
    let before = Reading::take(&pods, &works, &intake).await?;
    for pod in &pods {
        pod.thaw()?;
    }
    sleep(period).await;
    let after = Reading::take(&pods, &works, &intake).await?;
    agent.stop().await?;
    let faults = intake.record().faults.clone();
    drop(works);
    for pod in pods {
        pod.remove()?;
    }

    let each = || {
        before
            .pods
            .iter()
            .zip(&after.pods)
            .map(|(before, after)| after.since(before))
    };
    let sum = each().fold(Figures::default(), |sum, pod| sum.plus(&pod));
    if sum.agent_wait_ns == 0 {
        bail!("the agent saw no wait at all");
    }
    Ok(Account {
        case: case.name,
        pods: case.pods,
        run_difference: difference(sum.agent_run_ns, sum.kernel_run_ns),
        wait_difference: difference(sum.agent_wait_ns, sum.kernel_wait_ns),
        worst_run_difference: worst(each().map(|pod| (pod.agent_run_ns, pod.kernel_run_ns))),
        worst_wait_difference: worst(each().map(|pod| (pod.agent_wait_ns, pod.kernel_wait_ns))),
        unresolved_share: nanoseconds(sum.unresolved_ns) / nanoseconds(sum.agent_wait_ns),
        sum,
        faults,
    })
}

/// Both accounts of one pod.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Figures {
    kernel_run_ns: u64,
    agent_run_ns: u64,
    kernel_wait_ns: u64,
    agent_wait_ns: u64,
    ledger_ns: u64,
    unresolved_ns: u64,
}

impl Figures {
    fn with(&self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            kernel_run_ns: operation(self.kernel_run_ns, other.kernel_run_ns),
            agent_run_ns: operation(self.agent_run_ns, other.agent_run_ns),
            kernel_wait_ns: operation(self.kernel_wait_ns, other.kernel_wait_ns),
            agent_wait_ns: operation(self.agent_wait_ns, other.agent_wait_ns),
            ledger_ns: operation(self.ledger_ns, other.ledger_ns),
            unresolved_ns: operation(self.unresolved_ns, other.unresolved_ns),
        }
    }

    fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }
}

/// Both accounts of all pods at one moment.
struct Reading {
    pods: Vec<Figures>,
}

impl Reading {
    /// Nothing in the pods moves while the kernel's account is read and the agent's arrives. They stay frozen.
    async fn take(pods: &[Pod], works: &[WorkHandle], intake: &Intake) -> Result<Self> {
        for pod in pods {
            pod.freeze()?;
        }
        // A task counts as frozen just before it leaves its CPU, and on a busy CPU that last step may have to wait.
        sleep(SETTLE).await;
        let mut figures = Vec::new();
        for (pod, work) in pods.iter().zip(works) {
            figures.push(Figures {
                kernel_run_ns: u64::try_from(pod.cpu_used()?.as_nanos()).unwrap_or(u64::MAX),
                kernel_wait_ns: work.sched_stat()?.wait_ns,
                ..Figures::default()
            });
        }
        // Twice: a reading that catches a wait half entered leaves it to the next one.
        for _ in 0..2 {
            intake.report_since(boot_ns(), REPORT_PATIENCE).await?;
        }
        let record = intake.record();
        for (pod, figures) in pods.iter().zip(&mut figures) {
            let totals = record.pod(&pod.spec().uid);
            figures.agent_run_ns = totals.run_ns;
            figures.agent_wait_ns = totals.wait_ns;
            figures.ledger_ns = totals.ledger_ns;
            figures.unresolved_ns = totals.unresolved_ns;
        }
        Ok(Self { pods: figures })
    }
}

fn difference(agent_ns: u64, kernel_ns: u64) -> f64 {
    (nanoseconds(agent_ns) - nanoseconds(kernel_ns)) / nanoseconds(kernel_ns.max(1))
}

/// The largest difference among pairs of (agent's, kernel's) that are long enough.
fn worst(pairs: impl Iterator<Item = (u64, u64)>) -> f64 {
    let judged = pairs.filter(|(_, kernel_ns)| *kernel_ns >= JUDGED_ALONE_NS);
    let differences = judged.map(|(agent_ns, kernel_ns)| difference(agent_ns, kernel_ns));
    differences
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Account {
        Account {
            case: "x",
            pods: 2,
            sum: Figures {
                kernel_run_ns: 100,
                agent_run_ns: 100,
                kernel_wait_ns: 100,
                agent_wait_ns: 100,
                ledger_ns: 100,
                unresolved_ns: 1,
            },
            run_difference: 0.009,
            wait_difference: -0.019,
            worst_run_difference: -0.01,
            worst_wait_difference: 0.02,
            unresolved_share: 0.01,
            faults: Vec::new(),
        }
    }

    #[test]
    fn every_bound_counts() {
        assert!(right().is_right());
        for wrong in [
            Account {
                sum: Figures {
                    ledger_ns: 99,
                    ..right().sum
                },
                ..right()
            },
            Account {
                run_difference: -0.011,
                ..right()
            },
            Account {
                wait_difference: 0.021,
                ..right()
            },
            Account {
                worst_run_difference: 0.011,
                ..right()
            },
            Account {
                worst_wait_difference: -0.021,
                ..right()
            },
            Account {
                sum: Figures {
                    kernel_wait_ns: 0,
                    ..right().sum
                },
                ..right()
            },
            Account {
                faults: vec!["fell".to_owned()],
                ..right()
            },
        ] {
            assert!(!wrong.is_right(), "{wrong:?}");
        }
    }

    #[test]
    fn the_worst_pod_is_the_farthest_off_on_either_side() {
        let long = JUDGED_ALONE_NS;
        let found = worst([(long, long), (long / 2, long), (long * 5 / 4, long), (9, 1)].into_iter());
        assert!((found + 0.5).abs() < 1e-9, "{found}");
    }
}
