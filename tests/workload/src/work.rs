//! Kinds of work that a pod can do, and how they are told to a worker process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// What a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
    /// One IPv6 socket for both, as most servers have it: IPv4 peers are `::ffff:a.b.c.d` to it.
    Dual,
}

impl Family {
    const NAMES: [(Self, &str); 3] = [(Self::Ipv4, "ipv4"), (Self::Ipv6, "ipv6"), (Self::Dual, "dual")];

    fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find_map(|(family, name)| (*family == self).then_some(*name))
            .unwrap_or_default()
    }

    pub(crate) fn any_address(self, port: u16) -> SocketAddr {
        let any = match self {
            Self::Ipv4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Self::Ipv6 | Self::Dual => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(any, port)
    }
}

impl FromStr for Family {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let known = Self::NAMES.iter().find(|(_, name)| *name == text);
        known.map(|(family, _)| *family).ok_or(())
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// On each thread by turns: `busy_ms` of CPU time, then `idle_ms` asleep. A thread that has to wait for a CPU takes
    /// longer over a turn, as a server does over a request; it does not do less.
    Duty {
        busy_ms: f64,
        idle_ms: f64,
        threads: u32,
    },
    /// Every thread runs all the time.
    Spin { threads: u32 },
    /// Forks children at this rate, each of which spins for 1 ms of CPU time.
    Fork { per_second: f64 },
    /// Allocates and touches anonymous pages, `step_bytes` every `every_ms`, up to `bytes`. Then it holds them, or without
    /// `keep` frees them all and begins again.
    Memory {
        bytes: u64,
        step_bytes: u64,
        every_ms: f64,
        keep: bool,
    },
    /// Writes a file of this size to the [scratch directory](crate::scratch_dir) and reads it round and round.
    FileCache { bytes: u64 },
    /// Accepts connections and sends back what comes.
    TcpServe { port: u16, family: Family },
    /// Sends every datagram back.
    UdpServe { port: u16, family: Family },
    /// Opens a connection each time, sends `bytes`, reads as many, and closes. With `keep` it opens one, and sends `bytes`
    /// on it each time; again when it broke.
    Tcp {
        to: SocketAddr,
        per_second: f64,
        bytes: u64,
        keep: bool,
    },
    /// Sends datagrams of `bytes` to `flows` ports in turn, from `to`'s own on. Under `source`, which is IPv4, when it is
    /// given: then nobody can answer.
    Udp {
        to: SocketAddr,
        per_second: f64,
        bytes: u32,
        flows: u32,
        source: Option<Ipv4Addr>,
    },
    /// Sends echo requests with 56 bytes of payload.
    Icmp { to: IpAddr, per_second: f64 },
    /// Opens a connection to one port after the other, closes it, and begins again after the last.
    Scan {
        to: IpAddr,
        first_port: u16,
        last_port: u16,
        per_second: f64,
    },
}

impl Work {
    /// Whether it needs a network, and counts what it sends.
    pub fn is_of_network(&self) -> bool {
        self.serves() || self.to().is_some()
    }

    /// Whether others' work may need it to be there.
    pub fn serves(&self) -> bool {
        matches!(self, Self::TcpServe { .. } | Self::UdpServe { .. })
    }

