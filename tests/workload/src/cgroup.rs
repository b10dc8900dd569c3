//! Cgroups made, limited and removed again, so that no run leaves any behind: neither this one's nor a killed one's.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::AsFd,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{XattrFlags, getxattr, removexattr, setxattr},
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use crate::Error;

/// Extended attribute on every cgroup that this crate made: who answers for it. Kernels carry `user.` attributes on
/// cgroup v2 since 5.7.
const OWNER: &str = "user.partywall.owner";
/// Extended attribute on a cgroup that was there before: the controllers that this crate enabled below it.
const ENABLED: &str = "user.partywall.enabled";
/// SIGKILL takes effect within a tick; a process in uninterruptible sleep is the only reason to wait longer.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid machine.
pub fn cgroup2_mount() -> Result<PathBuf, Error> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
    mount_from(&mounts).ok_or(Error::NoCgroup2)
}

fn mount_from(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_whole_tree = mount.split(' ').nth(3) == Some("/");
        let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
        (is_whole_tree && is_cgroup2).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// A cgroup that this process made. Dropping it kills what runs in it and removes it, with everything below.
#[derive(Debug)]
pub(crate) struct Cgroup {
    mount: PathBuf,
    path: PathBuf,
    removed: bool,
}

impl Cgroup {
    /// Makes `relative` (below the mount) and whatever of its parents is missing. It must not exist yet.
    pub(crate) fn create(mount: &Path, relative: &str) -> Result<Self, Error> {
        let relative = plain(relative)?;
        let path = mount.join(&relative);
        let parent = relative.parent().unwrap_or(Path::new(""));
        make_parents(mount, parent)?;
        make(&path).map_err(Error::io("make cgroup", &path))?;
        Ok(Self {
            mount: mount.to_owned(),
            path,
            removed: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a cgroup below this one, if it is not there, and gives its path. It goes with this one.
    pub(crate) fn child(&self, relative: &str) -> Result<PathBuf, Error> {
        let relative = plain(relative)?;
        make_parents(&self.path, &relative)?;
        Ok(self.path.join(relative))
    }

    /// Makes the files of `controller` appear in the cgroup `target` at or below this one, as kubelet does on its way
    /// down. Whether they did shows when they are written.
    pub(crate) fn enable(&self, controller: &str, target: &Path) {
        let below: Vec<&Path> = target
            .ancestors()
            .skip(1)
            .take_while(|dir| dir.starts_with(&self.mount))
            .collect();
        for dir in below.into_iter().rev() {
            let listed = |file: &str| {
                fs::read_to_string(dir.join(file))
                    .is_ok_and(|names| names.split_whitespace().any(|n| n == controller))
            };
            if listed("cgroup.subtree_control") {
                continue;
            }
            if !listed("cgroup.controllers")
                || fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).is_err()
            {
                return;
            }
            if attribute(dir, OWNER).is_none() {
                let mut names = attribute(dir, ENABLED).unwrap_or_default();
                names.push_str(controller);
                names.push(' ');
                let _unsupported = setxattr(dir, ENABLED, names.as_bytes(), XattrFlags::empty());
            }
        }
    }

    /// Stops all processes in the subtree where they are, and waits until they stand still.
    pub(crate) fn freeze(&self) -> Result<(), Error> {
        fs::write(self.path.join("cgroup.freeze"), "1").map_err(Error::io("freeze", &self.path))?;
        let deadline = Instant::now() + KILL_DEADLINE;
        while !events(&self.path).contains("frozen 1") {
            if Instant::now() > deadline {
                return Err(Error::io("freeze", &self.path)(ErrorKind::TimedOut.into()));
            }
            wait_for_change(&self.path);
        }
        Ok(())
    }

    pub(crate) fn thaw(&self) -> Result<(), Error> {
        fs::write(self.path.join("cgroup.freeze"), "0").map_err(Error::io("thaw", &self.path))
    }

    /// `usage_usec` of `cpu.stat`: CPU time of the subtree, ended cgroups included.
    pub(crate) fn cpu_used(&self) -> Result<Duration, Error> {
        let path = self.path.join("cpu.stat");
        let stat = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        let usage =
            usage.ok_or_else(|| Error::io("find usage_usec in", path)(ErrorKind::InvalidData.into()))?;
        Ok(Duration::from_micros(usage))
    }

    /// Kills what runs in it and removes it with everything below and with those parents that only this crate needed.
    pub(crate) fn remove(&mut self) -> Result<(), Error> {
        if self.removed {
            return Ok(());
        }
        kill_all(&self.path)?;
        remove_tree(&self.path)?;
        self.removed = true;
        remove_parents(&self.mount, &self.path);
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "cgroup left behind");
        }
    }
}

/// Removes cgroups whose owner was killed before it could. Those of living owners stay, as does what this crate did
/// not make. Gives the number of subtrees removed.
pub fn sweep(mount: &Path) -> Result<usize, Error> {
    let mut swept = 0;
    let mut pending = children(mount)?;
    while let Some(dir) = pending.pop() {
        match attribute(&dir, OWNER) {
            Some(owner) if !owner_lives(&owner) => {
                // A dead run's parents may meanwhile hold a living run's pods: those are looked at one by one.
                let below = children(&dir)?;
                let shared = below
                    .iter()
                    .any(|child| attribute(child, OWNER).is_some_and(|o| owner_lives(&o)));
                let holds_slices = below
                    .iter()
                    .any(|child| child.extension().is_some_and(|e| e == "slice"));
                if shared || holds_slices {
                    pending.extend(below);
                    continue;
                }
                kill_all(&dir)?;
                remove_tree(&dir)?;
                remove_parents(mount, &dir);
                swept += 1;
            }
            _ => pending.extend(children(&dir)?),
        }
    }
    Ok(swept)
}

/// Only plain names: neither `..` nor an absolute path may lead out of the tree.
fn plain(relative: &str) -> Result<PathBuf, Error> {
    let path = PathBuf::from(relative.trim_start_matches('/'));
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain && path.components().next().is_some() {
        Ok(path)
    } else {
        Err(Error::PathEscapes {
            path: relative.to_owned(),
        })
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    let marked = setxattr(dir, OWNER, this_process().as_bytes(), XattrFlags::empty());
    marked.map_err(|errno| {
        let _gone = fs::remove_dir(dir);
        io::Error::from(errno)
    })
}

fn make_parents(base: &Path, relative: &Path) -> Result<(), Error> {
    // Another run may remove an empty parent between our making it and our using it: begin again, a bounded number of times.
    for attempt in 0..10 {
        let mut dir = base.to_owned();
        let made: io::Result<()> = relative.components().try_for_each(|part| {
            dir.push(part);
            match make(&dir) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        });
        match made {
            Err(error) if error.kind() == ErrorKind::NotFound && attempt < 9 => {}
            other => return other.map_err(Error::io("make cgroup", dir)),
        }
    }
    Ok(())
}

/// Kills everything in the subtree and waits until nothing runs there.
fn kill_all(dir: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_DEADLINE;
    while is_populated(dir) {
        // Before 5.14 there is no cgroup.kill; what forks meanwhile is caught in the next round.
        if fs::write(dir.join("cgroup.kill"), "1").is_err() {
            kill_each(dir);
        }
        if Instant::now() > deadline {
            return Err(Error::io("kill all processes in", dir)(
                ErrorKind::TimedOut.into(),
            ));
        }
        wait_for_change(dir);
    }
    Ok(())
}

fn kill_each(dir: &Path) {
    for child in children(dir).unwrap_or_default() {
        kill_each(&child);
    }
    let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(Pid::from_raw)
    {
        let _already_gone = kill_process(pid, Signal::KILL);
    }
}

fn is_populated(dir: &Path) -> bool {
    events(dir).contains("populated 1")
}

/// `cgroup.events`; nothing where the cgroup is gone.
fn events(dir: &Path) -> String {
    fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default()
}

/// Until `cgroup.events` changes, 50 ms at most.
fn wait_for_change(dir: &Path) {
    let Ok(events) = fs::File::open(dir.join("cgroup.events")) else {
        return;
    };
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    let _timed_out = poll(
        &mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)],
        Some(&timeout),
    );
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    for child in children(dir)? {
        remove_tree(&child)?;
    }
    match rmdir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove cgroup", dir)(error)),
        _ => Ok(()),
    }
}

