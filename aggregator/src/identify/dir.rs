//! A directory of Kubernetes objects, as `kubectl get -o yaml` writes them, read again when it changes.
//!
//! Every file of the directory itself that ends in .yaml, .yml or .json and does not begin with a dot. A file that is broken keeps what it said
//! when it was last good: half a cluster must not lose its names because of one typing error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use partywall_aggregator_core::identity::Cluster;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::ClusterStatus;
use super::objects::{self, Objects};
use crate::state::Cluster as OfCluster;
use crate::watch::Watch;

/// Longest file that is read, in bytes: ten thousand pods as kubectl writes them, twice.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Reads a directory once, strictly: whoever asks one question wants no answer from half of it.
///
/// # Errors
/// It cannot be read, or one of its files is broken: path, line, object, field and value.
pub fn read_once(dir: &Path) -> anyhow::Result<(Cluster, ClusterStatus)> {
    let mut reader = Reader {
        dir: dir.to_owned(),
        ..Reader::default()
    };
    reader.scan();
    let (cluster, status) = reader.merged();
    match status.broken.first() {
        None => Ok((cluster, status)),
        Some((path, problem)) => Err(anyhow::anyhow!("{}: {problem}", path.display())),
    }
}

/// A directory that is followed.
pub struct Source {
    reader: Reader,
    /// Whose objects they are.
    of: Arc<OfCluster>,
    watch: Watch,
}

impl Source {
    /// Reads the directory once.
    pub async fn open(dir: PathBuf, of: Arc<OfCluster>) -> Self {
        // Watched before it is read: a change in between is read twice rather than missed.
        let watch = Watch::new(&dir);
        let source = Self {
            reader: Reader {
                dir,
                ..Reader::default()
            },
            of,
            watch,
        };
        source.scan().await
    }

    /// Takes over changes until `stop`.
    pub async fn follow(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.watch.changed()).await.is_some() {
            // What was read while everything ends may be half removed: it is not taken over.
            self = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                source = self.scan() => source,
            };
        }
    }

    async fn scan(mut self) -> Self {
        let mut reader = std::mem::take(&mut self.reader);
        let of = Arc::clone(&self.of);
        // Large directories take seconds to read: not on a thread that serves sockets. In two parts, so that what was read can be left.
        let scanned = tokio::task::spawn_blocking(move || {
            let changed = reader.scan();
            (reader, changed)
        });
        let taken_over = match scanned.await {
            Ok((reader, true)) => {
                let taken = tokio::task::spawn_blocking(move || {
                    publish(&of, &reader);
                    reader
                });
                taken.await
            }
            Ok((reader, false)) => Ok(reader),
            Err(error) => Err(error),
        };
        match taken_over {
            Ok(reader) => self.reader = reader,
            Err(error) => error!(%error, "reading the cluster directory failed"),
        }
        self
    }
}

fn publish(of: &OfCluster, reader: &Reader) {
    let (cluster, mut status) = reader.merged();
    let before = of.source.get();
    status.loads = before.loads + 1;
    status.failures = before.failures
        + status
            .broken
            .iter()
            .filter(|b| !before.broken.contains(b))
            .count() as u64;
    for (file, problem) in status.broken.iter().filter(|b| !before.broken.contains(b)) {
        error!(file = %file.display(), error = problem, "cluster file is broken, what it said before still counts");
    }
    info!(
        cluster = %of.name,
        files = status.files,
        namespaces = status.namespaces,
        pods = status.pods,
        quotas = status.quotas,
        limit_ranges = status.limit_ranges,
        network_policies = status.network_policies,
        foreign_policies = status.foreign_policies,
        "cluster data read"
    );
    of.set_objects(&Arc::new(cluster));
    of.source.update(|s| *s = status);
}

/// The files as they were last read. No I/O but reading; no state but theirs.
#[derive(Debug, Default)]
struct Reader {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// The directory itself cannot be read.
    unreadable: Option<String>,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    good: Objects,
    error: Option<String>,
}

