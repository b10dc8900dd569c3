//! Real pods and packets, without the daemons. Needs root, `ip` and `nft`. Here because a program has no tests from outside
//! but scenarios.
#![allow(unsafe_code, reason = "see WORKER")]

use std::{collections::BTreeSet, fs, process::ExitCode, thread, time::Duration};

use partywall_workload::{cgroup2_mount, run_if_worker};

use super::*;
use crate::{
    plan::{before_agent, plan},
    scenario::parse,
};

/// The test runner owns `main`, and work runs in re-executions of this very program: so this runs before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static WORKER: extern "C" fn() = {
    extern "C" fn before_main() {
        if let Some(code) = run_if_worker() {
            #[allow(clippy::disallowed_methods, reason = "this is main here")]
            std::process::exit(i32::from(code != ExitCode::SUCCESS));
        }
    }
    before_main
};

const TEXT: &str = r#"
name = "net"
about = "packets"
seconds = 3
manifests = """
apiVersion: v1
kind: Service
metadata: { name: web, namespace: blue }
spec: { clusterIP: 10.96.0.10, selector: { app: web }, ports: [{ port: 80, targetPort: http }] }
---
kind: NetworkPolicy
metadata: { name: deny, namespace: blue }
"""

[[pod]]
namespace = "red"
name = "client"
[[pod.work]]
kind = "tcp"
to = "blue/web"
port = 8080
per_second = 20
bytes = 100
keep = true
before_agent = true
[[pod.work]]
kind = "tcp"
to = "service:blue/web"
port = 80
per_second = 50
bytes = 1000
to_s = 1
[[pod.work]]
kind = "udp"
to = "blue/web"
port = 53
per_second = 100
bytes = 10
[[pod.work]]
kind = "tcp"
to = "169.254.169.254"
port = 80
per_second = 20
bytes = 10
[[pod.work]]
kind = "icmp"
to = "blue/heir"
per_second = 50
from_s = 2

[[pod]]
namespace = "blue"
name = "web"
labels = { app = "web" }
ports = { http = 8080 }
[[pod.work]]
kind = "tcp-serve"
port = 8080
before_agent = true
[[pod.work]]
kind = "udp-serve"
port = 53

[[pod]]
namespace = "blue"
name = "job"
labels = { app = "web" }
ports = { http = 8080 }
completed_s = 1
[[pod.work]]
kind = "tcp-serve"
port = 8080

[[pod]]
namespace = "blue"
name = "heir"
start_s = 1
address_of = "blue/job"

[[host]]
cgroup = "/partywall-test.slice/probe.service"
[[host.work]]
kind = "tcp"
to = "blue/web"
port = 8080
per_second = 20
bytes = 1

[[drop]]
from = "red/client"
to = "blue/web"
port = 53

[[change]]
at_s = 2
remove = ["NetworkPolicy/blue/deny"]
manifests = """
apiVersion: v1
kind: Service
metadata: { name: late, namespace: blue }
spec: { clusterIP: 10.96.0.11, selector: { app: web }, ports: [{ port: 80 }] }
"""
"#;

#[allow(clippy::disallowed_methods, reason = "a plain test thread")]
fn wait_until(at: Duration, start: Instant) {
    thread::sleep(at.saturating_sub(start.elapsed()));
}

