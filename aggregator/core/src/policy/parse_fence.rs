//! Section `fence` of the policy file.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::parse::{at, listed_twice, namespace_name, plain_name, quote};
use super::{Allowance, Ends, Fence, PodIdentity, PolicyError};
use crate::identity::{Protocol, is_label_key, is_label_value};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFence {
    pod_identity: Option<Spanned<String>>,
    allow: Option<Vec<RawAllowance>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAllowance {
    name: Spanned<String>,
    from: Option<RawEnds>,
    to: Option<RawEnds>,
    ports: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawEnds {
    tenants: Vec<Spanned<String>>,
    namespaces: Vec<Spanned<String>>,
    namespace_labels: BTreeMap<String, Spanned<String>>,
    cidrs: Vec<Spanned<String>>,
}

pub(super) fn fence(raw: RawFence, fence: &mut Fence) -> Result<(), PolicyError> {
    if let Some(typed) = raw.pod_identity {
        fence.pod_identity = match typed.value.as_str() {
            "auto" => PodIdentity::Auto,
            "true" => PodIdentity::Yes,
            "false" => PodIdentity::No,
            other => {
                let problem = format!("{:?} is none of auto, true, false", quote(other));
                return Err(at(&typed.referenced, "fence.pod_identity", problem));
            }
        };
    }
    if let Some(rules) = raw.allow {
        fence.allow = Vec::with_capacity(rules.len());
        for rule in rules {
            let allowance = allowance(rule, &fence.allow)?;
            fence.allow.push(allowance);
        }
    }
    Ok(())
}

fn allowance(raw: RawAllowance, before: &[Allowance]) -> Result<Allowance, PolicyError> {
    let name = plain_name("fence.allow.name", &raw.name)?;
    if before.iter().any(|a| a.name == name) {
        return Err(listed_twice("fence.allow.name", &raw.name));
    }
    let empty = |ends: &Option<RawEnds>| ends.as_ref().is_none_or(is_empty);
    if empty(&raw.from) && empty(&raw.to) && raw.ports.as_ref().is_none_or(Vec::is_empty) {
        let problem = format!(
            "{:?} admits everything: name `from`, `to` or `ports`",
            quote(&name)
        );
        return Err(at(&raw.name.referenced, "fence.allow.name", problem));
    }
    let ports = raw.ports.unwrap_or_default();
    Ok(Allowance {
        name,
        from: ends("fence.allow.from", raw.from)?,
        to: ends("fence.allow.to", raw.to)?,
        ports: ports.iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn is_empty(ends: &RawEnds) -> bool {
    ends.tenants.is_empty()
        && ends.namespaces.is_empty()
        && ends.namespace_labels.is_empty()
        && ends.cidrs.is_empty()
}

fn ends(key: &str, raw: Option<RawEnds>) -> Result<Ends, PolicyError> {
    let Some(raw) = raw else {
        return Ok(Ends::default());
    };
    let mut out = Ends::default();
    let set = |names: &[Spanned<String>], key: &str, check: Check| -> Result<BTreeSet<String>, PolicyError> {
        let mut set = BTreeSet::new();
        for name in names {
            if !set.insert(check(key, name)?) {
                return Err(listed_twice(key, name));
            }
        }
        Ok(set)
    };
    out.tenants = set(&raw.tenants, &format!("{key}.tenants"), tenant)?;
    out.namespaces = set(&raw.namespaces, &format!("{key}.namespaces"), namespace_name)?;
    for (label, value) in raw.namespace_labels {
        if !is_label_key(&label) || !is_label_value(&value.value) {
            let problem = format!("{:?}: {:?} is no label", quote(&label), quote(&value.value));
            let key = format!("{key}.namespace_labels");
            return Err(at(&value.referenced, &key, problem));
        }
        out.namespace_labels.insert(label, value.value);
    }
    for cidr in &raw.cidrs {
        match cidr.value.parse() {
            Ok(parsed) => out.cidrs.push(parsed),
            Err(_) => {
                let problem = format!(
                    "{:?} is no CIDR, such as 10.0.0.0/8 or fd00::/8",
                    quote(&cidr.value)
                );
                return Err(at(&cidr.referenced, &format!("{key}.cidrs"), problem));
            }
        }
    }
    Ok(out)
}

type Check = fn(&str, &Spanned<String>) -> Result<String, PolicyError>;

/// Any tenant there may be: names that come from labels and namespaces too.
fn tenant(key: &str, value: &Spanned<String>) -> Result<String, PolicyError> {
    let name = value.value.as_str();
    if (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(name.to_owned());
    }
    let problem = format!("{:?} is no tenant's name", quote(name));
    Err(at(&value.referenced, key, problem))
}

/// `53/UDP`, `8000-8100/TCP`, `TCP`, `ICMP`.
fn port(typed: &Spanned<String>) -> Result<(Protocol, u16, u16), PolicyError> {
    let text = typed.value.as_str();
    let (numbers, protocol) = text.split_once('/').map_or((None, text), |(n, p)| (Some(n), p));
    let protocol = match protocol {
        "ICMP" => Some(Protocol::Other(1)),
        "ICMPv6" => Some(Protocol::Other(58)),
        named => Protocol::from_object(named),
    };
    let number = |text: &str| crate::fence::number(text);
    let range = match numbers {
        None => Some((0, u16::MAX)),
        Some(numbers) => match numbers.split_once('-') {
            None => number(numbers).map(|n| (n, n)),
            Some((first, last)) => number(first).zip(number(last)).filter(|(a, b)| a <= b),
        },
    };
    match (protocol, range) {
        (Some(protocol), Some((first, last))) if numbers.is_none() || protocol.has_ports() => {
            Ok((protocol, first, last))
        }
        _ => {
            let problem = format!(
                "{:?} is none of 53/UDP, 8000-8100/TCP, TCP, ICMP, and such",
                quote(text)
            );
            Err(at(&typed.referenced, "fence.allow.ports", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Side};

    #[test]
    fn errors_name_line_key_and_value() {
        for (text, line, needles) in [
            (
                "fence: {pod_identity: maybe}",
                1,
                &["fence.pod_identity", "maybe"][..],
            ),
            (
                "fence:\n  allow: [{name: a}]",
                2,
                &["fence.allow.name", "everything"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, ports: [99999/TCP]}",
                3,
                &["fence.allow.ports", "99999/TCP"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, ports: [80]}",
                3,
                &["fence.allow.ports", "80"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, ports: [9-8/TCP]}",
                3,
                &["9-8/TCP"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, ports: [80/ICMP]}",
                3,
                &["80/ICMP"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, to: {cidrs: [10.0.0.0]}}",
                3,
                &["fence.allow.to.cidrs", "10.0.0.0"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, from: {namespaces: [A]}}",
                3,
                &["fence.allow.from.namespaces", "A"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, from: {tenant: [a]}}",
                3,
                &["tenant"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, ports: [TCP]}\n  - {name: a, ports: [TCP]}",
                4,
                &["fence.allow.name", "twice"],
            ),
            (
                "fence:\n  allow:\n  - {name: a, from: {namespace_labels: {\"a b\": x}}}",
                3,
                &["namespace_labels", "a b"],
            ),
        ] {
            let error = Policy::from_yaml(text).expect_err(text);
            assert_eq!(error.line, line, "{text}\n{error}");
            for needle in needles {
                assert!(
                    error.to_string().contains(needle),
                    "{text}\n{error}\nlacks {needle}"
                );
            }
        }
    }

    #[test]
    fn an_allowance_admits_what_all_its_parts_admit() {
        let policy = Policy::from_yaml(
            "fence:\n  allow:\n  - {name: a, from: {tenants: [red], cidrs: [10.9.0.0/16]}, to: {namespace_labels: {shared: \"yes\"}}, \
             ports: [80/TCP, 8000-8100/TCP]}",
        )
        .unwrap();
        let labels = BTreeMap::from([("shared".to_owned(), "yes".to_owned())]);
        let side = |tenant, address: &str, labels| Side {
            tenant: Some(tenant),
            namespace: Some("ns"),
            labels,
            address: address.parse().ok(),
        };
        let to = side("blue", "10.0.0.2", Some(&labels));
        let admits = |from: &Side<'_>, to: &Side<'_>, protocol, port| {
            policy.fence.allow[0].admits(from, to, protocol, port)
        };
        let red = side("red", "10.0.0.1", None);
        assert!(admits(&red, &to, 6, 80));
        assert!(admits(&red, &to, 6, 8_050));
        assert!(!admits(&red, &to, 17, 80));
        assert!(!admits(&red, &to, 6, 81));
        assert!(!admits(&red, &side("blue", "10.0.0.2", None), 6, 80));
        assert!(admits(&side("green", "10.9.1.1", None), &to, 6, 80));
        assert!(!admits(&side("green", "10.8.1.1", None), &to, 6, 80));
        assert!(!admits(&side("green", "forged", None), &to, 6, 80));
    }
}
