//! `networking.k8s.io/v1` NetworkPolicy, checked: what is here can be evaluated.

use std::fmt;

use super::block::IpBlock;
use super::selector::Selector;
use crate::identity::Protocol;

/// The way that a policy looks at a connection: into the pod that it selects, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkPolicy {
    pub namespace: String,
    pub name: String,
    /// Pods of its namespace that it isolates.
    pub pods: Selector,
    /// `None`: it says nothing of what comes in. Empty: nothing may.
    pub ingress: Option<Vec<Rule>>,
    /// `None`: it says nothing of what goes out. Empty: nothing may.
    pub egress: Option<Vec<Rule>>,
}

/// One of `ingress` or `egress`. What it says of peers and of ports must both hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// `from` or `to`: any of them. Empty: everybody.
    pub peers: Vec<Peer>,
    /// Any of them. Empty: every port of every protocol.
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    Pods {
        /// `None`: those of the policy's own namespace.
        namespaces: Option<Selector>,
        /// `None`: all of them.
        pods: Option<Selector>,
    },
    Block(IpBlock),
}

/// One of a rule's `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub protocol: Protocol,
    pub number: PortNumber,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortNumber {
    Any,
    /// `port` to `endPort`, both included.
    Range(u16, u16),
    /// Of a container of the pod at the receiving end, declared there for the same protocol.
    Named(Box<str>),
}

/// Why `port` and `endPort` make no [`PortNumber`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error(
        "{0:?} is neither a port (1 to 65535) nor the name of one (at most 15 lower-case letters, digits and hyphens)"
    )]
    NoPort(String),
    #[error("{0:?} is no port, from 1 to 65535")]
    NoNumber(String),
    #[error("{last} is less than port, which is {first}")]
    Backwards { first: u16, last: u16 },
    #[error("{0:?} goes with a port that is a number alone")]
    EndOfName(String),
    #[error("{0:?} goes with a port alone")]
    EndOfNothing(String),
}

impl PortNumber {
    /// # Errors
    /// As the API server says: see [`PortError`]. All but `NoPort` are about `end`.
    pub fn new(port: Option<&str>, end: Option<&str>) -> Result<Self, PortError> {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let Some(port) = port else {
            return end.map_or(Ok(Self::Any), |end| Err(PortError::EndOfNothing(short(end))));
        };
        let Some(first) = number(port) else {
            return match end {
                _ if !crate::identity::is_port_name(port) => Err(PortError::NoPort(short(port))),
                Some(end) => Err(PortError::EndOfName(short(end))),
                None => Ok(Self::Named(port.into())),
            };
        };
        match end.map(|end| number(end).ok_or_else(|| PortError::NoNumber(short(end)))) {
            None => Ok(Self::Range(first, first)),
            Some(Ok(last)) if last < first => Err(PortError::Backwards { first, last }),
            Some(last) => Ok(Self::Range(first, last?)),
        }
    }
}

/// 1 to 65535, as Kubernetes writes it.
pub fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n != 0)
}

impl NetworkPolicy {
    /// What it says of a direction; `None`: nothing.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl fmt::Display for NetworkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.number {
            PortNumber::Any => write!(f, "{}", self.protocol),
            PortNumber::Range(first, last) if first == last => write!(f, "{first}/{}", self.protocol),
            PortNumber::Range(first, last) => write!(f, "{first}-{last}/{}", self.protocol),
            PortNumber::Named(name) => write!(f, "{name}/{}", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_what_the_api_server_admits() {
        for (port, end, wanted) in [
            (None, None, Ok("TCP")),
            (Some("80"), None, Ok("80/TCP")),
            (Some("80"), Some("80"), Ok("80/TCP")),
            (Some("80"), Some("90"), Ok("80-90/TCP")),
            (Some("1"), Some("65535"), Ok("1-65535/TCP")),
            (Some("http"), None, Ok("http/TCP")),
            (Some("a-1"), None, Ok("a-1/TCP")),
            (Some("80"), Some("79"), Err("less than port")),
            (Some("80"), Some("65536"), Err("\"65536\"")),
            (Some("80"), Some("0"), Err("\"0\"")),
            (Some("http"), Some("90"), Err("a number alone")),
            (None, Some("90"), Err("with a port alone")),
            (Some("0"), None, Err("\"0\"")),
            (Some("65536"), None, Err("65536")),
            (Some("-1"), None, Err("-1")),
            (Some("+80"), None, Err("+80")),
            (Some("80.5"), None, Err("80.5")),
            (Some(""), None, Err("\"\"")),
            (Some("HTTP"), None, Err("HTTP")),
            (Some("a--b"), None, Err("a--b")),
            (Some("-a"), None, Err("-a")),
            (Some("sixteen-letters-"), None, Err("sixteen")),
        ] {
            let got = PortNumber::new(port, end).map(|number| Port {
                protocol: Protocol::Tcp,
                number,
            });
            match (got, wanted) {
                (Ok(port), Ok(text)) => assert_eq!(port.to_string(), text),
                (Err(error), Err(needle)) => assert!(error.to_string().contains(needle), "{error}"),
                (got, wanted) => panic!("{port:?} {end:?}: {got:?}, not {wanted:?}"),
            }
        }
    }
}