/// Tells whether a file changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Reader {
    /// Returns whether anything is different now.
    fn scan(&mut self) -> bool {
        let paths = match list(&self.dir) {
            Ok(paths) => paths,
            Err(error) => {
                // Everything stays as it was; it may be in the middle of being replaced.
                let error = Some(error.to_string());
                return std::mem::replace(&mut self.unreadable, error.clone()) != error;
            }
        };
        let mut changed = self.unreadable.take().is_some();
        let before = self.files.len();
        self.files.retain(|path, _| paths.contains(path));
        changed |= self.files.len() != before;
        for path in paths {
            let file = self.files.entry(path.clone()).or_default();
            changed |= file.read(&path);
        }
        changed
    }

    /// All files as one. Where two have the same object, the first by name counts.
    fn merged(&self) -> (Cluster, ClusterStatus) {
        let mut cluster = Cluster::default();
        let mut status = ClusterStatus {
            files: self.files.len(),
            ..ClusterStatus::default()
        };
        let mut seen = Seen::default();
        for (path, file) in &self.files {
            if let Some(error) = &file.error {
                status.broken.push((path.clone(), error.clone()));
            }
            status.ignored += file.good.ignored;
            let unplaced = file.good.unplaced.iter();
            status
                .unplaced
                .extend(unplaced.map(|policy| (path.clone(), policy.clone())));
            let from = &file.good.cluster;
            let objects = &mut cluster;
            seen.file = Some(path);
            seen.take("Namespace", &mut objects.namespaces, &from.namespaces, |o| {
                ["", &o.name, ""]
            });
            seen.take("Pod with UID", &mut objects.pods, &from.pods, |o| {
                [&o.uid, "", ""]
            });
            seen.take("ResourceQuota", &mut objects.quotas, &from.quotas, |o| {
                [&o.namespace, &o.name, ""]
            });
            seen.take(
                "ResourceQuota",
                &mut objects.unjudged_quotas,
                &from.unjudged_quotas,
                |o| [&o.namespace, &o.name, ""],
            );
            if let Some(names) = &from.capsule_tenants {
                let tenants = objects.capsule_tenants.get_or_insert_default();
                tenants.extend(names.iter().cloned());
            }
            seen.take("LimitRange", &mut objects.limit_ranges, &from.limit_ranges, |o| {
                [&o.namespace, &o.name, ""]
            });
            seen.take("Node", &mut objects.nodes, &from.nodes, |o| ["", &o.name, ""]);
            seen.take("Service", &mut objects.services, &from.services, |o| {
                [&o.namespace, &o.name, ""]
            });
            seen.take(
                "EndpointSlice",
                &mut objects.endpoint_slices,
                &from.endpoint_slices,
                |o| [&o.namespace, &o.name, ""],
            );
            seen.take(
                "NetworkPolicy",
                &mut objects.network_policies,
                &from.network_policies,
                |o| [&o.namespace, &o.name, ""],
            );
            seen.take(
                "policy",
                &mut objects.foreign_policies,
                &from.foreign_policies,
                |o| [&o.kind, o.namespace.as_deref().unwrap_or_default(), &o.name],
            );
        }
        (status.duplicates, status.first_duplicate) = (seen.duplicates, seen.first);
        if let Some(error) = &self.unreadable {
            status.broken.push((self.dir.clone(), error.clone()));
        }
        status.count(&cluster);
        (cluster, status)
    }
}

/// What earlier files had, by kind and name.
#[derive(Default)]
struct Seen<'a> {
    names: BTreeSet<(&'static str, [&'a str; 3])>,
    /// That is looked at.
    file: Option<&'a Path>,
    duplicates: u64,
    first: Option<(PathBuf, String)>,
}