/// Removes a cgroup; the last task's exit may still hold it for a moment.
fn rmdir(dir: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => wait_for_change(dir),
            other => return other,
        }
    }
    fs::remove_dir(dir)
}

/// Removes the parents of `path` that this crate made, as far up as they are empty, and takes back the controllers it enabled.
fn remove_parents(mount: &Path, path: &Path) {
    for dir in path.ancestors().skip(1).take_while(|dir| dir.starts_with(mount)) {
        if attribute(dir, OWNER).is_some() {
            // Not empty: another pod's, whose removal takes it along.
            if fs::remove_dir(dir).is_err() {
                return;
            }
        } else if let Some(names) = attribute(dir, ENABLED) {
            let taken_back = names.split_whitespace().all(|controller| {
                fs::write(dir.join("cgroup.subtree_control"), format!("-{controller}")).is_ok()
            });
            if taken_back {
                let _none = removexattr(dir, ENABLED);
            }
        }
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list cgroup", dir))?,
    };
    let directories = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

fn attribute(dir: &Path, name: &str) -> Option<String> {
    let mut value = [0; 256];
    let length = getxattr(dir, name, &mut value).ok()?;
    String::from_utf8(value[..length].to_vec()).ok()
}

/// "pid start-time pid-namespace": a pid alone may be reused, and means nothing in another namespace.
fn this_process() -> String {
    let pid = std::process::id();
    format!(
        "{pid} {} {}",
        start_time(&pid.to_string()).unwrap_or_default(),
        pid_namespace()
    )
}

fn owner_lives(owner: &str) -> bool {
    let mut fields = owner.split(' ');
    let (Some(pid), Some(started), Some(namespace)) = (fields.next(), fields.next(), fields.next()) else {
        return true;
    };
    // Of another namespace's processes nothing is known: theirs stay.
    namespace != pid_namespace() || start_time(pid).is_some_and(|now| now == started)
}

/// Field 22 of /proc/PID/stat, counted behind the name, which may hold anything.
fn start_time(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)
        .map(str::to_owned)
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|link| link.display().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:38 /docker/x /mnt/part rw - cgroup2 cgroup2 rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_mount_is_the_one_that_shows_the_whole_tree() {
        assert_eq!(mount_from(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_from("1 2 0:3 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for bad in ["", "/", "../x", "a/../../x"] {
            assert!(plain(bad).is_err(), "{bad}");
        }
        assert_eq!(
            plain("/system.slice/noisyd.service").unwrap(),
            Path::new("system.slice/noisyd.service")
        );
    }

    #[test]
    fn this_process_lives_and_a_reused_pid_is_not_it() {
        assert!(owner_lives(&this_process()));
        let pid = std::process::id();
        assert!(!owner_lives(&format!("{pid} 1 {}", pid_namespace())));
        assert!(!owner_lives(&format!("4194305 1 {}", pid_namespace())));
        assert!(owner_lives("1 1 pid:[0]"));
    }
}
