//! What was typed for an end → who that is.

use std::net::IpAddr;

use anyhow::{anyhow, bail};
use partywall_aggregator_core::fence::{AskedPort, End, Question};
use partywall_aggregator_core::identity::ServiceObject;

use super::Known;

/// Names listed in an error.
const LISTED: usize = 12;

/// `option` is for the error.
pub(super) fn find<'a>(known: &'a Known, option: &str, typed: &str) -> anyhow::Result<End<'a>> {
    if let Ok(address) = typed.parse::<IpAddr>() {
        return at(known, option, address);
    }
    if let Some(name) = typed.strip_prefix("node:") {
        return match known.fence.node(name) {
            Some(node) => Ok(End::Node(node, None)),
            None => {
                let nodes = known.cluster.nodes.iter().map(|n| n.name.as_str());
                Err(anyhow!(
                    "{option}: there is no node {name:?}; nodes are: {}",
                    listed(nodes)
                ))
            }
        };
    }
    let Some((namespace, name)) = typed.split_once('/') else {
        bail!("{option}: {typed:?} is neither NAMESPACE/POD nor an IP address nor node:NAME");
    };
    match known.fence.pod(namespace, name) {
        Some(pod) => Ok(End::Pod(pod)),
        None => Err(no_pod(known, option, namespace, name)),
    }
}

fn at<'a>(known: &'a Known, option: &str, address: IpAddr) -> anyhow::Result<End<'a>> {
    let canonical = address.to_canonical();
    let of = |s: &&ServiceObject| s.cluster_ips.contains(&canonical);
    let Some(service) = known.cluster.services.iter().find(of) else {
        return Ok(known.fence.at(address));
    };
    let behind = known.fence.pods().iter().filter(|pod| {
        let labels = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        *pod.namespace.name == *service.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(labels)
    });
    let behind: Vec<String> = behind.map(ToString::to_string).collect();
    bail!(
        "{option}: {address} is the ClusterIP of service {}/{}; policies are about the pods behind it: {}",
        service.namespace,
        service.name,
        listed(behind.iter().map(String::as_str))
    )
}

/// What there is instead: the first question of whoever mistyped a name.
fn no_pod(known: &Known, option: &str, namespace: &str, name: &str) -> anyhow::Error {
    let mut here = known
        .cluster
        .pods
        .iter()
        .filter(|p| p.namespace == namespace)
        .peekable();
    if here.peek().is_none() {
        let mut all: Vec<_> = known.cluster.pods.iter().map(|p| p.namespace.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        return anyhow!(
            "{option}: there is no pod {namespace}/{name}: namespace {namespace:?} has no pods; namespaces with pods are: {}",
            listed(all.into_iter())
        );
    }
    if here.clone().any(|p| p.name == name) {
        return anyhow!("{option}: pod {namespace}/{name} has ended: it is no end of a connection");
    }
    let mut names: Vec<_> = here.filter(|p| !p.terminal).map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    anyhow!(
        "{option}: there is no pod {namespace}/{name}; pods of {namespace} are: {}",
        listed(names.into_iter())
    )
}

/// A port was asked for by a name that the receiving end does not have.
pub(super) fn no_such_port(question: &Question, to: &End<'_>) -> anyhow::Error {
    let AskedPort::Named(name) = &question.port else {
        return anyhow!("--port: {to} has no port {question}");
    };
    let End::Pod(pod) = to else {
        return anyhow!("--port: {to} is no pod, and has no port named {name:?}: give its number");
    };
    let ports = pod.ports.iter().filter_map(|p| {
        let name = p.name.as_deref()?;
        Some(format!("{name} ({}/{})", p.number, p.protocol))
    });
    let ports: Vec<String> = ports.collect();
    anyhow!(
        "--port: {pod} has no port named {name:?} of {}; its named ports are: {}",
        question.protocol,
        listed(ports.iter().map(String::as_str))
    )
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let mut text = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(LISTED) {
        _ if names.is_empty() => text.push_str("none"),
        Some(more @ 1..) => text.push_str(&format!(" and {more} more")),
        _ => {}
    }
    text
}