impl<'a> Seen<'a> {
    fn take<T: Clone>(
        &mut self,
        kind: &'static str,
        into: &mut Vec<T>,
        from: &'a [T],
        name: impl Fn(&'a T) -> [&'a str; 3],
    ) {
        for object in from {
            let name = name(object);
            if self.names.insert((kind, name)) {
                into.push(object.clone());
                continue;
            }
            self.duplicates += 1;
            if self.first.is_none() {
                let parts: Vec<&str> = name.into_iter().filter(|part| !part.is_empty()).collect();
                let file = self.file.map(Path::to_owned).unwrap_or_default();
                self.first = Some((file, format!("{kind} {}", parts.join("/"))));
            }
        }
    }
}

impl File {
    /// Returns whether it is different now.
    fn read(&mut self, path: &Path) -> bool {
        let stamp = Stamp::of(path);
        if let Ok(stamp) = &stamp
            && self.stamp == Some(*stamp)
        {
            return false;
        }
        let read = stamp.and_then(|stamp| {
            if stamp.length > MAX_BYTES {
                return Err(format!("{} bytes, at most {MAX_BYTES} are read", stamp.length));
            }
            let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
            self.stamp = Some(stamp);
            objects::read(&text).map_err(|e| e.to_string())
        });
        match read {
            Ok(objects) => {
                let changed = self.error.take().is_some() || self.good != objects;
                self.good = objects;
                changed
            }
            Err(error) => {
                let error = Some(error);
                std::mem::replace(&mut self.error, error.clone()) != error
            }
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, String> {
        let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
        Ok(Self {
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

fn list(dir: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let mut out = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|k| e == *k));
        if known && !hidden && path.is_file() {
            out.insert(path);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cpu: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: blue, uid: u-{name}}}\n\
             spec: {{containers: [{{resources: {{requests: {{cpu: {cpu}}}}}}}]}}\n---\n"
        )
    }

    #[test]
    fn a_broken_file_keeps_what_it_said_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let mut reader = Reader {
            dir: dir.path().to_owned(),
            ..Reader::default()
        };
        let names = |reader: &Reader| {
            reader
                .merged()
                .0
                .pods
                .iter()
                .map(|p| p.name.clone())
                .collect::<Vec<_>>()
        };

        write("a.yaml", &(pod("one", "1") + &pod("two", "2")));
        write(
            "b.json",
            "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"blue\"}}",
        );
        write("notes.txt", "not looked at: [");
        write(".hidden.yaml", "not looked at: [");
        assert!(reader.scan());
        assert_eq!(names(&reader), ["one", "two"]);
        assert!(!reader.scan(), "nothing changed");

        write("a.yaml", &(pod("one", "-1") + &pod("two", "2")));
        write("c.yaml", &(pod("three", "3") + &pod("one", "9")));
        assert!(reader.scan());
        let (cluster, status) = reader.merged();
        assert_eq!(names(&reader), ["one", "two", "three"]);
        assert_eq!(
            cluster.pods[0].requests.cpu_ncores, 1_000_000_000,
            "as it was when last good"
        );
        assert_eq!((status.broken.len(), status.duplicates), (1, 1));
        let (file, object) = status.first_duplicate.unwrap();
        assert!(
            file.ends_with("c.yaml") && object == "Pod with UID u-one",
            "{object}"
        );
        let (file, error) = &status.broken[0];
        assert!(
            file.ends_with("a.yaml") && error.contains("line 4") && error.contains("\"-1\""),
            "{error}"
        );

        write("a.yaml", &pod("two", "2"));
        std::fs::remove_file(dir.path().join("b.json")).unwrap();
        assert!(reader.scan());
        assert_eq!(names(&reader), ["two", "three", "one"]);
        let (cluster, status) = reader.merged();
        assert!(status.broken.is_empty() && cluster.namespaces.is_empty());

        std::fs::rename(dir.path(), dir.path().with_extension("away")).unwrap();
        assert!(reader.scan());
        assert_eq!(
            names(&reader),
            ["two", "three", "one"],
            "a directory that is away loses nothing"
        );
        std::fs::rename(dir.path().with_extension("away"), dir.path()).unwrap();
    }
}
