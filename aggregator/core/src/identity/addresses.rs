//! Whose an address is, at a time.
//!
//! An address belongs to a pod's UID from when the pod is first seen with it until the pod is gone or in a terminal phase. Addresses are used again
//! within seconds, and objects arrive late, so every look-up names its moment. A host-network pod has none of its own: its node's address is the
//! node's, and who on the node it was, only the node's agent can tell. What two pods claim at once is nobody's.

#[allow(
    clippy::disallowed_types,
    reason = "looked up by address, never iterated where order shows"
)]
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Cluster;
use super::network::{Protocol, ServiceObject, ServicePort, TargetPort};
use crate::limits::{GONE_POD_KEPT_NS, MAX_GONE_PODS, NS_PER_S};

/// A pod's object may arrive this much after the pod's first packet, and its last packets may be told this much after it went.
const SLACK_NS: u64 = 5 * NS_PER_S;

/// Instance metadata services of EC2, and of most other clouds.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];
/// The EKS Pod Identity agent.
const POD_IDENTITY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// What an address is.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// UID.
    Pod(Arc<str>),
    /// Name.
    Node(Arc<str>),
    Service(Arc<Service>),
    Metadata,
    PodIdentity,
    Loopback,
    LinkLocal,
    Multicast,
    /// Nobody's in the cluster. `private`: of a range that clusters use, so its object may still be on the way.
    Outside {
        private: bool,
    },
    /// Two pods had it at that time, or a pod and a node.
    ClaimedTwice,
}

/// A Service's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub namespace: Box<str>,
    pub name: Box<str>,
    /// (protocol, port) → where it leads.
    pub ports: BTreeMap<(u8, u16), Vec<(IpAddr, u16)>>,
}

#[derive(Clone, Debug)]
struct Claim {
    uid: Arc<str>,
    from_ns: u64,
    /// `u64::MAX`: still.
    to_ns: u64,
}

/// Addresses by owner.
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types, reason = "see the import")]
pub struct Addresses {
    pods: HashMap<IpAddr, Vec<Claim>>,
    nodes: HashMap<IpAddr, Arc<str>>,
    by_node: BTreeMap<Arc<str>, Vec<IpAddr>>,
    services: HashMap<IpAddr, Arc<Service>>,
    /// (endpoint, protocol, its port) → addresses and ports of the Services before it.
    before: HashMap<(IpAddr, u8, u16), Vec<(IpAddr, u16)>>,
    loaded: bool,
}

impl Addresses {
    /// Takes over what a cluster source knows now.
    pub(super) fn set(&mut self, cluster: &Cluster, now_ns: u64) {
        // What was there before the first word of the cluster was there always.
        let from_ns = if self.loaded { now_ns } else { 0 };
        self.loaded |= !cluster.pods.is_empty();
        let mut live: BTreeSet<(IpAddr, &str)> = BTreeSet::new();
        for pod in cluster.pods.iter().filter(|p| !p.host_network && !p.terminal) {
            live.extend(pod.addresses.iter().map(|a| (a.to_canonical(), pod.uid.as_str())));
        }
        for (address, claims) in &mut self.pods {
            for claim in claims.iter_mut().filter(|c| c.to_ns == u64::MAX) {
                if !live.contains(&(*address, &*claim.uid)) {
                    claim.to_ns = now_ns;
                }
            }
        }
        for (address, uid) in live {
            let claims = self.pods.entry(address).or_default();
            if !claims.iter().any(|c| c.to_ns == u64::MAX && *c.uid == *uid) {
                claims.push(Claim {
                    uid: Arc::from(uid),
                    from_ns,
                    to_ns: u64::MAX,
                });
            }
        }
        self.forget(now_ns);
        self.nodes.clear();
        for node in &cluster.nodes {
            let name: Arc<str> = Arc::from(node.name.as_str());
            for address in &node.addresses {
                self.nodes.insert(address.to_canonical(), Arc::clone(&name));
            }
        }
        for pod in &cluster.pods {
            for address in &pod.host_addresses {
                let name = || Arc::from(pod.node.as_deref().unwrap_or_default());
                self.nodes.entry(address.to_canonical()).or_insert_with(name);
            }
        }
        self.by_node.clear();
        for (address, name) in &self.nodes {
            self.by_node.entry(Arc::clone(name)).or_default().push(*address);
        }
        for addresses in self.by_node.values_mut() {
            addresses.sort_unstable();
        }
        self.set_services(cluster);
    }

