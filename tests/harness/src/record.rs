//! What the agent reported, added up exactly: counters as they came over the wire, before anybody folds or rounds them.

use std::collections::BTreeMap;

use partywall_proto::v1::{AgentCost, CpuSample, LedgerRow, Loss, Report, entity::Kind};

use crate::{flow_record::FlowRecord, memory::Memory};

/// An entity of the agent's, by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// By `metadata.uid`.
    Pod(String),
    Container {
        pod: u32,
    },
    Host(String),
    Unknown(i32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    ran_ns: BTreeMap<u32, u64>,
    self_ns: u64,
    idle_ns: u64,
    steal_ns: u64,
    throttled_ns: u64,
    unresolved_ns: u64,
}

impl Row {
    fn sum_ns(&self) -> u64 {
        let others: u64 = self.ran_ns.values().sum();
        others + self.self_ns + self.idle_ns + self.steal_ns + self.throttled_ns + self.unresolved_ns
    }
}

/// One pod's counters since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodTotals {
    pub(crate) run_ns: u64,
    pub(crate) wait_ns: u64,
    pub(crate) ledger_ns: u64,
    pub(crate) unresolved_ns: u64,
    pub(crate) throttled_ns: u64,
    /// Who ran while it waited.
    pub(crate) ran: Vec<(Who, u64)>,
    /// None: the agent said nothing of its memory.
    pub(crate) memory: Option<Memory>,
}

/// One agent run, added up.
#[derive(Debug, Default)]
pub(crate) struct Record {
    agent_start_unix_ns: u64,
    sequence: u64,
    /// CLOCK_BOOTTIME of the latest report.
    pub(crate) captured_boot_ns: u64,
    /// The same of the first report: the agent's start.
    first_boot_ns: u64,
    pub(crate) reports: u64,
    entities: BTreeMap<u32, Who>,
    cpu: BTreeMap<u32, CpuSample>,
    ledger: BTreeMap<u32, Row>,
    memory: BTreeMap<u32, Memory>,
    pub(crate) traffic: FlowRecord,
    pub(crate) losses: Vec<Loss>,
    pub(crate) cost: Option<AgentCost>,
    /// What a report said that cannot be: an empty list is part of being right.
    pub(crate) faults: Vec<String>,
    /// Reports that the aggregator refused, with its reason.
    pub(crate) refused: Vec<String>,
}

impl Record {
    /// Takes a report in. False: it refers to entities that were never announced.
    pub(crate) fn apply(&mut self, report: &Report) -> bool {
        if report.agent_start_unix_ns != self.agent_start_unix_ns {
            *self = Self {
                agent_start_unix_ns: report.agent_start_unix_ns,
                ..Self::default()
            };
        } else if report.sequence <= self.sequence {
            return true;
        }
        self.sequence = report.sequence;
        self.captured_boot_ns = report.captured_boot_ns;
        self.reports += 1;
        for entity in &report.entities {
            let who = match &entity.kind {
                Some(Kind::Pod(pod)) => Who::Pod(pod.uid.clone()),
                Some(Kind::Container(container)) => Who::Container { pod: container.pod },
                Some(Kind::Host(host)) => Who::Host(host.path.clone()),
                Some(Kind::Unknown(unknown)) => Who::Unknown(unknown.reason),
                None => continue,
            };
            self.entities.insert(entity.index, who);
        }
        let mut all_known = true;
        for sample in &report.cpu {
            all_known &= self.entities.contains_key(&sample.entity);
            self.take_sample(sample);
        }
        for row in &report.ledger {
            all_known &= self.entities.contains_key(&row.waiter);
            all_known &= row
                .runners
                .iter()
                .all(|runner| self.entities.contains_key(runner));
            self.take_row(row);
        }
        for sample in &report.memory {
            all_known &= self.entities.contains_key(&sample.entity);
            let memory = self.memory.entry(sample.entity).or_default();
            if let Err(why) = memory.take(sample, report.captured_boot_ns) {
                self.faults.push(format!(
                    "report {}: memory of entity {}: {why}",
                    self.sequence, sample.entity
                ));
            }
        }
        for ended in &report.ended {
            if let Some(memory) = self.memory.get_mut(ended) {
                memory.end(report.captured_boot_ns);
            }
        }
        self.traffic.apply(report);
        let waiters: Vec<u32> = report.ledger.iter().map(|row| row.waiter).collect();
        for waiter in waiters {
            self.check_sum(waiter);
        }
        if let Some(coverage) = &report.coverage {
            self.losses.clone_from(&coverage.losses);
        }
        self.cost = report.cost.clone().or_else(|| self.cost.take());
        all_known
    }

