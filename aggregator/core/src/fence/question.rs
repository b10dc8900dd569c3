//! A port to ask about, as people write it: `80`, `443/TCP`, `53/udp`, `http/TCP`, `ICMP`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::decide::Verdict;
use super::ends::{End, Pod, Traffic};
use super::model::number;
use super::{Fence, decide};
use crate::identity::{Protocol, is_port_name};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub protocol: Protocol,
    pub port: AskedPort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedPort {
    Number(u16),
    /// As the receiving pod's containers call it.
    Named(Box<str>),
    /// The protocol has none.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("{0:?} is neither a port (1 to 65535) nor the name of one")]
    Port(String),
    #[error("{0:?} is none of TCP, UDP, SCTP, ICMP")]
    Protocol(String),
    #[error("{0} has no ports")]
    HasNone(Protocol),
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (Some(port), Some(protocol)),
            None if text.to_ascii_uppercase().starts_with("ICMP") => (None, Some(text)),
            None => (Some(text), None),
        };
        let protocol = match protocol.map(str::to_ascii_uppercase).as_deref() {
            None => Protocol::Tcp,
            Some("ICMP") => Protocol::Other(1),
            Some("ICMPV6") => Protocol::Other(58),
            Some(name) => Protocol::from_object(name)
                .ok_or_else(|| QuestionError::Protocol(short(protocol.unwrap_or_default())))?,
        };
        let port = match port {
            None => AskedPort::None,
            Some(_) if !protocol.has_ports() => return Err(QuestionError::HasNone(protocol)),
            Some(port) => match number(port) {
                Some(number) => AskedPort::Number(number),
                None if is_port_name(port) => AskedPort::Named(port.into()),
                None => return Err(QuestionError::Port(short(port))),
            },
        };
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            AskedPort::Number(port) => write!(f, "{port}/{}", self.protocol),
            AskedPort::Named(name) => write!(f, "{name}/{}", self.protocol),
            AskedPort::None => write!(f, "{}", self.protocol),
        }
    }
}

impl Question {
    /// `None`: the receiving end has no port of that name.
    pub fn between<'a>(&self, from: End<'a>, to: End<'a>) -> Option<Traffic<'a>> {
        let port = match (&self.port, to) {
            (AskedPort::Number(port), _) => *port,
            (AskedPort::None, _) => 0,
            (AskedPort::Named(name), End::Pod(to)) => {
                let named = |p: &&crate::identity::ContainerPort| {
                    p.protocol == self.protocol && p.name.as_deref() == Some(name)
                };
                to.ports.iter().find(named)?.number
            }
            (AskedPort::Named(_), _) => return None,
        };
        Some(Traffic {
            from,
            to,
            protocol: self.protocol,
            port,
            family: None,
        })
    }
}

impl Fence {
    /// Every pair of two pods among some. Without a verdict: the receiving pod has no port of that name.
    pub fn matrix<'a>(
        &'a self,
        question: &'a Question,
        among: impl Fn(&Pod) -> bool,
    ) -> impl Iterator<Item = (&'a Arc<Pod>, &'a Arc<Pod>, Option<Verdict>)> {
        let pods: Vec<_> = self.pods().iter().filter(|pod| among(pod)).collect();
        let count = pods.len();
        (0..count * count).filter_map(move |i| {
            let (from, to) = (pods[i / count], pods[i % count]);
            let traffic = question.between(End::Pod(from), End::Pod(to));
            (from.uid != to.uid).then(|| (from, to, traffic.map(|t| decide::decide(&t).verdict())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_people_write_them() {
        for (typed, shown) in [
            ("80", "80/TCP"),
            ("80/TCP", "80/TCP"),
            ("53/udp", "53/UDP"),
            ("9/Sctp", "9/SCTP"),
            ("http", "http/TCP"),
            ("dns/UDP", "dns/UDP"),
            ("ICMP", "ICMP"),
            ("icmpv6", "ICMPv6"),
        ] {
            assert_eq!(
                typed.parse::<Question>().map(|q| q.to_string()),
                Ok(shown.to_owned())
            );
        }
        for (typed, needle) in [
            ("", "\"\""),
            ("0", "\"0\""),
            ("65536/TCP", "65536"),
            ("80/", "none of TCP"),
            ("80/HTTP", "\"HTTP\""),
            ("80/TCP/x", "\"TCP/x\""),
            ("80/ICMP", "ICMP has no ports"),
            ("/TCP", "\"\""),
            ("a b", "a b"),
        ] {
            let error = typed.parse::<Question>().unwrap_err().to_string();
            assert!(error.contains(needle), "{typed}: {error}");
        }
    }
}
