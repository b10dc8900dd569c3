//! Real cgroups and real processes. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unsafe_code, reason = "see WORKER")]

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use partywall_workload::{
    HostCgroup, LimitState, Pod, PodSpec, Resources, Work, cgroup2_mount, run_if_worker, scratch_dir, sweep,
};

/// The test runner owns `main`, and work runs in re-executions of this very program: so this runs before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static WORKER: extern "C" fn() = {
    extern "C" fn before_main() {
        if let Some(code) = run_if_worker() {
            // SAFETY: a plain exit of a process that has only its own worker threads.
            unsafe { libc::_exit(i32::from(code != ExitCode::SUCCESS)) };
        }
        if std::env::var_os("PARTYWALL_ABANDON").is_some() {
            abandon();
        }
    }
    before_main
};

/// The life of a process that is killed while it holds a pod: says where the pod is, and waits for the end.
fn abandon() -> ! {
    let pod = Pod::create(PodSpec::new("blue", "abandoned"), &cgroup2_mount().unwrap()).unwrap();
    let work = pod.start(&Work::Spin { threads: 1 }, None).unwrap();
    println!("{} {}", work.pid(), pod.cgroup().display());
    loop {
        thread::park();
    }
}

fn pod(name: &str) -> Pod {
    let spec = PodSpec {
        requests: Resources {
            cpu_cores: Some(0.1),
            memory_bytes: None,
        },
        ..PodSpec::new("workload-test", name)
    };
    Pod::create(spec, &cgroup2_mount().unwrap()).unwrap()
}

/// CPU time that the cgroup and all below it used, from cpu.stat.
fn used(cgroup: &Path) -> Duration {
    let stat = fs::read_to_string(cgroup.join("cpu.stat")).unwrap();
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .unwrap();
    Duration::from_micros(usage.parse().unwrap())
}

#[allow(clippy::disallowed_methods, reason = "a plain test thread")]
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

/// Cores used in `cgroup` over a second, after the work has come up.
fn cores(cgroup: &Path) -> f64 {
    pause(200);
    let (before, start) = (used(cgroup), Instant::now());
    pause(1_000);
    (used(cgroup) - before).as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
fn work_runs_where_and_as_much_as_it_is_told() {
    let pod = pod("duty");
    let work = pod
        .start(
            &Work::Duty {
                busy_ms: 2.0,
                idle_ms: 8.0,
                threads: 1,
            },
            Some(&[0]),
        )
        .unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", work.pid())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", work.pid())).unwrap();
    assert!(
        cgroups.contains(&format!("0::/{}\n", pod.spec().container_cgroup())),
        "{cgroups}"
    );
    let cores = cores(pod.cgroup());
    // A turn takes 10 ms and a little for the timer; on a contended machine it takes longer, never shorter.
    assert!((0.05..0.22).contains(&cores), "{cores} cores");
    work.stop();
    let after = used(pod.cgroup());
    pause(100);
    assert_eq!(used(pod.cgroup()), after);
    pod.remove().unwrap();
}

#[test]
fn forked_children_run_in_the_pod() {
    let pod = pod("fork");
    let work = pod
        .start_below("a/b", &Work::Fork { per_second: 100.0 }, None)
        .unwrap();
    let below = pod.container_cgroup().join("a/b");
    let cores = cores(&below);
    // 100 children of 1 ms, and what forking costs.
    assert!((0.03..0.4).contains(&cores), "{cores} cores");
    work.stop();
    pod.remove().unwrap();
    assert!(!below.exists());
}

#[test]
fn a_pod_goes_with_all_that_runs_in_it() {
    let pod = pod("gone");
    let path = pod.cgroup().to_owned();
    let mut spinner = pod.start(&Work::Spin { threads: 2 }, None).unwrap();
    assert!(spinner.ended().is_none());
    pod.remove().unwrap();
    assert!(!path.exists());
    assert!(spinner.ended().is_some(), "the worker outlived its pod");
}

