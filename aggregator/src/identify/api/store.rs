//! The objects of one resource, as the server told of them last.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::super::objects::{self, Object};
use super::super::yaml::Yaml;
use super::resource::Resource;

/// (namespace, name)
pub(super) type Key = (String, String);

/// An object of a page or an event.
pub(super) struct Item {
    pub(super) key: Key,
    uid: String,
    /// Opaque.
    version: String,
    /// `Err`: what makes no sense in it.
    object: Result<Arc<Object>, String>,
}

#[derive(Debug)]
struct Entry {
    uid: String,
    version: String,
    /// As it was when last good. `None`: it never was.
    good: Option<Arc<Object>>,
}

/// What is known of one resource.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: BTreeMap<Key, Entry>,
    malformed: BTreeMap<Key, String>,
    /// It is known not to be served: another thing than to be empty.
    pub(super) is_absent: bool,
}

impl Item {
    /// From JSON as the server wrote it. `known`: the object of this key, UID and version where it was read before.
    ///
    /// # Errors
    /// It bears no name: nothing can be said of it but that.
    pub(super) fn read(
        resource: &Resource,
        json: Value,
        known: impl Fn(&Key, &str, &str) -> Option<Arc<Object>>,
    ) -> Result<Self, String> {
        let text = |at: &str| {
            let text = json.pointer(at).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let key = (text("/metadata/namespace"), text("/metadata/name"));
        let (uid, version) = (text("/metadata/uid"), text("/metadata/resourceVersion"));
        if key.1.is_empty() {
            return Err(format!("an object of kind {} has no name", resource.kind));
        }
        let kind = json.get("kind").and_then(Value::as_str);
        let object = match (known(&key, &uid, &version), kind) {
            (Some(object), _) => Ok(object),
            (None, Some(kind)) if kind != resource.kind => {
                Err(format!("kind: is {kind:?}, not {}", resource.kind))
            }
            (None, _) => parse(resource, json),
        };
        Ok(Self {
            key,
            uid,
            version,
            object,
        })
    }

    /// A namespace that claims to be of a Tenant of Capsule.
    pub(super) fn claims_capsule(&self) -> bool {
        match self.object.as_deref() {
            Ok(Object::Namespace(namespace)) => {
                let mut labels = namespace.labels.keys();
                labels.any(|key| key == "capsule.clastix.io/tenant" || key == "projectcapsule.dev/tenant")
            }
            _ => false,
        }
    }
}

fn parse(resource: &Resource, json: Value) -> Result<Arc<Object>, String> {
    match objects::object(&Yaml::from(json), resource.api, resource.kind) {
        Ok(Some(object)) => Ok(Arc::new(object)),
        Ok(None) => Err(format!("{} {} is not read", resource.api, resource.kind)),
        // JSON has no lines.
        Err(error) => Err(error.message),
    }
}

impl Store {
    pub(super) fn known(&self, key: &Key, uid: &str, version: &str) -> Option<Arc<Object>> {
        let entry = self.entries.get(key)?;
        let is_same = entry.uid == uid && entry.version == version && !version.is_empty();
        entry
            .good
            .clone()
            .filter(|_| is_same && !self.malformed.contains_key(key))
    }

    /// Returns whether anything is different now.
    pub(super) fn put(&mut self, item: Item) -> bool {
        let before = self.entries.get(&item.key);
        let good = match item.object {
            Ok(object) => {
                self.malformed.remove(&item.key);
                Some(object)
            }
            Err(problem) => {
                self.malformed.insert(item.key.clone(), problem);
                // Of an object of the same name that was made anew nothing good is known.
                before.filter(|b| b.uid == item.uid).and_then(|b| b.good.clone())
            }
        };
        let changed = before.is_none_or(|b| b.good != good);
        self.entries.insert(
            item.key,
            Entry {
                uid: item.uid,
                version: item.version,
                good,
            },
        );
        changed
    }

    pub(super) fn remove(&mut self, key: &Key) -> bool {
        self.malformed.remove(key);
        self.entries.remove(key).is_some()
    }

    /// Takes over a complete list: what is not in it is gone.
    pub(super) fn replace(&mut self, items: Vec<Item>) {
        let mut before = std::mem::take(self);
        for item in items {
            if let Some(entry) = before.entries.remove(&item.key) {
                self.entries.insert(item.key.clone(), entry);
            }
            self.put(item);
        }
    }

    pub(super) fn set_absent(&mut self) {
        *self = Self {
            is_absent: true,
            ..Self::default()
        };
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.entries.values().filter_map(|entry| entry.good.as_ref())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// namespace/name and problem.
    pub(super) fn malformed(&self) -> impl ExactSizeIterator<Item = (String, &str)> {
        self.malformed.iter().map(|((namespace, name), problem)| {
            let name = if namespace.is_empty() {
                name.clone()
            } else {
                format!("{namespace}/{name}")
            };
            (name, problem.as_str())
        })
    }
}
