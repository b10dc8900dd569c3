//! Reads the ring: cgroups made and removed, and OOM kills.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{MapData, RingBuf};
use partywall_abi::{
    CGROUP_MADE, CGROUP_REMOVED, CgroupEvent, OOM_KILL, OomEvent, PATH_MAX, SCOPE_LIMIT, SCOPE_NODE,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A task was killed because memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// Cgroup of the task that ran out.
    pub trigger_cgroup: u64,
    pub trigger_pid: u32,
    /// Where the kernel tells it (from Linux 6.8 on).
    pub victim_cgroup: Option<u64>,
    pub victim_pid: u32,
    /// Whether memory ran out at a limit, not on the node; where that is known.
    pub at_limit: Option<bool>,
    /// CLOCK_BOOTTIME.
    pub at_ns: u64,
}

/// What the ring tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Cgroup(CgroupChange),
    OomKill(OomKill),
}

/// What happened to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupChange {
    /// `path` is below the v2 mount; `None` when it was too long to be carried whole.
    Made {
        id: u64,
        path: Option<String>,
    },
    Removed {
        id: u64,
    },
}

/// Tells when the ring has something.
///
/// # Errors
/// The descriptor cannot be duplicated or registered. Must be called within a tokio runtime.
pub fn readiness(ring: &RingBuf<MapData>) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = ring.as_fd().try_clone_to_owned()?;
    // SAFETY: a descriptor of its own, which lives and stays the same as long as the registration that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Hands over all that the ring holds. Returns how many entries were not of the shape that both sides agree on.
pub fn drain(ring: &mut RingBuf<MapData>, mut told: impl FnMut(Event)) -> u64 {
    let mut malformed = 0;
    while let Some(entry) = ring.next() {
        match parse(&entry) {
            Some(event) => told(event),
            None => malformed += 1,
        }
    }
    malformed
}

fn parse(bytes: &[u8]) -> Option<Event> {
    let kind = u32::from_ne_bytes(field(bytes, offset_of!(CgroupEvent, kind))?);
    match kind {
        OOM_KILL => Some(Event::OomKill(oom_kill(bytes)?)),
        CGROUP_MADE | CGROUP_REMOVED => Some(Event::Cgroup(cgroup_change(bytes, kind)?)),
        _ => None,
    }
}

fn oom_kill(bytes: &[u8]) -> Option<OomKill> {
    let long = |at| field(bytes, at).map(u64::from_ne_bytes);
    let short = |at| field(bytes, at).map(u32::from_ne_bytes);
    Some(OomKill {
        trigger_cgroup: long(offset_of!(OomEvent, trigger_cgroup))?,
        trigger_pid: short(offset_of!(OomEvent, trigger_pid))?,
        victim_cgroup: Some(long(offset_of!(OomEvent, victim_cgroup))?).filter(|id| *id != 0),
        victim_pid: short(offset_of!(OomEvent, victim_pid))?,
        at_limit: match short(offset_of!(OomEvent, scope))? {
            SCOPE_LIMIT => Some(true),
            SCOPE_NODE => Some(false),
            _ => None,
        },
        at_ns: long(offset_of!(OomEvent, at_ns))?,
    })
}

fn cgroup_change(bytes: &[u8], kind: u32) -> Option<CgroupChange> {
    let id = u64::from_ne_bytes(field(bytes, offset_of!(CgroupEvent, id))?);
    match kind {
        CGROUP_REMOVED => Some(CgroupChange::Removed { id }),
        _ => {
            let length = u32::from_ne_bytes(field(bytes, offset_of!(CgroupEvent, path_len))?) as usize;
            let start = offset_of!(CgroupEvent, path);
            // The kernel's copy ends with a zero within the field: a path that fills it was cut.
            let whole = length > 0 && length + 1 < PATH_MAX;
            let path = bytes.get(start..start + length).filter(|_| whole);
            Some(CgroupChange::Made {
                id,
                path: path.map(|path| String::from_utf8_lossy(path).into_owned()),
            })
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u32, path: &str, path_len: usize) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<CgroupEvent>()];
        bytes[..8].copy_from_slice(&77u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&kind.to_ne_bytes());
        bytes[12..16].copy_from_slice(&u32::try_from(path_len).expect("short").to_ne_bytes());
        bytes[16..16 + path.len()].copy_from_slice(path.as_bytes());
        bytes
    }

    #[test]
    fn an_event_is_its_kind_id_and_path() {
        let made = parse(&event(CGROUP_MADE, "/kubepods", 9));
        assert_eq!(
            made,
            Some(Event::Cgroup(CgroupChange::Made {
                id: 77,
                path: Some("/kubepods".into())
            }))
        );
        assert_eq!(
            parse(&event(CGROUP_REMOVED, "/x", 2)),
            Some(Event::Cgroup(CgroupChange::Removed { id: 77 }))
        );
    }

    #[test]
    fn a_path_that_was_cut_is_no_path() {
        let long = "/x".repeat(PATH_MAX / 2);
        let cut = parse(&event(CGROUP_MADE, &long[..PATH_MAX - 1], PATH_MAX - 1));
        assert_eq!(
            cut,
            Some(Event::Cgroup(CgroupChange::Made { id: 77, path: None }))
        );
    }

    #[test]
    fn what_is_no_event_is_none() {
        for bytes in [
            &[][..],
            &[0; 16][..],
            &event(9, "/x", 2),
            &event(CGROUP_MADE, "/x", 2)[..12],
        ] {
            assert_eq!(parse(bytes), None);
        }
        assert_eq!(
            parse(&event(CGROUP_MADE, "/x", usize::from(u16::MAX))),
            Some(Event::Cgroup(CgroupChange::Made { id: 77, path: None })),
            "a length beyond the entry reads nothing beyond it"
        );
    }
}
