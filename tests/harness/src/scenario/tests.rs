use super::*;

const FULL: &str = r#"
name = "cpu-hog"
about = "red burns CPU"
needs = ["cpu-controller"]
seconds = 12
cpus = [0]
policy = "windows: {}"

[[pod]]
namespace = "blue"
name = "web"
requests = { cpu = "500m", memory = "64Mi" }
limits = { cpu = 1 }
labels = { app = "web" }
[[pod.work]]
kind = "duty"
busy_ms = 2
idle_ms = 8

[[pod]]
namespace = "red"
name = "hog"
start_s = 0.5
stop_s = 10
[[pod.work]]
kind = "spin"
threads = 3
from_s = 1
to_s = 9
cgroup = "x/{cgroup of blue/web}"

[[host]]
cgroup = "/system.slice/noisyd.service"
[[host.work]]
kind = "fork"
per_second = 10

[[expect]]
breach = "NoisyNeighbour"
tenant = "red"
against = "blue"
within_s = 5
resolved = true

[[refuse]]
breach = "NoisyNeighbour"
tenant = "blue"

[[measure]]
what = "stolen_cores"
pod = "blue/web"
by = "red"
min = 0.05
max = 0.9
"#;

fn error(text: &str) -> String {
    format!("{:#}", parse(text).unwrap_err())
}

/// FULL with one line replaced; the error must name the line of the replacement (or `line` where given).
fn broken(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    error(&FULL.replacen(from, to, 1))
}

#[test]
fn a_full_file_means_what_it_says() {
    let scenario = parse(FULL).unwrap();
    assert_eq!(scenario.observed, Duration::from_secs(12));
    assert_eq!(scenario.cpus, Some(vec![0]));
    assert!(scenario.exhaustive);
    let [web, hog] = &scenario.pods[..] else {
        panic!("two pods")
    };
    assert_eq!(
        web.spec.requests,
        Resources {
            cpu_cores: Some(0.5),
            memory_bytes: Some(64 << 20)
        }
    );
    assert_eq!(
        web.spec.limits,
        Resources {
            cpu_cores: Some(1.0),
            memory_bytes: None
        }
    );
    assert_eq!(
        web.work[0].work,
        Work::Duty {
            busy_ms: 2.0,
            idle_ms: 8.0,
            threads: 1
        }
    );
    assert_eq!(hog.start, Duration::from_millis(500));
    assert_eq!(hog.work[0].to, Some(Duration::from_secs(9)));
    assert_eq!(
        hog.work[0].cgroup,
        Some(format!("x/{}", web.spec.container_cgroup()))
    );
    assert!(!scenario.networked && web.spec.pod_ips.is_empty());
    assert_eq!(scenario.hosts[0].work[0].work, Work::Fork { per_second: 10.0 });
    assert!(scenario.expect[0].resolved);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    for (after, key) in [
        ("about = \"red burns CPU\"", "abuot"),
        ("labels = { app = \"web\" }", "label"),
        ("threads = 3", "thraeds"),
        ("resolved = true", "resolve"),
        ("by = \"red\"", "from"),
    ] {
        let line = 2 + FULL[..FULL.find(after).unwrap()].matches('\n').count();
        let message = broken(after, &format!("{after}\n{key} = 1"));
        assert!(message.contains(&format!("line {line},")), "{key}: {message}");
        assert!(
            message.contains(&format!("unknown field `{key}`")),
            "{key}: {message}"
        );
    }
    let message = broken("cpu = \"500m\",", "cpus = \"500m\",");
    assert!(
        message.contains("line 12,") && message.contains("unknown field `cpus`"),
        "{message}"
    );
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    for (from, to, line, named) in [
        ("\"cpu-hog\"", "\"CPU hog\"", 2, "CPU hog"),
        ("seconds = 12", "seconds = -1", 5, "-1"),
        ("cpus = [0]", "cpus = []", 6, "cpus"),
        ("\"500m\"", "\"500mm\"", 12, "500mm"),
        ("busy_ms = 2\n", "busy_ms = 0\n", 16, "busy_ms"),
        ("busy_ms = 2\n", "", 16, "busy_ms"),
        ("busy_ms = 2\n", "busy_ms = 2\nper_second = 3\n", 16, "per_second"),
        ("kind = \"spin\"", "kind = \"spinn\"", 26, "spinn"),
        ("to_s = 9", "to_s = 1", 26, "to_s"),
        ("stop_s = 10", "stop_s = 0.5", 22, "stop_s"),
        ("\"/system.slice", "\"system.slice", 33, "cgroup"),
        (
            "breach = \"NoisyNeighbour\"",
            "breach = \"NoisyNeighbor\"",
            39,
            "NoisyNeighbor",
        ),
        ("within_s = 5", "within_s = 0", 39, "within_s"),
        (
            "within_s = 5",
            "within_s = 5\nnot_before_s = 5",
            39,
            "not_before_s: `5`",
        ),
        ("what = \"stolen_cores\"", "what = \"stolen\"", 50, "stolen"),
        ("what = \"stolen_cores\"", "what = \"run_cores\"", 50, "by"),
        ("pod = \"blue/web\"", "pod = \"blue/wbe\"", 51, "blue/wbe"),
        ("needs = [\"cpu-controller\"]", "needs = [\"cpu\"]", 4, "cpu"),
    ] {
        let message = broken(from, to);
        let names_line =
            message.contains(&format!("line {line}:")) || message.contains(&format!("line {line},"));
        assert!(names_line && message.contains(named), "{to}: {message}");
    }
    let message = broken("{cgroup of blue/web}", "{cgroup of blue/wbe}");
    assert!(message.contains("blue/wbe"), "{message}");
}

