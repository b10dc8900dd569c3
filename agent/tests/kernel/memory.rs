//! Reclaim, OOM kills and memory files, where the memory controller is in the v2 tree: in the guests of `cargo xtask vm`.

use std::fs;
use std::path::PathBuf;

use partywall_abi::Reclaimed;
use partywall_agent::kernel::events::{self, Event};
use partywall_agent::memory::{Kinds, Watch};
use partywall_agent_core::memory;

use super::{Cgroup, close, load, slot_of};

/// memory.pressure's total of some.
fn pressure_us(cgroup: &Cgroup) -> u64 {
    let text = fs::read_to_string(cgroup.path.join("memory.pressure")).unwrap();
    memory::pressure(&text).unwrap().some_us
}

/// Waits until all that runs there has ended of itself.
fn wait(cgroup: &mut Cgroup) {
    for mut child in cgroup.children.drain(..) {
        child.wait().unwrap();
    }
}

/// A file of holes on the guest's disk: reading it makes page cache and no I/O.
fn holes(bytes: u64) -> PathBuf {
    let scratch = std::env::var_os("PARTYWALL_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = scratch.join(format!("holes-{}", std::process::id()));
    fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// A file of holes, read once through a limit far below its size: each page is made, and reclaimed for the limit.
#[test]
fn each_page_reclaimed_is_counted_and_none_for_the_node() {
    let (kernel, _runtime) = load(|_| ());
    let holes = holes(2 << 30);
    let mut red = Cgroup::new("red");
    fs::write(red.path.join("memory.max"), "33554432").expect("a memory controller");
    // On one CPU: the kernel averages pressure over CPUs, and has too little where a lone task moved between them.
    red.run(&format!(
        "taskset -c 0 dd if={} of=/dev/null bs=1M",
        holes.display()
    ));
    wait(&mut red);
    fs::remove_file(holes).unwrap();

    let reclaim = kernel.maps.reclaim(slot_of(&kernel, red.id()));
    let some_us = pressure_us(&red);
    println!("reclaim {:?}, memory.pressure some {some_us} us", reclaim.limit);
    assert!(
        // Each of these reclaims is as cheap as one can be, and the kernel's own accounting before and after it counts as pressure.
        close(reclaim.limit.stall_ns, some_us * 1_000, 0.2),
        "stalled {} ns, memory.pressure says {some_us} us",
        reclaim.limit.stall_ns
    );
    // What lies in memory at the end was not reclaimed.
    let pages = (2 << 30) / 4096 - 33_554_432 / 4096;
    assert!(
        close(reclaim.limit.pages, pages, 0.05),
        "reclaimed {} pages of {pages}",
        reclaim.limit.pages
    );
    assert_eq!(reclaim.node, Reclaimed::default(), "nothing for the node");
}

/// A file with data, read round and round. What was evicted and is read again is waited for, too: that is in `memory.pressure`, and not in reclaim.
#[test]
fn time_in_reclaim_of_a_file_with_data_is_what_memory_pressure_says() {
    let (kernel, _runtime) = load(|_| ());
    let file = holes(0);
    let mut red = Cgroup::new("red");
    fs::write(red.path.join("memory.max"), "33554432").expect("a memory controller");
    let path = file.display();
    red.run(&format!(
        "taskset -c 0 sh -c 'dd if=/dev/zero of={path} bs=1M count=64 conv=fsync && \
         for round in 1 2 3 4; do dd if={path} of=/dev/null bs=1M; done'"
    ));
    wait(&mut red);
    fs::remove_file(file).unwrap();

    let reclaim = kernel.maps.reclaim(slot_of(&kernel, red.id()));
    let some_us = pressure_us(&red);
    let refaults = memory::stat(&fs::read_to_string(red.path.join("memory.stat")).unwrap()).refaults;
    println!(
        "{refaults} refaults, reclaim {:?}, memory.pressure some {some_us} us",
        reclaim.limit
    );
    assert!(refaults > 10_000, "{refaults}");
    assert!(
        close(reclaim.limit.stall_ns, some_us * 1_000, 0.1),
        "stalled {} ns, memory.pressure says {some_us} us",
        reclaim.limit.stall_ns
    );
}

/// A cgroup at rest that holds page cache: every figure is the one that stands in its files.
#[test]
fn memory_figures_are_those_of_the_files() {
    let holes = holes(64 << 20);
    let mut red = Cgroup::new("red");
    fs::write(red.path.join("memory.max"), "33554432").expect("a memory controller");
    let mut watch = Watch::new(Kinds {
        memory: true,
        pressure: true,
    });
    watch.begin(red.id(), 1, red.path.clone(), true, false);
    red.run(&format!("dd if={} of=/dev/null bs=1M", holes.display()));
    wait(&mut red);

    let (entity, read) = watch.read(|_| false)[0];
    let text = |name: &str| fs::read_to_string(red.path.join(name)).unwrap();
    let line = |file: &str, name: &str| {
        let text = text(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("{file} has no {name}"))
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    let current = line("memory.current", "");
    assert_eq!(
        (entity, read.current_bytes, read.limit_bytes),
        (1, Some(current), Some(33_554_432))
    );
    assert!(current > 16 << 20, "{current}");
    assert_eq!(
        read.working_set_bytes(),
        Some(current - line("memory.stat", "inactive_file "))
    );
    let events = read.events.unwrap();
    assert_eq!((events.max, events.oom_kill), (line("memory.events", "max "), 0));
    assert!(events.max > 0, "it met its limit");
    assert_eq!(
        read.stat.unwrap().major_faults,
        line("memory.stat", "pgmajfault ")
    );
    let pressure = text("memory.pressure");
    let some = read.pressure.memory.unwrap().some_us;
    assert!(
        pressure.contains(&format!("total={some}\n")),
        "{some}: {pressure}"
    );
    fs::remove_file(holes).unwrap();
}

#[test]
fn an_oom_kill_is_told_with_both_ends_and_where_memory_ran_out() {
    let (mut kernel, _runtime) = load(|_| ());
    let mut red = Cgroup::new("red");
    fs::write(red.path.join("memory.max"), "16777216").expect("a memory controller");
    red.run("dd if=/dev/zero of=/dev/null bs=64M count=1");
    let pid = red.children[0].id();
    wait(&mut red);
    let mut kills = Vec::new();
    events::drain(&mut kernel.events, |event| {
        if let Event::OomKill(kill) = event {
            kills.push(kill);
        }
    });
    let [kill] = kills[..] else { panic!("{kills:?}") };
    assert_eq!(
        (kill.trigger_cgroup, kill.trigger_pid, kill.victim_pid),
        (red.id(), pid, pid)
    );
    assert_eq!(kill.at_limit, Some(true));
    // From Linux 6.8 on the kernel tells whose the victim is.
    assert!([None, Some(red.id())].contains(&kill.victim_cgroup), "{kill:?}");
    let events = memory::events(&fs::read_to_string(red.path.join("memory.events")).unwrap());
    assert_eq!(events.oom_kill, 1);
}
