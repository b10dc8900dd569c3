//! Loads the programs by plan, attaches them, and holds them. Dropping a [`Kernel`] detaches and frees everything: nothing is pinned.

use std::fs::File;
use std::io;
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, Program, ProgramError,
    RawTracePoint,
};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use partywall_abi::{ABSENT, LOSS_REASONS, SLOTS};
use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::{debug, info, warn};

use super::features::{Feature, Flows, Plan};
use super::flows::FlowMaps;
use super::maps::Maps;
use super::sys;

/// The kernel side as it was built from agent-ebpf; see agent-ebpf/object/manifest.toml.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../agent-ebpf/object/partywall.bpf.o"
));

/// BTF-typed program, its raw twin, tracepoint.
type Hook = (&'static str, &'static str, &'static str);

const CGROUP_EVENTS: [Hook; 2] = [
    ("cgroup_made_btf", "cgroup_made_raw", "cgroup_mkdir"),
    ("cgroup_removed_btf", "cgroup_removed_raw", "cgroup_rmdir"),
];

/// The ends first: a reclaim that is under way is then one whose beginning was not seen, not one that never ends.
const RECLAIM: [Hook; 4] = [
    (
        "limit_reclaim_ends_btf",
        "limit_reclaim_ends_raw",
        "mm_vmscan_memcg_reclaim_end",
    ),
    (
        "node_reclaim_ends_btf",
        "node_reclaim_ends_raw",
        "mm_vmscan_direct_reclaim_end",
    ),
    (
        "limit_reclaim_begins_btf",
        "limit_reclaim_begins_raw",
        "mm_vmscan_memcg_reclaim_begin",
    ),
    (
        "node_reclaim_begins_btf",
        "node_reclaim_begins_raw",
        "mm_vmscan_direct_reclaim_begin",
    ),
];

const OOM_KILLS: [Hook; 1] = [("oom_killed_btf", "oom_killed_raw", "mark_victim")];

/// What counts packets.
const TRAFFIC: [(&str, CgroupSkbAttachType); 2] = [
    ("received", CgroupSkbAttachType::Ingress),
    ("sent", CgroupSkbAttachType::Egress),
];

/// What is off where switches are not told.
const SCHEDULER_HALF: [&str; 3] = ["run_time", "ledger", "throttle"];

/// Why the kernel side could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{name}: {reason}")]
    Required { name: &'static str, reason: String },
    #[error("the kernel's BTF: {0}")]
    Btf(#[from] aya::BtfError),
    #[error("loading the eBPF object: {0}")]
    Object(#[from] aya::EbpfError),
    #[error("program {program}: {reason}")]
    Program { program: &'static str, reason: String },
    #[error("map {map}: {reason}")]
    Map { map: &'static str, reason: String },
}

/// The kernel side, loaded and attached.
pub struct Kernel {
    ebpf: Ebpf,
    pub maps: Maps,
    /// What sockets send and receive, where it is counted.
    pub flows: Option<FlowMaps>,
    /// cgroups made and removed.
    pub events: RingBuf<MapData>,
    /// What the kernel side has to say, rarely.
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Programs that were loaded, as named in the object.
    programs: Vec<&'static str>,
}

/// What one program has cost since it was loaded.
#[derive(Clone, Copy, Debug)]
pub struct ProgramRuns {
    pub name: &'static str,
    /// As in `bpftool prog show`.
    pub id: u32,
    /// Zero while kernel.bpf_stats_enabled is 0, as are the runs.
    pub run_ns: u64,
    pub runs: u64,
    /// Instructions that the verifier walked; absent before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

impl Kernel {
    /// Loads `object` (default: the one this was built with) and attaches what the plan says.
    ///
    /// `features` is corrected where attaching shows more than the facts did.
    ///
    /// # Errors
    /// A required feature is absent, or the kernel refused a program both ways.
    pub fn load(plan: &Plan, features: &mut [Feature], object: Option<&[u8]>) -> Result<Self, LoadError> {
        if let Some(feature) = features
            .iter()
            .find(|feature| feature.required && !feature.present)
        {
            return Err(LoadError::Required {
                name: feature.name,
                reason: feature.reason.clone(),
            });
        }
        let lacks_run_time = features
            .iter()
            .find(|feature| feature.name == "run_time" && !feature.present)
            .map(|feature| feature.reason.clone());
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| LoadError::Map {
            map: "CPUS",
            reason: format!("{file}: {error}"),
        })?;
        let possible = u32::try_from(cpus).unwrap_or(u32::MAX);
        let throttles = if plan.offsets.cfs_rq_throttled == ABSENT {
            1 // never looked at
        } else {
            possible.saturating_mul(SLOTS as u32)
        };
        // Traffic is counted without it.
        let btf = match Btf::from_sys_fs() {
            Ok(btf) => Some(btf),
            Err(error) if lacks_run_time.is_some() => {
                debug!(%error, "no BTF");
                None
            }
            Err(error) => return Err(error.into()),
        };
        lift_memlock();
        let mut ebpf = EbpfLoader::new()
            .btf(btf.as_ref())
            .override_global("OFFSETS", &plan.offsets.words()[..], true)
            .override_global("UNIT_LEVEL", &plan.unit_level, true)
            .override_global("EPHEMERAL_FROM", &plan.ephemeral_from, true)
            .map_max_entries("ROWS", possible.saturating_mul(SLOTS as u32))
            .map_max_entries("CPUS", possible)
            .map_max_entries("THROTTLES", throttles)
            .map_max_entries("LOSSES", possible.saturating_mul(LOSS_REASONS as u32))
            .load(object.unwrap_or(OBJECT))?;
        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| warn!(%error, "no log from the kernel side"))
            .ok();
        let maps = Maps::open(&mut ebpf, cpus, throttles as usize)?;
        let events = take_events(&mut ebpf)?;
        let mut kernel = Self {
            ebpf,
            maps,
            flows: None,
            events,
            logger,
            programs: Vec::new(),
        };
        if let Some(flows) = &plan.flows {
            kernel.count_flows(flows, features);
        }

        if let Some(reason) = lacks_run_time {
            return match kernel.flows {
                Some(_) => Ok(kernel),
                None => Err(LoadError::Required {
                    name: "run_time",
                    reason,
                }),
            };
        }
        let typed = btf.as_ref().filter(|_| plan.btf_typed);
        for (wanted, feature, hooks) in [
            (plan.cgroup_events, "cgroup_events", &CGROUP_EVENTS[..]),
            (plan.reclaim, "reclaim", &RECLAIM[..]),
            (plan.oom_kills, "oom_kills", &OOM_KILLS[..]),
        ] {
            for (btf_program, raw_program, tracepoint) in hooks.iter().filter(|_| wanted) {
                if let Err(error) = kernel.attach(btf_program, raw_program, tracepoint, typed) {
                    warn!(%error, feature, "not attached: it is off");
                    correct(features, feature, false, &error.to_string());
                }
            }
        }
        match kernel.attach_switch(typed) {
            Ok(how) => {
                correct(features, "run_time", true, &format!("sched_switch, {how}"));
                info!(how, possible_cpus = cpus, "ledger attached");
            }
            // One half is better than none.
            Err(error) if kernel.flows.is_some() => {
                warn!(%error, "no CPU time: traffic alone is counted");
                for feature in SCHEDULER_HALF {
                    correct(features, feature, false, &error.to_string());
                }
            }
            Err(error) => return Err(error),
        }
        Ok(kernel)
    }

    /// What switches are told to, and what asks CPUs between them: neither is of use without the other.
    fn attach_switch(&mut self, btf: Option<&Btf>) -> Result<&'static str, LoadError> {
        const FLUSH: &str = "flush";
        self.raw(FLUSH)?.load().map_err(|error| refused(FLUSH, &error))?;
        self.programs.push(FLUSH);
        self.attach("switch_btf", "switch_raw", "sched_switch", btf)
    }

    /// Attaches what counts traffic at the cgroup root. Independent of the scheduler half: where one cannot be had, the other is.
    fn count_flows(&mut self, wanted: &Flows, features: &mut [Feature]) {
        match self.attach_flows(&wanted.cgroup_root) {
            Ok(flows) => self.flows = Some(flows),
            Err(error) => {
                warn!(%error, feature = "flows", "not attached: it is off");
                self.unload_flows();
                correct(features, "flows", false, &error.to_string());
                correct(features, "timeouts", false, &error.to_string());
                return;
            }
        }
        if let Err(error) = self.attach_release(&wanted.cgroup_root) {
            warn!(%error, feature = "timeouts", "not attached: it is off");
            correct(features, "timeouts", false, &error.to_string());
        }
    }

    fn attach_flows(&mut self, root: &Path) -> Result<FlowMaps, LoadError> {
        let flows = FlowMaps::open(&mut self.ebpf)?;
        let root = open(root, "received")?;
        for (name, direction) in TRAFFIC {
            let program: &mut CgroupSkb = self
                .program(name)?
                .try_into()
                .map_err(|error: ProgramError| refused(name, &error))?;
            program
                .load()
                .and_then(|()| program.attach(&root, direction, CgroupAttachMode::Single))
                .map_err(|error| refused(name, &error))?;
            self.programs.push(name);
        }
        Ok(flows)
    }

    /// One direction alone would cost every packet, for counters that nobody reads.
    fn unload_flows(&mut self) {
        for (name, _) in TRAFFIC {
            if let Some(Program::CgroupSkb(program)) = self.ebpf.program_mut(name) {
                // Which detaches it. The one that was refused is not loaded, and says so.
                let _ = program.unload();
            }
            self.programs.retain(|loaded| *loaded != name);
        }
    }

    fn attach_release(&mut self, root: &Path) -> Result<(), LoadError> {
        const NAME: &str = "socket_released";
        let root = open(root, NAME)?;
        let program: &mut CgroupSock = self
            .program(NAME)?
            .try_into()
            .map_err(|error: ProgramError| refused(NAME, &error))?;
        program
            .load()
            .and_then(|()| program.attach(&root, CgroupAttachMode::Single))
            .map_err(|error| refused(NAME, &error))?;
        self.programs.push(NAME);
        Ok(())
    }

    /// Attaches the BTF-typed program, or its raw twin where the kernel refuses it. Says which.
    fn attach(
        &mut self,
        btf_program: &'static str,
        raw_program: &'static str,
        tracepoint: &str,
        btf: Option<&Btf>,
    ) -> Result<&'static str, LoadError> {
        if let Some(btf) = btf {
            let typed = self.typed(btf_program)?;
            match typed.load(tracepoint, btf).and_then(|()| typed.attach()) {
                Ok(_) => {
                    self.programs.push(btf_program);
                    return Ok("BTF-typed");
                }
                Err(error) => {
                    warn!(program = btf_program, error = %chain(&error), "not attached; trying the raw tracepoint");
                    // Loaded but not attachable: give it back.
                    let _ = typed.unload();
                }
            }
        }
        let raw = self.raw(raw_program)?;
        raw.load()
            .and_then(|()| raw.attach(tracepoint))
            .map_err(|error| refused(raw_program, &error))?;
        self.programs.push(raw_program);
        Ok("raw")
    }

    fn typed(&mut self, name: &'static str) -> Result<&mut BtfTracePoint, LoadError> {
        self.program(name)?
            .try_into()
            .map_err(|error: ProgramError| refused(name, &error))
    }

    fn raw(&mut self, name: &'static str) -> Result<&mut RawTracePoint, LoadError> {
        self.program(name)?
            .try_into()
            .map_err(|error: ProgramError| refused(name, &error))
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, LoadError> {
        self.ebpf.program_mut(name).ok_or_else(|| LoadError::Program {
            program: name,
            reason: "not in the eBPF object".to_owned(),
        })
    }

    /// Has every busy CPU enter what its running task has used so far. Returns how many could not.
    pub fn flush(&self) -> u32 {
        let Some(program) = self.ebpf.program("flush") else {
            return 0;
        };
        let Ok(fd) = program.fd() else { return 0 };
        let mut failed = 0;
        for cpu in self.maps.busy_cpus() {
            // ENXIO: the CPU went offline, and runs nothing.
            if let Err(error) = sys::run_on_cpu(std::os::fd::AsFd::as_fd(fd), cpu)
                && error.raw_os_error() != Some(libc::ENXIO)
            {
                failed += 1;
            }
        }
        failed
    }

    /// Runs an attached raw program once, here, as if its tracepoint had been passed with `arguments`: to measure what cannot be caused.
    ///
    /// # Errors
    /// It is not loaded, or wants more arguments.
    pub fn rehearse(&self, program: &str, arguments: &[u64]) -> io::Result<()> {
        let loaded = self
            .ebpf
            .program(program)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, program.to_owned()))?;
        let fd = loaded.fd().map_err(io::Error::other)?;
        sys::run_here(std::os::fd::AsFd::as_fd(fd), arguments)
    }

    /// Hands what the kernel side logged to this process's log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// What each loaded program has cost.
    pub fn program_runs(&self) -> Vec<ProgramRuns> {
        self.programs
            .iter()
            .filter_map(|name| {
                let info = self.ebpf.program(name)?.info().ok()?;
                Some(ProgramRuns {
                    name,
                    id: info.id(),
                    run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    runs: info.run_count(),
                    verified_instructions: info.verified_instruction_count(),
                })
            })
            .collect()
    }
}

/// Before Linux 5.11 a map counts against RLIMIT_MEMLOCK; from then on against the cgroup's memory, and this changes nothing.
fn lift_memlock() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        // Above the hard limit only with CAP_SYS_RESOURCE. Where it matters, creating the maps says so once more.
        debug!(%error, "RLIMIT_MEMLOCK stays as it is; before Linux 5.11 it must be unlimited");
    }
}

fn take_events(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, LoadError> {
    let error = |reason: String| LoadError::Map {
        map: "EVENTS",
        reason,
    };
    let map: Map = ebpf
        .take_map("EVENTS")
        .ok_or_else(|| error("not in the eBPF object".to_owned()))?;
    RingBuf::try_from(map).map_err(|cause| error(cause.to_string()))
}

fn open(root: &Path, program: &'static str) -> Result<File, LoadError> {
    File::open(root).map_err(|error| LoadError::Program {
        program,
        reason: format!("{}: {error}", root.display()),
    })
}

fn correct(features: &mut [Feature], name: &str, present: bool, reason: &str) {
    if let Some(feature) = features.iter_mut().find(|feature| feature.name == name) {
        feature.present = present;
        // The verifier says why in a hundred lines, which the log has.
        feature.reason = reason.lines().next().unwrap_or_default().to_owned();
    }
}

fn refused(program: &'static str, error: &ProgramError) -> LoadError {
    LoadError::Program {
        program,
        reason: chain(error),
    }
}

/// An error with its causes; the verifier's log is among them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