/// The first piece of work of FULL, replaced.
fn work(text: &str) -> Result<Work> {
    let duty = "kind = \"duty\"\nbusy_ms = 2\nidle_ms = 8";
    assert!(FULL.contains(duty));
    Ok(parse(&FULL.replacen(duty, text, 1))?.pods[0].work[0].work)
}

#[test]
fn memory_comes_at_once_and_stays_unless_it_is_said_otherwise() {
    assert_eq!(
        work("kind = \"memory\"\nbytes = \"64Mi\"").unwrap(),
        Work::Memory {
            bytes: 64 << 20,
            step_bytes: 64 << 20,
            every_ms: 0.0,
            keep: true
        }
    );
    let steps = "kind = \"memory\"\nbytes = 1000\nstep_bytes = \"1Ki\"\nevery_ms = 2.5\nkeep = false";
    assert_eq!(
        work(steps).unwrap(),
        Work::Memory {
            bytes: 1_000,
            step_bytes: 1_024,
            every_ms: 2.5,
            keep: false
        }
    );
    assert_eq!(
        work("kind = \"file-cache\"\nbytes = \"1Gi\"").unwrap(),
        Work::FileCache { bytes: 1 << 30 }
    );
    for (text, named) in [
        ("kind = \"memory\"", "bytes: work kind memory needs it"),
        ("kind = \"memory\"\nbytes = 0", "bytes: `0`"),
        ("kind = \"memory\"\nbytes = 9\nevery_ms = 0", "every_ms: `0`"),
        ("kind = \"file-cache\"\nbytes = 9\nkeep = true", "keep: is no key"),
        ("kind = \"file-cache\"", "bytes: work kind file-cache needs it"),
    ] {
        let message = format!("{:#}", work(text).unwrap_err());
        assert!(
            message.contains(named) && message.contains("line 16:"),
            "{text}: {message}"
        );
    }
}

#[test]
fn stalls_are_measured_by_their_cause() {
    let with = |by: &str| {
        let text = FULL.replacen("stolen_cores", "stall_seconds", 1);
        parse(&text.replacen("by = \"red\"", by, 1))
    };
    assert!(with("by = \"node\"").is_ok() && with("by = \"limit\"").is_ok());
    let message = format!("{:#}", with("by = \"red\"").unwrap_err());
    assert!(message.contains("`red` is neither"), "{message}");
    let message = broken("stolen_cores", "memory_bytes");
    assert!(message.contains("by: is no key"), "{message}");
}

