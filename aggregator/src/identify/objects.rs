//! Kubernetes objects in files → what the core needs of them.
//!
//! Namespaces, pods, resource quotas and limit ranges of the core API, single, in several documents, or in lists. Other kinds are counted and left alone. What
//! is read is held to what an API server would accept, because no API server has looked at a file: an error names the object, the field and its value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use partywall_aggregator_core::identity::{
    Cluster, ContainerObject, LimitRangeObject, Namespace, PodObject, QuotaObject, Resources,
    is_namespace_name, is_object_name,
};
use partywall_aggregator_core::quantity::{Quantity, QuantityError};

use super::yaml::{self, Value, Yaml, YamlError};

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub cluster: Cluster,
    /// Objects of other kinds, and quotas that bound only some pods.
    pub ignored: u64,
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const MAX_UID: usize = 128;

/// # Errors
/// The first thing that is wrong, with its line.
pub fn read(text: &str) -> Result<Objects, YamlError> {
    let mut out = Objects::default();
    for document in yaml::read(text)? {
        if document.value != Value::Null {
            object(&document, None, &mut out)?;
        }
    }
    Ok(out)
}

/// One object, or a list of them. Items of a typed list (`PodList`) may leave out what the list says for them.
fn object(yaml: &Yaml, of_list: Option<&str>, out: &mut Objects) -> Result<(), YamlError> {
    if !matches!(yaml.value, Value::Map(_)) {
        return Err(error(
            yaml,
            "this document",
            &format!("is no Kubernetes object but {}", yaml.shown()),
        ));
    }
    let kind = match yaml.get("kind") {
        Some(kind) => kind
            .text()
            .ok_or_else(|| error(kind, "kind", &format!("is {}", kind.shown())))?,
        None => of_list.ok_or_else(|| error(yaml, "kind", "is absent: is this a Kubernetes object?"))?,
    };
    if let Some(items) = yaml.get("items") {
        let Value::List(items) = &items.value else {
            return Err(error(
                items,
                &format!("{kind} items"),
                &format!("is {}, not a list", items.shown()),
            ));
        };
        let of_list = kind.strip_suffix("List").filter(|k| !k.is_empty());
        return items.iter().try_for_each(|item| object(item, of_list, out));
    }
    let core_api = yaml
        .get("apiVersion")
        .map_or(of_list.is_some(), |v| v.text() == Some("v1"));
    match kind {
        "Namespace" if core_api => out.cluster.namespaces.push(namespace(&At::new(kind, yaml)?)?),
        "Pod" if core_api => out.cluster.pods.push(pod(&At::new(kind, yaml)?)?),
        "ResourceQuota" if core_api => match quota(&At::new(kind, yaml)?)? {
            Some(quota) => out.cluster.quotas.push(quota),
            None => out.ignored += 1,
        },
        "LimitRange" if core_api => out.cluster.limit_ranges.push(limit_range(&At::new(kind, yaml)?)?),
        _ => out.ignored += 1,
    }
    Ok(())
}

fn error(at: &Yaml, what: &str, problem: &str) -> YamlError {
    YamlError {
        line: at.line,
        message: format!("{what}: {problem}"),
    }
}

/// A node within an object, and the way to it.
struct At<'a> {
    /// "Pod blue/web"
    object: String,
    yaml: &'a Yaml,
    path: String,
}

impl<'a> At<'a> {
    fn new(kind: &str, yaml: &'a Yaml) -> Result<Self, YamlError> {
        let metadata = yaml.get("metadata");
        let part = |key| {
            metadata
                .and_then(|m| m.get(key))
                .and_then(Yaml::text)
                .unwrap_or_default()
        };
        let (namespace, name) = (part("namespace"), part("name"));
        let object = match namespace {
            "" => format!("{kind} {name:?}"),
            namespace => format!("{kind} {:?}", format!("{namespace}/{name}")),
        };
        Ok(Self {
            object,
            yaml,
            path: String::new(),
        })
    }

    fn wrong<T>(&self, problem: &str) -> Result<T, YamlError> {
        Err(error(
            self.yaml,
            &format!("{} {}", self.object, self.path),
            problem,
        ))
    }

    fn get(&self, key: &str) -> Option<Self> {
        let yaml = self.yaml.get(key)?;
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Some(Self {
            object: self.object.clone(),
            yaml,
            path,
        })
    }

