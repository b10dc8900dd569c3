//! `object/manifest.toml`: which sources and which toolchain an object came from.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Object, build,
    toolchain::{Record, Toolchain},
};
use crate::paths;

const HEAD: &str = "# Written by `cargo xtask ebpf`, proved by `cargo xtask ebpf --check`.\n\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) object: Kept,
    pub(crate) toolchain: Record,
    pub(crate) source: Source,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) file: String,
    pub(crate) bytes: usize,
    pub sha256: String,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// Over everything below, in order.
    pub sha256: String,
    /// What cargo is told: target, profile and flags.
    pub(crate) build: String,
    /// The crates of the aya family that are compiled in, with their versions in Cargo.lock.
    pub(crate) crates: BTreeMap<String, String>,
    /// sha256 of each source file.
    pub(crate) files: BTreeMap<String, String>,
}

impl Manifest {
    pub(crate) fn of(object: &Object, bytes: &[u8], toolchain: &Toolchain) -> Result<Self> {
        Ok(Self {
            object: Kept {
                file: object.file.to_owned(),
                bytes: bytes.len(),
                sha256: sha256(bytes),
            },
            toolchain: toolchain.record(),
            source: Source::of(object)?,
        })
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", paths::shown(path)))?;
        toml::from_str(&text).with_context(|| format!("{} is no manifest", paths::shown(path)))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = HEAD.to_owned() + &toml::to_string(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", paths::shown(path)))
    }

    /// One line for each difference between the recorded sources and those in the tree.
    pub(crate) fn stale_sources(&self, object: &Object) -> Result<Vec<String>> {
        let (then, now) = (&self.source, Source::of(object)?);
        let mut stale = Vec::new();
        if then.build != now.build {
            stale.push(format!("build flags were `{}`, are `{}`", then.build, now.build));
        }
        differences("crate", &then.crates, &now.crates, &mut stale);
        differences("file", &then.files, &now.files, &mut stale);
        if stale.is_empty() && then.sha256 != now.sha256 {
            stale.push("the manifest was edited: its sources' sha256 is not that of its entries".to_owned());
        }
        Ok(stale)
    }
}

impl Source {
    fn of(object: &Object) -> Result<Self> {
        let mut files = BTreeMap::new();
        for source in object.sources {
            add_files(&paths::root().join(source), &mut files)?;
        }
        let build = build_line()?;
        let crates = aya_crates(object.package)?;
        let mut hash = Sha256::new();
        hash.update(format!("{build}\n"));
        for (name, value) in crates.iter().chain(&files) {
            hash.update(format!("{name} {value}\n"));
        }
        Ok(Self {
            sha256: hex(&hash.finalize()),
            build,
            crates,
            files,
        })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn differences(
    what: &str,
    then: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    stale: &mut Vec<String>,
) {
    for (name, value) in now {
        match then.get(name) {
            None => stale.push(format!("{what} {name} is new")),
            Some(old) if old != value => stale.push(format!("{what} {name} has changed")),
            Some(_) => {}
        }
    }
    stale.extend(
        then.keys()
            .filter(|name| !now.contains_key(*name))
            .map(|name| format!("{what} {name} is gone")),
    );
}

fn add_files(path: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    let unreadable = || format!("cannot read {}", paths::shown(path));
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(unreadable)? {
            add_files(&entry.with_context(unreadable)?.path(), files)?;
        }
    } else {
        files.insert(
            paths::shown(path),
            sha256(&fs::read(path).with_context(unreadable)?),
        );
    }
    Ok(())
}

/// Target, flags, and the profile as the root Cargo.toml has it.
fn build_line() -> Result<String> {
    let profiles = ["release", build::PROFILE].map(|name| toml_at("Cargo.toml", &["profile", name]));
    let [release, bpf] = profiles;
    Ok(format!(
        "{} {} release: {} {}: {}",
        build::TARGET,
        build::FLAGS.join(" "),
        flat(&release?),
        build::PROFILE,
        flat(&bpf?)
    ))
}

fn flat(table: &toml::Value) -> String {
    table
        .as_table()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn toml_at(file: &str, keys: &[&str]) -> Result<toml::Value> {
    let path: PathBuf = paths::root().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
    let mut value: toml::Value = toml::from_str(&text).with_context(|| format!("cannot parse {file}"))?;
    for key in keys {
        value = value
            .get(key)
            .cloned()
            .ok_or_else(|| anyhow!("{file} has no {}", keys.join(".")))?;
    }
    Ok(value)
}

/// Every crate of the aya family that `package` reaches in Cargo.lock.
fn aya_crates(package: &str) -> Result<BTreeMap<String, String>> {
    let lock = toml_at("Cargo.lock", &["package"])?;
    let mut found = BTreeMap::new();
    let mut todo = vec![package.to_owned()];
    while let Some(name) = todo.pop() {
        let entry = lock
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry.get("name").and_then(toml::Value::as_str) == Some(&name))
            .with_context(|| format!("Cargo.lock has no package {name}"))?;
        let version = entry
            .get("version")
            .and_then(toml::Value::as_str)
            .unwrap_or_default();
        if name != package && found.insert(name.clone(), version.to_owned()).is_some() {
            continue;
        }
        let dependencies = entry
            .get("dependencies")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten();
        // "name" or, where two versions are locked, "name version".
        let names = dependencies
            .filter_map(toml::Value::as_str)
            .filter_map(|text| text.split(' ').next());
        todo.extend(names.filter(|name| name.starts_with("aya-")).map(str::to_owned));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Manifest, differences, sha256};
    use crate::ebpf::OBJECTS;
    use std::collections::BTreeMap;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn every_difference_is_named() {
        let mut stale = Vec::new();
        let then = map(&[("gone.rs", "1"), ("kept.rs", "2"), ("other.rs", "3")]);
        let now = map(&[("kept.rs", "2"), ("new.rs", "4"), ("other.rs", "5")]);
        differences("file", &then, &now, &mut stale);
        assert_eq!(
            stale,
            [
                "file new.rs is new",
                "file other.rs has changed",
                "file gone.rs is gone"
            ]
        );
    }

    #[test]
    fn an_edited_manifest_is_stale_though_its_entries_are_not() {
        for object in &OBJECTS {
            let mut manifest = Manifest::read(&object.manifest()).expect("a manifest");
            // Whatever the tree looks like while somebody works in it.
            manifest.source = super::Source::of(object).expect("sources");
            assert!(manifest.stale_sources(object).expect("sources").is_empty());
            manifest.source.sha256 = sha256(b"");
            assert_eq!(manifest.stale_sources(object).expect("sources").len(), 1);
        }
    }

    #[test]
    fn the_linked_crates_are_recorded() {
        for object in &OBJECTS {
            let manifest = Manifest::read(&object.manifest()).expect("a manifest");
            assert!(
                manifest.source.crates.contains_key("aya-ebpf"),
                "{}",
                object.package
            );
        }
    }
}
