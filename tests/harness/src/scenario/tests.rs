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
    assert_ne!(web.spec.pod_ips, hog.spec.pod_ips);
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
    assert_eq!(with("").unwrap().unsupported, Vec::<String>::new());
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
    assert_eq!(scenario.pods[0].spec.pod_ips, scenario.pods[1].spec.pod_ips);
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

    let scan = "kind = \"scan\"\nto = \"red/x\"\nports = \"1-9\"";
    let scanning = parse(&text.replace("kind = \"spin\"\nthreads = 3", scan)).unwrap();
    let reason = scanning.skip_reason(&Machine::default()).unwrap();
    assert_eq!(reason, "work kind scan is not supported yet by this harness");

    let leak = text.replace(
        "breach = \"NoisyNeighbour\"\ntenant = \"red\"",
        "breach = \"FenceLeak\"\ntenant = \"red\"",
    );
    let reason = parse(&leak).unwrap().skip_reason(&Machine::default()).unwrap();
    assert!(reason.contains("FenceLeak"), "{reason}");
}

#[test]
fn every_scenario_of_the_repository_means_something() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let scenarios = load_dir(&dir, &[]).unwrap();
    assert!(scenarios.len() >= 18, "{} scenarios", scenarios.len());
    for scenario in &scenarios {
        assert_eq!(scenario.unsupported, Vec::<String>::new(), "{}", scenario.name);
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
