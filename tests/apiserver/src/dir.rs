//! Objects from a directory of YAML, followed while it changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::Server;
use crate::kinds::Resource;

/// Every object of a text: documents, and what lists hold.
pub(crate) fn objects(text: &str) -> Result<Vec<Value>> {
    // JSON is YAML, but tens of megabytes of it are beyond what a YAML reader takes without a word.
    let documents: Vec<Value> = match serde_json::from_str(text) {
        Ok(document) => vec![document],
        Err(_) => serde_saphyr::from_multiple(text).map_err(|error| anyhow!("{error}"))?,
    };
    let mut out = Vec::new();
    for document in documents {
        flatten(document, None, &mut out);
    }
    Ok(out)
}

fn flatten(mut object: Value, of_list: Option<(&Value, &str)>, out: &mut Vec<Value>) {
    if object.is_null() {
        return;
    }
    if let (Some(fields), Some((api, kind))) = (object.as_object_mut(), of_list) {
        fields.entry("apiVersion").or_insert_with(|| api.clone());
        fields.entry("kind").or_insert_with(|| kind.into());
    }
    let Some(items) = object
        .get_mut("items")
        .and_then(Value::as_array_mut)
        .map(std::mem::take)
    else {
        out.push(object);
        return;
    };
    let api = object.get("apiVersion").cloned().unwrap_or_default();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let kind = kind.strip_suffix("List").unwrap_or_default();
    for item in items {
        flatten(item, (!kind.is_empty()).then_some((&api, kind)), out);
    }
}

/// Resource, namespace and name.
type Key = (&'static str, String, String);

/// Keeps a server's objects as a directory has them. Objects that came another way stay as they are.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    applied: BTreeMap<Key, Value>,
    /// Of the files that were read last: length and time of change.
    stamps: Vec<(PathBuf, u64, Option<SystemTime>)>,
}

impl Follower {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            applied: BTreeMap::new(),
            stamps: Vec::new(),
        }
    }

    /// Takes over what changed. Objects of kinds that are not served are left out; a definition is there once one of its objects was.
    ///
    /// # Errors
    /// The directory cannot be read or a file is broken; nothing was changed then.
    pub fn sync(&mut self, server: &Server) -> Result<()> {
        let paths = files(&self.dir)?;
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path)?;
            Ok((path.clone(), meta.len(), meta.modified().ok()))
        };
        let stamps: std::io::Result<Vec<_>> = paths.iter().map(stamp).collect();
        let stamps = stamps.with_context(|| self.dir.display().to_string())?;
        if stamps == self.stamps {
            return Ok(());
        }
        let mut wanted = BTreeMap::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for object in objects(&text).with_context(|| path.display().to_string())? {
                let Some(resource) = Resource::of(&object) else {
                    continue;
                };
                let part = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
                let namespace = match part("namespace") {
                    namespace if namespace.is_empty() && resource.namespaced => "default".to_owned(),
                    namespace => namespace,
                };
                // Of two with one name the first counts.
                wanted
                    .entry((resource.plural, namespace, part("name")))
                    .or_insert(object);
            }
        }
        for (key, object) in &wanted {
            if self.applied.get(key) != Some(object) {
                server.define(key.0, true);
                server.apply(object)?;
            }
        }
        for (plural, namespace, name) in self.applied.keys().filter(|key| !wanted.contains_key(key)) {
            server.delete(plural, namespace, name);
        }
        (self.applied, self.stamps) = (wanted, stamps);
        Ok(())
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    let is_read = |path: &PathBuf| {
        let hidden = path
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|k| e == *k));
        known && !hidden
    };
    paths.retain(is_read);
    paths.sort();
    Ok(paths)
}