    /// Lets go of old claims; of too many the oldest.
    fn forget(&mut self, now_ns: u64) {
        let mut before_ns = now_ns.saturating_sub(GONE_POD_KEPT_NS);
        let ended = self.pods.values().flatten().filter(|c| c.to_ns != u64::MAX);
        let mut ends: Vec<u64> = ended.map(|c| c.to_ns).collect();
        if ends.len() > 2 * MAX_GONE_PODS {
            ends.sort_unstable();
            before_ns = before_ns.max(ends[ends.len() - 2 * MAX_GONE_PODS]);
        }
        self.pods.retain(|_, claims| {
            claims.retain(|c| c.to_ns > before_ns);
            !claims.is_empty()
        });
    }

    fn set_services(&mut self, cluster: &Cluster) {
        let mut slices: BTreeMap<(&str, &str), Vec<_>> = BTreeMap::new();
        for slice in &cluster.endpoint_slices {
            if let Some(service) = &slice.service {
                slices.entry((&slice.namespace, service)).or_default().push(slice);
            }
        }
        self.services.clear();
        self.before.clear();
        for object in &cluster.services {
            let mut ports = BTreeMap::new();
            let slices = slices.get(&(object.namespace.as_str(), object.name.as_str()));
            for port in &object.ports {
                let mut endpoints: Vec<(IpAddr, u16)> = Vec::new();
                for slice in slices.into_iter().flatten() {
                    let same = |p: &&super::network::ContainerPort| {
                        p.protocol == port.protocol
                            && p.name.as_deref().unwrap_or_default()
                                == port.name.as_deref().unwrap_or_default()
                    };
                    for number in slice.ports.iter().filter(same).map(|p| p.number) {
                        endpoints.extend(slice.addresses.iter().map(|a| (a.to_canonical(), number)));
                    }
                }
                if slices.is_none() {
                    endpoints = selected(cluster, object, port);
                }
                endpoints.sort_unstable();
                endpoints.dedup();
                ports.insert((number_of(port.protocol), port.port), endpoints);
            }
            let service = Arc::new(Service {
                namespace: object.namespace.as_str().into(),
                name: object.name.as_str().into(),
                ports,
            });
            for vip in object.cluster_ips.iter().chain(&object.external_ips) {
                let vip = vip.to_canonical();
                for ((protocol, port), endpoints) in &service.ports {
                    for (address, target) in endpoints {
                        let before = self.before.entry((*address, *protocol, *target)).or_default();
                        before.push((vip, *port));
                    }
                }
                self.services.insert(vip, Arc::clone(&service));
            }
        }
    }

    /// Whose `address` was at `at_ns` of the aggregator's monotonic clock.
    pub fn at(&self, address: IpAddr, at_ns: u64) -> Owner {
        let address = address.to_canonical();
        if METADATA.contains(&address) {
            return Owner::Metadata;
        }
        if POD_IDENTITY.contains(&address) {
            return Owner::PodIdentity;
        }
        if address.is_loopback() {
            return Owner::Loopback;
        }
        let node = self.nodes.get(&address);
        match (self.pod_at(address, at_ns), node) {
            (Some(Ok(uid)), None) => return Owner::Pod(uid),
            (Some(_), _) => return Owner::ClaimedTwice,
            (None, Some(node)) => return Owner::Node(Arc::clone(node)),
            (None, None) => {}
        }
        if let Some(service) = self.services.get(&address) {
            return Owner::Service(Arc::clone(service));
        }
        unowned(address)
    }

    /// `Err`: more than one pod had it. `None`: none.
    fn pod_at(&self, address: IpAddr, at_ns: u64) -> Option<Result<Arc<str>, ()>> {
        let claims = self.pods.get(&address)?;
        let distance = |c: &Claim| {
            if at_ns < c.from_ns {
                c.from_ns - at_ns
            } else {
                at_ns.saturating_sub(c.to_ns.saturating_sub(1))
            }
        };
        let nearest = claims.iter().map(distance).min().filter(|d| *d <= SLACK_NS)?;
        // Those that have it at that time all count; of those that came after or went before, any other is one too many.
        let reach = if nearest == 0 { 0 } else { SLACK_NS };
        let mut owners = claims.iter().filter(|c| distance(c) <= reach);
        let first = owners.next()?;
        Some(if owners.all(|c| c.uid == first.uid) {
            Ok(Arc::clone(&first.uid))
        } else {
            Err(())
        })
    }

