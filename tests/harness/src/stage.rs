//! The pods and the work of a scenario that are there now.

use std::{
    collections::BTreeMap, os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, time::Instant,
};

use anyhow::{Context, Result, bail};
use partywall_workload::{HostCgroup, LimitState, Limits, Pod, PodSpec, Traffic, WorkHandle};
use rustix::process::Signal;
use serde::Serialize;

use crate::{
    cluster::Cluster,
    fabric::Fabric,
    plan::{Action, Place, work_of},
    scenario::{Need, Scenario},
};

/// What network work sent and received, by its own count.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    /// "namespace/name" of the pod, or a host's cgroup.
    pub(crate) of: String,
    /// "tcp blue/web 80"
    pub(crate) work: String,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// What a `[[drop]]` dropped, by the node's count.
#[derive(Debug, Serialize)]
pub(crate) struct Lost {
    pub(crate) from: String,
    pub(crate) to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    pub(crate) packets: u64,
    /// With their IP headers.
    pub(crate) bytes: u64,
}

impl Sent {
    /// "red/client: tcp blue/web 80: 50 of 50 connections, 15000 bytes, 15000 back"
    pub(crate) fn line(&self) -> String {
        let Traffic {
            attempted,
            established,
            refused,
            timed_out,
            failed,
            broken,
            packets_sent,
            packets_received,
            bytes_sent,
            bytes_received,
        } = self.traffic;
        let mut parts = Vec::new();
        match (attempted, established) {
            (0, 0) => parts.push(format!(
                "{packets_sent} packets sent, {packets_received} received"
            )),
            (0, _) => parts.push(format!("{established} connections")),
            _ => parts.push(format!("{established} of {attempted} connections")),
        }
        parts.push(format!("{bytes_sent} bytes sent, {bytes_received} received"));
        let bad = [
            (refused, "refused"),
            (timed_out, "timed out"),
            (failed, "failed"),
            (broken, "broken"),
        ];
        let bad = bad.iter().filter(|(count, _)| *count > 0);
        parts.extend(bad.map(|(count, what)| format!("{count} {what}")));
        format!("{}: {}: {}", self.of, self.work, parts.join(", "))
    }
}

impl Lost {
    /// "dropped from red/client to blue/web port 80: 3 packets, 180 bytes"
    pub(crate) fn line(&self) -> String {
        let Self {
            from,
            to,
            port,
            packets,
            bytes,
        } = self;
        let port = port.map_or_else(String::new, |port| format!(" port {port}"));
        format!("dropped from {from} to {to}{port}: {packets} packets, {bytes} bytes")
    }
}

pub(crate) struct Stage<'a> {
    scenario: &'a Scenario,
    cluster: Cluster,
    cgroup_mount: &'a Path,
    // Before the pods: work is dropped, and so reaped, first.
    works: Vec<(Place, usize, WorkHandle)>,
    pods: BTreeMap<usize, Pod>,
    hosts: Vec<HostCgroup>,
    // After what is connected to it.
    fabric: Option<Fabric>,
    is_set: bool,
    pub(crate) began: Vec<(Place, f64)>,
    ended: Vec<Ended>,
    pub(crate) sent: Vec<Sent>,
}

/// Work that ended by itself.
struct Ended {
    place: Place,
    how: ExitStatus,
    /// Killed, in a pod of which the kernel has killed something because memory ran out.
    oom: bool,
}

