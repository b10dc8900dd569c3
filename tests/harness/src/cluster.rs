//! The directory of Kubernetes YAML that the aggregator watches in place of the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use partywall_workload::{
    NODE_IPV4, NODE_IPV6, PodSpec,
    manifest::{Phase, namespace_yaml, node_yaml, pod_yaml},
};

use crate::{
    manifests::{Documents, Service},
    processes::NODE,
    scenario::Change,
    services::endpoint_slices,
};

const MANIFESTS: &str = "manifests.yaml";

pub(crate) struct Cluster {
    dir: PathBuf,
    /// The scenario's own, as they are now.
    documents: Documents,
    /// EndpointSlices that are there now, by name.
    slices: BTreeMap<String, String>,
}

impl Cluster {
    /// Writes `manifests`, which hold `documents`, and a Namespace for each of `namespaces` that they do not name.
    pub(crate) fn create(
        dir: PathBuf,
        manifests: Option<&str>,
        documents: &Documents,
        namespaces: &BTreeSet<&str>,
    ) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let cluster = Self {
            dir,
            documents: documents.clone(),
            slices: BTreeMap::new(),
        };
        let named = namespaces_of(documents);
        if let Some(manifests) = manifests {
            cluster.write(MANIFESTS, manifests)?;
        }
        for namespace in namespaces.iter().filter(|namespace| !named.contains(**namespace)) {
            let yaml = namespace_yaml(namespace, &BTreeMap::new())?;
            cluster.write(&file_of_namespace(namespace), &yaml)?;
        }
        Ok(cluster)
    }

    /// The node, with the addresses that it has where there is a network.
    pub(crate) fn add_node(&self) -> Result<()> {
        let yaml = node_yaml(NODE, &[NODE_IPV4.into(), NODE_IPV6.into()])?;
        self.write("node.yaml", &yaml)
    }

    pub(crate) fn change(&mut self, change: &Change) -> Result<()> {
        change.apply(&mut self.documents);
        self.write(MANIFESTS, &self.documents.text())?;
        for namespace in namespaces_of(&change.put) {
            self.remove(&file_of_namespace(namespace))?;
        }
        Ok(())
    }

    /// Every Service that stands for pods, as it is now.
    pub(crate) fn services(&self) -> Result<Vec<Service>> {
        self.documents.services()
    }

    /// Brings the Services' EndpointSlices up to date with the pods that run.
    pub(crate) fn set_endpoints(&mut self, services: &[Service], running: &[&PodSpec]) -> Result<()> {
        let wanted = endpoint_slices(services, running)?;
        let file = |name: &str| format!("endpointslice-{name}.yaml");
        for name in self.slices.keys().filter(|name| !wanted.contains_key(*name)) {
            self.remove(&file(name))?;
        }
        for (name, yaml) in &wanted {
            if self.slices.get(name) != Some(yaml) {
                self.write(&file(name), yaml)?;
            }
        }
        self.slices = wanted;
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn add_pod(&self, spec: &PodSpec) -> Result<()> {
        self.write(&file_of(spec), &pod_yaml(spec, NODE, Phase::Running)?)
    }

    /// It keeps its address in its status, as the API server does.
    pub(crate) fn complete_pod(&self, spec: &PodSpec) -> Result<()> {
        self.write(&file_of(spec), &pod_yaml(spec, NODE, Phase::Succeeded)?)
    }

    pub(crate) fn remove_pod(&self, spec: &PodSpec) -> Result<()> {
        self.remove(&file_of(spec))
    }

    /// Where it is there.
    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// In one step, so that a reader never sees half a file: a name that starts with a dot is nobody's YAML.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (draft, path) = (self.dir.join(format!(".{name}.draft")), self.dir.join(name));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| path.display().to_string())
    }
}

fn file_of(spec: &PodSpec) -> String {
    format!("pod-{}-{}-{}.yaml", spec.namespace, spec.name, spec.uid)
}

fn file_of_namespace(name: &str) -> String {
    format!("namespace-{name}.yaml")
}

/// Names of the Namespace objects among the documents.
fn namespaces_of(documents: &Documents) -> BTreeSet<&str> {
    let named = documents.keys().filter(|key| key.kind == "Namespace");
    named.map(|key| key.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifests::Key;

    #[test]
    fn namespaces_are_made_only_where_no_manifest_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = "\
apiVersion: v1
kind: Namespace
metadata: { name: red, labels: { capsule.clastix.io/tenant: crimson } }
---
apiVersion: v1
kind: ResourceQuota
metadata: { name: blue, namespace: blue }
spec: { hard: { requests.cpu: 1 } }
";
        let mut cluster = Cluster::create(
            dir.path().join("c"),
            Some(manifests),
            &Documents::parse(manifests).unwrap(),
            &BTreeSet::from(["red", "blue"]),
        )
        .unwrap();
        let path = cluster.dir().to_owned();
        let files = || {
            let mut names: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(files(), ["manifests.yaml", "namespace-blue.yaml"]);
        let spec = PodSpec::new("blue", "web");
        cluster.add_pod(&spec).unwrap();
        assert_eq!(files().len(), 3);
        cluster.complete_pod(&spec).unwrap();
        let pod = fs::read_to_string(path.join(file_of(&spec))).unwrap();
        assert!(pod.contains("phase: Succeeded"), "{pod}");
        cluster.remove_pod(&spec).unwrap();
        assert_eq!(files().len(), 2);
        let change = Change {
            at: Duration::ZERO,
            put: Documents::parse("kind: Namespace\nmetadata: {name: blue}\n").unwrap(),
            remove: vec![Key::parse("ResourceQuota/blue/blue").unwrap()],
        };
        cluster.change(&change).unwrap();
        assert_eq!(files(), ["manifests.yaml"]);
        let text = fs::read_to_string(path.join(MANIFESTS)).unwrap();
        assert!(text.contains("crimson") && text.contains("name: blue") && !text.contains("hard"));
    }
}