    /// Addresses of one node.
    pub fn of_node<'a>(&'a self, name: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let own = self.by_node.get(name).into_iter().flatten();
        own.copied()
    }

    /// Addresses and ports of Services that lead to this endpoint.
    pub fn before(&self, address: IpAddr, protocol: u8, port: u16) -> &[(IpAddr, u16)] {
        self.before
            .get(&(address, protocol, port))
            .map_or(&[], Vec::as_slice)
    }

    /// Where a Service's address and port lead; `None`: it is no Service's.
    pub fn behind(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&[(IpAddr, u16)]> {
        let service = self.services.get(&address)?;
        Some(service.ports.get(&(protocol, port)).map_or(&[], Vec::as_slice))
    }
}

fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Other(number) => number,
    }
}

/// Endpoints by the Service's selector, where no EndpointSlice tells them.
fn selected(cluster: &Cluster, service: &ServiceObject, port: &ServicePort) -> Vec<(IpAddr, u16)> {
    if service.selector.is_empty() {
        return Vec::new();
    }
    let pods = cluster.pods.iter().filter(|p| {
        p.namespace == service.namespace
            && !p.terminal
            && !p.host_network
            && service.selector.iter().all(|(k, v)| p.labels.get(k) == Some(v))
    });
    let mut out = Vec::new();
    for pod in pods {
        let mut ports = pod.containers.iter().flat_map(|c| &c.ports);
        let number = match &port.target {
            TargetPort::Number(0) => Some(port.port),
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => ports
                .find(|p| p.protocol == port.protocol && p.name.as_ref() == Some(name))
                .map(|p| p.number),
        };
        let addresses = pod.addresses.iter().map(IpAddr::to_canonical);
        out.extend(
            number
                .into_iter()
                .flat_map(|n| addresses.clone().map(move |a| (a, n))),
        );
    }
    out
}

