//! The scenario's network: what is made of it, and kept as the pods and Services of the moment want it.

use std::{net::IpAddr, path::Path};

use anyhow::Result;
use partywall_workload::{
    DropRule, Dropped, Family, HostCgroup, Network, PodLink, PodSpec, ServicePort, Work, WorkHandle,
};

use crate::{
    manifests::Service,
    scenario::{Scenario, ScenarioPod},
    services::translations,
};

/// Where what answers for the world outside the node runs.
pub(crate) const OUTSIDE: &str = "/partywall-outside.slice/metadata.service";

/// The instance metadata service, and that of Pod Identity.
const METADATA: [&str; 4] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.170.23",
    "fd00:ec2::23",
];
const METADATA_PORT: u16 = 80;

pub(crate) struct Fabric {
    network: Network,
    services: Vec<ServicePort>,
    _metadata: Option<(WorkHandle, HostCgroup)>,
}

impl Fabric {
    /// `None`: the scenario needs none.
    pub(crate) fn create(scenario: &Scenario, cgroup_mount: &Path) -> Result<Option<Self>> {
        if !scenario.networked {
            return Ok(None);
        }
        let mut network = Network::create()?;
        let drops: Vec<DropRule> = scenario.drops.iter().map(|drop| drop.rule.clone()).collect();
        network.set_drops(&drops)?;
        let is_wanted = |address: IpAddr| METADATA.iter().any(|known| address.to_string() == *known);
        let wanted = scenario
            .all_work()
            .any(|timed| timed.work.to().is_some_and(is_wanted));
        let metadata = wanted
            .then(|| -> Result<_> {
                let mut host = HostCgroup::create(OUTSIDE, cgroup_mount)?;
                host.connect(network.connect_outside());
                let server = Work::TcpServe {
                    port: METADATA_PORT,
                    family: Family::Dual,
                };
                Ok((host.start(&server, None)?, host))
            })
            .transpose()?;
        Ok(Some(Self {
            network,
            services: Vec::new(),
            _metadata: metadata,
        }))
    }

    pub(crate) fn connect(&mut self, pod: &ScenarioPod) -> Result<PodLink> {
        Ok(if pod.spec.host_network {
            self.network.connect_to_node()
        } else {
            self.network.connect(&pod.addresses())?
        })
    }

    /// For work outside every pod.
    pub(crate) fn connect_host(&self) -> PodLink {
        self.network.connect_to_node()
    }

    pub(crate) fn set_services(&mut self, services: &[Service], running: &[&PodSpec]) -> Result<()> {
        let wanted = translations(services, running);
        if wanted != self.services {
            self.network.set_services(&wanted)?;
            self.services = wanted;
        }
        Ok(())
    }

    /// What each `[[drop]]` has dropped.
    pub(crate) fn dropped(&self) -> Result<Vec<Dropped>> {
        Ok(self.network.dropped()?)
    }
}
