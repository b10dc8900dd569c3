//! The file as it is written: names and shapes only. An unknown key is an error that names the key and the line.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
};
use toml::Spanned;

use super::quantity;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) name: Spanned<String>,
    pub(super) about: String,
    #[serde(default)]
    pub(super) needs: Vec<super::Need>,
    pub(super) seconds: Spanned<f64>,
    pub(super) cpus: Option<Spanned<Vec<usize>>>,
    #[serde(default = "yes")]
    pub(super) exhaustive: bool,
    pub(super) policy: Option<String>,
    pub(super) manifests: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) pod: Vec<Pod>,
    #[serde(default)]
    pub(super) host: Vec<Host>,
    #[serde(default)]
    pub(super) drop: Vec<Drop>,
    #[serde(default)]
    pub(super) change: Vec<Change>,
    #[serde(default)]
    pub(super) expect: Vec<Expect>,
    #[serde(default)]
    pub(super) refuse: Vec<Refuse>,
    #[serde(default)]
    pub(super) measure: Vec<Measure>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) requests: Resources,
    #[serde(default)]
    pub(super) limits: Resources,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) host_network: bool,
    #[serde(default)]
    pub(super) start_s: f64,
    pub(super) stop_s: Option<f64>,
    pub(super) completed_s: Option<f64>,
    pub(super) address_of: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) ports: BTreeMap<String, Port>,
    pub(super) oom_killed: Option<bool>,
    #[serde(default)]
    pub(super) work: Vec<Work>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    pub(super) cgroup: Spanned<String>,
    #[serde(default)]
    pub(super) work: Vec<Work>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) cpu: Option<Cpu>,
    pub(super) memory: Option<Memory>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Duty,
    Spin,
    Fork,
    Memory,
    FileCache,
    TcpServe,
    UdpServe,
    Tcp,
    Udp,
    Icmp,
    Scan,
}

/// One table for every kind of work: which keys belong to which kind is checked afterwards, where the line is still known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Work {
    pub(super) kind: Spanned<Kind>,
    #[serde(default)]
    pub(super) from_s: f64,
    pub(super) to_s: Option<f64>,
    #[serde(default)]
    pub(super) before_agent: bool,
    pub(super) cgroup: Option<Spanned<String>>,
    pub(super) busy_ms: Option<f64>,
    pub(super) idle_ms: Option<f64>,
    pub(super) threads: Option<u32>,
    pub(super) per_second: Option<f64>,
    pub(super) bytes: Option<Memory>,
    pub(super) step_bytes: Option<Memory>,
    pub(super) every_ms: Option<f64>,
    pub(super) keep: Option<bool>,
    pub(super) port: Option<u16>,
    pub(super) to: Option<Spanned<String>>,
    pub(super) ports: Option<Spanned<String>>,
    pub(super) family: Option<Family>,
    pub(super) flows: Option<u32>,
    pub(super) source: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
    /// Of a server only.
    Dual,
}

/// A container's port: a number, or with its protocol as "53/UDP".
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Port {
    Number(u16),
    WithProtocol(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drop {
    pub(super) from: Spanned<String>,
    pub(super) to: Spanned<String>,
    pub(super) port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) at_s: Spanned<f64>,
    pub(super) manifests: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) remove: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) breach: Spanned<String>,
    pub(super) tenant: String,
    pub(super) against: Option<String>,
    pub(super) within_s: f64,
    pub(super) not_before_s: Option<f64>,
    #[serde(default)]
    pub(super) resolved: bool,
    pub(super) times: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refuse {
    pub(super) breach: Spanned<String>,
    pub(super) tenant: Option<String>,
    pub(super) against: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measure {
    pub(super) what: Spanned<super::What>,
    pub(super) pod: Spanned<String>,
    pub(super) by: Option<String>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

fn yes() -> bool {
    true
}

/// Cores, from a Kubernetes quantity ("500m") or a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu(pub(super) f64);

/// Bytes, from a Kubernetes quantity ("64Mi") or a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory(pub(super) u64);

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_any(QuantityVisitor)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: not negative"
        )]
        Ok(Self(bytes.round() as u64))
    }
}

struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = f64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a Kubernetes quantity such as \"500m\" or \"64Mi\", or a number")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<f64, E> {
        quantity::parse(text).ok_or_else(|| E::custom(format!("`{text}` is no Kubernetes quantity")))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<f64, E> {
        #[allow(clippy::cast_precision_loss, reason = "quantities below 2^53")]
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<f64, E> {
        if value.is_finite() && value >= 0.0 {
            Ok(value)
        } else {
            Err(E::custom(format!(
                "`{value}` is no quantity: it must be zero or more"
            )))
        }
    }
}

/// Parses the text of a scenario; the error names key, line and file.
pub(super) fn parse(text: &str) -> Result<Scenario, toml::de::Error> {
    let scenario: Scenario = toml::from_str(text)?;
    if scenario.about.trim().is_empty() {
        return Err(toml::de::Error::custom(
            "`about` is empty: say in one sentence what happens",
        ));
    }
    Ok(scenario)
}
