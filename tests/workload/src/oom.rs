//! Whom the kernel kills when the node's memory runs out: `oom_score_adj`, as kubelet sets it.

use std::{fs, io::ErrorKind};

use crate::{Error, PodSpec, Qos};

/// Kubelet's own, and that of what keeps a node running.
const NODE_DAEMON: i32 = -999;
const GUARANTEED: i32 = -997;
const BEST_EFFORT: i32 = 1000;

/// Has the kernel kill this process, and what it starts, last of all. Without CAP_SYS_RESOURCE nothing changes.
pub fn protect_from_oom() -> Result<(), Error> {
    set("self", NODE_DAEMON)
}

/// What kubelet gives the containers of a pod: the more of the node's memory a pod asked for, the later it is killed.
pub(crate) fn score_of(spec: &PodSpec, node_memory_bytes: u64) -> i32 {
    match spec.qos() {
        Qos::Guaranteed => GUARANTEED,
        Qos::BestEffort => BEST_EFFORT,
        Qos::Burstable => {
            let requested = spec.effective_requests().memory_bytes.unwrap_or(0);
            let thousandths = u128::from(requested) * 1000 / u128::from(node_memory_bytes.max(1));
            // Between the two classes, and never equal to either.
            let score = BEST_EFFORT.saturating_sub(i32::try_from(thousandths).unwrap_or(i32::MAX));
            score.clamp(BEST_EFFORT + GUARANTEED, BEST_EFFORT - 1)
        }
    }
}

/// `pid`: as /proc names it.
pub(crate) fn set(pid: &str, score: i32) -> Result<(), Error> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match fs::write(&path, score.to_string()) {
        // Lowering it takes CAP_SYS_RESOURCE. Where we lack that, no scenario makes the node run out.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(Error::io("write", path)),
    }
}

/// `MemTotal`: what kubelet takes for the node's capacity.
pub fn node_memory_bytes() -> Result<u64, Error> {
    let text = fs::read_to_string("/proc/meminfo").map_err(Error::io("read", "/proc/meminfo"))?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    let kib: u64 =
        kib.ok_or_else(|| Error::io("find MemTotal in", "/proc/meminfo")(ErrorKind::InvalidData.into()))?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resources;

    fn score(requested_mib: Option<u64>, limited: bool) -> i32 {
        let resources = Resources {
            cpu_cores: requested_mib.map(|_| 1.0),
            memory_bytes: requested_mib.map(|mib| mib << 20),
        };
        let spec = PodSpec {
            requests: resources,
            limits: if limited { resources } else { Resources::default() },
            ..PodSpec::new("blue", "web")
        };
        score_of(&spec, 1000 << 20)
    }

    #[test]
    fn scores_are_kubelets() {
        assert_eq!(score(Some(100), true), -997);
        assert_eq!(score(None, false), 1000);
        assert_eq!(score(Some(100), false), 900);
        assert_eq!(score(Some(0), false), 999, "below BestEffort's");
        assert_eq!(score(Some(999), false), 3, "above Guaranteed's");
        assert_eq!(score(Some(1 << 40), false), 3);
    }
}