fn unowned(address: IpAddr) -> Owner {
    let (link_local, multicast, private) = match address {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            let shared = first == 100 && (64..128).contains(&second);
            (
                a.is_link_local(),
                a.is_multicast() || a.is_broadcast(),
                a.is_private() || shared,
            )
        }
        IpAddr::V6(a) => (a.is_unicast_link_local(), a.is_multicast(), a.is_unique_local()),
    };
    if link_local {
        Owner::LinkLocal
    } else if multicast {
        Owner::Multicast
    } else {
        Owner::Outside { private }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PodObject;
    use crate::identity::network::{EndpointSliceObject, NodeObject};

    const S: u64 = NS_PER_S;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pod(uid: &str, addresses: &[&str]) -> PodObject {
        PodObject {
            uid: uid.into(),
            namespace: "ns".into(),
            name: uid.into(),
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            ..PodObject::default()
        }
    }

    fn set(addresses: &mut Addresses, pods: Vec<PodObject>, at_s: u64) {
        let cluster = Cluster {
            pods,
            ..Cluster::default()
        };
        addresses.set(&cluster, at_s * S);
    }

    #[test]
    fn an_address_is_a_pods_from_its_start_to_its_end() {
        let mut a = Addresses::default();
        set(&mut a, vec![pod("one", &["10.0.0.1", "fd00::1"])], 100);
        assert_eq!(
            a.at(ip("10.0.0.1"), 0),
            Owner::Pod("one".into()),
            "there before us"
        );
        assert_eq!(
            a.at(ip("fd00::1"), 100 * S),
            Owner::Pod("one".into()),
            "dual stack"
        );
        assert_eq!(a.at(ip("::ffff:10.0.0.1"), 100 * S), Owner::Pod("one".into()));
        let mut done = pod("one", &["10.0.0.1"]);
        done.terminal = true;
        set(&mut a, vec![done.clone()], 200);
        set(&mut a, vec![done, pod("two", &["10.0.0.1"])], 220);
        for (at_s, uid) in [
            (150, "one"),
            (199, "one"),
            (203, "one"),
            (216, "two"),
            (400, "two"),
        ] {
            assert_eq!(a.at(ip("10.0.0.1"), at_s * S), Owner::Pod(uid.into()), "{at_s}");
        }
        let nobody = Owner::Outside { private: true };
        assert_eq!(a.at(ip("10.0.0.1"), 210 * S), nobody);
        set(&mut a, Vec::new(), 600);
        assert_eq!(a.at(ip("10.0.0.1"), 650 * S), nobody);
        set(&mut a, Vec::new(), 1_000);
        assert_eq!(a.at(ip("10.0.0.1"), 400 * S), nobody, "long gone");
    }

    #[test]
    fn what_two_claim_is_nobodys() {
        let mut a = Addresses::default();
        set(&mut a, vec![pod("one", &["10.0.0.1"])], 100);
        set(
            &mut a,
            vec![pod("one", &["10.0.0.1"]), pod("two", &["10.0.0.1"])],
            110,
        );
        assert_eq!(a.at(ip("10.0.0.1"), 109 * S), Owner::Pod("one".into()));
        assert_eq!(a.at(ip("10.0.0.1"), 111 * S), Owner::ClaimedTwice);
        set(&mut a, vec![pod("two", &["10.0.0.1"])], 120);
        assert_eq!(a.at(ip("10.0.0.1"), 121 * S), Owner::Pod("two".into()));
    }

    #[test]
    fn special_addresses_and_host_network() {
        let mut a = Addresses::default();
        let mut host = pod("host", &[]);
        host.host_network = true;
        host.node = Some("node-a".into());
        host.addresses = vec![ip("192.168.0.1")];
        host.host_addresses = host.addresses.clone();
        let cluster = Cluster {
            pods: vec![host],
            nodes: vec![NodeObject {
                name: "node-b".into(),
                addresses: vec![ip("192.168.0.2")],
            }],
            ..Cluster::default()
        };
        a.set(&cluster, 0);
        for (address, owner) in [
            ("192.168.0.1", Owner::Node("node-a".into())),
            ("192.168.0.2", Owner::Node("node-b".into())),
            ("169.254.169.254", Owner::Metadata),
            ("fd00:ec2::254", Owner::Metadata),
            ("169.254.170.23", Owner::PodIdentity),
            ("fd00:ec2::23", Owner::PodIdentity),
            ("127.0.0.53", Owner::Loopback),
            ("::1", Owner::Loopback),
            ("169.254.20.10", Owner::LinkLocal),
            ("fe80::1", Owner::LinkLocal),
            ("224.0.0.1", Owner::Multicast),
            ("ff02::1", Owner::Multicast),
            ("100.64.3.1", Owner::Outside { private: true }),
            ("fd00::7", Owner::Outside { private: true }),
            ("8.8.8.8", Owner::Outside { private: false }),
        ] {
            assert_eq!(a.at(ip(address), 0), owner, "{address}");
        }
    }

    #[test]
    fn a_service_leads_to_its_endpoints() {
        let mut a = Addresses::default();
        let mut labelled = pod("one", &["10.0.0.1", "fd00::1"]);
        labelled.labels = Arc::new(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
        let service = |name: &str, vip: &str| ServiceObject {
            namespace: "ns".into(),
            name: name.into(),
            cluster_ips: vec![ip(vip)],
            selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            ports: vec![ServicePort {
                port: 80,
                target: TargetPort::Number(8080),
                ..ServicePort::default()
            }],
            ..ServiceObject::default()
        };
        let cluster = Cluster {
            pods: vec![labelled],
            services: vec![
                service("by-slice", "10.96.0.1"),
                service("by-selector", "10.96.0.2"),
            ],
            endpoint_slices: vec![EndpointSliceObject {
                namespace: "ns".into(),
                name: "by-slice-1".into(),
                service: Some("by-slice".into()),
                addresses: vec![ip("10.0.0.9")],
                ports: vec![super::super::network::ContainerPort {
                    number: 9090,
                    ..Default::default()
                }],
            }],
            ..Cluster::default()
        };
        a.set(&cluster, 0);
        assert_eq!(
            a.behind(ip("10.96.0.1"), 6, 80),
            Some(&[(ip("10.0.0.9"), 9090)][..])
        );
        assert_eq!(
            a.behind(ip("10.96.0.2"), 6, 80),
            Some(&[(ip("10.0.0.1"), 8080), (ip("fd00::1"), 8080)][..])
        );
        assert_eq!(
            a.behind(ip("10.96.0.2"), 17, 80),
            Some(&[][..]),
            "another protocol"
        );
        assert_eq!(a.behind(ip("10.96.0.3"), 6, 80), None);
        assert_eq!(a.before(ip("10.0.0.9"), 6, 9090), [(ip("10.96.0.1"), 80)]);
        let Owner::Service(owner) = a.at(ip("10.96.0.1"), 0) else {
            panic!("no service")
        };
        assert_eq!(&*owner.name, "by-slice");
    }
}
