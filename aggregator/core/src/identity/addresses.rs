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

use super::network::{ContainerPort, EndpointSliceObject, Protocol, ServiceObject, ServicePort, TargetPort};
use super::{Cluster, PodObject};
use crate::limits::{GONE_POD_KEPT_NS, MAX_GONE_PODS, MAX_SERVICE_ADDRESSES, MAX_SERVICE_ROUTES, NS_PER_S};

/// A pod's object may arrive this much after the pod's first packet, and its last packets may be told this much after it went.
const SLACK_NS: u64 = 5 * NS_PER_S;

/// Instance metadata services of EC2, and of most other clouds.
pub(crate) const METADATA: [IpAddr; 2] = [
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
    /// Two pods had it at that time, or a pod and a node; or Services of several namespaces name it.
    ClaimedTwice,
}

/// A Service with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub namespace: Box<str>,
    pub name: Box<str>,
    /// Given to it by the API server: nobody else's.
    cluster_ips: Vec<IpAddr>,
    /// Anybody may name any: several Services may share one.
    external_ips: Vec<IpAddr>,
    /// (protocol, port) → where it leads, IPv4 first.
    ports: BTreeMap<(u8, u16), Vec<(IpAddr, u16)>>,
}

impl Service {
    /// Where a port leads that was reached at `address`: to endpoints of its family. `None`: it has no such port.
    fn behind(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&[(IpAddr, u16)]> {
        let all = self.ports.get(&(protocol, port))?;
        let (v4, v6) = all.split_at(all.partition_point(|(a, _)| a.is_ipv4()));
        Some(if address.is_ipv4() { v4 } else { v6 })
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        self.cluster_ips.iter().chain(&self.external_ips).copied()
    }
}

#[derive(Clone, Debug)]
struct Claim {
    uid: Arc<str>,
    from_ns: u64,
    /// `u64::MAX`: still.
    to_ns: u64,
}

/// Address, protocol, its own port.
type Endpoint = (IpAddr, u8, u16);

/// Addresses by owner.
#[derive(Clone, Debug, Default)]
#[allow(clippy::disallowed_types, reason = "see the import")]
pub struct Addresses {
    pods: HashMap<IpAddr, Vec<Claim>>,
    nodes: HashMap<IpAddr, Arc<str>>,
    by_node: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Whose ClusterIP it is first, then by namespace and name.
    services: HashMap<IpAddr, Vec<Arc<Service>>>,
    /// Services before an endpoint, and their ports.
    before: HashMap<Endpoint, Vec<(Arc<Service>, u16)>>,
    /// Services that found no room when the cluster was taken over last.
    turned_away: u64,
    loaded: bool,
}

impl Addresses {
    /// Takes over what a cluster source knows now; `known` gives a pod's UID as others have it. Returns how many more Services found no room
    /// than before.
    pub(super) fn set(&mut self, cluster: &Cluster, known: impl Fn(&str) -> Arc<str>, now_ns: u64) -> u64 {
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
            let mut still = claims.iter_mut().filter(|c| c.to_ns == u64::MAX);
            if let Some(claim) = still.find(|c| *c.uid == *uid) {
                claim.uid = known(uid);
                continue;
            }
            // Nearly every address has one.
            claims.reserve_exact(1);
            claims.push(Claim {
                uid: known(uid),
                from_ns,
                to_ns: u64::MAX,
            });
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
        let before = self.turned_away;
        self.set_services(cluster);
        self.turned_away.saturating_sub(before)
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

    /// A tenant chooses ports, endpoints and addresses of its Services: what is kept is their sum, never their product. The smallest come first,
    /// so that a huge one is not in the way of others.
    fn set_services(&mut self, cluster: &Cluster) {
        let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSliceObject>> = BTreeMap::new();
        for slice in &cluster.endpoint_slices {
            if let Some(service) = &slice.service {
                slices.entry((&slice.namespace, service)).or_default().push(slice);
            }
        }
        let routes_of = |object: &'_ ServiceObject| {
            let slices = slices.get(&(object.namespace.as_str(), object.name.as_str()));
            let endpoints = match slices {
                Some(slices) => slices.iter().map(|s| s.addresses.len()).sum(),
                None => selected(cluster, object)
                    .map(|p| p.addresses.len())
                    .sum::<usize>(),
            };
            endpoints * object.ports.len()
        };
        let mut objects: Vec<_> = cluster.services.iter().map(|o| (routes_of(o), o)).collect();
        objects.sort_by_key(|(routes, o)| (*routes, &o.namespace, &o.name));
        self.services.clear();
        self.before.clear();
        self.turned_away = 0;
        let mut room = MAX_SERVICE_ROUTES;
        for (routes, object) in objects {
            let fits = routes <= room
                && object.cluster_ips.len() + object.external_ips.len() <= MAX_SERVICE_ADDRESSES;
            let ports = if fits {
                room -= routes;
                let slices = slices.get(&(object.namespace.as_str(), object.name.as_str()));
                leads(cluster, object, slices.map(Vec::as_slice))
            } else {
                // It is known, and leads nowhere: nothing is concluded of what goes through it.
                self.turned_away += 1;
                BTreeMap::new()
            };
            let own = |ips: &[IpAddr]| {
                let ips = ips.iter().take(MAX_SERVICE_ADDRESSES);
                ips.map(IpAddr::to_canonical).collect()
            };
            self.add_service(Service {
                namespace: object.namespace.as_str().into(),
                name: object.name.as_str().into(),
                cluster_ips: own(&object.cluster_ips),
                external_ips: own(&object.external_ips),
                ports,
            });
        }
        for (address, services) in &mut self.services {
            services.sort_by_key(|s| {
                (
                    !s.cluster_ips.contains(address),
                    s.namespace.clone(),
                    s.name.clone(),
                )
            });
            services.dedup();
        }
    }

