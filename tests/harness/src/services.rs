//! What kube-proxy and the endpoint controller make of Services and pods.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use partywall_workload::{
    PodSpec, ServicePort,
    manifest::{EndpointPort, endpoint_slice_yaml},
};

use crate::{
    manifests::{Port, Service, Target},
    processes::NODE,
};

/// Pods of a Service that have the same ports.
struct Group<'p> {
    ports: Vec<EndpointPort>,
    members: Vec<(&'p PodSpec, IpAddr)>,
}

/// The translations of every Service, with those of `running` pods that are its backends.
pub(crate) fn translations(services: &[Service], running: &[&PodSpec]) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for service in services {
        let pods = selected(service, running);
        for address in &service.addresses {
            for port in &service.ports {
                let backends = pods.iter().filter_map(|pod| {
                    Some(SocketAddr::new(
                        address_of(pod, address.is_ipv4())?,
                        target(port, pod)?,
                    ))
                });
                ports.push(ServicePort {
                    address: SocketAddr::new(*address, port.port),
                    transport: port.transport,
                    backends: backends.collect(),
                });
            }
        }
    }
    ports
}

/// EndpointSlice objects by name: one for each family of a Service and each set of ports that its pods have.
pub(crate) fn endpoint_slices(
    services: &[Service],
    running: &[&PodSpec],
) -> Result<BTreeMap<String, String>> {
    let mut slices = BTreeMap::new();
    for service in services {
        let pods = selected(service, running);
        // A headless Service without a family of its own has IPv4's.
        let families = [true, false].into_iter().filter(|ipv4| {
            service.addresses.iter().any(|address| address.is_ipv4() == *ipv4)
                || (*ipv4 && service.addresses.is_empty())
        });
        for is_ipv4 in families {
            let mut groups: Vec<Group<'_>> = Vec::new();
            for &pod in &pods {
                let Some(address) = address_of(pod, is_ipv4) else {
                    continue;
                };
                let ports = endpoint_ports(service, pod);
                match groups.iter_mut().find(|group| group.ports == ports) {
                    Some(group) => group.members.push((pod, address)),
                    None => groups.push(Group {
                        ports,
                        members: vec![(pod, address)],
                    }),
                }
            }
            for (number, Group { ports, members }) in groups.iter().enumerate() {
                let family = if is_ipv4 { "ipv4" } else { "ipv6" };
                let name = format!("{}-{family}-{number}", service.name);
                let whose = (&*service.namespace, &*service.name);
                let yaml = endpoint_slice_yaml(whose, &name, NODE, members, ports)?;
                slices.insert(format!("{}-{name}", service.namespace), yaml);
            }
        }
    }
    Ok(slices)
}

fn selected<'p>(service: &Service, running: &[&'p PodSpec]) -> Vec<&'p PodSpec> {
    let matches = |pod: &PodSpec| {
        let wanted = |(key, value)| pod.labels.get(key) == Some(value);
        // No selector is not an empty one: somebody else fills such a Service.
        !service.selector.is_empty() && service.selector.iter().all(wanted)
    };
    running
        .iter()
        .copied()
        .filter(|pod| pod.namespace == service.namespace && matches(pod))
        .collect()
}

fn address_of(pod: &PodSpec, is_ipv4: bool) -> Option<IpAddr> {
    let mut addresses = pod.pod_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
    addresses.find(|address| address.is_ipv4() == is_ipv4)
}

/// The pod's own number of a Service's port; `None`: it has no port of that name.
fn target(port: &Port, pod: &PodSpec) -> Option<u16> {
    match &port.target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod
            .ports
            .iter()
            .find(|own| own.name == *name && own.transport == port.transport)
            .map(|own| own.port),
    }
}

fn endpoint_ports(service: &Service, pod: &PodSpec) -> Vec<EndpointPort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone(),
            port: target(port, pod)?,
            transport: port.transport,
        })
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::Documents;
    use partywall_workload::{ContainerPort, Transport};

    fn pod(name: &str, number: u8, app: &str, http: u16) -> PodSpec {
        PodSpec {
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            pod_ips: vec![format!("10.244.0.{number}"), format!("fd00::{number}")],
            ports: vec![ContainerPort {
                name: "http".to_owned(),
                port: http,
                transport: Transport::Tcp,
            }],
            ..PodSpec::new("blue", name)
        }
    }

    #[test]
    fn pods_of_the_selector_serve_under_the_names_of_their_own_ports() {
        let text = "\
kind: Service
metadata: { name: web, namespace: blue }
spec:
  clusterIPs: [10.96.0.10, \"fd00:96::10\"]
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
";
        let services = Documents::parse(text).unwrap().services().unwrap();
        let (one, two, other) = (
            pod("one", 2, "web", 8080),
            pod("two", 3, "web", 9090),
            pod("other", 4, "db", 8080),
        );
        let running = [&one, &two, &other];
        let ports = translations(&services, &running);
        assert_eq!(ports.len(), 2);
        let backends: Vec<String> = ports[1].backends.iter().map(SocketAddr::to_string).collect();
        assert_eq!(backends, ["[fd00::2]:8080", "[fd00::3]:9090"]);
        let slices = endpoint_slices(&services, &running).unwrap();
        let names: Vec<&String> = slices.keys().collect();
        assert_eq!(
            names,
            [
                "blue-web-ipv4-0",
                "blue-web-ipv4-1",
                "blue-web-ipv6-0",
                "blue-web-ipv6-1"
            ]
        );
        assert!(slices["blue-web-ipv4-1"].contains("10.244.0.3"));
        assert!(translations(&services, &[&other])[0].backends.is_empty());
    }
}