#[test]
fn a_network_scenario_does_what_its_file_says() {
    let scenario = parse(TEXT).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let namespaces = BTreeSet::from(["red", "blue"]);
    let manifests = scenario.manifests.as_deref();
    let cluster = Cluster::create(dir.path().join("c"), manifests, &scenario.documents, &namespaces).unwrap();
    for pod in scenario.pods.iter().filter(|pod| pod.start.is_zero()) {
        cluster.add_pod(&pod.spec).unwrap();
    }
    let files = cluster.dir().to_owned();
    let read = |part: &str| -> String {
        let all = fs::read_dir(&files).unwrap().flatten();
        let named = all.filter(|entry| entry.file_name().to_string_lossy().contains(part));
        named
            .map(|entry| fs::read_to_string(entry.path()).unwrap())
            .collect()
    };
    let mount = cgroup2_mount().unwrap();
    let mut stage = Stage::new(&scenario, cluster, &mount);
    stage.set().unwrap();
    for action in before_agent(&scenario) {
        stage.perform(action, None).unwrap();
    }
    assert_eq!(stage.works.len(), 2);
    // Addresses of both backends, in the order of their pods.
    let slices = read("endpointslice-blue-web");
    assert!(
        slices.contains("10.244.0.3") && slices.contains("10.244.0.4"),
        "{slices}"
    );

    let start = Instant::now();
    for (at, action) in plan(&scenario) {
        wait_until(at, start);
        stage.perform(action, Some(start)).unwrap();
    }
    wait_until(scenario.observed, start);
    let slices = read("endpointslice-blue-web");
    assert!(
        slices.contains("10.244.0.3") && !slices.contains("10.244.0.4"),
        "{slices}"
    );
    assert!(read("endpointslice-blue-late").contains("10.244.0.3"));
    let job = read("pod-blue-job");
    assert!(
        job.contains("phase: Succeeded") && job.contains("10.244.0.4"),
        "{job}"
    );
    assert!(read("pod-blue-heir").contains("podIP: \"10.244.0.4\""));
    let manifests = read("manifests.yaml");
    assert!(
        manifests.contains("late") && !manifests.contains("NetworkPolicy"),
        "{manifests}"
    );

    stage.stop_all_work();
    assert_eq!(stage.faults(), Vec::<String>::new());
    let of = |work: &str| -> Traffic {
        let mut found = stage.sent.iter().filter(|sent| sent.work == work);
        found
            .next()
            .unwrap_or_else(|| panic!("{work} is not in {:?}", stage.sent))
            .traffic
    };
    for work in [
        "tcp blue/web 8080",
        "tcp service:blue/web 80",
        "tcp 169.254.169.254 80",
        "icmp blue/heir",
    ] {
        let traffic = of(work);
        assert!(traffic.bytes_sent > 0, "{work}: {traffic:?}");
        assert_eq!(traffic.established, traffic.attempted, "{work}: {traffic:?}");
        assert_eq!(traffic.bytes_received, traffic.bytes_sent, "{work}: {traffic:?}");
    }
    let lost = of("udp blue/web 53");
    let [dropped] = &stage.lost().unwrap()[..] else {
        panic!("one drop")
    };
    assert_eq!((lost.packets_received, dropped.packets), (0, lost.packets_sent));
    let served: u64 = stage
        .sent
        .iter()
        .filter(|sent| sent.work == "tcp-serve 8080")
        .map(|sent| sent.traffic.bytes_received)
        .sum();
    let asked = of("tcp service:blue/web 80").bytes_sent
        + stage
            .sent
            .iter()
            .filter(|sent| sent.work == "tcp blue/web 8080")
            .map(|sent| sent.traffic.bytes_sent)
            .sum::<u64>();
    assert_eq!(served, asked);
    stage.clear().unwrap();
}

#[test]
fn without_work_of_the_network_nothing_is_made_of_one() {
    let text = "name = \"x\"\nabout = \"x\"\nseconds = 1\n[[pod]]\nnamespace = \"a\"\nname = \"b\"\n\
                [[pod.work]]\nkind = \"spin\"\n";
    let scenario = parse(text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::create(
        dir.path().join("c"),
        None,
        &scenario.documents,
        &BTreeSet::from(["a"]),
    )
    .unwrap();
    let mount = cgroup2_mount().unwrap();
    let mut stage = Stage::new(&scenario, cluster, &mount);
    stage.set().unwrap();
    for (_, action) in plan(&scenario) {
        stage.perform(action, None).unwrap();
    }
    assert!(stage.fabric.is_none());
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
    let worker = stage.works[0].2.pid().to_string();
    assert_eq!(namespace(&worker), namespace("self"));
    stage.stop_all_work();
    assert!(stage.sent.is_empty() && stage.lost().unwrap().is_empty());
    stage.clear().unwrap();
}
