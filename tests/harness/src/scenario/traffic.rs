//! Work of the network.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use partywall_workload::{Family, Work};
use toml::Spanned;

use super::{Checker, directory::Directory, raw};

/// What IPv4 has room for: 65,535 without the headers of IP and UDP.
const DATAGRAM_MOST: u64 = 65_507;

impl raw::Kind {
    pub(super) fn is_of_network(self) -> bool {
        !matches!(
            self,
            Self::Duty | Self::Spin | Self::Fork | Self::Memory | Self::FileCache
        )
    }
}

impl Checker<'_> {
    /// The work, and what to call it. `begins`: on the scenario's clock.
    pub(super) fn network_work(
        &self,
        raw: &raw::Work,
        name: &str,
        begins: Duration,
        directory: &Directory<'_>,
    ) -> Result<(Work, String)> {
        use raw::Kind;
        let kind = *raw.kind.get_ref();
        let rate = || self.positive(raw, "per_second", raw.per_second);
        if let Kind::TcpServe | Kind::UdpServe = kind {
            let port = self.port(raw)?;
            let family = match raw.family.unwrap_or(raw::Family::Ipv4) {
                raw::Family::Ipv4 => Family::Ipv4,
                raw::Family::Ipv6 => Family::Ipv6,
                raw::Family::Dual => Family::Dual,
            };
            let work = if kind == Kind::TcpServe {
                Work::TcpServe { port, family }
            } else {
                Work::UdpServe { port, family }
            };
            return Ok((work, format!("{name} {port}")));
        }
        let Some(to) = &raw.to else {
            return self.lacks(raw, "to");
        };
        let address = self.resolve(to, raw.family, begins, directory)?;
        let title = format!("{name} {}", to.get_ref());
        Ok(match kind {
            Kind::Icmp => (
                Work::Icmp {
                    to: address,
                    per_second: rate()?,
                },
                title,
            ),
            Kind::Scan => {
                let (first_port, last_port) = self.port_range(raw)?;
                let work = Work::Scan {
                    to: address,
                    first_port,
                    last_port,
                    per_second: rate()?,
                };
                (work, format!("{title} {first_port}-{last_port}"))
            }
            Kind::Tcp => {
                let port = self.port(raw)?;
                let work = Work::Tcp {
                    to: SocketAddr::new(address, port),
                    per_second: rate()?,
                    bytes: self.bytes(raw, "bytes", raw.bytes)?,
                    keep: raw.keep.unwrap_or(false),
                };
                (work, format!("{title} {port}"))
            }
            _ => {
                let port = self.port(raw)?;
                (self.datagrams(raw, address, port)?, format!("{title} {port}"))
            }
        })
    }

    fn datagrams(&self, raw: &raw::Work, address: IpAddr, port: u16) -> Result<Work> {
        let bytes = self.bytes(raw, "bytes", raw.bytes)?;
        let Some(bytes) = u32::try_from(bytes).ok().filter(|_| bytes <= DATAGRAM_MOST) else {
            let why = format!("`{bytes}` is more than a datagram's {DATAGRAM_MOST}");
            return self.refuse(&raw.kind, "bytes", &why);
        };
        let flows = raw.flows.unwrap_or(1);
        let last = u64::from(port) + u64::from(flows);
        if flows == 0 || last > 1 << 16 {
            let why = format!("`{flows}` ports from {port} on are not there: they end at 65535");
            return self.refuse(&raw.kind, "flows", &why);
        }
        if raw.source.is_some() && address.is_ipv6() {
            return self.refuse(&raw.kind, "source", "is for IPv4 only");
        }
        Ok(Work::Udp {
            to: SocketAddr::new(address, port),
            per_second: self.positive(raw, "per_second", raw.per_second)?,
            bytes,
            flows,
            source: raw.source,
        })
    }

    fn port(&self, raw: &raw::Work) -> Result<u16> {
        match raw.port {
            Some(0) => self.refuse(&raw.kind, "port", "`0` must be more than zero"),
            Some(port) => Ok(port),
            None => self.lacks(raw, "port"),
        }
    }

    /// "1-1024", or "80".
    fn port_range(&self, raw: &raw::Work) -> Result<(u16, u16)> {
        let Some(ports) = &raw.ports else {
            return self.lacks(raw, "ports");
        };
        let text = ports.get_ref();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first, last)),
            _ => self.refuse(
                ports,
                "ports",
                &format!("`{text}` is no range such as \"1-1024\""),
            ),
        }
    }

    /// "namespace/pod", "service:namespace/name" or an address, at the moment when the work begins.
    fn resolve(
        &self,
        to: &Spanned<String>,
        family: Option<raw::Family>,
        begins: Duration,
        directory: &Directory<'_>,
    ) -> Result<IpAddr> {
        let text = to.get_ref();
        if family == Some(raw::Family::Dual) {
            return self.refuse(
                to,
                "family",
                "`dual` is for tcp-serve and udp-serve: who sends has one",
            );
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let fits = family.is_none_or(|family| (family == raw::Family::Ipv4) == address.is_ipv4());
            return if fits {
                Ok(address)
            } else {
                self.refuse(to, "family", &format!("`{text}` is of the other"))
            };
        }
        let is_ipv4 = family.unwrap_or(raw::Family::Ipv4) == raw::Family::Ipv4;
        let found = match text.strip_prefix("service:") {
            Some(service) => directory.service(service, is_ipv4, begins),
            None => directory.pod(text, is_ipv4, begins),
        };
        found.or_else(|why| self.refuse(to, "to", &why))
    }
}
