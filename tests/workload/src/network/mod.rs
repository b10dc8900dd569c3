//! A node's network without a CNI: pods in namespaces of their own, each connected to the node's by a veth pair and reached
//! over a host route. So everything between two pods is forwarded by the node, where nftables sees it.
//!
//! Nothing of it is in the machine's own network: the node is a namespace too, and the world outside it another.

mod command;
mod link;
mod netns;
mod rules;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

pub use link::PodLink;
pub use netns::NetNs;
pub(crate) use netns::enter;
pub use rules::{DropRule, Dropped, ServicePort, Transport};

use crate::Error;

/// The node's own addresses.
pub const NODE_IPV4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
pub const NODE_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10);

/// The node's device that leads outside.
const OUTSIDE: &str = "outside";

/// Static neighbours everywhere: nobody has to ask who has an address, so no packet is there but the pods' own.
const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// For every namespace.
const SETTINGS: [(&str, &str); 8] = [
    // Echo requests without a raw socket, for every group.
    ("ipv4/ping_group_range", "0 2147483647"),
    // One client may open hundreds of connections a second for minutes.
    ("ipv4/ip_local_port_range", "10240 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    // Whatever the machine was booted with.
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    // No address of its own making, and no router to be asked for: see GATEWAY.
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// For those that forward. A spoofed source address gets through unless a scenario's drop is in its way.
const ROUTER: [(&str, &str); 7] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // A pod that reaches itself through the node is no mistake.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    // Closed ports of the node answer a scan as fast as they are asked.
    ("ipv4/icmp_ratelimit", "0"),
];

/// A node's network. Gone when it, every [`PodLink`] and every process in it are.
#[derive(Debug)]
pub struct Network {
    node: NetNs,
    outside: NetNs,
    /// Links made so far: they number devices.
    links: u16,
    drops: usize,
}

impl Network {
    /// The node, and a world outside in which every address answers: echo requests with replies, connections with what
    /// listens on any address there.
    pub fn create() -> Result<Self, Error> {
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Err(Error::NoIpv6);
        }
        let (node, outside) = (NetNs::create()?, NetNs::create()?);
        node.set(&SETTINGS)?;
        node.set(&ROUTER)?;
        outside.set(&SETTINGS)?;
        outside.set(&ROUTER)?;
        // The gateways' addresses are nobody's: a route needs a neighbour, not an owner.
        let (near, far) = ("02:50:57:ff:00:01", "02:50:57:ff:00:02");
        node.ip(&format!(
            "link set lo up\n\
             addr add {NODE_IPV4}/32 dev lo\n\
             addr add {NODE_IPV6}/128 dev lo nodad\n\
             link add {OUTSIDE} address {near} type veth peer name node address {far} netns {}\n\
             link set {OUTSIDE} up\n\
             neigh add {GATEWAY_IPV4} lladdr {far} dev {OUTSIDE} nud permanent\n\
             neigh add {GATEWAY_IPV6} lladdr {far} dev {OUTSIDE} nud permanent\n\
             route add default via {GATEWAY_IPV4} dev {OUTSIDE} onlink src {NODE_IPV4}\n\
             route add ::/0 via {GATEWAY_IPV6} dev {OUTSIDE} src {NODE_IPV6}\n",
            outside.path().display()
        ))?;
        outside.ip(&format!(
            "link set lo up\n\
             link set node up\n\
             neigh add {NODE_IPV4} lladdr {near} dev node nud permanent\n\
             neigh add {NODE_IPV6} lladdr {near} dev node nud permanent\n\
             route add {NODE_IPV4}/32 dev node\n\
             route add {NODE_IPV6}/128 dev node\n\
             route add local default dev lo table main\n\
             route add local ::/0 dev lo table main\n"
        ))?;
        let mut network = Self {
            node,
            outside,
            links: 0,
            drops: 0,
        };
        network.set_services(&[])?;
        network.set_drops(&[])?;
        Ok(network)
    }

    /// The package of a program that networks are made with and that this machine lacks, if it does.
    pub fn lacks_package() -> Option<&'static str> {
        [command::IP, command::NFT].into_iter().find_map(command::lacks)
    }

    /// Connects a pod that has these addresses, one of each family at most. The pod that had them before must be gone.
    pub fn connect(&mut self, addresses: &[IpAddr]) -> Result<PodLink, Error> {
        self.links = self.links.wrapping_add(1);
        PodLink::create(&self.node, self.links, addresses)
    }

    /// A pod in the node's own network, or a daemon of the node.
    pub fn connect_to_node(&self) -> PodLink {
        PodLink::shared(&self.node)
    }

    /// What answers from outside the node, whatever its address.
    pub fn connect_outside(&self) -> PodLink {
        PodLink::shared(&self.outside)
    }

    /// For commands that look into it.
    pub fn node(&self) -> &NetNs {
        &self.node
    }

    /// These Services and no others. What was connected before stays connected as it was.
    pub fn set_services(&mut self, ports: &[ServicePort]) -> Result<(), Error> {
        let own = [NODE_IPV4.into(), NODE_IPV6.into()];
        self.node.nft(&rules::services(ports, &own, OUTSIDE))
    }

    /// These drops and no others. Counts begin at zero.
    pub fn set_drops(&mut self, drops: &[DropRule]) -> Result<(), Error> {
        self.node.nft(&rules::drops(drops))?;
        self.drops = drops.len();
        Ok(())
    }

    /// What each of the drops has dropped, in their order.
    pub fn dropped(&self) -> Result<Vec<Dropped>, Error> {
        let listed = self.node.within(|| {
            let args = ["list", "counters", "table", "inet", rules::DROPS];
            command::run(command::NFT, &args, "")
        })?;
        rules::dropped(&listed, self.drops).ok_or(Error::NoCounters { listed })
    }
}
