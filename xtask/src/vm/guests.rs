//! The kinds of guest that scenarios ask for in their `needs`, and the disk that each guest gets.

use std::{collections::BTreeMap, fs::File, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{run, tools};

/// Memory of a guest that a scenario's pods are to use up, beside its initramfs, which lies in memory: kernel and daemons leave its pods about
/// 180 MiB.
const SMALL_MIB: u64 = 280;

/// What a small guest's kernel keeps free for itself, in KiB: half of what it would. Below that tasks have to reclaim themselves, and there
/// are only two CPUs of allocating tasks against the kernel's own reclaim; on a node of fifty they outrun it without help.
const SMALL_RESERVE_KIB: u32 = 1024;

/// Of the disk. Sparse: only what a guest writes takes room here.
const DISK_BYTES: u64 = 1 << 30;

/// Where Debian has it, which is not on everybody's PATH.
const MKE2FS: &str = "/usr/sbin/mke2fs";

/// What a guest is like. The default is the ordinary one, which runs the kernel tests too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    small_memory: bool,
    no_psi: bool,
}

impl Kind {
    pub(crate) const ORDINARY: Self = Self {
        small_memory: false,
        no_psi: false,
    };

    /// What the scenario in `text` needs.
    pub(crate) fn of(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Scenario {
            #[serde(default)]
            needs: Vec<String>,
        }
        let scenario: Scenario = toml::from_str(text)?;
        let needs = |name: &str| scenario.needs.iter().any(|need| need == name);
        Ok(Self {
            small_memory: needs("small-memory"),
            no_psi: needs("no-psi"),
        })
    }

    /// Beside a kernel's series: nothing for the ordinary one.
    pub(crate) fn suffix(self) -> &'static str {
        match (self.small_memory, self.no_psi) {
            (false, false) => "",
            (true, false) => "-small",
            (false, true) => "-no-psi",
            (true, true) => "-small-no-psi",
        }
    }

    /// `ordinary_mib`: of guests that need no particular size.
    pub(crate) fn memory_mib(self, ordinary_mib: u64, initramfs_bytes: u64) -> u64 {
        if self.small_memory {
            SMALL_MIB + initramfs_bytes.div_ceil(1 << 20)
        } else {
            ordinary_mib
        }
    }

    /// What is written below /proc/sys.
    pub(crate) fn settings(self) -> BTreeMap<String, String> {
        let reserve = ("vm/min_free_kbytes".to_owned(), SMALL_RESERVE_KIB.to_string());
        self.small_memory.then_some(reserve).into_iter().collect()
    }

    pub(crate) fn psi(self) -> bool {
        !self.no_psi
    }
}

/// Installs what makes disks.
pub(crate) fn install() -> Result<()> {
    tools::debian_packages(&["e2fsprogs"], "make the guests' disks")
}

/// An empty disk at `path`. Without a journal: nothing on it outlives its guest, and a journal's writes would be noise.
pub(crate) fn disk(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(DISK_BYTES)?;
    run::captured(
        Command::new(MKE2FS)
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"])
            .arg(path),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn a_scenario_says_which_guest_it_needs() {
        let kind = |text: &str| Kind::of(text).expect("a scenario");
        assert_eq!(kind("name = \"x\"\n"), Kind::ORDINARY);
        assert_eq!(kind("needs = [\"memcg\", \"psi\"]\n"), Kind::ORDINARY);
        let small = kind("needs = [\"memcg\", \"small-memory\"]\n");
        assert_eq!((small.suffix(), small.psi()), ("-small", true));
        assert_eq!(small.memory_mib(1024, (72 << 20) + 1), 280 + 73);
        let both = kind("needs = [\"no-psi\", \"small-memory\"]\n");
        assert_eq!((both.suffix(), both.psi()), ("-small-no-psi", false));
        assert_eq!(kind("needs = [\"no-psi\"]\n").memory_mib(1024, 72 << 20), 1024);
        assert!(Kind::of("needs = 3\n").is_err());
    }
}
