//! Objects, and every change of them, under one growing version: etcd and the watch cache in small.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Resource, default};

/// Changes kept for watches that begin in the past, as a real server keeps a window of them.
const KEPT: usize = 10_000;
/// Everything was made at one moment: nothing here depends on when.
const CREATED: &str = "2026-09-01T08:00:00Z";

/// (namespace, name): the order in which a list has them.
pub type Name = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change, with the object as it was after (of a deletion: before) it.
#[derive(Clone, Debug)]
pub struct Event {
    pub version: u64,
    pub plural: &'static str,
    pub change: Change,
    pub object: Arc<Value>,
}

#[derive(Debug, Default)]
pub struct Store {
    version: u64,
    /// Watches must begin at this version or later.
    oldest: u64,
    objects: BTreeMap<&'static str, BTreeMap<Name, Arc<Value>>>,
    log: VecDeque<Event>,
    uids: u64,
    /// Definitions of custom resources that are there, by plural.
    pub defined: std::collections::BTreeSet<&'static str>,
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    pub fn objects(&self, plural: &str) -> impl Iterator<Item = (&Name, &Arc<Value>)> {
        self.objects.get(plural).into_iter().flatten()
    }

    pub fn get(&self, plural: &str, name: &Name) -> Option<&Arc<Value>> {
        self.objects.get(plural)?.get(name)
    }

    /// Changes after `version`, the oldest first.
    pub fn since(&self, version: u64) -> impl Iterator<Item = &Event> {
        self.log.iter().filter(move |event| event.version > version)
    }

    /// Creates or replaces an object as its author wrote it, the fields that the server keeps filled in. Returns its version.
    pub fn apply(&mut self, resource: &'static Resource, object: &Value) -> u64 {
        let mut object = object.clone();
        default(resource, &mut object);
        self.put(resource, object)
    }

    /// The same, without defaults: `object` need not make sense.
    pub fn put(&mut self, resource: &'static Resource, mut object: Value) -> u64 {
        let text = |object: &Value, at: &str| {
            let text = object.pointer(at).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let mut namespace = text(&object, "/metadata/namespace");
        if resource.namespaced && namespace.is_empty() {
            namespace = "default".to_owned();
        }
        let name = (namespace, text(&object, "/metadata/name"));
        self.version += 1;
        let before = self.get(resource.plural, &name).cloned();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        if resource.namespaced {
            metadata["namespace"] = json!(name.0);
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = match &before {
                Some(before) => before["metadata"]["uid"].clone(),
                None => {
                    self.uids += 1;
                    json!(format!("5f0c3e1a-7b1d-4c55-9a0e-{:012x}", self.uids))
                }
            };
        }
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(CREATED);
        }
        metadata["managedFields"] = managed(resource);
        object["apiVersion"] = json!(resource.api_version());
        object["kind"] = json!(resource.kind);
        let is_new = before.is_none_or(|b| b["metadata"]["uid"] != object["metadata"]["uid"]);
        let object = Arc::new(object);
        let objects = self.objects.entry(resource.plural).or_default();
        objects.insert(name, Arc::clone(&object));
        self.note(
            resource,
            if is_new { Change::Added } else { Change::Modified },
            object,
        );
        self.version
    }

    /// False: there is none.
    pub fn delete(&mut self, resource: &'static Resource, name: &Name) -> bool {
        let Some(object) = self.objects.get_mut(resource.plural).and_then(|o| o.remove(name)) else {
            return false;
        };
        self.version += 1;
        // Its last state, under the version of its deletion.
        let mut object = (*object).clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.note(resource, Change::Deleted, Arc::new(object));
        true
    }

    /// Forgets all changes: whoever watches from before must list again.
    pub fn compact(&mut self) {
        self.version += 1;
        self.log.clear();
        self.oldest = self.version;
    }

    fn note(&mut self, resource: &Resource, change: Change, object: Arc<Value>) {
        let Some(known) = Resource::named(resource.plural) else {
            return;
        };
        self.log.push_back(Event {
            version: self.version,
            plural: known.plural,
            change,
            object,
        });
        while self.log.len() > KEPT {
            self.oldest = self.log.pop_front().map_or(self.oldest, |event| event.version);
        }
    }
}

/// Who wrote which field: the largest part of most small objects.
fn managed(resource: &Resource) -> Value {
    json!([{
        "manager": "kubectl-client-side-apply", "operation": "Update", "apiVersion": resource.api_version(),
        "time": CREATED, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}}}}},
    }])
}