impl<'a> Stage<'a> {
    /// An empty one.
    pub(crate) fn new(scenario: &'a Scenario, cluster: Cluster, cgroup_mount: &'a Path) -> Self {
        Self {
            scenario,
            cluster,
            cgroup_mount,
            works: Vec::new(),
            pods: BTreeMap::new(),
            hosts: Vec::new(),
            fabric: None,
            is_set: false,
            began: Vec::new(),
            ended: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Makes the network and every pod that is there from the start, unless that is done.
    pub(crate) fn set(&mut self) -> Result<()> {
        if self.is_set {
            return Ok(());
        }
        self.is_set = true;
        self.fabric = Fabric::create(self.scenario, self.cgroup_mount)?;
        for host in &self.scenario.hosts {
            let mut made = HostCgroup::create(&host.cgroup, self.cgroup_mount)?;
            if let Some(fabric) = &self.fabric {
                made.connect(fabric.connect_host());
            }
            self.hosts.push(made);
        }
        let pods = self.scenario.pods.iter().enumerate();
        for (index, _) in pods.filter(|(_, pod)| pod.start.is_zero()) {
            self.make_pod(index)?;
        }
        self.serve()
    }

    fn make_pod(&mut self, index: usize) -> Result<()> {
        let wanted = &self.scenario.pods[index];
        let mut pod = Pod::create(wanted.spec.clone(), self.cgroup_mount)?;
        // A scenario that is about a limit says so in its needs, and must not pass without it.
        let Limits { cpu, memory } = pod.limits();
        for (limit, need) in [(cpu, Need::CpuController), (memory, Need::Memcg)] {
            if let LimitState::Absent(why) = limit
                && self.scenario.needs(need)
            {
                bail!("{}: {why}", wanted.full_name());
            }
        }
        if let Some(fabric) = &mut self.fabric {
            pod.connect(fabric.connect(wanted)?);
        }
        self.pods.insert(index, pod);
        Ok(())
    }

    /// Has Services lead to the pods that run now.
    fn serve(&mut self) -> Result<()> {
        let Some(fabric) = &mut self.fabric else {
            return Ok(());
        };
        let services = self.cluster.services()?;
        let running: Vec<&PodSpec> = self
            .pods
            .keys()
            .map(|index| &self.scenario.pods[*index].spec)
            .collect();
        fabric.set_services(&services, &running)?;
        self.cluster.set_endpoints(&services, &running)
    }

    /// `start`: of the observation. Work that begins before it begins at zero.
    pub(crate) fn perform(&mut self, action: Action, start: Option<Instant>) -> Result<()> {
        match action {
            Action::MakePod(index) => {
                self.cluster.add_pod(&self.scenario.pods[index].spec)?;
                self.make_pod(index)?;
                self.serve()?;
            }
            Action::RemovePod(index) => {
                self.end_pod(index)?;
                self.cluster.remove_pod(&self.scenario.pods[index].spec)?;
                self.serve()?;
            }
            Action::CompletePod(index) => {
                self.end_pod(index)?;
                self.cluster.complete_pod(&self.scenario.pods[index].spec)?;
                self.serve()?;
            }
            Action::Change(index) => {
                self.cluster.change(&self.scenario.changes[index])?;
                self.serve()?;
            }
            Action::StartWork(place, index) => {
                let handle = self.start_work(place, index)?;
                self.works.push((place, index, handle));
                let at_s = start.map_or(0.0, |start| start.elapsed().as_secs_f64());
                self.began.push((place, at_s));
            }
            Action::StopWork(place, index) => {
                self.stop_work(|(at, number)| (at, number) == (place, index));
            }
        }
        Ok(())
    }

    fn end_pod(&mut self, index: usize) -> Result<()> {
        match self.pods.remove(&index) {
            Some(pod) => Ok(pod.remove()?),
            None => Ok(()),
        }
    }

    fn start_work(&self, place: Place, index: usize) -> Result<WorkHandle> {
        let cpus = self.scenario.cpus.as_deref();
        let timed = work_of(self.scenario, place, index);
        let started = match place {
            Place::Host(host) => self.hosts[host].start(&timed.work, cpus),
            Place::Pod(number) => {
                let pod = self
                    .pods
                    .get(&number)
                    .context("work in a pod that is not there")?;
                match &timed.cgroup {
                    Some(below) => pod.start_below(below, &timed.work, cpus),
                    None => pod.start(&timed.work, cpus),
                }
            }
        };
        started.with_context(|| format!("{}: {}", self.name_of(place), timed.title))
    }

    /// Stops the chosen work, and notes what of it had ended before, and what it sent.
    fn stop_work(&mut self, chosen: impl Fn((Place, usize)) -> bool) {
        let works = std::mem::take(&mut self.works);
        let (mut chosen, others): (Vec<_>, Vec<_>) = works
            .into_iter()
            .partition(|(place, index, _)| chosen((*place, *index)));
        self.works = others;
        for (place, _, work) in &mut chosen {
            let place = *place;
            if let Some(how) = work.ended() {
                let kills = match place {
                    Place::Pod(number) => self.pods.get(&number).map_or(0, Pod::oom_kills),
                    Place::Host(_) => 0,
                };
                let oom = kills > 0 && how.signal() == Some(Signal::KILL.as_raw());
                self.ended.push(Ended { place, how, oom });
            }
        }
        // Clients first, all at once: they still wait for answers.
        let (servers, mut clients): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .partition(|(place, index, _)| work_of(self.scenario, *place, *index).work.serves());
        for (_, _, work) in &mut clients {
            work.ask_to_end();
        }
        for (place, index, work) in clients.into_iter().chain(servers) {
            if let Some(traffic) = work.finish() {
                self.sent.push(Sent {
                    of: self.name_of(place),
                    work: work_of(self.scenario, place, index).title.clone(),
                    traffic,
                });
            }
        }
    }

    pub(crate) fn stop_all_work(&mut self) {
        self.stop_work(|_| true);
    }

    /// What each `[[drop]]` has dropped so far.
    pub(crate) fn lost(&self) -> Result<Vec<Lost>> {
        let counted = self.fabric.as_ref().map_or(Ok(Vec::new()), Fabric::dropped)?;
        let drops = self.scenario.drops.iter().zip(counted);
        let lost = drops.map(|(drop, counted)| Lost {
            from: drop.from.clone(),
            to: drop.to.clone(),
            port: drop.rule.port,
            packets: counted.packets,
            bytes: counted.bytes,
        });
        Ok(lost.collect())
    }

    /// The names of pods whose work was killed because memory ran out, once for each piece of work.
    pub(crate) fn killed(&self) -> Vec<String> {
        let killed = self.ended.iter().filter(|ended| ended.oom);
        killed.map(|ended| self.name_of(ended.place)).collect()
    }

    /// What ended and should not have, or the other way round.
    pub(crate) fn faults(&self) -> Vec<String> {
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

    pub(crate) fn clear(self) -> Result<()> {
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

#[cfg(test)]
mod tests;