    /// Whom it sends to.
    pub fn to(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { to, .. } | Self::Udp { to, .. } => Some(to.ip()),
            Self::Icmp { to, .. } | Self::Scan { to, .. } => Some(*to),
            _ => None,
        }
    }

    pub(crate) fn to_args(self) -> Vec<String> {
        match self {
            Self::Duty {
                busy_ms,
                idle_ms,
                threads,
            } => {
                vec![
                    "duty".to_owned(),
                    busy_ms.to_string(),
                    idle_ms.to_string(),
                    threads.to_string(),
                ]
            }
            Self::Spin { threads } => vec!["spin".to_owned(), threads.to_string()],
            Self::Fork { per_second } => vec!["fork".to_owned(), per_second.to_string()],
            Self::Memory {
                bytes,
                step_bytes,
                every_ms,
                keep,
            } => vec![
                "memory".to_owned(),
                bytes.to_string(),
                step_bytes.to_string(),
                every_ms.to_string(),
                keep.to_string(),
            ],
            Self::FileCache { bytes } => vec!["file-cache".to_owned(), bytes.to_string()],
            Self::TcpServe { port, family } => {
                vec!["tcp-serve".to_owned(), port.to_string(), family.name().to_owned()]
            }
            Self::UdpServe { port, family } => {
                vec!["udp-serve".to_owned(), port.to_string(), family.name().to_owned()]
            }
            Self::Tcp {
                to,
                per_second,
                bytes,
                keep,
            } => vec![
                "tcp".to_owned(),
                to.to_string(),
                per_second.to_string(),
                bytes.to_string(),
                keep.to_string(),
            ],
            Self::Udp {
                to,
                per_second,
                bytes,
                flows,
                source,
            } => {
                let mut args = vec![
                    "udp".to_owned(),
                    to.to_string(),
                    per_second.to_string(),
                    bytes.to_string(),
                    flows.to_string(),
                ];
                args.extend(source.map(|source| source.to_string()));
                args
            }
            Self::Icmp { to, per_second } => {
                vec!["icmp".to_owned(), to.to_string(), per_second.to_string()]
            }
            Self::Scan {
                to,
                first_port,
                last_port,
                per_second,
            } => vec![
                "scan".to_owned(),
                to.to_string(),
                first_port.to_string(),
                last_port.to_string(),
                per_second.to_string(),
            ],
        }
    }

    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let kind = args.next()?;
        let args = &mut args;
        match kind.as_str() {
            "duty" => Some(Self::Duty {
                busy_ms: number(args)?,
                idle_ms: number(args)?,
                threads: next(args)?,
            }),
            "spin" => Some(Self::Spin { threads: next(args)? }),
            "fork" => Some(Self::Fork {
                per_second: number(args)?,
            }),
            "memory" => Some(Self::Memory {
                bytes: next(args)?,
                step_bytes: next(args)?,
                every_ms: number(args)?,
                keep: next(args)?,
            }),
            "file-cache" => Some(Self::FileCache { bytes: next(args)? }),
            "tcp-serve" => Some(Self::TcpServe {
                port: next(args)?,
                family: next(args)?,
            }),
            "udp-serve" => Some(Self::UdpServe {
                port: next(args)?,
                family: next(args)?,
            }),
            "tcp" => Some(Self::Tcp {
                to: next(args)?,
                per_second: number(args)?,
                bytes: next(args)?,
                keep: next(args)?,
            }),
            "udp" => Some(Self::Udp {
                to: next(args)?,
                per_second: number(args)?,
                bytes: next(args)?,
                flows: next(args)?,
                source: match args.next() {
                    Some(source) => Some(source.parse().ok()?),
                    None => None,
                },
            }),
            "icmp" => Some(Self::Icmp {
                to: next(args)?,
                per_second: number(args)?,
            }),
            "scan" => Some(Self::Scan {
                to: next(args)?,
                first_port: next(args)?,
                last_port: next(args)?,
                per_second: number(args)?,
            }),
            _ => None,
        }
    }
}

fn next<T: FromStr>(args: &mut impl Iterator<Item = String>) -> Option<T> {
    args.next()?.parse().ok()
}

fn number(args: &mut impl Iterator<Item = String>) -> Option<f64> {
    next(args).filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: Option<Ipv4Addr>) -> Work {
        Work::Udp {
            to: "10.1.2.3:53".parse().unwrap(),
            per_second: 1e5,
            bytes: 0,
            flows: 50_000,
            source,
        }
    }

    #[test]
    fn a_worker_understands_what_its_parent_says() {
        for work in [
            Work::Duty {
                busy_ms: 2.5,
                idle_ms: 8.0,
                threads: 3,
            },
            Work::Spin { threads: 8 },
            Work::Fork { per_second: 250.0 },
            Work::Memory {
                bytes: 64 << 20,
                step_bytes: 4096,
                every_ms: 12.5,
                keep: false,
            },
            Work::FileCache { bytes: 3 << 40 },
            Work::TcpServe {
                port: 80,
                family: Family::Dual,
            },
            Work::UdpServe {
                port: 53,
                family: Family::Ipv6,
            },
            Work::Tcp {
                to: "[fd00::2]:80".parse().unwrap(),
                per_second: 0.5,
                bytes: 1 << 40,
                keep: true,
            },
            udp(None),
            udp(Some(Ipv4Addr::new(10, 9, 8, 7))),
            Work::Icmp {
                to: Ipv4Addr::LOCALHOST.into(),
                per_second: 5.0,
            },
            Work::Scan {
                to: Ipv6Addr::LOCALHOST.into(),
                first_port: 1,
                last_port: 1024,
                per_second: 500.0,
            },
        ] {
            assert_eq!(Work::from_args(work.to_args().into_iter()), Some(work));
        }
        assert_eq!(
            Work::from_args(["duty".to_owned(), "NaN".to_owned()].into_iter()),
            None
        );
        assert_eq!(Work::from_args(["scan".to_owned()].into_iter()), None);
    }
}
