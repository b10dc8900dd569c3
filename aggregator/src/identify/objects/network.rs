//! Objects that say who can be reached where: services, endpoint slices, nodes.

use std::net::IpAddr;

use partywall_aggregator_core::fence::number;
use partywall_aggregator_core::identity::{
    ContainerPort, EndpointSliceObject, NodeObject, POOL_LABELS, ServiceObject, ServicePort, Taint,
    TargetPort, is_object_name, is_port_name,
};
use partywall_aggregator_core::quantity::Quantity;

use super::super::yaml::YamlError;
use super::at::{At, metadata, namespace_of};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Set by virtual kubelets, as by convention.
const NODE_TYPE: &str = "type";
/// The older `failure-domain.beta.kubernetes.io` ones are deprecated, and nodes have had these since 1.17.
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
/// Ours, for nodes on which whoever runs the cluster wants no agent.
const AGENTLESS: &str = "partywall.io/agentless";
/// Set by kubelets. What has none is a kubelet's of long ago, or no kubelet's.
const OS: &str = "kubernetes.io/os";
/// `auto`, `hybrid`, `fargate` or not there.
const COMPUTE_TYPE: &str = "eks.amazonaws.com/compute-type";

pub(super) fn service(object: &At<'_>) -> Result<ServiceObject, YamlError> {
    let metadata = metadata(object)?;
    let mut service = ServiceObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "service name", is_object_name)?,
        ..ServiceObject::default()
    };
    if let Some(spec) = object.map("spec")? {
        service.cluster_ips = cluster_ips(&spec)?;
        service.external_ips = spec.addresses("externalIPs")?;
        service.selector = spec.texts("selector")?;
        for port in spec.list("ports")? {
            service.ports.push(service_port(&port)?);
        }
    }
    let balancer = match object.map("status")? {
        Some(status) => status.map("loadBalancer")?,
        None => None,
    };
    if let Some(balancer) = balancer {
        for ingress in balancer.list("ingress")? {
            service.external_ips.extend(ingress.address("ip")?);
        }
    }
    Ok(service)
}

/// `clusterIPs`, else the older single one. A headless service has `None` there.
fn cluster_ips(spec: &At<'_>) -> Result<Vec<IpAddr>, YamlError> {
    let headless = |text: Option<&str>| matches!(text, None | Some("None" | ""));
    let several = spec.list("clusterIPs")?;
    if let Some(first) = several.first() {
        return match first.yaml.text() {
            text @ Some(_) if headless(text) => Ok(Vec::new()),
            _ => spec.addresses("clusterIPs"),
        };
    }
    if headless(spec.text("clusterIP")?) {
        return Ok(Vec::new());
    }
    Ok(spec.address("clusterIP")?.into_iter().collect())
}

fn service_port(at: &At<'_>) -> Result<ServicePort, YamlError> {
    let Some(port) = at.port("port")? else {
        return at.wrong("port is absent");
    };
    let target = match at.text("targetPort")? {
        None => TargetPort::Number(port),
        Some(text) => match number(text) {
            Some(number) => TargetPort::Number(number),
            None if is_port_name(text) => TargetPort::Name(text.into()),
            None => {
                return at.wrong_at(
                    "targetPort",
                    &format!("{text:?} is neither a port nor the name of one"),
                );
            }
        },
    };
    Ok(ServicePort {
        name: at.text("name")?.filter(|n| !n.is_empty()).map(Into::into),
        protocol: at.protocol()?,
        port,
        target,
    })
}

pub(super) fn endpoint_slice(object: &At<'_>) -> Result<EndpointSliceObject, YamlError> {
    let metadata = metadata(object)?;
    let mut slice = EndpointSliceObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "endpoint slice name", is_object_name)?,
        service: metadata.texts("labels")?.remove(SERVICE_NAME),
        ..EndpointSliceObject::default()
    };
    if object.text("addressType")? != Some("FQDN") {
        for endpoint in object.list("endpoints")? {
            slice.addresses.extend(endpoint.addresses("addresses")?);
        }
    }
    for port in object.list("ports")? {
        if let Some(number) = port.port("port")? {
            slice.ports.push(ContainerPort {
                name: port.text("name")?.filter(|n| !n.is_empty()).map(Into::into),
                number,
                protocol: port.protocol()?,
            });
        }
    }
    Ok(slice)
}

pub(super) fn node(object: &At<'_>) -> Result<NodeObject, YamlError> {
    let metadata = metadata(object)?;
    let (mut internal, mut external) = (Vec::new(), Vec::new());
    if let Some(status) = object.map("status")? {
        for entry in status.list("addresses")? {
            match entry.text("type")? {
                Some("InternalIP") => internal.extend(entry.address("address")?),
                Some("ExternalIP") => external.extend(entry.address("address")?),
                // Names.
                _ => {}
            }
        }
    }
    internal.append(&mut external);
    let mut labels = metadata.texts("labels")?;
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|v| v == value);
    let hybrid = is(COMPUTE_TYPE, "hybrid");
    let agentless = is(COMPUTE_TYPE, "fargate")
        || is(NODE_TYPE, "virtual-kubelet")
        || is(AGENTLESS, "true")
        || labels.get(OS).is_some_and(|os| os != "linux");
    let mut node = NodeObject {
        name: metadata.name("name", "node name", is_object_name)?,
        addresses: internal,
        zone: labels.remove(ZONE),
        region: labels.remove(REGION),
        hybrid,
        agentless,
        pool: POOL_LABELS.iter().find_map(|label| labels.remove(*label)),
        ..NodeObject::default()
    };
    room(object, &mut node)?;
    if let Some(spec) = object.map("spec")? {
        node.unschedulable = spec.text("unschedulable")? == Some("true");
        for taint in spec.list("taints")? {
            let text = |key: &str| Ok::<_, YamlError>(taint.text(key)?.unwrap_or_default().into());
            let taint = Taint {
                key: text("key")?,
                value: text("value")?,
                effect: text("effect")?,
            };
            if matches!(&*taint.effect, "NoSchedule" | "NoExecute") {
                node.taints.push(taint);
            }
        }
    }
    Ok(node)
}

/// What pods may have of a node. Without `allocatable` (a node that has just joined) its capacity.
fn room(object: &At<'_>, node: &mut NodeObject) -> Result<(), YamlError> {
    let Some(status) = object.map("status")? else {
        return Ok(());
    };
    for key in ["allocatable", "capacity"] {
        if let Some(list) = status.map(key)? {
            node.cpu_ncores = node.cpu_ncores.or(list.quantity("cpu", Quantity::parse_nanos)?);
            node.memory_bytes = node
                .memory_bytes
                .or(list.quantity("memory", Quantity::parse_units)?);
            node.pods = node.pods.or(list.quantity("pods", Quantity::parse_units)?);
        }
    }
    Ok(())
}