    /// Entities of a pod: its own, and any that it had before.
    pub(crate) fn entities_of(&self, uid: &str) -> Vec<u32> {
        let pods = self.entities.iter().filter_map(|(index, who)| match who {
            Who::Pod(pod) if pod == uid => Some(*index),
            _ => None,
        });
        pods.collect()
    }

    fn take_sample(&mut self, sample: &CpuSample) {
        let before = self.cpu.insert(sample.entity, sample.clone());
        if before.is_some_and(|old| old.run_ns > sample.run_ns || old.wait_ns > sample.wait_ns) {
            self.faults.push(format!(
                "report {}: counters of entity {} fell",
                self.sequence, sample.entity
            ));
        }
    }

    fn take_row(&mut self, new: &LedgerRow) {
        let row = self.ledger.entry(new.waiter).or_default();
        row.ran_ns
            .extend(new.runners.iter().copied().zip(new.ran_ns.iter().copied()));
        row.self_ns = new.self_ns;
        row.idle_ns = new.idle_ns;
        row.steal_ns = new.steal_ns;
        row.throttled_ns = new.throttled_ns;
        row.unresolved_ns = new.unresolved_ns;
    }

    fn check_sum(&mut self, waiter: u32) {
        let wait_ns = self.cpu.get(&waiter).map_or(0, |sample| sample.wait_ns);
        let sum_ns = self.ledger.get(&waiter).map_or(0, Row::sum_ns);
        if wait_ns != sum_ns {
            self.faults.push(format!(
                "report {}: the ledger of entity {waiter} sums to {sum_ns} ns, it waited {wait_ns} ns",
                self.sequence
            ));
        }
    }

    /// A pod's counters; all zero where the agent never reported it.
    pub(crate) fn pod(&self, uid: &str) -> PodTotals {
        let mut totals = PodTotals::default();
        let of_pod = self
            .entities
            .iter()
            .filter(|(_, who)| matches!(who, Who::Pod(other) if other == uid));
        for (index, _) in of_pod {
            if let Some(sample) = self.cpu.get(index) {
                totals.run_ns += sample.run_ns;
                totals.wait_ns += sample.wait_ns;
            }
            if let Some(memory) = self.memory.get(index) {
                totals.memory = Some(memory.until(self.captured_boot_ns));
            }
            if let Some(row) = self.ledger.get(index) {
                totals.ledger_ns += row.sum_ns();
                totals.unresolved_ns += row.unresolved_ns;
                totals.throttled_ns += row.throttled_ns;
                totals.ran.extend(
                    row.ran_ns
                        .iter()
                        .filter_map(|(runner, ns)| Some((self.owner(*runner)?, *ns))),
                );
            }
        }
        totals
    }

    /// From the first report to the latest.
    pub(crate) fn covered_ns(&self) -> u64 {
        self.captured_boot_ns.saturating_sub(self.first_boot_ns)
    }

    /// CPU time of everything that is no pod, by cgroup path, most first.
    pub(crate) fn hosts(&self) -> Vec<(&str, u64)> {
        let run_ns = |index| self.cpu.get(index).map_or(0, |sample| sample.run_ns);
        let mut hosts: Vec<(&str, u64)> = self
            .entities
            .iter()
            .filter_map(|(index, who)| match who {
                Who::Host(path) => Some((path.as_str(), run_ns(index))),
                _ => None,
            })
            .collect();
        hosts.sort_by_key(|(_, run_ns)| std::cmp::Reverse(*run_ns));
        hosts
    }

