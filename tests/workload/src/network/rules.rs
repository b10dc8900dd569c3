//! What the node does to packets between pods, as nftables scripts: Services as kube-proxy makes them, and drops as a CNI
//! that enforces policy makes them.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn nft(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of a Service at one of its cluster addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub address: SocketAddr,
    pub transport: Transport,
    /// Of the address's family; taken in turn. None: connections are rejected, as kube-proxy does.
    pub backends: Vec<SocketAddr>,
}

/// Packets dropped on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRule {
    pub from: Vec<IpAddr>,
    pub to: Vec<IpAddr>,
    /// Destination port, after a Service's translation; `None`: whatever it is.
    pub port: Option<u16>,
}

/// What a [`DropRule`] has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub packets: u64,
    /// With their IP headers.
    pub bytes: u64,
}

pub(super) const SERVICES: &str = "partywall_services";
pub(super) const DROPS: &str = "partywall_drops";

/// Takes the place of what `table` held before, in the same transaction.
fn replaced(table: &str, chains: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{chains}}}\n")
}

/// "ip" or "ip6"
fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// `node`: the node's addresses, behind which pods are hidden where their own could not be answered. `outside`: the device
/// that leads away from the node.
pub(super) fn services(ports: &[ServicePort], node: &[IpAddr], outside: &str) -> String {
    let (mut translate, mut hide) = (String::new(), String::new());
    for port in ports.iter().filter(|port| !port.backends.is_empty()) {
        let address = port.address.ip();
        let ip = family(&address);
        let _ = write!(
            translate,
            "{ip} daddr {address} {} dport {} dnat {ip} to ",
            port.transport.nft(),
            port.address.port()
        );
        let _ = match &port.backends[..] {
            [one] => writeln!(translate, "{one}"),
            // In turn, not at random: a scenario can say how many connections each backend gets.
            several => {
                let turns = several
                    .iter()
                    .enumerate()
                    .map(|(turn, backend)| format!("{turn} : {} . {}", backend.ip(), backend.port()));
                let turns: Vec<String> = turns.collect();
                writeln!(
                    translate,
                    "numgen inc mod {} map {{ {} }}",
                    several.len(),
                    turns.join(", ")
                )
            }
        };
    }
    for address in node {
        let ip = family(address);
        let of_family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        let backends: BTreeSet<IpAddr> = ports
            .iter()
            .flat_map(|port| &port.backends)
            .map(SocketAddr::ip)
            .filter(of_family)
            .collect();
        for pod in backends {
            // A pod that meets itself would answer itself past the node, untranslated.
            let _ = writeln!(
                hide,
                "ct status dnat {ip} saddr {pod} {ip} daddr {pod} snat {ip} to {address}"
            );
        }
        let version = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let _ = writeln!(
            hide,
            "oifname \"{outside}\" meta nfproto {version} snat {ip} to {address}"
        );
    }
    // What was not translated: a Service has no backend, or no such port. Connections are reset: an ICMP error, which is
    // kube-proxy's way, the kernel forgets when it comes while `connect` still holds the socket, as it does here.
    let addresses: BTreeSet<IpAddr> = ports.iter().map(|port| port.address.ip()).collect();
    let unserved: String = addresses
        .iter()
        .map(|address| {
            let ip = family(address);
            format!(
                "{ip} daddr {address} meta l4proto tcp reject with tcp reset\n{ip} daddr {address} reject\n"
            )
        })
        .collect();
    replaced(
        SERVICES,
        &format!(
            "chain translate {{\n{translate}}}\n\
             chain prerouting {{\ntype nat hook prerouting priority -100\njump translate\n}}\n\
             chain own {{\ntype nat hook output priority -100\njump translate\n}}\n\
             chain hide {{\ntype nat hook postrouting priority 100\n{hide}}}\n\
             chain unserved {{\ntype filter hook forward priority 10\n{unserved}}}\n\
             chain unserved_own {{\ntype filter hook output priority 10\n{unserved}}}\n"
        ),
    )
}