    /// A mapping, or nothing.
    fn map(&self, key: &str) -> Result<Option<Self>, YamlError> {
        match self.get(key) {
            Some(at) if !matches!(at.yaml.value, Value::Map(_)) => {
                at.wrong(&format!("is {}, not a mapping", at.yaml.shown()))
            }
            at => Ok(at),
        }
    }

    /// The items of a list, or nothing.
    fn list(&self, key: &str) -> Result<Vec<Self>, YamlError> {
        let Some(at) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Value::List(items) = &at.yaml.value else {
            return at.wrong(&format!("is {}, not a list", at.yaml.shown()));
        };
        let item = |(i, yaml)| Self {
            object: self.object.clone(),
            yaml,
            path: format!("{}[{i}]", at.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, YamlError> {
        let Some(at) = self.get(key) else { return Ok(None) };
        match at.yaml.text() {
            Some(text) => Ok(Some(text)),
            None => at.wrong(&format!("is {}, not a text", at.yaml.shown())),
        }
    }

    /// A text that must be there and pass a check.
    fn name(&self, key: &str, what: &str, check: impl Fn(&str) -> bool) -> Result<String, YamlError> {
        match (self.text(key)?, self.get(key)) {
            (Some(text), _) if check(text) => Ok(text.to_owned()),
            (Some(text), Some(at)) => at.wrong(&format!(
                "{:?} is no {what}",
                text.chars().take(80).collect::<String>()
            )),
            _ => self.wrong(&format!("{key} is absent")),
        }
    }

    fn quantity<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, QuantityError>,
    ) -> Result<Option<T>, YamlError> {
        let Some(at) = self.get(key) else { return Ok(None) };
        let Some(text) = at.yaml.text() else {
            return at.wrong(&format!("is {}, not a quantity", at.yaml.shown()));
        };
        match parse(text) {
            Ok(value) => Ok(Some(value)),
            Err(problem) => at.wrong(&problem.to_string()),
        }
    }
}

fn metadata<'a>(object: &At<'a>) -> Result<At<'a>, YamlError> {
    match object.map("metadata")? {
        Some(metadata) => Ok(metadata),
        None => object.wrong("metadata is absent"),
    }
}

fn namespace_of(metadata: &At<'_>) -> Result<String, YamlError> {
    match metadata.get("namespace") {
        // As the API server would put it.
        None => Ok("default".to_owned()),
        Some(_) => metadata.name("namespace", "namespace name", is_namespace_name),
    }
}

fn namespace(object: &At<'_>) -> Result<Namespace, YamlError> {
    let metadata = metadata(object)?;
    let mut namespace = Namespace {
        name: metadata.name("name", "namespace name", is_namespace_name)?,
        ..Namespace::default()
    };
    if let Some(labels) = metadata.map("labels")?
        && let Value::Map(entries) = &labels.yaml.value
    {
        for (key, _) in entries {
            if let Some(value) = labels.text(key)? {
                namespace.labels.insert(key.clone(), value.to_owned());
            }
        }
    }
    Ok(namespace)
}

fn pod(object: &At<'_>) -> Result<PodObject, YamlError> {
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
        ..PodObject::default()
    };
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
        let ids = match object.map("status")? {
            Some(status) => container_ids(&status)?,
            None => BTreeMap::new(),
        };
        resources(&spec, &ids, &mut pod)?;
    }
    if let Some(status) = object.map("status")? {
        // A terminal pod's address may be another's by now; a host-network pod has its node's.
        let terminal = matches!(status.text("phase")?, Some("Succeeded" | "Failed"));
        if !terminal && !pod.host_network {
            pod.addresses = addresses(&status)?;
        }
    }
    Ok(pod)
}

fn addresses(status: &At<'_>) -> Result<Vec<IpAddr>, YamlError> {
    let mut out = Vec::new();
    for entry in status.list("podIPs")?.iter().chain(std::iter::once(status)) {
        let key = if entry.path.ends_with(']') { "ip" } else { "podIP" };
        if let Some(text) = entry.text(key)? {
            match (text.parse::<IpAddr>(), entry.get(key)) {
                (Ok(address), _) if !out.contains(&address) => out.push(address),
                (Ok(_), _) => {}
                (Err(_), at) => {
                    return at
                        .as_ref()
                        .unwrap_or(entry)
                        .wrong(&format!("{text:?} is no IP address"));
                }
            }
        }
    }
    Ok(out)
}

