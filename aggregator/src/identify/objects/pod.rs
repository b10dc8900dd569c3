//! Pod objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use partywall_aggregator_core::identity::{
    ContainerObject, ContainerPort, Labels, OwnerRef, PodObject, Resources, Toleration, is_namespace_name,
    is_object_name, is_port_name,
};
use partywall_aggregator_core::quantity::Quantity;
use partywall_aggregator_core::shared::Shared;

use super::super::yaml::YamlError;
use super::at::{At, metadata, namespace_of};

const MIRROR: &str = "kubernetes.io/config.mirror";
const MAX_UID: usize = 128;

/// Pods of one owner bear the same labels, and there may be tens of thousands of them. One for all sources: whoever reads a pod anew, from a file or
/// from a watch, finds what it had.
static LABELS: Mutex<Shared<BTreeMap<String, String>>> = Mutex::new(Shared::new());

fn shared(labels: BTreeMap<String, String>) -> Labels {
    let mut kept = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    kept.of(labels.into())
}

pub(super) fn pod(object: &At<'_>) -> Result<PodObject, YamlError> {
    let metadata = metadata(object)?;
    let is_uid = |uid: &str| {
        (1..=MAX_UID).contains(&uid.len())
            && uid
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let mut pod = PodObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "pod name", is_object_name)?,
        uid: metadata.name(
            "uid",
            "UID (a pod is known by it: use objects as `kubectl get -o yaml` writes them)",
            is_uid,
        )?,
        labels: shared(metadata.texts("labels")?),
        ..PodObject::default()
    };
    pod.owner = owner(&metadata)?;
    if let Some(annotations) = metadata.map("annotations")?
        && let Some(hash) = annotations.text(MIRROR)?
        && is_uid(hash)
    {
        pod.static_uid = Some(hash.to_owned());
    }
    if let Some(spec) = object.map("spec")? {
        if spec.get("nodeName").is_some() {
            pod.node = Some(spec.name("nodeName", "node name", is_object_name)?);
        }
        pod.host_network = spec.text("hostNetwork")? == Some("true");
        pod.terminating = spec.get("activeDeadlineSeconds").is_some();
        pod.priority_class = spec
            .text("priorityClassName")?
            .filter(|c| !c.is_empty())
            .map(Into::into);
        pod.best_effort = best_effort(&spec)?;
        pod.tolerations = tolerations(&spec)?;
        let ids = match object.map("status")? {
            Some(status) => container_ids(&status)?,
            None => BTreeMap::new(),
        };
        resources(&spec, &ids, &mut pod)?;
    }
    if let Some(status) = object.map("status")? {
        // A terminal pod's address may be another's by now; a host-network pod has its node's.
        pod.terminal = matches!(status.text("phase")?, Some("Succeeded" | "Failed"));
        if !pod.terminal && !pod.host_network {
            pod.addresses = addresses(&status, "podIPs", "podIP")?;
        }
        pod.host_addresses = addresses(&status, "hostIPs", "hostIP")?;
    }
    Ok(pod)
}

/// The reference that says `controller: true`: Kubernetes admits one.
fn owner(metadata: &At<'_>) -> Result<Option<OwnerRef>, YamlError> {
    for reference in metadata.list("ownerReferences")? {
        if reference.text("controller")? == Some("true") {
            return Ok(Some(OwnerRef {
                kind: reference.text("kind")?.unwrap_or_default().into(),
                name: reference.name("name", "owner name", is_object_name)?.into(),
            }));
        }
    }
    Ok(None)
}

/// Those that hold for good. With `tolerationSeconds`, as every pod is given two, a taint is borne for a while only.
fn tolerations(spec: &At<'_>) -> Result<Box<[Toleration]>, YamlError> {
    let mut out = Vec::new();
    for of in spec.list("tolerations")? {
        if of.get("tolerationSeconds").is_some() {
            continue;
        }
        let text = |key: &str| Ok::<_, YamlError>(of.text(key)?.unwrap_or_default().into());
        out.push(Toleration {
            key: text("key")?,
            value: match of.text("operator")? {
                Some("Exists") => None,
                _ => Some(text("value")?),
            },
            effect: text("effect")?,
        });
    }
    Ok(out.into())
}

/// `[{ip: …}, …]` under `list`, and the older single one under `single`.
fn addresses(status: &At<'_>, list: &str, single: &str) -> Result<Vec<IpAddr>, YamlError> {
    let mut out = Vec::new();
    for entry in status.list(list)? {
        out.extend(entry.address("ip")?);
    }
    out.extend(status.address(single)?);
    let mut seen = BTreeSet::new();
    out.retain(|address| seen.insert(*address));
    // One or two, for as long as the pod lives.
    out.shrink_to_fit();
    Ok(out)
}

