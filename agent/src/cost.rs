//! What the agent itself costs, as the kernel accounts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use procfs::process::{MountInfo, Process};
use rustix::time::{ClockId, clock_gettime};

/// What this process has used so far, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnCost {
    /// User and system time of all threads, the ended ones too.
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    /// `memory.current` or `rss`: which of the two `memory_bytes` is; `unknown` where neither can be read.
    pub memory_source: &'static str,
}

pub fn read() -> OwnCost {
    let (memory_bytes, memory_source) = memory();
    OwnCost {
        cpu_ns: cpu_ns(),
        memory_bytes,
        memory_source,
    }
}

/// The process' own clock: to the nanosecond, where getrusage rounds and /proc counts in hundredths of a second.
fn cpu_ns() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(used.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(used.tv_nsec).unwrap_or(0))
}

/// Map memory is charged to the cgroup and invisible in the resident set, so the cgroup's figure is the truth, where the
/// cgroup is the agent's alone.
fn memory() -> (u64, &'static str) {
    static OWN_CGROUP: OnceLock<Option<PathBuf>> = OnceLock::new();
    let own = OWN_CGROUP.get_or_init(own_cgroup).as_deref();
    if let Some(bytes) = own.and_then(|dir| read_number(&dir.join("memory.current"))) {
        return (bytes, "memory.current");
    }
    match Process::myself().and_then(|process| process.statm()) {
        Ok(statm) => (
            statm.resident.saturating_mul(rustix::param::page_size() as u64),
            "rss",
        ),
        Err(_) => (0, "unknown"),
    }
}

/// The directory of the cgroup that holds this process and no other, where cgroup v2 accounts memory. The root has no
/// `memory.current`; cgroup v1's figure is not taken, since its hierarchies place a process elsewhere.
fn own_cgroup() -> Option<PathBuf> {
    let process = Process::myself().ok()?;
    let path = process
        .cgroups()
        .ok()?
        .0
        .into_iter()
        .find(|entry| entry.hierarchy == 0)?
        .pathname;
    let mounts = process.mountinfo().ok()?.0;
    let dir = mounts.iter().find_map(|mount| directory(mount, &path))?;
    let alone = fs::read_to_string(dir.join("cgroup.procs")).ok()?.trim() == process.pid().to_string();
    (alone && read_number(&dir.join("memory.current")).is_some()).then_some(dir)
}

/// Where `mount` shows the cgroup `path`. Both are relative to this process' cgroup namespace; a mount that begins above or
/// beside it (`/..`, another subtree) does not show it by that path.
fn directory(mount: &MountInfo, path: &str) -> Option<PathBuf> {
    if mount.fs_type != "cgroup2" {
        return None;
    }
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    Some(mount.mount_point.join(below))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_cpu_time() {
        let (before, clock) = (cpu_ns(), std::time::Instant::now());
        let mut sum = 0_u64;
        while clock.elapsed().as_millis() < 50 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let (used, elapsed) = (cpu_ns() - before, clock.elapsed().as_nanos() as u64);
        // Another session may hold the CPU for a while, and other tests of this process may run beside.
        assert!(used > elapsed / 20, "{used} of {elapsed} ns");
    }

    #[test]
    fn memory_is_what_this_process_holds() {
        let own = read();
        assert!(["memory.current", "rss"].contains(&own.memory_source), "{own:?}");
        assert!((1 << 20..1 << 34).contains(&own.memory_bytes), "{own:?}");
    }

    #[test]
    fn touched_memory_shows() {
        let before = read().memory_bytes;
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = read().memory_bytes;
        assert!(
            after > before + (48 << 20),
            "{before} then {after}, holding {}",
            held.len()
        );
    }

    #[test]
    fn a_mount_shows_a_cgroup_or_does_not() {
        let mount = |line: &str| MountInfo::from_line(line).unwrap();
        let whole = mount("30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(directory(&whole, "/a/b"), Some("/sys/fs/cgroup/a/b".into()));
        assert_eq!(directory(&whole, "/"), Some("/sys/fs/cgroup/".into()));
        let above = mount("30 24 0:26 /../.. /host/cgroup rw - cgroup2 cgroup2 rw");
        assert_eq!(directory(&above, "/"), None);
        let part = mount("30 24 0:26 /kubepods /part rw - cgroup2 cgroup2 rw");
        assert_eq!(directory(&part, "/kubepods/pod1"), Some("/part/pod1".into()));
        assert_eq!(directory(&part, "/system.slice"), None);
        let v1 = mount("31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory");
        assert_eq!(directory(&v1, "/a"), None);
    }
}