#[test]
fn guests_are_asked_for_by_what_they_are() {
    let text = FULL.replace("[\"cpu-controller\"]", "[\"no-psi\", \"small-memory\"]");
    let scenario = parse(&text.replace("cpus = [0]", "")).unwrap();
    let reason = scenario.skip_reason(&Machine::default()).unwrap();
    assert!(reason.starts_with("small-memory: "), "{reason}");
    let text = text.replace("name = \"web\"", "name = \"web\"\noom_killed = true");
    assert_eq!(parse(&text).unwrap().pods[0].oom_killed, Some(true));
}

#[test]
fn two_pods_of_one_name_may_follow_each_other_but_not_overlap() {
    let pod = |start: f64, stop: f64| {
        format!("[[pod]]\nnamespace = \"a\"\nname = \"b\"\nstart_s = {start}\nstop_s = {stop}\n")
    };
    let head = "name = \"x\"\nabout = \"x\"\nseconds = 9\n";
    assert!(parse(&format!("{head}{}{}", pod(0.0, 1.0), pod(1.0, 2.0))).is_ok());
    let message = error(&format!("{head}{}{}", pod(0.0, 1.5), pod(1.0, 2.0)));
    assert!(message.contains("a/b"), "{message}");
}

#[test]
fn an_address_is_taken_over_only_from_a_removed_pod() {
    let head = "name = \"x\"\nabout = \"x\"\nseconds = 9\n[[pod]]\nnamespace = \"red\"\nname = \"old\"\n";
    let next = "[[pod]]\nnamespace = \"red\"\nname = \"new\"\nstart_s = 3\naddress_of = \"red/old\"\n";
    let scenario = parse(&format!("{head}stop_s = 2\n{next}")).unwrap();
    // Of no network, nobody has one.
    assert!(scenario.pods.iter().all(|pod| pod.spec.pod_ips.is_empty()));
    let message = error(&format!("{head}{next}"));
    assert!(
        message.contains("address_of") && message.contains("red/old"),
        "{message}"
    );
}

#[test]
fn what_cannot_run_here_is_skipped_with_the_reason() {
    let scenario = parse(FULL).unwrap();
    assert_eq!(
        scenario
            .skip_reason(&Machine::default())
            .unwrap()
            .matches("; ")
            .count(),
        1,
        "controller and CPU 0"
    );

    let text = FULL
        .replace("needs = [\"cpu-controller\"]", "")
        .replace("cpus = [0]", "");
    assert_eq!(parse(&text).unwrap().skip_reason(&Machine::default()), None);
}

const NETWORK: &str = r#"
name = "net"
about = "packets"
seconds = 9
manifests = """
apiVersion: v1
kind: Service
metadata: { name: web, namespace: blue }
spec: { clusterIPs: [10.96.0.10, "fd00:10:96::10"], selector: { app: web }, ports: [{ port: 80 }] }
"""
[[pod]]
namespace = "red"
name = "client"
[[pod.work]]
kind = "tcp"
to = "blue/web"
port = 80
per_second = 5
bytes = "1Ki"
family = "ipv6"
[[pod.work]]
kind = "scan"
to = "service:blue/web"
ports = "1-1024"
per_second = 100
[[pod.work]]
kind = "udp"
to = "169.254.169.254"
port = 10000
per_second = 100
bytes = 10
flows = 50000
source = "10.9.8.7"
[[pod]]
namespace = "blue"
name = "web"
ports = { http = 8080, dns = "53/UDP" }
completed_s = 5
[[pod.work]]
kind = "tcp-serve"
port = 80
family = "dual"
before_agent = true
[[pod]]
namespace = "kube-system"
name = "daemon"
host_network = true
[[drop]]
from = "red/client"
to = "blue/web"
port = 80
[[change]]
at_s = 3
remove = ["Service/blue/web"]
manifests = "kind: NetworkPolicy\nmetadata: { name: deny, namespace: blue }"
"#;

