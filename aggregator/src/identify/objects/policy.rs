//! NetworkPolicy objects, held to what the API server admits; and policies of kinds that are not evaluated.

use std::collections::BTreeSet;
use std::fmt;

use partywall_aggregator_core::fence::{
    Expression, IpBlock, NetworkPolicy, Operator, OperatorError, Peer, Port, PortError, PortNumber, Rule,
    Selector,
};
use partywall_aggregator_core::identity::{ForeignPolicy, is_label_key, is_label_value, is_object_name};

use super::super::yaml::{Value, Yaml, YamlError};
use super::at::{At, metadata, namespace_of};

/// API groups and kinds that decide about connections beside NetworkPolicy. `true`: objects of the kind have no namespace.
const FOREIGN: &[(&str, &str, bool)] = &[
    ("cilium.io", "CiliumNetworkPolicy", false),
    ("cilium.io", "CiliumClusterwideNetworkPolicy", true),
    ("projectcalico.org", "NetworkPolicy", false),
    ("projectcalico.org", "GlobalNetworkPolicy", true),
    ("crd.projectcalico.org", "NetworkPolicy", false),
    ("crd.projectcalico.org", "GlobalNetworkPolicy", true),
    ("policy.networking.k8s.io", "AdminNetworkPolicy", true),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy", true),
    ("policy.networking.k8s.io", "ClusterNetworkPolicy", true),
    ("crd.antrea.io", "NetworkPolicy", false),
    ("crd.antrea.io", "ClusterNetworkPolicy", true),
    ("networking.k8s.aws", "ApplicationNetworkPolicy", false),
    ("networking.k8s.aws", "ClusterNetworkPolicy", true),
    ("k8s.ovn.org", "EgressFirewall", false),
];

/// Calico's drafts: looked at, never enforced.
const STAGED: &str = "Staged";

/// Whether an object decides about connections in a way that is not evaluated. A kind that is not in the table is one, too, when its
/// name says so: a new kind of policy must not go unnoticed.
pub(super) fn is_foreign(group: &str, kind: &str) -> bool {
    let known = FOREIGN.iter().any(|(g, k, _)| (*g, *k) == (group, kind));
    known || kind.ends_with("NetworkPolicy") && !kind.starts_with(STAGED)
}

pub(super) fn foreign(group: &str, kind: &str, object: &At<'_>) -> Result<ForeignPolicy, YamlError> {
    let metadata = metadata(object)?;
    let cluster_wide = FOREIGN
        .iter()
        .find(|(g, k, _)| (*g, *k) == (group, kind))
        // Nothing known: the object itself shows whether it has a namespace.
        .map_or(metadata.get("namespace").is_none(), |(_, _, wide)| *wide);
    Ok(ForeignPolicy {
        kind: if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        },
        namespace: if cluster_wide {
            None
        } else {
            Some(namespace_of(&metadata)?)
        },
        name: metadata.name("name", "policy name", is_object_name)?,
    })
}

pub(super) fn network_policy(object: &At<'_>) -> Result<NetworkPolicy, YamlError> {
    let metadata = metadata(object)?;
    let mut policy = NetworkPolicy {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "policy name", is_object_name)?,
        ..NetworkPolicy::default()
    };
    let Some(spec) = object.map("spec")? else {
        // The empty spec: every pod of the namespace, and nothing may come in.
        policy.ingress = Some(Vec::new());
        return Ok(policy);
    };
    only(&spec, &["podSelector", "policyTypes", "ingress", "egress"])?;
    policy.pods = selector(&spec, "podSelector")?.unwrap_or_default();
    let (ingress, egress) = (rules(&spec, "ingress", "from")?, rules(&spec, "egress", "to")?);
    let types = types(&spec)?;
    // As the API server defaults it: ingress always, egress with a rule for it.
    let of = |name: &str, default: bool| match types.is_empty() {
        true => default,
        false => types.contains(name),
    };
    policy.ingress = of("Ingress", true).then_some(ingress);
    policy.egress = of("Egress", !egress.is_empty()).then_some(egress);
    Ok(policy)
}

fn types(spec: &At<'_>) -> Result<BTreeSet<String>, YamlError> {
    let mut types = BTreeSet::new();
    let list = spec.list("policyTypes")?;
    if list.len() > 2 {
        return spec.wrong_at(
            "policyTypes",
            &format!("has {} entries, at most 2 are taken", list.len()),
        );
    }
    for item in list {
        match item.yaml.text() {
            Some(text @ ("Ingress" | "Egress")) => types.insert(text.to_owned()),
            _ => return item.wrong(&format!("{} is neither Ingress nor Egress", item.yaml.shown())),
        };
    }
    Ok(types)
}

