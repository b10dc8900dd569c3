//! Pods, and the addresses they have.

use std::time::Duration;

use anyhow::Result;
use partywall_workload::{ContainerPort, NODE_IPV4, NODE_IPV6, PodSpec, Transport};

use super::{Checker, ScenarioPod, raw, resources, seconds};
use crate::manifests::transport;

impl Checker<'_> {
    /// A pod without its work, and with the addresses that it has where there is a network.
    pub(super) fn pod(&self, raw: &raw::Pod, earlier: &[ScenarioPod]) -> Result<ScenarioPod> {
        let optional = |at: Option<f64>| at.map(|s| seconds(s).ok_or(s)).transpose();
        let (Some(start), Ok(stop), Ok(completed)) = (
            seconds(raw.start_s),
            optional(raw.stop_s),
            optional(raw.completed_s),
        ) else {
            return self.refuse(
                &raw.name,
                "start_s, stop_s, completed_s",
                "must be seconds from the start, zero or more",
            );
        };
        if stop.is_some_and(|stop| stop <= start) {
            return self.refuse(&raw.name, "stop_s", "must be later than start_s");
        }
        if completed.is_some_and(|at| at <= start || stop.is_some_and(|stop| stop <= at)) {
            return self.refuse(
                &raw.name,
                "completed_s",
                "must be later than start_s and earlier than stop_s",
            );
        }
        let mut pod = ScenarioPod {
            spec: PodSpec {
                requests: resources(&raw.requests),
                limits: resources(&raw.limits),
                labels: raw.labels.clone(),
                host_network: raw.host_network,
                ports: self.ports(raw)?,
                ..PodSpec::new(&raw.namespace, raw.name.get_ref())
            },
            start,
            stop,
            completed,
            oom_killed: raw.oom_killed,
            work: Vec::new(),
        };
        let same_name = |other: &&ScenarioPod| {
            let there = |pod: &ScenarioPod| (pod.start, pod.stop);
            other.full_name() == pod.full_name() && overlap(there(other), there(&pod))
        };
        if let Some(other) = earlier.iter().find(same_name) {
            let why = format!("two pods are called `{}` at the same time", other.full_name());
            return self.refuse(&raw.name, "name", &why);
        }
        pod.spec.host_ips = vec![NODE_IPV4.to_string(), NODE_IPV6.to_string()];
        pod.spec.pod_ips = self.addresses(raw, &pod, earlier)?;
        Ok(pod)
    }

    fn addresses(&self, raw: &raw::Pod, pod: &ScenarioPod, earlier: &[ScenarioPod]) -> Result<Vec<String>> {
        let Some(name) = &raw.address_of else {
            let number = earlier.len();
            return Ok(if raw.host_network {
                pod.spec.host_ips.clone()
            } else {
                vec![
                    format!("10.244.{}.{}", number / 250, number % 250 + 2),
                    format!("fd00:10:244::{:x}", number + 2),
                ]
            });
        };
        if raw.host_network {
            return self.refuse(
                name,
                "address_of",
                "a pod of the host's network has the node's address",
            );
        }
        let named = |other: &&ScenarioPod| other.full_name() == *name.get_ref();
        let ended = |other: &&ScenarioPod| other.end().is_some_and(|end| end <= pod.start);
        let Some(old) = earlier.iter().filter(named).find(ended) else {
            let why = format!(
                "`{}` is no earlier pod that is removed or completed by then",
                name.get_ref()
            );
            return self.refuse(name, "address_of", &why);
        };
        if old.spec.host_network {
            return self.refuse(name, "address_of", "that pod's address is the node's");
        }
        let holds = |other: &&ScenarioPod| {
            let runs = |pod: &ScenarioPod| (pod.start, pod.end());
            other.spec.pod_ips == old.spec.pod_ips && overlap(runs(other), runs(pod))
        };
        if let Some(holder) = earlier.iter().find(holds) {
            let why = format!("`{}` has that address at the same time", holder.full_name());
            return self.refuse(name, "address_of", &why);
        }
        Ok(old.spec.pod_ips.clone())
    }

    fn ports(&self, raw: &raw::Pod) -> Result<Vec<ContainerPort>> {
        let mut ports = Vec::new();
        for (name, port) in &raw.ports {
            let (number, transport) = match port {
                raw::Port::Number(number) => (Some(*number), Some(Transport::Tcp)),
                raw::Port::WithProtocol(text) => {
                    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
                    (number.parse().ok(), transport(protocol).ok())
                }
            };
            let (Some(number @ 1..), Some(transport)) = (number, transport) else {
                let why = format!("`{name}` must be a port number, or one with its protocol as \"53/UDP\"");
                return self.refuse(&raw.name, "ports", &why);
            };
            ports.push(ContainerPort {
                name: name.clone(),
                port: number,
                transport,
            });
        }
        Ok(ports)
    }
}

type Span = (Duration, Option<Duration>);

/// Whether two spans of time, each from its start to before its end, have a moment in common.
fn overlap((start, end): Span, (other_start, other_end): Span) -> bool {
    end.is_none_or(|end| end > other_start) && other_end.is_none_or(|end| end > start)
}