/// NETWORK with one text replaced, and what is said of it.
fn broken_network(from: &str, to: &str) -> String {
    assert!(NETWORK.contains(from), "{from}");
    error(&NETWORK.replacen(from, to, 1))
}

#[test]
fn network_work_is_sent_to_where_things_are() {
    let scenario = parse(NETWORK).unwrap();
    assert!(scenario.networked);
    let [client, web, daemon] = &scenario.pods[..] else {
        panic!("three pods")
    };
    assert_eq!(client.spec.pod_ips, ["10.244.0.2", "fd00:10:244::2"]);
    assert_eq!(client.spec.host_ips, ["10.0.0.10", "fd00:10::10"]);
    assert_eq!(daemon.spec.pod_ips, daemon.spec.host_ips);
    assert_eq!(
        client.work[0].work,
        Work::Tcp {
            to: "[fd00:10:244::3]:80".parse().unwrap(),
            per_second: 5.0,
            bytes: 1_024,
            keep: false
        }
    );
    assert_eq!(client.work[0].title, "tcp blue/web 80");
    assert_eq!(
        client.work[1].work,
        Work::Scan {
            to: "10.96.0.10".parse().unwrap(),
            first_port: 1,
            last_port: 1024,
            per_second: 100.0
        }
    );
    assert_eq!(
        client.work[2].work,
        Work::Udp {
            to: "169.254.169.254:10000".parse().unwrap(),
            per_second: 100.0,
            bytes: 10,
            flows: 50_000,
            source: Some([10, 9, 8, 7].into())
        }
    );
    assert!(web.work[0].before_agent && scenario.begins_before_agent());
    assert_eq!(web.end(), Some(Duration::from_secs(5)));
    assert_eq!(web.spec.ports[0].name, "dns");
    assert_eq!(scenario.drops[0].rule.to, web.addresses());
    assert_eq!(scenario.changes[0].remove[0].to_string(), "Service/blue/web");
}

#[test]
fn a_wrong_network_value_is_named_with_its_line() {
    for (from, to, line, named) in [
        (
            "to = \"blue/web\"",
            "to = \"blue/wbe\"",
            16,
            "`blue/wbe` is no pod",
        ),
        (
            "to = \"blue/web\"",
            "from_s = 5\nto = \"blue/web\"",
            17,
            "not there at 5 s",
        ),
        (
            "to = \"blue/web\"",
            "to = \"10.1.2.3\"",
            16,
            "family: `10.1.2.3` is of the other",
        ),
        ("\"ipv6\"", "\"dual\"", 16, "family: `dual`"),
        (
            "\"service:blue/web\"",
            "\"service:red/web\"",
            23,
            "no Service `red/web` at 0 s",
        ),
        (
            "to = \"service",
            "from_s = 3\nto = \"service",
            24,
            "no Service `blue/web` at 3 s",
        ),
        ("\"1-1024\"", "\"9-1\"", 24, "ports: `9-1`"),
        ("port = 80\n", "", 15, "port: work kind tcp needs it"),
        (
            "flows = 50000",
            "flows = 60000",
            27,
            "flows: `60000` ports from 10000",
        ),
        ("bytes = 10\n", "bytes = 70000\n", 27, "bytes: `70000`"),
        (
            "\"169.254.169.254\"",
            "\"fd00:ec2::254\"",
            27,
            "source: is for IPv4",
        ),
        ("\"53/UDP\"", "\"53/SCTP\"", 36, "ports: `dns`"),
        (
            "completed_s = 5",
            "completed_s = 5\nstop_s = 4",
            36,
            "completed_s",
        ),
        (
            "before_agent = true",
            "before_agent = true\nfrom_s = 1",
            40,
            "before_agent",
        ),
        (
            "from = \"red/client\"",
            "from = \"red/cleint\"",
            49,
            "from: `red/cleint`",
        ),
        (
            "[\"Service/blue/web\"]",
            "[\"Service/blue/wbe\"]",
            54,
            "no Service/blue/wbe at 3 s",
        ),
        ("[\"Service/blue/web\"]", "[\"web\"]", 54, "remove: `web`"),
        (
            "clusterIPs: [10.96.0.10,",
            "clusterIPs: [ten,",
            5,
            "`ten` is no address",
        ),
    ] {
        let message = broken_network(from, to);
        assert!(
            message.contains(&format!("line {line}:")) && message.contains(named),
            "{to}: {message}"
        );
    }
    for key in ["flow = 3", "sources = 1"] {
        let message = broken_network("flows = 50000", key);
        assert!(
            message.contains("unknown field") && message.contains("line 32"),
            "{message}"
        );
    }
    let message = broken_network(
        "per_second = 100\n[[pod.work]]",
        "per_second = 100\nkeep = true\n[[pod.work]]",
    );
    assert!(message.contains("keep: is no key of work kind scan"), "{message}");
}