/// What the containers were promised, in all. As the API server does: a limit without a request is the request too; sidecars (init containers that
/// go on) count; what is set on the pod as a whole replaces the sum.
fn resources(spec: &At<'_>, ids: &BTreeMap<String, Box<str>>, pod: &mut PodObject) -> Result<(), YamlError> {
    let mut total = Resources::default();
    let (mut cpu_limit, mut memory_limit) = (Some(0u64), Some(0u64));
    let mut containers = spec.list("containers")?;
    for init in spec.list("initContainers")? {
        if init.text("restartPolicy")? == Some("Always") {
            containers.push(init);
        }
    }
    let mut objects = Vec::with_capacity(containers.len());
    for container in &containers {
        let (request, cpu, memory) = one(container)?;
        let name = match container.get("name") {
            Some(_) => container.name("name", "container name", is_namespace_name)?,
            None => String::new(),
        };
        objects.push(ContainerObject {
            id: ids.get(&name).cloned(),
            name: name.into(),
            cpu_limit_ncores: cpu,
            memory_limit_bytes: memory,
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

/// `None`: it bounds only some of the namespace's pods, which cannot be told apart by use.
fn quota(object: &At<'_>) -> Result<Option<QuotaObject>, YamlError> {
    let metadata = metadata(object)?;
    let mut quota = QuotaObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "quota name", is_object_name)?,
        ..QuotaObject::default()
    };
    let Some(spec) = object.map("spec")? else {
        return Ok(Some(quota));
    };
    if !spec.list("scopes")?.is_empty() || spec.get("scopeSelector").is_some() {
        return Ok(None);
    }
    if let Some(hard) = spec.map("hard")? {
        quota.cpu_ncores = most_used(&hard, "cpu", Quantity::parse_nanos)?;
        quota.memory_bytes = most_used(&hard, "memory", Quantity::parse_units)?;
        let pods = hard.quantity("pods", Quantity::parse_units)?;
        let count = hard.quantity("count/pods", Quantity::parse_units)?;
        quota.pods = [pods, count].into_iter().flatten().min();
    }
    Ok(Some(quota))
}

/// What `hard` lets pods use of a resource: limits, because those are what they may use; else requests, by either name.
fn most_used(
    hard: &At<'_>,
    resource: &str,
    parse: fn(&str) -> Result<u64, QuantityError>,
) -> Result<Option<u64>, YamlError> {
    let limit = hard.quantity(&format!("limits.{resource}"), parse)?;
    let requests = hard.quantity(&format!("requests.{resource}"), parse)?;
    let older = hard.quantity(resource, parse)?;
    Ok(limit.or([requests, older].into_iter().flatten().min()))
}

/// What it says of containers; what it says of pods and claims is left alone.
fn limit_range(object: &At<'_>) -> Result<LimitRangeObject, YamlError> {
    let metadata = metadata(object)?;
    let mut range = LimitRangeObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "limit range name", is_object_name)?,
        ..LimitRangeObject::default()
    };
    let limits = match object.map("spec")? {
        Some(spec) => spec.list("limits")?,
        None => Vec::new(),
    };
    for limit in limits {
        if limit.text("type")? != Some("Container") {
            continue;
        }
        let read = |key: &str| -> Result<(Option<u64>, Option<u64>), YamlError> {
            let Some(list) = limit.map(key)? else {
                return Ok((None, None));
            };
            Ok((
                list.quantity("cpu", Quantity::parse_nanos)?,
                list.quantity("memory", Quantity::parse_units)?,
            ))
        };
        let (max, default) = (read("max")?, read("default")?);
        let least = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().min();
        range.max_cpu_ncores = least(range.max_cpu_ncores, max.0);
        range.max_memory_bytes = least(range.max_memory_bytes, max.1);
        range.defaults_cpu |= default.0.is_some();
        range.defaults_memory |= default.1.is_some();
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: blue, uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10}
spec:
  nodeName: node-a
  initContainers:
  - {name: setup, resources: {requests: {cpu: \"4\"}}}
  - {name: sidecar, restartPolicy: Always, resources: {requests: {cpu: 50m}}}
  containers:
  - name: a
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 1, memory: 128Mi}}
  - name: b
    resources: {limits: {cpu: 250m}}
status: {phase: Running, podIP: 10.0.0.7, podIPs: [{ip: 10.0.0.7}, {ip: \"fd00::7\"}],
  containerStatuses: [{name: a, containerID: \"containerd://c0ffee\"}, {name: b, containerID: \"\"}],
  initContainerStatuses: [{name: sidecar, containerID: \"containerd://5ide\"}]}
";

    #[test]
    fn a_pod_is_read_as_the_api_server_defaults_it() {
        let objects = read(POD).unwrap();
        let pod = &objects.cluster.pods[0];
        assert_eq!(
            pod.requests,
            Resources {
                cpu_ncores: 400_000_000,
                memory_bytes: 64 << 20
            }
        );
        assert_eq!(pod.cpu_limit_ncores, None, "the sidecar has none");
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|c| {
                (
                    &*c.name,
                    c.id.as_deref(),
                    c.cpu_limit_ncores,
                    c.memory_limit_bytes,
                )
            })
            .collect();
        assert_eq!(
            containers,
            [
                ("a", Some("c0ffee"), Some(1_000_000_000), Some(128 << 20)),
                ("b", None, Some(250_000_000), None),
                ("sidecar", Some("5ide"), None, None),
            ]
        );
        assert_eq!(pod.node.as_deref(), Some("node-a"));
        assert_eq!(pod.addresses.len(), 2);
        let done = read(&POD.replace("Running", "Succeeded")).unwrap();
        assert!(
            done.cluster.pods[0].addresses.is_empty(),
            "its address may be another's by now"
        );
        let whole = read(&POD.replace(
            "  nodeName: node-a",
            "  nodeName: node-a\n  resources: {requests: {cpu: 2}}",
        ))
        .unwrap();
        assert_eq!(
            whole.cluster.pods[0].requests,
            Resources {
                cpu_ncores: 2_000_000_000,
                memory_bytes: 64 << 20
            }
        );
    }

    #[test]
    fn lists_documents_and_json_are_the_same() {
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: blue, labels: {team: b, n: 1}}\n";
        let documents = format!(
            "{POD}---\n{namespace}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{containers: nonsense}}\n"
        );
        let a = read(&documents).unwrap();
        assert_eq!(
            (a.cluster.pods.len(), a.cluster.namespaces.len(), a.ignored),
            (1, 1, 1)
        );
        assert_eq!(a.cluster.namespaces[0].labels["n"], "1");
        let indent = |text: &str| {
            text.lines()
                .map(|l| format!("  {l}\n"))
                .collect::<String>()
                .replacen("  ", "- ", 1)
        };
        // kubectl sorts keys: `items` come before `kind`.
        let list = format!(
            "apiVersion: v1\nitems:\n{}{}kind: List\n",
            indent(POD),
            indent(namespace)
        );
        assert_eq!(read(&list).unwrap().cluster, a.cluster);
        let typed = indent(&POD.replace("apiVersion: v1\nkind: Pod\n", ""));
        let typed = format!("apiVersion: v1\nkind: PodList\nitems:\n{typed}");
        assert_eq!(read(&typed).unwrap().cluster.pods, a.cluster.pods);
        let json = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"blue","labels":{"team":"b","n":"1"}}}"#;
        assert_eq!(read(json).unwrap().cluster.namespaces, a.cluster.namespaces);
        assert_eq!(read("").unwrap(), Objects::default());
    }

    #[test]
    fn quotas_bound_what_may_be_used() {
        let quota = |hard: &str| {
            read(&format!(
                "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: q, namespace: red}}\nspec: {hard}\n"
            ))
        };
        let ncores = |hard: &str| quota(hard).unwrap().cluster.quotas[0].cpu_ncores;
        assert_eq!(
            ncores("{hard: {limits.cpu: 2, requests.cpu: 1}}"),
            Some(2_000_000_000)
        );
        assert_eq!(ncores("{hard: {requests.cpu: 1}}"), Some(1_000_000_000));
        assert_eq!(ncores("{hard: {cpu: 500m, requests.cpu: 1}}"), Some(500_000_000));
        assert_eq!(ncores("{hard: {pods: 10}}"), None);
        let others = |hard: &str| {
            let quota = quota(hard).unwrap().cluster.quotas.remove(0);
            (quota.memory_bytes, quota.pods)
        };
        assert_eq!(
            others("{hard: {limits.memory: 2Gi, memory: 1Gi, pods: 10, count/pods: 8}}"),
            (Some(2 << 30), Some(8))
        );
        assert_eq!(
            others("{hard: {memory: 1Gi, requests.memory: 2Gi}}"),
            (Some(1 << 30), None)
        );
        let error = quota("{hard: {pods: -1}}").unwrap_err().to_string();
        assert!(
            error.contains("spec.hard.pods") && error.contains("-1"),
            "{error}"
        );
        let scoped = quota("{hard: {cpu: 1}, scopes: [BestEffort]}").unwrap();
        assert_eq!((scoped.cluster.quotas.len(), scoped.ignored), (0, 1));
    }

    #[test]
    fn limit_ranges_of_containers_are_read() {
        let range = |limits: &str| {
            read(&format!(
                "apiVersion: v1\nkind: LimitRange\nmetadata: {{name: r, namespace: red}}\nspec: {{limits: {limits}}}\n"
            ))
        };
        let read = range(
            "[{type: Container, max: {cpu: 500m, memory: 1Gi}, default: {memory: 512Mi}}, {type: Pod, max: {cpu: 100m}}, \
             {type: Container, max: {cpu: 2}}]",
        );
        assert_eq!(
            read.unwrap().cluster.limit_ranges,
            [LimitRangeObject {
                namespace: "red".into(),
                name: "r".into(),
                max_cpu_ncores: Some(500_000_000),
                max_memory_bytes: Some(1 << 30),
                defaults_cpu: false,
                defaults_memory: true,
            }]
        );
        for (limits, needles) in [
            (
                "[{type: Container, max: {cpu: much}}]",
                ["spec.limits[0].max.cpu", "much"],
            ),
            (
                "[{type: Container, default: {memory: -1}}]",
                ["spec.limits[0].default.memory", "-1"],
            ),
            ("{type: Container}", ["spec.limits", "a mapping"]),
        ] {
            let error = range(limits).unwrap_err().to_string();
            assert!(needles.iter().all(|n| error.contains(n)), "{error}");
        }
    }

    #[test]
    fn errors_name_line_object_field_and_value() {
        let table: &[(&str, &str, u64, &[&str])] = &[
            (
                "cpu: 100m",
                "cpu: -100m",
                11,
                &[
                    "Pod \"blue/web\"",
                    "spec.containers[0].resources.requests.cpu",
                    "-100m",
                    "negative",
                ],
            ),
            ("cpu: 100m", "cpu: 1e3Mi", 11, &["requests.cpu", "1e3Mi"]),
            ("cpu: 100m", "cpu: .nan", 11, &["requests.cpu", ".nan"]),
            ("cpu: 100m", "cpu: 1e300", 11, &["requests.cpu", "1e300"]),
            ("cpu: 100m", "cpu: [1]", 11, &["requests.cpu", "a list"]),
            ("cpu: 100m", "cpu: 100m, cpu: 200m", 11, &["cpu: 100m, cpu: 200m"]),
            ("memory: 64Mi", "memory: lots", 11, &["requests.memory", "lots"]),
            ("name: web", "name: Web", 3, &["metadata.name", "Web"]),
            ("name: web", "name: \"web\\n\"", 3, &["metadata.name", "web\\n"]),
            (
                "namespace: blue",
                "namespace: [a]",
                3,
                &["metadata.namespace", "a list"],
            ),
            (
                ", uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10",
                "",
                3,
                &["metadata", "uid is absent"],
            ),
            (
                "nodeName: node-a",
                "nodeName: {}",
                5,
                &["spec.nodeName", "a mapping"],
            ),
            (
                "podIP: 10.0.0.7",
                "podIP: 10.0.0.777",
                14,
                &["status.podIP", "10.0.0.777"],
            ),
            ("kind: Pod", "kind: [Pod]", 2, &["kind", "a list"]),
            (
                "metadata: {name: web, namespace: blue, uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10}\n",
                "",
                1,
                &["metadata is absent"],
            ),
            ("apiVersion: v1\nkind: Pod\n", "", 1, &["kind", "absent"]),
            (POD, "just words", 1, &["just words"]),
        ];
        for (from, to, line, needles) in table {
            let error = read(&POD.replacen(from, to, 1)).expect_err(to);
            for needle in *needles {
                assert!(
                    error.to_string().contains(needle),
                    "{to}: {error}\nlacks {needle}"
                );
            }
            assert_eq!(error.line, *line, "{to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_edit_of_a_pod_panics(at in 0..POD.len(), with in "\\PC{0,3}", cut in 0usize..9) {
            let (from, to) = (at, (at + cut).min(POD.len()));
            if POD.is_char_boundary(from) && POD.is_char_boundary(to) {
                let _ = read(&format!("{}{with}{}", &POD[..from], &POD[to..]));
            }
        }
    }
}
