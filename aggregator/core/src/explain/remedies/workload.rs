//! What to change so that a pod's successors are different: the object that made it, as far as that is known, else the pod's own manifest.

use crate::identity::{ContainerObject, PodObject};
use crate::yaml::{Yaml, comment};

/// A controller gives it to a ReplicaSet's pods, and to the ReplicaSet's name: what comes before is the Deployment's.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Where the pod's specification comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    api: &'static str,
    kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    /// The specification is a template in it.
    has_template: bool,
    note: String,
}

impl Source {
    pub(super) fn of(pod: &PodObject) -> Self {
        let (kind, name) = pod
            .owner
            .as_ref()
            .map_or(("", ""), |owner| (&*owner.kind, &*owner.name));
        let hash = pod.labels.get(TEMPLATE_HASH).map(|hash| format!("-{hash}"));
        let deployment = hash.and_then(|hash| name.strip_suffix(&hash));
        let of = |api, kind: &'static str, name: &str| Self {
            api,
            kind,
            namespace: pod.namespace.clone(),
            name: name.to_owned(),
            has_template: true,
            note: format!("part of {kind} {}/{name}, to be merged into it", pod.namespace),
        };
        let manifest = |note: String| Self {
            api: "v1",
            kind: "Pod",
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            has_template: false,
            note,
        };
        match (kind, deployment) {
            ("ReplicaSet", Some(deployment)) => of("apps/v1", "Deployment", deployment),
            ("ReplicaSet", None) => of("apps/v1", "ReplicaSet", name),
            ("StatefulSet", _) => of("apps/v1", "StatefulSet", name),
            ("DaemonSet", _) => of("apps/v1", "DaemonSet", name),
            ("", _) => manifest(format!(
                "part of Pod {}/{}: no owner of it is known, so put it into the manifest that the pod comes from",
                pod.namespace, pod.name
            )),
            (kind, _) => manifest(format!(
                "part of Pod {}/{}: its owner is {kind} {name}; put it into the pod template there",
                pod.namespace, pod.name
            )),
        }
    }

    /// "Deployment red/batch"
    pub(super) fn named(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// Its number of pods is its own.
    pub(super) fn is_scaled(&self) -> bool {
        matches!(self.kind, "Deployment" | "ReplicaSet" | "StatefulSet")
    }

    /// With a part of the pod's specification.
    pub(super) fn with(&self, spec: Yaml) -> String {
        let spec = if self.has_template {
            Yaml::map([("template", Yaml::map([("spec", spec)]))])
        } else {
            spec
        };
        self.with_spec(spec)
    }

    /// With a part of its own specification.
    pub(super) fn with_spec(&self, spec: Yaml) -> String {
        let mut text = String::new();
        comment(&mut text, "", &self.note);
        let metadata = [
            ("name", Yaml::text(&self.name)),
            ("namespace", Yaml::text(&self.namespace)),
        ];
        let object = Yaml::map([
            ("apiVersion", Yaml::text(self.api)),
            ("kind", Yaml::text(self.kind)),
            ("metadata", Yaml::map(metadata)),
            ("spec", spec),
        ]);
        text + &object.document()
    }
}

/// `resources` of some containers, by their names: what each asks for and may have, of one resource.
pub(super) struct Change {
    pub(super) container: String,
    pub(super) sidecar: bool,
    pub(super) request: Option<String>,
    pub(super) limit: Option<String>,
}

impl Change {
    /// Of nothing yet. `None`: nobody knows what the pod's containers are.
    pub(super) fn of(container: Option<&ContainerObject>) -> Self {
        Self {
            container: container.map_or_else(|| "main".to_owned(), name),
            sidecar: container.is_some_and(|c| c.sidecar),
            request: None,
            limit: None,
        }
    }

    fn yaml(&self, resource: &str) -> Yaml {
        let entry = |of: &'static str, amount: &Option<String>| {
            let amount = amount.as_ref()?;
            Some((of.to_owned(), Yaml::map([(resource, Yaml::text(amount))])))
        };
        let resources = [entry("requests", &self.request), entry("limits", &self.limit)];
        let resources = resources.into_iter().flatten().collect();
        Yaml::map([
            ("name", Yaml::text(&self.container)),
            ("resources", Yaml::Map(resources)),
        ])
    }
}

pub(super) fn resources(resource: &str, changes: &[Change]) -> Yaml {
    let list = |key: &str, sidecars: bool| {
        let changes = changes.iter().filter(|change| change.sidecar == sidecars);
        let list: Vec<Yaml> = changes.map(|change| change.yaml(resource)).collect();
        (!list.is_empty()).then(|| (key.to_owned(), Yaml::List(list)))
    };
    // Under the other's key it would be a second container of the name, without an image.
    let lists = [list("containers", false), list("initContainers", true)];
    Yaml::Map(lists.into_iter().flatten().collect())
}

/// A container's name; objects in files may leave it out.
pub(super) fn name(container: &ContainerObject) -> String {
    match &*container.name {
        "" => "main".to_owned(),
        name => name.to_owned(),
    }
}

/// Several documents in one.
pub(super) fn join(documents: &[String]) -> String {
    documents.join("---\n")
}

/// Millicores, rounded up to ten of them: nobody asks for 1.8734 cores.
pub(super) fn cpu(ncores: u64) -> String {
    in_millis(ncores.div_ceil(10_000_000).saturating_mul(10))
}

/// As it stands in an object, which knows nothing finer than a millicore.
pub(super) fn exact_cpu(ncores: u64) -> String {
    in_millis(ncores.div_ceil(1_000_000))
}

/// Millicores, rounded down.
pub(super) fn at_most_cpu(ncores: u64) -> String {
    in_millis(ncores / 1_000_000)
}

fn in_millis(millis: u64) -> String {
    if millis.is_multiple_of(1_000) {
        (millis / 1_000).to_string()
    } else {
        format!("{millis}m")
    }
}

/// Mebibytes, rounded up.
pub(super) fn memory(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20))
}

/// As it stands in an object.
pub(super) fn exact_memory(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        memory(bytes)
    } else {
        bytes.to_string()
    }
}

/// Mebibytes, rounded down.
pub(super) fn at_most_memory(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}
