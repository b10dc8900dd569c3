//! What the loader hands to the reference programs.
#![no_std]

/// Byte offsets of the kernel fields that the classic design reads, set in `.rodata` (symbol `OFFSETS`).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Offsets {
    pub task_pid: u32,
    pub task_cgroups: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_id: u32,
}

impl Offsets {
    /// As the words that `.rodata` holds, in the order of the fields.
    pub const fn words(&self) -> [u32; 5] {
        [
            self.task_pid,
            self.task_cgroups,
            self.css_set_dfl_cgrp,
            self.cgroup_kn,
            self.kernfs_node_id,
        ]
    }
}
