//! Where the running kernel keeps the fields that the probes read.
//!
//! Rust's eBPF side carries no CO-RE relocations: offsets baked in at compile time would be silently wrong elsewhere. They
//! are resolved here from the kernel's own BTF; what it lacks is absent and turns its feature off.

use std::path::Path;

use btf_rs::{Btf, Type};
use partywall_abi::{ABSENT, Offsets};

/// Types nest at most this deep between a struct and the field looked for.
const MAX_DEPTH: usize = 8;

/// Where `cfs_rq` keeps for how long it was throttled: the exact figure first (Linux 6.6), by the task clock (until 5.18), and by the
/// load-tracking clock (5.19 to 6.5), which goes slower on a CPU that runs below its full speed.
const THROTTLED_FIELDS: [&str; 3] = [
    "throttled_clock_self_time",
    "throttled_clock_task_time",
    "throttled_clock_pelt_time",
];

/// What the kernel's BTF says about the probes' needs.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub offsets: Offsets,
    /// The place of `prev` among the switch tracepoint's arguments. The probes know one: (preempt, prev, next, …).
    pub switch_arguments: Option<u32>,
    /// Whether the tracepoints for cgroups made and removed exist.
    pub cgroup_events: bool,
    /// Whether those for reclaim, of limits and of the node, exist.
    pub reclaim: bool,
    /// Whether that for OOM kills exists.
    pub oom_kills: bool,
}

/// Reads the layout from a BTF file, `/sys/kernel/btf/vmlinux` in earnest.
///
/// # Errors
/// The file cannot be read or is no BTF. A missing field is no error but [`ABSENT`].
pub fn resolve(path: &Path) -> Result<Layout, btf_rs::Error> {
    let btf = Btf::from_file(path)?;
    let at = |root: &str, fields: &[&str]| field_offset(&btf, root, fields).unwrap_or(ABSENT);
    let offsets = Offsets {
        task_pid: at("task_struct", &["pid"]),
        task_cgroups: at("task_struct", &["cgroups"]),
        task_last_queued: at("task_struct", &["sched_info", "last_queued"]),
        task_last_arrival: at("task_struct", &["sched_info", "last_arrival"]),
        task_cfs_rq: at("task_struct", &["se", "cfs_rq"]),
        cfs_rq_rq: at("cfs_rq", &["rq"]),
        cfs_rq_throttled: THROTTLED_FIELDS
            .iter()
            .find_map(|field| field_offset(&btf, "cfs_rq", &[field]))
            .unwrap_or(ABSENT),
        rq_clock: at("rq", &["clock"]),
        rq_clock_task: at("rq", &["clock_task"]),
        rq_prev_steal_time_rq: at("rq", &["prev_steal_time_rq"]),
        css_set_dfl_cgrp: at("css_set", &["dfl_cgrp"]),
        cgroup_kn: at("cgroup", &["kn"]),
        cgroup_root: at("cgroup", &["root"]),
        cgroup_root_hierarchy_id: at("cgroup_root", &["hierarchy_id"]),
        kernfs_node_id: at("kernfs_node", &["id"]),
        victim_is_task: first_task_argument(&btf, "btf_trace_mark_victim")
            .filter(|place| *place == 0)
            .map_or(ABSENT, |_| 1),
    };
    let exist = |tracepoints: &[&str]| {
        tracepoints.iter().all(|name| {
            btf.resolve_ids_by_name(&format!("btf_trace_{name}"))
                .is_ok_and(|ids| !ids.is_empty())
        })
    };
    let switch_arguments = first_task_argument(&btf, "btf_trace_sched_switch");
    Ok(Layout {
        offsets,
        switch_arguments,
        cgroup_events: exist(&["cgroup_mkdir", "cgroup_rmdir"]),
        reclaim: exist(&[
            "mm_vmscan_memcg_reclaim_begin",
            "mm_vmscan_memcg_reclaim_end",
            "mm_vmscan_direct_reclaim_begin",
            "mm_vmscan_direct_reclaim_end",
        ]),
        oom_kills: exist(&["mark_victim"]),
    })
}