    fn add_service(&mut self, service: Service) {
        let service = Arc::new(service);
        for ((protocol, port), endpoints) in &service.ports {
            for (address, target) in endpoints {
                let before = self.before.entry((*address, *protocol, *target)).or_default();
                before.push((Arc::clone(&service), *port));
            }
        }
        for address in service.addresses() {
            self.services
                .entry(address)
                .or_default()
                .push(Arc::clone(&service));
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
        let services = self.services.get(&address).map_or(&[][..], Vec::as_slice);
        match services {
            [] => unowned(address),
            [first, others @ ..]
                if first.cluster_ips.contains(&address)
                    || others.iter().all(|s| s.namespace == first.namespace) =>
            {
                Owner::Service(Arc::clone(first))
            }
            _ => Owner::ClaimedTwice,
        }
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
    pub fn before(
        &self,
        address: IpAddr,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = (IpAddr, u16)> + Clone {
        let services = self.before.get(&(address, protocol, port)).into_iter().flatten();
        services.flat_map(move |(service, port)| {
            let vips = service
                .addresses()
                .filter(move |a| a.is_ipv4() == address.is_ipv4());
            vips.map(move |a| (a, *port))
        })
    }

    /// Where a Service's address and port lead; `None`: it is no Service's. Of several at that address, the first that has the port.
    pub fn behind(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&[(IpAddr, u16)]> {
        let services = self.services.get(&address)?;
        let leads = services.iter().find_map(|s| s.behind(address, protocol, port));
        Some(leads.unwrap_or_default())
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

/// (protocol, port) → endpoints, in order.
fn leads(
    cluster: &Cluster,
    object: &ServiceObject,
    slices: Option<&[&EndpointSliceObject]>,
) -> BTreeMap<(u8, u16), Vec<(IpAddr, u16)>> {
    let mut ports = BTreeMap::new();
    for port in &object.ports {
        let mut endpoints: Vec<(IpAddr, u16)> = Vec::new();
        for slice in slices.into_iter().flatten() {
            let same = |p: &&ContainerPort| {
                p.protocol == port.protocol
                    && p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
            };
            for number in slice.ports.iter().filter(same).map(|p| p.number) {
                endpoints.extend(slice.addresses.iter().map(|a| (a.to_canonical(), number)));
            }
        }
        if slices.is_none() {
            for pod in selected(cluster, object) {
                let number = target(port, pod);
                endpoints.extend(
                    number
                        .into_iter()
                        .flat_map(|n| pod.addresses.iter().map(move |a| (a.to_canonical(), n))),
                );
            }
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        ports.insert((number_of(port.protocol), port.port), endpoints);
    }
    ports
}

/// Pods by the Service's selector, where no EndpointSlice tells them.
fn selected<'a>(cluster: &'a Cluster, service: &'a ServiceObject) -> impl Iterator<Item = &'a PodObject> {
    cluster.pods.iter().map(|pod| &**pod).filter(|p| {
        !service.selector.is_empty()
            && p.namespace == service.namespace
            && !p.terminal
            && !p.host_network
            && service.selector.iter().all(|(k, v)| p.labels.get(k) == Some(v))
    })
}

/// The port of a pod that a Service's leads to.
fn target(port: &ServicePort, pod: &PodObject) -> Option<u16> {
    match &port.target {
        TargetPort::Number(0) => Some(port.port),
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let mut ports = pod.containers.iter().flat_map(|c| &c.ports);
            ports
                .find(|p| p.protocol == port.protocol && p.name.as_ref() == Some(name))
                .map(|p| p.number)
        }
    }
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
    use crate::identity::network::NodeObject;

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

    fn as_given(uid: &str) -> Arc<str> {
        Arc::from(uid)
    }

    fn set(addresses: &mut Addresses, pods: Vec<PodObject>, at_s: u64) {
        let cluster = Cluster {
            pods: pods.into_iter().map(Arc::new).collect(),
            ..Cluster::default()
        };
        addresses.set(&cluster, as_given, at_s * S);
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
        set(&mut a, Vec::new(), 4_000);
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
            pods: vec![host.into()],
            nodes: vec![NodeObject {
                name: "node-b".into(),
                addresses: vec![ip("192.168.0.2")],
                ..NodeObject::default()
            }],
            ..Cluster::default()
        };
        a.set(&cluster, as_given, 0);
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
            pods: vec![labelled.into()],
            services: vec![
                service("by-slice", "10.96.0.1"),
                service("by-selector", "10.96.0.2"),
            ],
            endpoint_slices: vec![EndpointSliceObject {
                namespace: "ns".into(),
                name: "by-slice-1".into(),
                service: Some("by-slice".into()),
                addresses: vec![ip("10.0.0.9")],
                ports: vec![ContainerPort {
                    number: 9090,
                    ..Default::default()
                }],
            }],
            ..Cluster::default()
        };
        a.set(&cluster, as_given, 0);
        assert_eq!(
            a.behind(ip("10.96.0.1"), 6, 80),
            Some(&[(ip("10.0.0.9"), 9090)][..])
        );
        assert_eq!(
            a.behind(ip("10.96.0.2"), 6, 80),
            Some(&[(ip("10.0.0.1"), 8080)][..]),
            "of its family"
        );
        assert_eq!(
            a.behind(ip("10.96.0.2"), 17, 80),
            Some(&[][..]),
            "another protocol"
        );
        assert_eq!(a.behind(ip("10.96.0.3"), 6, 80), None);
        let before: Vec<_> = a.before(ip("10.0.0.9"), 6, 9090).collect();
        assert_eq!(before, [(ip("10.96.0.1"), 80)]);
        let Owner::Service(owner) = a.at(ip("10.96.0.1"), 0) else {
            panic!("no service")
        };
        assert_eq!(&*owner.name, "by-slice");
    }

    /// A Service of `ports` to one pod each, `to`'s.
    fn external(namespace: &str, name: &str, vips: &[&str], ports: &[u16], to: &str) -> ServiceObject {
        ServiceObject {
            namespace: namespace.into(),
            name: name.into(),
            external_ips: vips.iter().map(|a| ip(a)).collect(),
            selector: BTreeMap::from([("app".to_owned(), to.to_owned())]),
            ports: ports
                .iter()
                .map(|port| ServicePort {
                    port: *port,
                    ..ServicePort::default()
                })
                .collect(),
            ..ServiceObject::default()
        }
    }

    fn labelled(namespace: &str, app: &str, addresses: &[&str]) -> PodObject {
        PodObject {
            namespace: namespace.into(),
            labels: Arc::new(BTreeMap::from([("app".to_owned(), app.to_owned())])),
            ..pod(app, addresses)
        }
    }

    #[test]
    fn services_that_share_an_address_are_told_apart_by_port_and_namespace() {
        let mut a = Addresses::default();
        let mut cluster = Cluster {
            pods: vec![
                labelled("ns", "one", &["10.0.0.1", "fd00::1"]).into(),
                labelled("ns", "two", &["10.0.0.2"]).into(),
                labelled("other", "three", &["10.0.0.3"]).into(),
            ],
            services: vec![
                external("ns", "a", &["203.0.113.1", "fd01::1"], &[80], "one"),
                external("ns", "b", &["203.0.113.1"], &[81], "two"),
            ],
            ..Cluster::default()
        };
        let name = |a: &Addresses, address| match a.at(ip(address), 0) {
            Owner::Service(service) => service.name.to_string(),
            other => format!("{other:?}"),
        };
        for turn in 0..2 {
            a.set(&cluster, as_given, 0);
            assert_eq!(
                a.behind(ip("203.0.113.1"), 6, 80),
                Some(&[(ip("10.0.0.1"), 80)][..]),
                "{turn}"
            );
            assert_eq!(
                a.behind(ip("203.0.113.1"), 6, 81),
                Some(&[(ip("10.0.0.2"), 81)][..]),
                "{turn}"
            );
            assert_eq!(name(&a, "203.0.113.1"), "a");
            cluster.services.reverse();
        }
        // Both families, each by its own.
        assert_eq!(a.behind(ip("fd01::1"), 6, 80), Some(&[(ip("fd00::1"), 80)][..]));
        let before: Vec<_> = a.before(ip("fd00::1"), 6, 80).collect();
        assert_eq!(before, [(ip("fd01::1"), 80)]);
        // Another namespace names it too.
        cluster.services.push(external(
            "other",
            "c",
            &["203.0.113.1", "10.96.0.9"],
            &[82],
            "three",
        ));
        a.set(&cluster, as_given, 0);
        assert_eq!(name(&a, "203.0.113.1"), "ClaimedTwice");
        assert_eq!(
            a.behind(ip("203.0.113.1"), 6, 82),
            Some(&[(ip("10.0.0.3"), 82)][..])
        );
        // What the API server gave away is not to be had by naming it.
        let mut own = external("ns", "z", &[], &[82], "one");
        own.cluster_ips = vec![ip("10.96.0.9")];
        cluster.services.push(own);
        a.set(&cluster, as_given, 0);
        assert_eq!(name(&a, "10.96.0.9"), "z");
        assert_eq!(
            a.behind(ip("10.96.0.9"), 6, 82),
            Some(&[(ip("10.0.0.1"), 82)][..])
        );
    }

    #[test]
    fn a_service_of_many_ports_endpoints_and_addresses_is_bounded() {
        let mut a = Addresses::default();
        let ports: Vec<u16> = (1..=1_000).collect();
        let pods = (0..100).map(|i| labelled("ns", "many", &[&format!("10.0.0.{i}")]));
        let vips: Vec<String> = (0..MAX_SERVICE_ADDRESSES)
            .map(|i| format!("203.0.{}.{}", i / 256, i % 256))
            .collect();
        let mut vips: Vec<&str> = vips.iter().map(String::as_str).collect();
        let mut cluster = Cluster {
            pods: pods
                .chain([labelled("ns", "few", &["10.0.1.1"])])
                .map(Arc::new)
                .collect(),
            services: vec![
                external("ns", "a-many", &vips, &ports, "many"),
                external("ns", "few", &["198.51.100.1"], &[80], "few"),
            ],
            ..Cluster::default()
        };
        assert_eq!(a.set(&cluster, as_given, 0), 0);
        let kept: usize = a.before.values().map(Vec::len).sum();
        assert_eq!(kept, 1_000 * 100 + 1, "not times 256");
        // Three of them do not fit; the small one does, whatever it is called.
        for name in ["b-many", "c-many"] {
            cluster
                .services
                .push(external("ns", name, &["203.0.2.1"], &ports, "many"));
        }
        assert_eq!(a.set(&cluster, as_given, 0), 1);
        assert_eq!(a.set(&cluster, as_given, 0), 0, "told once");
        assert_eq!(
            a.behind(ip("198.51.100.1"), 6, 80),
            Some(&[(ip("10.0.1.1"), 80)][..])
        );
        // Too many addresses: it leads nowhere.
        vips.push("203.0.3.1");
        cluster.services = vec![external("ns", "a", &vips, &[80], "few")];
        a.set(&Cluster::default(), as_given, 0);
        assert_eq!(a.set(&cluster, as_given, 0), 1);
        assert_eq!(a.behind(ip("203.0.0.1"), 6, 80), Some(&[][..]));
    }
}