fn rules(spec: &At<'_>, direction: &str, peers: &str) -> Result<Vec<Rule>, YamlError> {
    let rule = |at: At<'_>| {
        only(&at, &[peers, "ports"])?;
        Ok(Rule {
            peers: at.list(peers)?.iter().map(peer).collect::<Result<_, _>>()?,
            ports: at.list("ports")?.iter().map(port).collect::<Result<_, _>>()?,
        })
    };
    spec.list(direction)?.into_iter().map(rule).collect()
}

fn peer(at: &At<'_>) -> Result<Peer, YamlError> {
    only(at, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces) = (selector(at, "podSelector")?, selector(at, "namespaceSelector")?);
    match at.map("ipBlock")? {
        Some(_) if pods.is_some() || namespaces.is_some() => {
            at.wrong("has an ipBlock and a selector: one or the other")
        }
        Some(block) => ip_block(&block).map(Peer::Block),
        None if pods.is_none() && namespaces.is_none() => {
            at.wrong("names no peer: podSelector, namespaceSelector or ipBlock")
        }
        None => Ok(Peer::Pods { namespaces, pods }),
    }
}

fn ip_block(at: &At<'_>) -> Result<IpBlock, YamlError> {
    only(at, &["cidr", "except"])?;
    let Some(cidr) = at.text("cidr")? else {
        return at.wrong("cidr is absent");
    };
    let mut block = match IpBlock::new(cidr) {
        Ok(block) => block,
        Err(problem) => return at.wrong_at("cidr", &problem.to_string()),
    };
    for item in at.list("except")? {
        let part = item.yaml.text().unwrap_or_default();
        if let Err(problem) = block.leave_out(part) {
            return item.wrong(&problem.to_string());
        }
    }
    Ok(block)
}

fn port(at: &At<'_>) -> Result<Port, YamlError> {
    only(at, &["port", "endPort", "protocol"])?;
    let number = match PortNumber::new(at.text("port")?, at.text("endPort")?) {
        Ok(number) => number,
        Err(problem @ PortError::NoPort(_)) => return at.wrong_at("port", &problem.to_string()),
        Err(problem) => return at.wrong_at("endPort", &problem.to_string()),
    };
    Ok(Port {
        protocol: at.protocol()?,
        number,
    })
}

/// `None` where there is none: for peers that is another thing than the empty one.
fn selector(of: &At<'_>, key: &str) -> Result<Option<Selector>, YamlError> {
    let Some(at) = of.map(key)? else { return Ok(None) };
    only(&at, &["matchLabels", "matchExpressions"])?;
    let match_labels = at.texts("matchLabels")?;
    if let Some(labels) = at.get("matchLabels") {
        for (key, value) in &match_labels {
            checked(&labels, key, value)?;
        }
    }
    let expressions = at.list("matchExpressions")?;
    Ok(Some(Selector {
        match_labels,
        match_expressions: expressions.iter().map(expression).collect::<Result<_, _>>()?,
    }))
}

fn expression(at: &At<'_>) -> Result<Expression, YamlError> {
    only(at, &["key", "operator", "values"])?;
    let mut values = BTreeSet::new();
    for item in at.list("values")? {
        match item.yaml.text() {
            Some(value) if is_label_value(value) => values.insert(value.to_owned()),
            _ => return item.wrong(&format!("{} is no label value", item.yaml.shown())),
        };
    }
    let Some(typed) = at.text("operator")? else {
        return at.wrong("operator is absent");
    };
    match Operator::new(typed, values) {
        Ok(operator) => Ok(Expression {
            key: at.name("key", "label key", is_label_key)?,
            operator,
        }),
        Err(problem @ OperatorError::Unknown(_)) => at.wrong_at("operator", &problem.to_string()),
        Err(problem) => at.wrong_at("values", &problem.to_string()),
    }
}

fn checked(labels: &At<'_>, key: &str, value: &str) -> Result<(), YamlError> {
    if !is_label_key(key) {
        return labels.wrong_at(key, &format!("{:?} is no label key", Short(key)));
    }
    if !is_label_value(value) {
        return labels.wrong_at(key, &format!("{:?} is no label value", Short(value)));
    }
    Ok(())
}

/// A field that is misspelt would widen a rule: nothing is dropped in silence.
fn only(at: &At<'_>, known: &[&str]) -> Result<(), YamlError> {
    let entries = match &at.yaml.value {
        Value::Map(entries) => entries,
        // An empty list item (`- `): null is the empty mapping to the API server.
        Value::Null => return Ok(()),
        _ => return at.wrong(&format!("is {}, not a mapping", at.yaml.shown())),
    };
    let unknown = |(key, _): &&(String, Yaml)| !known.contains(&key.as_str());
    match entries.iter().find(unknown) {
        None => Ok(()),
        Some((key, value)) => Err(YamlError {
            line: value.line,
            ..at.wrong_here(&format!(
                "has an unknown field {:?}; known are: {}",
                Short(key),
                known.join(", ")
            ))
        }),
    }
}

/// A name in an error: not longer than a line.
struct Short<'a>(&'a str);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.chars().take(80).collect::<String>())
    }
}
