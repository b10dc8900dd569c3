//! Reads the ring of cgroups made and removed.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{MapData, RingBuf};
use partywall_abi::{CGROUP_MADE, CGROUP_REMOVED, CgroupEvent, PATH_MAX};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
pub fn drain(ring: &mut RingBuf<MapData>, mut change: impl FnMut(CgroupChange)) -> u64 {
    let mut malformed = 0;
    while let Some(entry) = ring.next() {
        match parse(&entry) {
            Some(found) => change(found),
            None => malformed += 1,
        }
    }
    malformed
}

fn parse(bytes: &[u8]) -> Option<CgroupChange> {
    let id = u64::from_ne_bytes(field(bytes, offset_of!(CgroupEvent, id))?);
    let kind = u32::from_ne_bytes(field(bytes, offset_of!(CgroupEvent, kind))?);
    match kind {
        CGROUP_REMOVED => Some(CgroupChange::Removed { id }),
        CGROUP_MADE => {
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
        _ => None,
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
            Some(CgroupChange::Made {
                id: 77,
                path: Some("/kubepods".into())
            })
        );
        assert_eq!(
            parse(&event(CGROUP_REMOVED, "/x", 2)),
            Some(CgroupChange::Removed { id: 77 })
        );
    }

    #[test]
    fn a_path_that_was_cut_is_no_path() {
        let long = "/x".repeat(PATH_MAX / 2);
        let cut = parse(&event(CGROUP_MADE, &long[..PATH_MAX - 1], PATH_MAX - 1));
        assert_eq!(cut, Some(CgroupChange::Made { id: 77, path: None }));
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
            Some(CgroupChange::Made { id: 77, path: None }),
            "a length beyond the entry reads nothing beyond it"
        );
    }
}