    /// Every pod UID ever announced.
    pub(crate) fn pod_uids(&self) -> Vec<&str> {
        self.entities
            .values()
            .filter_map(|who| match who {
                Who::Pod(uid) => Some(uid.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The pod of a container, else the entity itself.
    fn owner(&self, index: u32) -> Option<Who> {
        match self.entities.get(&index)? {
            Who::Container { pod } => self.entities.get(pod).cloned(),
            who => Some(who.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_proto::v1::{Entity, HostCgroup, Pod};

    fn report(sequence: u64) -> Report {
        let pod = |index, uid: &str| Entity {
            index,
            born_boot_ns: 0,
            kind: Some(Kind::Pod(Pod { uid: uid.to_owned() })),
        };
        Report {
            agent_start_unix_ns: 7,
            sequence,
            captured_boot_ns: sequence * 1_000,
            entities: vec![
                pod(1, "blue"),
                pod(2, "red"),
                Entity {
                    index: 3,
                    born_boot_ns: 0,
                    kind: Some(Kind::Host(HostCgroup { path: "/".to_owned() })),
                },
            ],
            ..Report::default()
        }
    }

    fn sample(entity: u32, run_ns: u64, wait_ns: u64) -> CpuSample {
        CpuSample {
            entity,
            run_ns,
            wait_ns,
            waits: Vec::new(),
        }
    }

    #[test]
    fn rows_keep_the_pairs_that_did_not_change() {
        let mut record = Record::default();
        let row = |runner: u32, ran_ns, self_ns| LedgerRow {
            waiter: 1,
            runners: vec![runner],
            ran_ns: vec![ran_ns],
            self_ns,
            ..LedgerRow::default()
        };
        assert!(record.apply(&Report {
            cpu: vec![sample(1, 5, 30)],
            ledger: vec![row(2, 20, 10)],
            ..report(1)
        }));
        assert!(record.apply(&Report {
            cpu: vec![sample(1, 9, 45)],
            ledger: vec![row(3, 15, 10)],
            ..report(2)
        }));
        assert_eq!(record.faults, Vec::<String>::new());
        let totals = record.pod("blue");
        assert_eq!((totals.run_ns, totals.wait_ns, totals.ledger_ns), (9, 45, 45));
        assert_eq!(
            totals.ran,
            [(Who::Pod("red".to_owned()), 20), (Who::Host("/".to_owned()), 15)]
        );
        assert_eq!(record.pod("green"), PodTotals::default());
        assert_eq!(record.pod_uids(), ["blue", "red"]);
    }

    #[test]
    fn hosts_are_listed_by_what_they_used() {
        let mut record = Record::default();
        record.apply(&Report {
            cpu: vec![sample(1, 9, 0), sample(3, 7, 0)],
            ..report(1)
        });
        assert_eq!(record.hosts(), [("/", 7)]);
    }

    #[test]
    fn what_cannot_be_is_a_fault() {
        let mut record = Record::default();
        let row = LedgerRow {
            waiter: 1,
            self_ns: 29,
            ..LedgerRow::default()
        };
        record.apply(&Report {
            cpu: vec![sample(1, 5, 30)],
            ledger: vec![row],
            ..report(1)
        });
        record.apply(&Report {
            cpu: vec![sample(1, 4, 30)],
            ..report(2)
        });
        assert_eq!(
            record.faults,
            [
                "report 1: the ledger of entity 1 sums to 29 ns, it waited 30 ns",
                "report 2: counters of entity 1 fell"
            ]
        );
    }

    #[test]
    fn repeats_count_once_and_a_new_agent_starts_afresh() {
        let mut record = Record::default();
        record.apply(&Report {
            cpu: vec![sample(1, 5, 0)],
            ..report(2)
        });
        assert!(record.apply(&Report {
            cpu: vec![sample(1, 3, 0)],
            ..report(1)
        }));
        assert_eq!((record.pod("blue").run_ns, record.reports), (5, 1));
        let unannounced = Report {
            agent_start_unix_ns: 8,
            entities: Vec::new(),
            ..report(1)
        };
        assert!(!record.apply(&Report {
            cpu: vec![sample(1, 3, 0)],
            ..unannounced
        }));
        assert_eq!(record.pod("blue").run_ns, 0);
    }
}
