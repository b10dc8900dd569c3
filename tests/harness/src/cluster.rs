//! The directory of Kubernetes YAML that the aggregator watches in place of the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use partywall_workload::{
    PodSpec,
    manifest::{Phase, namespace_yaml, pod_yaml},
};
use serde::Deserialize;

use crate::processes::NODE;

pub(crate) struct Cluster {
    dir: PathBuf,
}

#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
    metadata: Option<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: Option<String>,
}

impl Cluster {
    /// Writes `manifests` and a Namespace for each of `namespaces` that they do not name.
    pub(crate) fn create(dir: PathBuf, manifests: Option<&str>, namespaces: &BTreeSet<&str>) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let cluster = Self { dir };
        let named = manifests.map(namespaces_of).transpose()?.unwrap_or_default();
        if let Some(manifests) = manifests {
            cluster.write("manifests.yaml", manifests)?;
        }
        for namespace in namespaces.iter().filter(|namespace| !named.contains(**namespace)) {
            let yaml = namespace_yaml(namespace, &BTreeMap::new())?;
            cluster.write(&format!("namespace-{namespace}.yaml"), &yaml)?;
        }
        Ok(cluster)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn add_pod(&self, spec: &PodSpec) -> Result<()> {
        self.write(&file_of(spec), &pod_yaml(spec, NODE, Phase::Running)?)
    }

    pub(crate) fn remove_pod(&self, spec: &PodSpec) -> Result<()> {
        let path = self.dir.join(file_of(spec));
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
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

/// Names of the Namespace objects among the documents.
fn namespaces_of(manifests: &str) -> Result<BTreeSet<String>> {
    let documents: Vec<Head> =
        serde_saphyr::from_multiple(manifests).map_err(|error| anyhow::anyhow!("manifests: {error}"))?;
    let named = documents
        .into_iter()
        .filter(|head| head.kind.as_deref() == Some("Namespace"));
    Ok(named.filter_map(|head| head.metadata?.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let cluster = Cluster::create(
            dir.path().join("c"),
            Some(manifests),
            &BTreeSet::from(["red", "blue"]),
        )
        .unwrap();
        let files = || {
            let mut names: Vec<_> = fs::read_dir(cluster.dir())
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
        cluster.remove_pod(&spec).unwrap();
        assert_eq!(files().len(), 2);
    }
}