fn ports(container: &At<'_>) -> Result<Box<[ContainerPort]>, YamlError> {
    let read = |port: At<'_>| {
        let name = match port.get("name") {
            Some(_) => Some(port.name("name", "port name", is_port_name)?.into()),
            None => None,
        };
        match port.port("containerPort")? {
            Some(number) => Ok(ContainerPort {
                name,
                number,
                protocol: port.protocol()?,
            }),
            None => port.wrong("containerPort is absent"),
        }
    };
    container.list("ports")?.into_iter().map(read).collect()
}

/// What the containers were promised, in all. As the API server does: a limit without a request is the request too; sidecars (init containers that
/// go on) count; what is set on the pod as a whole replaces the sum.
fn resources(spec: &At<'_>, ids: &BTreeMap<String, Box<str>>, pod: &mut PodObject) -> Result<(), YamlError> {
    let mut total = Resources::default();
    let (mut cpu_limit, mut memory_limit) = (Some(0u64), Some(0u64));
    let mut containers: Vec<_> = spec.list("containers")?.into_iter().map(|c| (c, false)).collect();
    for init in spec.list("initContainers")? {
        if init.text("restartPolicy")? == Some("Always") {
            containers.push((init, true));
        }
    }
    let mut objects = Vec::with_capacity(containers.len());
    for (container, sidecar) in &containers {
        let (request, cpu, memory) = one(container)?;
        let name = match container.get("name") {
            Some(_) => container.name("name", "container name", is_namespace_name)?,
            None => String::new(),
        };
        objects.push(ContainerObject {
            id: ids.get(&name).cloned(),
            name: name.into(),
            requests: request,
            cpu_limit_ncores: cpu,
            memory_limit_bytes: memory,
            ports: ports(container)?,
            sidecar: *sidecar,
        });
        total.cpu_ncores = total.cpu_ncores.saturating_add(request.cpu_ncores);
        total.memory_bytes = total.memory_bytes.saturating_add(request.memory_bytes);
        cpu_limit = cpu_limit.zip(cpu).map(|(a, b)| a.saturating_add(b));
        memory_limit = memory_limit.zip(memory).map(|(a, b)| a.saturating_add(b));
    }
    if containers.is_empty() {
        (cpu_limit, memory_limit) = (None, None);
    }
    if let Some(whole) = spec.map("resources")? {
        let set = whole.map("requests")?;
        let (requests, cpu, memory) = one(spec)?;
        let limits = (cpu.or(cpu_limit), memory.or(memory_limit));
        (cpu_limit, memory_limit) = limits;
        if set.as_ref().is_some_and(|r| r.get("cpu").is_some()) || cpu.is_some() {
            total.cpu_ncores = requests.cpu_ncores;
        }
        if set.as_ref().is_some_and(|r| r.get("memory").is_some()) || memory.is_some() {
            total.memory_bytes = requests.memory_bytes;
        }
    }
    pod.containers = objects.into();
    pod.requests = total;
    pod.cpu_limit_ncores = cpu_limit;
    pod.memory_limit_bytes = memory_limit;
    Ok(())
}

/// Quality of service `BestEffort`: no container asks for or is bounded in CPU or memory, nor is the pod as a whole.
fn best_effort(spec: &At<'_>) -> Result<bool, YamlError> {
    let mut parts = spec.list("containers")?;
    parts.append(&mut spec.list("initContainers")?);
    for part in parts.iter().chain([spec]) {
        let (requests, cpu, memory) = one(part)?;
        if requests != Resources::default() || cpu.is_some_and(|n| n > 0) || memory.is_some_and(|n| n > 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Container name → the runtime's id, without the runtime's name before it. Empty until it was started.
fn container_ids(status: &At<'_>) -> Result<BTreeMap<String, Box<str>>, YamlError> {
    let mut out = BTreeMap::new();
    for key in ["containerStatuses", "initContainerStatuses"] {
        for container in status.list(key)? {
            let id = container.text("containerID")?.unwrap_or_default();
            let id = id.split_once("://").map_or(id, |(_, id)| id);
            if let Some(name) = container.text("name")?
                && !id.is_empty()
            {
                out.insert(name.to_owned(), id.into());
            }
        }
    }
    Ok(out)
}

/// Requests (limits where there are none) and limits of whatever has `resources`.
fn one(of: &At<'_>) -> Result<(Resources, Option<u64>, Option<u64>), YamlError> {
    let Some(resources) = of.map("resources")? else {
        return Ok((Resources::default(), None, None));
    };
    let read = |key: &str| -> Result<(Option<u64>, Option<u64>), YamlError> {
        let Some(list) = resources.map(key)? else {
            return Ok((None, None));
        };
        Ok((
            list.quantity("cpu", Quantity::parse_nanos)?,
            list.quantity("memory", Quantity::parse_units)?,
        ))
    };
    let (cpu_request, memory_request) = read("requests")?;
    let (cpu_limit, memory_limit) = read("limits")?;
    let requests = Resources {
        cpu_ncores: cpu_request.or(cpu_limit).unwrap_or(0),
        memory_bytes: memory_request.or(memory_limit).unwrap_or(0),
    };
    Ok((requests, cpu_limit, memory_limit))
}
