//! The scenario's own Kubernetes objects: which there are, which change, and what its Services say.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use anyhow::{Context, Result, anyhow, bail};
use partywall_workload::Transport;
use serde::Deserialize;

/// What an object is called: kind, namespace (empty: of the cluster, or not told) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    /// "NetworkPolicy/blue/deny", or "Namespace/blue".
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, name] => (kind, "", name),
            [kind, namespace, name] => (kind, namespace, name),
            _ => return None,
        };
        let owned = str::to_owned;
        (!kind.is_empty() && !name.is_empty()).then(|| Self {
            kind: owned(kind),
            namespace: owned(namespace),
            name: owned(name),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        match &**namespace {
            "" => write!(formatter, "{kind}/{name}"),
            _ => write!(formatter, "{kind}/{namespace}/{name}"),
        }
    }
}

/// Objects in the order in which they were written, each with its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents(Vec<(Key, String)>);

#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
    metadata: Option<Metadata>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
}

impl Documents {
    /// From YAML, any number of documents.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut documents = Vec::new();
        for document in split(text) {
            let head: Option<Head> = serde_saphyr::from_str(&document).map_err(|error| anyhow!("{error}"))?;
            let Some(head) = head else { continue };
            let metadata = head.metadata.unwrap_or_default();
            let key = Key {
                kind: head.kind.unwrap_or_default(),
                namespace: metadata.namespace.unwrap_or_default(),
                name: metadata.name.unwrap_or_default(),
            };
            documents.push((key, document));
        }
        Ok(Self(documents))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The first object of this kind, and its text.
    pub(crate) fn of_kind(&self, kind: &str) -> Option<(&Key, &str)> {
        let mut of_kind = self.0.iter().filter(|(key, _)| key.kind == kind);
        of_kind.next().map(|(key, text)| (key, text.as_str()))
    }

    pub(crate) fn of_name(&self, kind: &str, name: &str) -> Option<(&Key, &str)> {
        let mut named = self
            .0
            .iter()
            .filter(|(key, _)| key.kind == kind && key.name == name);
        named.next().map(|(key, text)| (key, text.as_str()))
    }

    /// Adds what is new, and puts the rest in the place of what it names.
    pub(crate) fn put(&mut self, others: &Self) {
        for (key, text) in &others.0 {
            match self.0.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) => old.clone_from(text),
                None => self.0.push((key.clone(), text.clone())),
            }
        }
    }

    /// False: there is no such object.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != key);
        self.0.len() < before
    }

    /// As one YAML text.
    pub(crate) fn text(&self) -> String {
        let texts: Vec<&str> = self.0.iter().map(|(_, text)| text.as_str()).collect();
        texts.join("---\n")
    }

    /// Every Service that stands for pods.
    pub(crate) fn services(&self) -> Result<Vec<Service>> {
        let services = self.0.iter().filter(|(key, _)| key.kind == "Service");
        services
            .map(|(key, text)| Service::parse(key, text).with_context(|| key.to_string()))
            .collect()
    }
}

/// At lines of three dashes: YAML lets no other text stand there, not even a block of it.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        let marks = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']));
        match (marks, documents.last_mut()) {
            (Some(rest), _) => documents.push(format!("{}\n", rest.trim())),
            (None, Some(document)) => {
                document.push_str(line);
                document.push('\n');
            }
            (None, None) => {}
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

/// A Service, as far as packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// None: headless.
    pub(crate) addresses: Vec<IpAddr>,
    /// Empty: nobody.
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target: Target,
    pub(crate) transport: Transport,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum Target {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
struct Raw {
    spec: Option<RawSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", default)]
    cluster_ips: Vec<String>,
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<RawPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    name: Option<String>,
    port: u16,
    target_port: Option<Target>,
    protocol: Option<String>,
}

impl Service {
    fn parse(key: &Key, text: &str) -> Result<Self> {
        let raw: Raw = serde_saphyr::from_str(text).map_err(|error| anyhow!("{error}"))?;
        let spec = raw.spec.context("spec: a Service needs it")?;
        let mut written = spec.cluster_ips;
        written.extend(spec.cluster_ip.filter(|ip| !written.contains(ip)));
        let addresses = written
            .iter()
            .filter(|ip| *ip != "None")
            .map(|ip| ip.parse().map_err(|_| anyhow!("clusterIP: `{ip}` is no address")));
        let addresses = addresses.collect::<Result<_>>()?;
        let mut ports = Vec::new();
        for port in spec.ports {
            ports.push(Port {
                name: port.name.unwrap_or_default(),
                port: port.port,
                target: port.target_port.unwrap_or(Target::Number(port.port)),
                transport: transport(port.protocol.as_deref().unwrap_or("TCP"))?,
            });
        }
        Ok(Self {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            addresses,
            selector: spec.selector,
            ports,
        })
    }
}

/// As Kubernetes writes it.
pub(crate) fn transport(protocol: &str) -> Result<Transport> {
    match protocol {
        "TCP" => Ok(Transport::Tcp),
        "UDP" => Ok(Transport::Udp),
        other => bail!("protocol: `{other}` is neither TCP nor UDP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# nothing yet
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: blue }
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, \"fd00:10:96::10\"]
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }, { port: 53, protocol: UDP }]
---
kind: NetworkPolicy
metadata:
  name: deny
  namespace: blue
  annotations:
    text: |
      --- not a mark
---
";

    #[test]
    fn objects_are_known_by_kind_namespace_and_name_and_change() {
        let mut documents = Documents::parse(TEXT).unwrap();
        let keys: Vec<String> = documents.keys().map(Key::to_string).collect();
        assert_eq!(keys, ["Service/blue/web", "NetworkPolicy/blue/deny"]);
        let changed = Documents::parse("kind: NetworkPolicy\nmetadata: {name: deny, namespace: blue}\nx: 1\n---\nkind: Namespace\nmetadata: {name: red}\n").unwrap();
        documents.put(&changed);
        assert_eq!(documents.keys().count(), 3);
        assert!(documents.text().contains("x: 1") && !documents.text().contains("not a mark"));
        assert!(documents.remove(&Key::parse("Namespace/red").unwrap()));
        assert!(!documents.remove(&Key::parse("Namespace/red").unwrap()));
        assert_eq!(Documents::parse(&documents.text()).unwrap().keys().count(), 2);
        assert_eq!(Key::parse("NetworkPolicy"), None);
        assert_eq!(Key::parse("a/b/c/d"), None);
    }

    #[test]
    fn a_service_says_where_it_is_and_what_it_stands_for() {
        let services = Documents::parse(TEXT).unwrap().services().unwrap();
        let [service] = &services[..] else {
            panic!("one Service")
        };
        assert_eq!(service.addresses.len(), 2);
        assert_eq!(service.selector["app"], "web");
        assert_eq!(service.ports[0].target, Target::Name("http".to_owned()));
        assert_eq!(service.ports[1].target, Target::Number(53));
        assert_eq!(service.ports[1].transport, Transport::Udp);
        let headless = TEXT
            .replace("10.96.0.10\n", "None\n")
            .replace("[10.96.0.10, \"fd00:10:96::10\"]", "[None]");
        assert_eq!(
            Documents::parse(&headless).unwrap().services().unwrap()[0].addresses,
            [] as [IpAddr; 0]
        );
        let bad = TEXT.replace("protocol: UDP", "protocol: SCTP");
        let error = format!("{:#}", Documents::parse(&bad).unwrap().services().unwrap_err());
        assert!(
            error.contains("Service/blue/web") && error.contains("SCTP"),
            "{error}"
        );
    }
}
