//! OOM kills: whose task wanted memory, and whose was killed for it.

use partywall_agent_core::identity::{Identity, identify};
use partywall_agent_core::inventory::Inventory;
use procfs::process::Process;

use crate::kernel::events::OomKill;

/// The inode of the first pid namespace, PROC_PID_INIT_INO in the kernel: only there the kernel's process ids are ours.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A kill with names; `None` where nobody knows any more.
#[derive(Clone, Debug)]
pub struct Kill {
    pub told: OomKill,
    pub trigger: Option<Identity>,
    pub victim: Option<Identity>,
}

/// Gives names to a kill, at once: before Linux 6.8 the kernel tells the victim's process id only, and it is dying.
pub fn name(told: OomKill, inventory: &Inventory) -> Kill {
    let victim = match told.victim_cgroup {
        Some(id) => inventory.identity(id).cloned(),
        None => identity_of(told.victim_pid),
    };
    Kill {
        told,
        trigger: inventory.identity(told.trigger_cgroup).cloned(),
        victim,
    }
}

/// Whose a process is, by its cgroup's path.
fn identity_of(pid: u32) -> Option<Identity> {
    let namespaces = Process::myself().ok()?.namespaces().ok()?;
    let first = namespaces.0.get(std::ffi::OsStr::new("pid"))?.identifier == FIRST_PID_NAMESPACE;
    let cgroups = first.then(|| Process::new(i32::try_from(pid).ok()?).ok()?.cgroups().ok())??;
    let v2 = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0)?;
    // A path that leads out of our cgroup namespace begins with it, and says nothing of what lies between.
    (!v2.pathname.contains("/..")).then(|| identify(&v2.pathname))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpid;

    #[test]
    fn a_process_is_whose_its_cgroup_is() {
        let own = identity_of(getpid().as_raw_nonzero().get().unsigned_abs());
        assert!(matches!(own, Some(Identity::Host { .. })), "{own:?}");
        assert_eq!(identity_of(u32::MAX), None);
        assert_eq!(identity_of(0), None);
    }
}