/// Byte offset of a field reached through embedded structs, each named.
fn field_offset(btf: &Btf, root: &str, fields: &[&str]) -> Option<u32> {
    let mut structure = btf
        .resolve_types_by_name(root)
        .ok()?
        .into_iter()
        .find_map(|found| match found {
            Type::Struct(structure) if !structure.members.is_empty() => Some(structure),
            _ => None,
        })?;
    let mut bits = 0;
    for (depth, name) in fields.iter().enumerate() {
        let (at, found) = member(btf, &structure, name, 0)?;
        bits += at;
        if depth + 1 < fields.len() {
            structure = match found {
                Type::Struct(inner) => inner,
                _ => return None,
            };
        }
    }
    (bits % 8 == 0).then_some(bits / 8)
}

/// A member of `structure` or of an unnamed struct or union in it: bit offset and type.
fn member(btf: &Btf, structure: &btf_rs::Struct, name: &str, depth: usize) -> Option<(u32, Type)> {
    if depth > MAX_DEPTH {
        return None;
    }
    structure.members.iter().find_map(|candidate| {
        let found = skip_modifiers(btf, btf.resolve_chained_type(candidate).ok()?)?;
        match btf.resolve_name(candidate).ok()?.as_str() {
            found_name if found_name == name => Some((candidate.bit_offset(), found)),
            "" => match found {
                Type::Struct(inner) | Type::Union(inner) => member(btf, &inner, name, depth + 1)
                    .map(|(at, found)| (candidate.bit_offset() + at, found)),
                _ => None,
            },
            _ => None,
        }
    })
}

fn skip_modifiers(btf: &Btf, mut found: Type) -> Option<Type> {
    for _ in 0..MAX_DEPTH {
        found = match &found {
            Type::Const(inner) | Type::Volatile(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::Typedef(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::TypeTag(inner) => btf.resolve_chained_type(inner).ok()?,
            _ => return Some(found),
        };
    }
    None
}

/// The place of the first `struct task_struct *` among a tracepoint's arguments, not counting the hidden context.
///
/// The prototype has no parameter names. Linux 5.18.0 put `prev_state` before the tasks, all others have it behind or not at all.
fn first_task_argument(btf: &Btf, typedef: &str) -> Option<u32> {
    let Type::Typedef(typedef) = btf.resolve_types_by_name(typedef).ok()?.into_iter().next()? else {
        return None;
    };
    let Type::Ptr(pointer) = btf.resolve_chained_type(&typedef).ok()? else {
        return None;
    };
    let Type::FuncProto(prototype) = btf.resolve_chained_type(&pointer).ok()? else {
        return None;
    };
    let place = prototype.parameters.iter().skip(1).position(|parameter| {
        let pointee = btf.resolve_chained_type(parameter).and_then(|found| match &found {
            Type::Ptr(pointer) => btf.resolve_chained_type(pointer),
            _ => Ok(found),
        });
        matches!(pointee, Ok(Type::Struct(task)) if btf.resolve_name(&task).is_ok_and(|name| name == "task_struct"))
    })?;
    u32::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_what_the_ledger_needs() {
        let layout = resolve(Path::new("/sys/kernel/btf/vmlinux")).expect("the running kernel's BTF");
        let Offsets {
            task_pid,
            task_cgroups,
            task_last_queued,
            kernfs_node_id,
            ..
        } = layout.offsets;
        for (name, offset) in [
            ("task_pid", task_pid),
            ("task_cgroups", task_cgroups),
            ("task_last_queued", task_last_queued),
            ("kernfs_node_id", kernfs_node_id),
        ] {
            assert_ne!(offset, ABSENT, "{name}");
        }
        assert_eq!(layout.switch_arguments, Some(1), "of (preempt, prev, next, …)");
        assert!(layout.cgroup_events);
    }

    #[test]
    fn a_field_that_does_not_exist_is_absent() {
        let btf = Btf::from_file("/sys/kernel/btf/vmlinux").expect("the running kernel's BTF");
        assert_eq!(field_offset(&btf, "task_struct", &["no_such_field"]), None);
        assert_eq!(field_offset(&btf, "no_such_struct", &["pid"]), None);
        assert_eq!(field_offset(&btf, "task_struct", &["pid", "not_a_struct"]), None);
    }

    #[test]
    fn a_file_that_is_no_btf_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), b"not BTF").expect("written");
        assert!(resolve(file.path()).is_err());
    }
}