#[test]
fn packets_are_compared_only_with_work_that_counts_them() {
    let measure = |pod: &str| {
        let text = format!("{NETWORK}[[measure]]\nwhat = \"miscounted_packets\"\npod = \"{pod}\"\nmax = 0\n");
        parse(&text).map_err(|error| format!("{error:#}"))
    };
    for pod in ["red/client", "blue/web", "kube-system/daemon"] {
        let message = measure(pod).unwrap_err();
        assert!(
            message.contains("pod: its work of the network is not udp"),
            "{pod}: {message}"
        );
    }
    let datagrams = NETWORK.replace(
        "kind = \"tcp-serve\"\nport = 80",
        "kind = \"udp-serve\"\nport = 80",
    );
    let text =
        format!("{datagrams}[[measure]]\nwhat = \"miscounted_packets\"\npod = \"blue/web\"\nmax = 0\n");
    assert_eq!(parse(&text).unwrap().measure[0].what, What::MiscountedPackets);
    let message = error(&text.replace("max = 0", "by = \"red/client\"\nmax = 0"));
    assert!(
        message.contains("by: is no key of measure miscounted_packets"),
        "{message}"
    );
}

#[test]
fn an_address_is_one_pods_at_a_time() {
    let next = |start: f64, name: &str| {
        format!(
            "[[pod]]\nnamespace = \"red\"\nname = \"{name}\"\nstart_s = {start}\naddress_of = \"blue/web\"\n"
        )
    };
    let with = |pods: &str| parse(&NETWORK.replace("[[drop]]", &format!("{pods}[[drop]]")));
    let scenario = with(&next(5.0, "one")).unwrap();
    assert_eq!(scenario.pods[1].spec.pod_ips, scenario.pods[3].spec.pod_ips);
    let message = format!("{:#}", with(&next(4.0, "one")).unwrap_err());
    assert!(message.contains("`blue/web` is no earlier pod"), "{message}");
    let message = format!(
        "{:#}",
        with(&[next(5.0, "one"), next(6.0, "two")].concat()).unwrap_err()
    );
    assert!(message.contains("`red/one` has that address"), "{message}");
    let daemon = next(5.0, "one").replace("blue/web", "kube-system/daemon");
    assert!(with(&daemon).is_err());
}

#[test]
fn every_scenario_of_the_repository_means_something() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let scenarios = load_dir(&dir, &[]).unwrap();
    assert!(scenarios.len() >= 18, "{} scenarios", scenarios.len());
    for scenario in &scenarios {
        assert!(
            scenario.pods.iter().any(|pod| !pod.work.is_empty()),
            "{}",
            scenario.name
        );
    }
}

#[test]
fn only_keeps_what_is_named_and_refuses_what_is_not_there() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let names = |only: &[&str]| -> Result<Vec<String>> {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        Ok(load_dir(&dir, &only)?
            .into_iter()
            .map(|scenario| scenario.name)
            .collect())
    };
    assert_eq!(
        names(&["quota-kept", "bystander"]).unwrap(),
        ["bystander", "quota-kept"]
    );
    assert!(
        names(&["quota-kept", "no-such-thing"])
            .unwrap_err()
            .to_string()
            .contains("no-such-thing")
    );
}