/// One counter for each of `drops`, named by its place.
pub(super) fn drops(drops: &[DropRule]) -> String {
    let (mut counters, mut rules) = (String::new(), String::new());
    for (number, drop) in drops.iter().enumerate() {
        let _ = writeln!(counters, "counter drop{number} {{ }}");
        for from in &drop.from {
            let ip = family(from);
            for to in drop.to.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
                let port = drop.port.map_or_else(String::new, |port| {
                    format!("meta l4proto {{ tcp, udp }} th dport {port} ")
                });
                let _ = writeln!(
                    rules,
                    "{ip} saddr {from} {ip} daddr {to} {port}counter name drop{number} drop"
                );
            }
        }
    }
    // Between pods packets are forwarded; pods in the node's own network also send and receive.
    let hooks: String = ["forward", "input", "output"]
        .iter()
        .map(|hook| format!("chain {hook} {{\ntype filter hook {hook} priority 0\njump drops\n}}\n"))
        .collect();
    replaced(DROPS, &format!("{counters}chain drops {{\n{rules}}}\n{hooks}"))
}

/// The counters of [`drops`] as `nft list counters` writes them, in their order.
pub(super) fn dropped(listed: &str, count: usize) -> Option<Vec<Dropped>> {
    let of = |number: usize| {
        let (_, rest) = listed.split_once(&format!("counter drop{number} {{"))?;
        let mut words = rest.split_whitespace();
        let mut after = |key: &str| {
            words.find(|word| *word == key)?;
            words.next()?.parse().ok()
        };
        Some(Dropped {
            packets: after("packets")?,
            bytes: after("bytes")?,
        })
    };
    (0..count).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn a_service_is_translated_in_turn_and_pods_that_meet_themselves_are_hidden() {
        let port = |address: &str, backends: &[&str]| ServicePort {
            address: address.parse().unwrap(),
            transport: Transport::Tcp,
            backends: backends.iter().map(|one| one.parse().unwrap()).collect(),
        };
        let script = services(
            &[
                port("10.96.0.1:80", &["10.244.0.2:8080", "10.244.0.3:8081"]),
                port("[fd00::1]:80", &["[fd00::2]:8080"]),
                port("10.96.0.9:80", &[]),
            ],
            &addresses(&["10.0.0.10", "fd00::10"]),
            "outside",
        );
        for line in [
            "ip daddr 10.96.0.1 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.3 . 8081 }",
            "ip6 daddr fd00::1 tcp dport 80 dnat ip6 to [fd00::2]:8080",
            "ct status dnat ip saddr 10.244.0.3 ip daddr 10.244.0.3 snat ip to 10.0.0.10",
            "ct status dnat ip6 saddr fd00::2 ip6 daddr fd00::2 snat ip6 to fd00::10",
            "ip daddr 10.96.0.9 reject",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}\n{script}");
        }
        assert!(!script.contains("daddr 10.96.0.9 tcp"), "{script}");
    }

    #[test]
    fn a_drop_names_both_families_and_is_counted_once() {
        let drop = |port| DropRule {
            from: addresses(&["10.244.0.2", "fd00::2"]),
            to: addresses(&["10.244.0.3", "fd00::3"]),
            port,
        };
        let script = drops(&[drop(Some(80)), drop(None)]);
        for line in [
            "ip saddr 10.244.0.2 ip daddr 10.244.0.3 meta l4proto { tcp, udp } th dport 80 counter name drop0 drop",
            "ip6 saddr fd00::2 ip6 daddr fd00::3 counter name drop1 drop",
        ] {
            assert!(script.lines().any(|found| found == line), "{line}\n{script}");
        }
        assert!(!script.contains("saddr 10.244.0.2 ip daddr fd00"), "{script}");
    }

    #[test]
    fn counters_are_read_in_order() {
        let listed = "table inet partywall_drops {\n\tcounter drop1 {\n\t\tpackets 3 bytes 180\n\t}\n\
                      \tcounter drop0 {\n\t\tpackets 0 bytes 0\n\t}\n}\n";
        let read = dropped(listed, 2).unwrap();
        assert_eq!(read[0], Dropped::default());
        assert_eq!(
            read[1],
            Dropped {
                packets: 3,
                bytes: 180
            }
        );
        assert_eq!(dropped(listed, 3), None);
    }
}