#[test]
fn a_dropped_pod_leaves_no_trace() {
    let path = {
        let host =
            HostCgroup::create("/partywall-test.slice/noisyd.service", &cgroup2_mount().unwrap()).unwrap();
        let _work = host.start(&Work::Spin { threads: 1 }, None).unwrap();
        host.cgroup().to_owned()
    };
    assert!(!path.exists());
    assert!(!path.parent().unwrap().exists());
}

/// A line of the worker's /proc/PID/status, in bytes.
fn status_bytes(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_is_there_to_the_byte() {
    let pod = pod("memory");
    let work = pod
        .start(
            &Work::Memory {
                bytes: 33 << 20,
                step_bytes: 16 << 20,
                every_ms: 1.0,
                keep: true,
            },
            None,
        )
        .unwrap();
    pause(1_000);
    let anonymous = status_bytes(work.pid(), "RssAnon");
    // What the worker itself needs is below 1 MiB.
    assert!((33 << 20..34 << 20).contains(&anonymous), "{anonymous}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", work.pid())).unwrap();
    assert_eq!(score, "999\n", "Burstable, and no memory asked for");
    pod.remove().unwrap();
}

#[test]
fn memory_that_is_not_kept_comes_and_goes() {
    let pod = pod("coming");
    let work = pod
        .start(
            &Work::Memory {
                bytes: 16 << 20,
                step_bytes: 1 << 20,
                every_ms: 10.0,
                keep: false,
            },
            None,
        )
        .unwrap();
    let seen: Vec<u64> = (0..40)
        .map(|_| {
            pause(20);
            status_bytes(work.pid(), "RssAnon")
        })
        .collect();
    let falls = seen.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(falls >= 2, "{seen:?}");
    assert!(seen.iter().all(|bytes| *bytes < 17 << 20), "{seen:?}");
    pod.remove().unwrap();
}

#[test]
fn a_file_is_read_round_and_round_without_a_name() {
    let pod = pod("file");
    let mut work = pod.start(&Work::FileCache { bytes: 3 << 20 }, None).unwrap();
    pause(1_000);
    assert!(work.ended().is_none());
    let links: Vec<_> = fs::read_dir(format!("/proc/{}/fd", work.pid()))
        .unwrap()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .collect();
    let deleted = links
        .iter()
        .filter(|link| link.starts_with(scratch_dir()) && link.to_string_lossy().ends_with(" (deleted)"));
    assert_eq!(deleted.count(), 1, "{links:?}");
    let io = fs::read_to_string(format!("/proc/{}/io", work.pid())).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    assert!(read.parse::<u64>().unwrap() > 9 << 20, "{io}");
    pod.remove().unwrap();
}

#[test]
fn limits_are_applied_or_said_to_be_absent() {
    let spec = PodSpec {
        limits: Resources {
            cpu_cores: Some(0.2),
            memory_bytes: None,
        },
        ..PodSpec::new("workload-test", "limited")
    };
    let pod = Pod::create(spec, &cgroup2_mount().unwrap()).unwrap();
    assert_eq!(pod.limits().memory, LimitState::None);
    match &pod.limits().cpu {
        LimitState::Applied => {
            assert_eq!(
                fs::read_to_string(pod.container_cgroup().join("cpu.max")).unwrap(),
                "20000 100000\n"
            );
        }
        LimitState::Absent(why) => {
            assert!(why.starts_with("cpu.max"), "{why}");
            assert!(!pod.container_cgroup().join("cpu.max").exists());
        }
        LimitState::None => unreachable!("the spec sets a limit"),
    }
}

#[test]
fn a_killed_owners_pods_are_swept_and_a_living_ones_stay() {
    let mount = cgroup2_mount().unwrap();
    let living = pod("living");
    let mut owner = Command::new("/proc/self/exe")
        .env("PARTYWALL_ABANDON", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(owner.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let (pid, path) = line.trim().split_once(' ').unwrap();
    assert!(Path::new(path).exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The worker sees its parent's end by itself.
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "worker {pid} outlived its parent");
        pause(10);
    }
    // Another test may sweep at the same time, and be the one that finds it.
    sweep(&mount).unwrap();
    assert!(!Path::new(path).exists());
    assert!(living.cgroup().exists());
    living.remove().unwrap();
}
