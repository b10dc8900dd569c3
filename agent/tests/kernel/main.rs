//! Real programs on the running kernel. Needs root; without it these tests fail, they are never skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod degraded;
mod flows;
#[cfg(feature = "v2-memory-tests")]
mod memory;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use partywall_abi::{ABSENT, LossReason, SLOT_UNRESOLVED, SLOTS};
use partywall_agent::kernel::events::{self, CgroupChange, Event};
use partywall_agent::kernel::features::{Facts, Feature, Plan, plan};
use partywall_agent::kernel::load::Kernel;
use partywall_agent_core::slots::Totals;
use procfs::{CurrentSI as _, KernelStats};
use rustix::process::{Pid, Signal, kill_process};

/// /proc/stat counts in these.
const TICK_NS: u64 = 10_000_000;

/// A cgroup of this test, removed with what runs in it.
struct Cgroup {
    path: PathBuf,
    children: Vec<Child>,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        // Looked for once: it comes with reading the kernel's BTF, which takes seconds under emulation.
        static ROOT: LazyLock<PathBuf> = LazyLock::new(|| Facts::probe(None).cgroup_root.expect("cgroup v2"));
        let path = ROOT.join(format!("partywall-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("root, and a writable cgroup v2 tree");
        Self {
            path,
            children: Vec::new(),
        }
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }

    /// Runs a busy loop on CPU 0, in this cgroup from its first instruction on.
    fn spin(&mut self) {
        self.run("taskset -c 0 sh -c 'while :; do :; done'");
    }

    fn run(&mut self, command: &str) {
        let script = format!("echo $$ > {}/cgroup.procs && exec {command}", self.path.display());
        self.children.push(
            Command::new("sh")
                .args(["-c", &script])
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        );
    }

    /// Stops what runs here where it stands: a wait that has not ended is in no schedstat yet, however long it has been.
    fn pause(&self) {
        for child in &self.children {
            kill_process(Pid::from_child(child), Signal::STOP).unwrap();
        }
        for child in &self.children {
            let stopped = || {
                fs::read_to_string(format!("/proc/{}/stat", child.id()))
                    .unwrap()
                    .contains(") T ")
            };
            while !stopped() {
                sleep(Duration::from_millis(1));
            }
        }
    }

    fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// cpu.stat's usage_usec.
    fn used(&self) -> Duration {
        let text = fs::read_to_string(self.path.join("cpu.stat")).unwrap();
        let usage = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .unwrap();
        Duration::from_micros(usage.parse().unwrap())
    }

    /// Run-queue wait of what runs here, from schedstat.
    fn waited_ns(&self) -> u64 {
        let wait = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
            text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        self.children.iter().map(|child| wait(child.id())).sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // An exiting task leaves its cgroup a moment after its parent has heard of it.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// The half that does without flows, by the plan for this machine, `change`d. To verify the other half would take half of a test's time
/// in an emulated guest.
fn load(change: impl FnOnce(&mut Plan)) -> (Kernel, tokio::runtime::Runtime) {
    load_as(&Facts::probe(None), |planned| {
        planned.flows = None;
        change(planned);
    })
}

/// The kernel side by the plan for a machine like this, `change`d.
fn load_as(facts: &Facts, change: impl FnOnce(&mut Plan)) -> (Kernel, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut planned, mut features) = plan(facts);
    change(&mut planned);
    let kernel = {
        let _context = runtime.enter();
        Kernel::load(&planned, &mut features, None).expect("the programs load and attach")
    };
    (kernel, runtime)
}

fn slot_of(kernel: &Kernel, id: u64) -> u16 {
    kernel
        .maps
        .slots_in_use()
        .find(|slot| kernel.maps.owner(*slot) == id)
        .expect("a cgroup that ran has a slot")
}

/// Σ classes of a waiter over every slot there is.
fn classes_ns(kernel: &Kernel, waiter: u16, totals: &Totals) -> u64 {
    let cells: u64 = (0..SLOTS as u16)
        .map(|runner| kernel.maps.cell_ns(waiter, runner))
        .sum();
    totals.self_ns + totals.idle_ns + cells
}

/// `a` and `b` differ by at most `share` of the larger.
fn close(a: u64, b: u64, share: f64) -> bool {
    a.abs_diff(b) as f64 <= share * a.max(b) as f64
}

/// What the hypervisor had of CPU 0 since it booted, in whole ticks.
fn stolen_ns() -> u64 {
    let stat = KernelStats::current().unwrap();
    let stolen = stat.cpu_time.first().unwrap().steal_duration();
    u64::try_from(stolen.unwrap_or_default().as_nanos()).unwrap()
}

/// Two cgroups fight for one CPU: run time against cpu.stat, wait against schedstat, the pair against each other, the sum exact.
fn two_spinners(change: impl FnOnce(&mut Plan)) {
    let mut task_clock = true;
    let (kernel, _runtime) = load(|plan| {
        change(plan);
        task_clock = plan.offsets.rq_clock != ABSENT;
    });
    let stolen_before_ns = stolen_ns();
    let (mut red, mut blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    red.spin();
    blue.spin();
    sleep(Duration::from_secs(3));
    red.pause();
    blue.pause();
    let waited_ns = [red.waited_ns(), blue.waited_ns()];
    red.stop();
    blue.stop();
    sleep(Duration::from_millis(100));
    assert_eq!(kernel.flush(), 0, "every busy CPU could be asked");
    // cpu.stat leaves out what the hypervisor took; so do we where we can read the clock that stands still meanwhile.
    let uncharged_ns = if task_clock {
        0
    } else {
        stolen_ns() - stolen_before_ns + TICK_NS
    };

    let slots = [slot_of(&kernel, red.id()), slot_of(&kernel, blue.id())];
    for (index, cgroup) in [&red, &blue].into_iter().enumerate() {
        let totals = kernel.maps.totals(slots[index]);
        let used_ns = u64::try_from(cgroup.used().as_nanos()).unwrap();
        assert!(
            close(totals.run_ns, used_ns, 0.01)
                || (used_ns..=used_ns + uncharged_ns).contains(&totals.run_ns),
            "ran {} ns, cpu.stat says {used_ns}, and the hypervisor took at most {uncharged_ns} that it leaves out",
            totals.run_ns
        );
        assert!(
            close(totals.wait_ns, waited_ns[index], 0.02),
            "waited {}, schedstat says {}",
            totals.wait_ns,
            waited_ns[index]
        );
        assert_eq!(
            classes_ns(&kernel, slots[index], &totals),
            totals.wait_ns,
            "classes sum to the wait"
        );
        assert!(totals.waits.iter().sum::<u32>() > 100, "{:?}", totals.waits);
        // Whatever else this machine does runs in other cgroups, and may run on this CPU: the two had equal shares of the rest.
        let other_ns = kernel.maps.cell_ns(slots[index], slots[1 - index]);
        let other_ran_ns = kernel.maps.totals(slots[1 - index]).run_ns;
        assert!(
            close(other_ns, other_ran_ns, 0.25),
            "{other_ns} entered against the other, which ran {other_ran_ns}"
        );
        let unresolved_ns = kernel.maps.cell_ns(slots[index], SLOT_UNRESOLVED);
        assert!(
            unresolved_ns < totals.wait_ns / 100,
            "{unresolved_ns} ns unresolved"
        );
    }
    // The root cgroup, kernel threads among it, waits all the time: the sum holds there too.
    for slot in kernel.maps.slots_in_use() {
        let exact = (0..20).any(|_| {
            let totals = kernel.maps.totals(slot);
            let sum_ns = classes_ns(&kernel, slot, &totals);
            sum_ns == totals.wait_ns && kernel.maps.totals(slot) == totals
        });
        assert!(exact, "slot {slot} of cgroup {}", kernel.maps.owner(slot));
    }
    assert!(
        // Switches that the kernel does not tell are its doing, and found.
        kernel
            .maps
            .losses()
            .all(|(reason, count)| count == 0 || reason == LossReason::MissedSwitch),
        "{:?}",
        kernel.maps.losses().collect::<Vec<_>>()
    );
}

#[test]
fn the_ledger_agrees_with_the_kernel() {
    two_spinners(|_| ());
}

#[test]
fn the_raw_twin_agrees_with_the_kernel() {
    two_spinners(|plan| plan.btf_typed = false);
}

#[test]
fn without_the_run_queue_clock_the_ledger_still_agrees() {
    two_spinners(|plan| plan.offsets.rq_clock = ABSENT);
}

#[test]
fn without_sched_info_run_time_is_left() {
    let (kernel, _runtime) = load(|plan| plan.offsets.task_last_queued = ABSENT);
    let mut red = Cgroup::new("red");
    red.spin();
    sleep(Duration::from_secs(1));
    red.stop();
    sleep(Duration::from_millis(100));
    let totals = kernel.maps.totals(slot_of(&kernel, red.id()));
    assert!(
        close(totals.run_ns, u64::try_from(red.used().as_nanos()).unwrap(), 0.02),
        "{totals:?}"
    );
    assert_eq!(totals.wait_ns, 0);
}

/// A task that never leaves its CPU is seen all the same.
#[test]
fn a_running_task_is_entered_before_it_is_switched_out() {
    let (kernel, _runtime) = load(|_| ());
    let mut red = Cgroup::new("red");
    red.spin();
    sleep(Duration::from_secs(1));
    assert_eq!(kernel.flush(), 0);
    let used_ns = u64::try_from(red.used().as_nanos()).unwrap();
    let ran_ns = kernel.maps.totals(slot_of(&kernel, red.id())).run_ns;
    // One tick (4 ms) of the run-queue clock, and what passed between the two readings.
    assert!(
        ran_ns.abs_diff(used_ns) < 20_000_000,
        "ran {ran_ns}, cpu.stat says {used_ns}"
    );
}

#[test]
fn cgroups_made_and_removed_are_told_with_their_paths() {
    let (mut kernel, _runtime) = load(|_| ());
    let mut seen: BTreeMap<u64, Vec<CgroupChange>> = BTreeMap::new();
    let mut made = Vec::new();
    for index in 0..50 {
        let cgroup = Cgroup::new(&format!("event-{index}"));
        made.push((
            cgroup.id(),
            format!("/{}", cgroup.path.file_name().unwrap().to_string_lossy()),
        ));
    }
    let malformed = events::drain(&mut kernel.events, |event| {
        let Event::Cgroup(change) = event else { return };
        let id = match &change {
            CgroupChange::Made { id, .. } | CgroupChange::Removed { id } => *id,
        };
        seen.entry(id).or_default().push(change);
    });
    assert_eq!(malformed, 0);
    for (id, path) in made {
        assert_eq!(
            seen[&id],
            [
                CgroupChange::Made { id, path: Some(path) },
                CgroupChange::Removed { id }
            ]
        );
    }
}

#[test]
fn a_slot_given_back_goes_to_the_next() {
    let (mut kernel, _runtime) = load(|_| ());
    let ids: Vec<u64> = (0..5)
        .map(|index| {
            let mut cgroup = Cgroup::new(&format!("slot-{index}"));
            cgroup.spin();
            sleep(Duration::from_millis(100));
            cgroup.id()
        })
        .collect();
    for id in &ids {
        let slot = slot_of(&kernel, *id);
        assert!(kernel.maps.totals(slot).run_ns > 0);
        kernel.maps.give_back(slot, *id).unwrap();
    }
    let owners: Vec<u64> = kernel
        .maps
        .slots_in_use()
        .map(|slot| kernel.maps.owner(slot))
        .collect();
    assert!(
        ids.iter().all(|id| !owners.contains(id)),
        "{ids:?} are still among {owners:?}"
    );
}

/// Nothing is pinned: what is dropped is gone.
#[test]
fn dropping_the_kernel_side_leaves_nothing() {
    let (kernel, _runtime) = load_as(&Facts::probe(None), |_| ());
    let ids: Vec<u32> = kernel.program_runs().iter().map(|program| program.id).collect();
    let left = || {
        aya::programs::loaded_programs()
            .flatten()
            .filter(|program| ids.contains(&program.id()))
            .count()
    };
    assert_eq!(
        (ids.len(), left()),
        (12, 12),
        "traffic, flush, cgroups made and removed, reclaim, OOM kills, switch"
    );
    drop(kernel);
    // The kernel frees a program after a grace period.
    for _ in 0..250 {
        if left() == 0 {
            return;
        }
        sleep(Duration::from_millis(20));
    }
    panic!("{} programs left", left());
}
