//! The cgroup tree as it stands: what existed before the kernel side told of changes, and what it could not tell.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use partywall_agent_core::identity::{Identity, identify};
use partywall_agent_core::inventory::CAPACITY;

/// Deepest nesting that is read. Kubernetes' own is 5; a kubelet inside a container doubles it.
const MAX_DEPTH: usize = 24;

/// Reads the tree below the v2 mount: (cgroup id, path). At most [`CAPACITY`] cgroups.
///
/// A cgroup's id is the inode number of its directory. What vanishes while it is read is left out.
pub fn scan(root: &Path) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    if let Ok(metadata) = fs::metadata(root) {
        found.push((metadata.ino(), "/".to_owned()));
        descend(root, "", 0, &mut found);
    }
    found
}

/// How deep below the root pods are told apart: a pod's own cgroup, or one of its containers', whatever the pod makes below.
///
/// Two below the deepest kubepods root: kubelet puts a class between that and all pods but the guaranteed. 3 where there is no pod yet.
pub fn pod_level(root: &Path) -> u32 {
    let below_kubepods = scan(root).iter().filter_map(|(_, path)| pod_level_of(path)).max();
    below_kubepods.unwrap_or(3)
}

/// Of a pod's own cgroup or one below: the level two below its kubepods root.
fn pod_level_of(path: &str) -> Option<u32> {
    if !matches!(identify(path), Identity::Pod { .. } | Identity::Container { .. }) {
        return None;
    }
    let at = path
        .split('/')
        .skip(1)
        .position(|part| part.contains("kubepods"))?;
    u32::try_from(at + 3).ok()
}

fn descend(directory: &Path, path: &str, depth: usize, found: &mut Vec<(u64, String)>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if found.len() >= CAPACITY {
            return;
        }
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let below = format!("{path}/{}", entry.file_name().to_string_lossy());
        found.push((metadata.ino(), below.clone()));
        if depth < MAX_DEPTH {
            descend(&entry.path(), &below, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_directory_with_its_inode() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(root.path().join("a/b")).expect("made");
        fs::write(root.path().join("a/cgroup.procs"), "").expect("made");
        let mut found = scan(root.path());
        found.sort_by(|one, other| one.1.cmp(&other.1));
        let paths: Vec<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(paths, ["/", "/a", "/a/b"]);
        assert_eq!(
            found[2].0,
            fs::metadata(root.path().join("a/b")).expect("there").ino()
        );
    }

    #[test]
    fn a_root_that_is_not_there_is_an_empty_tree() {
        assert_eq!(scan(Path::new("/nonexistent/partywall")), []);
    }
}
