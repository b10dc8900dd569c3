//! The cgroup tree as it stands: what existed before the kernel side told of changes, and what it could not tell.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use partywall_agent_core::identity::{Identity, identify};
use partywall_agent_core::inventory::CAPACITY;

/// Deepest nesting that is read. Kubernetes' own is 5; a kubelet inside a container doubles it. A path longer than the kernel takes is as deep: no pod shall
/// keep the tree from ever being whole by names alone.
const MAX_DEPTH: usize = 24;

/// What was found: (cgroup id, path).
#[derive(Debug, PartialEq, Eq)]
pub struct Tree {
    pub cgroups: Vec<(u64, String)>,
    /// What is not among them does not exist. Else a part of the tree could not be read, or there are more than [`CAPACITY`].
    pub whole: bool,
}

/// Reads the tree below the v2 mount. At most [`CAPACITY`] cgroups.
///
/// A cgroup's id is the inode number of its directory. What vanishes while it is read is left out.
pub fn scan(root: &Path) -> Tree {
    let mut tree = Tree {
        cgroups: Vec::new(),
        whole: true,
    };
    match fs::metadata(root) {
        Ok(metadata) => {
            tree.cgroups.push((metadata.ino(), "/".to_owned()));
            tree.descend(root, "", 0);
        }
        // A mount that is not there says nothing of its cgroups.
        Err(_) => tree.whole = false,
    }
    tree
}

/// How deep below the root pods are told apart: a pod's own cgroup, or one of its containers', whatever the pod makes below.
///
/// Two below the deepest kubepods root: kubelet puts a class between that and all pods but the guaranteed. 3 where there is no pod yet.
pub fn pod_level(root: &Path) -> u32 {
    let tree = scan(root);
    let below_kubepods = tree.cgroups.iter().filter_map(|(_, path)| pod_level_of(path));
    below_kubepods.max().unwrap_or(3)
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

impl Tree {
    fn descend(&mut self, directory: &Path, path: &str, depth: usize) {
        let Some(entries) = self.there(fs::read_dir(directory)) else {
            return;
        };
        for entry in entries {
            let Some(entry) = self.there(entry) else { continue };
            if !self.there(entry.file_type()).is_some_and(|kind| kind.is_dir()) {
                continue;
            }
            let Some(metadata) = self.there(entry.metadata()) else {
                continue;
            };
            if self.cgroups.len() >= CAPACITY {
                self.whole = false;
                return;
            }
            let below = format!("{path}/{}", entry.file_name().to_string_lossy());
            self.cgroups.push((metadata.ino(), below.clone()));
            if depth < MAX_DEPTH {
                self.descend(&entry.path(), &below, depth + 1);
            }
        }
    }

    /// `None`: it is gone, or nobody knows what is there.
    fn there<T>(&mut self, read: io::Result<T>) -> Option<T> {
        if let Err(error) = &read {
            self.whole &= matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename
            );
        }
        read.ok()
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
        let tree = scan(root.path());
        assert!(tree.whole);
        let mut found = tree.cgroups;
        found.sort_by(|one, other| one.1.cmp(&other.1));
        let paths: Vec<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(paths, ["/", "/a", "/a/b"]);
        assert_eq!(
            found[2].0,
            fs::metadata(root.path().join("a/b")).expect("there").ino()
        );
    }

    #[test]
    fn a_root_that_is_not_there_says_nothing() {
        let tree = scan(Path::new("/nonexistent/partywall"));
        assert_eq!((tree.cgroups, tree.whole), (Vec::new(), false));
    }

    /// No rights, too many open files, an I/O error: here no directory, which stops root too.
    #[test]
    fn what_cannot_be_read_leaves_the_tree_in_part() {
        let root = tempfile::NamedTempFile::new().expect("a temporary file");
        let tree = scan(root.path());
        assert_eq!((tree.cgroups.len(), tree.whole), (1, false));
    }

    #[test]
    fn names_do_not_keep_a_tree_from_being_whole() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let part = "x".repeat(250);
        // The last steps by handles: no path leads there in one.
        let mut handle = fs::File::open(root.path()).expect("open");
        for _ in 0..20 {
            rustix::fs::mkdirat(&handle, &part, rustix::fs::Mode::RWXU).expect("made");
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
            let next = rustix::fs::openat(&handle, &part, flags, rustix::fs::Mode::empty()).expect("open");
            handle = next.into();
        }
        let tree = scan(root.path());
        assert!(tree.whole);
        assert!((2..21).contains(&tree.cgroups.len()), "{}", tree.cgroups.len());
    }

    #[test]
    fn beyond_its_capacity_the_tree_is_in_part() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for i in 1..CAPACITY {
            fs::create_dir(root.path().join(i.to_string())).expect("made");
        }
        // Files of no cgroup take no room.
        fs::write(root.path().join("cgroup.procs"), "").expect("made");
        let tree = scan(root.path());
        assert_eq!((tree.cgroups.len(), tree.whole), (CAPACITY, true));
        fs::create_dir(root.path().join("one-more")).expect("made");
        let tree = scan(root.path());
        assert_eq!((tree.cgroups.len(), tree.whole), (CAPACITY, false));
    }
}
