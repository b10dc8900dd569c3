//! `partywall policy suggest`: files in, YAML out, and what `policy check` and `policy diff` say of it then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/seen.rs"]
mod seen;

use std::path::PathBuf;

use partywall_aggregator::identify::objects;
use seen::{CLUSTER, cluster, flows, policy, said, text, write_flows};
use serde_json::Value;
use tempfile::TempDir;

fn suggest(dir: &TempDir, arguments: &str) -> String {
    let file = write_flows(dir, &flows());
    let mut all = vec!["--flows", &file];
    all.extend(arguments.split_whitespace());
    let output = policy("suggest", &all);
    assert_eq!(output.status.code(), Some(0), "{arguments}");
    said(&output)
}

fn with_cluster(dir: &TempDir, arguments: &str) -> String {
    suggest(dir, &format!("--cluster-from {} {arguments}", text(dir.path())))
}

/// `PARTYWALL_BLESS=1` writes it instead: look at the difference before committing.
fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/suggest")
        .join(name);
    if std::env::var_os("PARTYWALL_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(actual == expected, "{} differs; now:\n{actual}", path.display());
}

#[test]
fn the_yaml_is_as_it_was() {
    let dir = cluster();
    for (name, arguments) in [
        ("plain.yaml", ""),
        (
            "all-kept.yaml",
            "--egress --keep-cross-tenant --keep-outside --tenant navy",
        ),
        ("egress.yaml", "--egress --namespace blue"),
    ] {
        golden(name, &with_cluster(&dir, arguments));
    }
    golden("no-labels.yaml", &suggest(&dir, ""));
}

#[test]
fn every_document_is_a_policy_that_the_strict_reader_takes() {
    let dir = cluster();
    for arguments in ["", "--egress", "--keep-cross-tenant --keep-outside --egress"] {
        let yaml = with_cluster(&dir, arguments);
        let read = objects::read(&yaml).unwrap();
        let documents = yaml.lines().filter(|l| *l == "---").count();
        assert_eq!(read.cluster.network_policies.len(), documents);
        assert!(documents > 2 && read.ignored == 0);
    }
}

#[test]
fn what_is_closed_is_denied_and_what_is_kept_is_not() {
    let dir = cluster();
    let document: Value = serde_json::from_str(&with_cluster(&dir, "--json")).unwrap();
    std::fs::write(dir.path().join("suggested.yaml"), with_cluster(&dir, "")).unwrap();
    let mut looked_at = 0;
    for flow in document["flows"].as_array().unwrap() {
        let of = |key: &str| flow[key].as_str().unwrap().split(' ').next().unwrap().to_owned();
        let (from, to) = match (of("from"), of("to")) {
            // Said by the agent that opened it, and a check is about pods.
            (from, to) if to == "green/api" && flow["port"] == 80 => (from, "10.0.2.1".to_owned()),
            // One is gone, the other has ended: no ends of a connection to `check`.
            (from, _) if from == "red/old" || from == "blue-jobs/job-x" => continue,
            ends => ends,
        };
        let port = match flow["port"].as_u64().unwrap() {
            0 => "ICMP".to_owned(),
            80 if to == "10.0.2.1" => "8080/TCP".to_owned(),
            port => format!("{port}/{}", flow["protocol"].as_str().unwrap()),
        };
        let arguments = [
            "--cluster-from",
            text(dir.path()),
            "--from",
            &from,
            "--to",
            &to,
            "--port",
            &port,
        ];
        let code = policy("check", &arguments).status.code();
        let wanted = match flow["fate"].as_str().unwrap() {
            "kept" | "still_open" => 0,
            "closed" | "cut" | "denied_already" => 1,
            _ => 5,
        };
        assert_eq!(code, Some(wanted), "{flow}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 19);
    let fates: Vec<(&str, u64)> = document["counts"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_u64().unwrap()))
        .collect();
    assert_eq!(
        fates,
        [
            ("closed", 5),
            ("cut", 3),
            ("denied_already", 1),
            ("kept", 10),
            ("still_open", 1),
            ("undecided", 1)
        ]
    );
}

#[test]
fn once_applied_nothing_is_left_to_suggest_and_a_diff_says_what_it_cuts() {
    let dir = cluster();
    let (changed, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let yaml = with_cluster(&dir, "");
    std::fs::write(changed.path().join("suggested.yaml"), &yaml).unwrap();
    let file = write_flows(&saved, &flows());
    let arguments = [
        "--cluster-from",
        text(dir.path()),
        "--changed",
        text(changed.path()),
        "--flows",
        &file,
        "--json",
    ];
    let output = policy("diff", &arguments);
    assert_eq!(output.status.code(), Some(1));
    let diff: Value = serde_json::from_str(&said(&output)).unwrap();
    let denied: Vec<&Value> = diff["changes"].as_array().unwrap().iter().collect();
    assert!(denied.iter().all(|c| c["change"] == "newly_denied"), "{diff}");
    // Those between tenants, the outside, ICMP and the probe; the one that is gone is in no directory.
    assert_eq!(denied.len(), 7);

    std::fs::write(dir.path().join("suggested.yaml"), yaml).unwrap();
    let again = with_cluster(&dir, "");
    assert!(!again.contains("kind: NetworkPolicy"), "{again}");
    assert!(
        again.contains("isolated already for ingress by blue/partywall-db"),
        "{again}"
    );
}

/// The Service of the Kubernetes API has no selector: only its EndpointSlice says where it leads.
#[test]
fn the_api_server_stays_in_reach_where_its_endpoints_are_known() {
    let dir = cluster();
    let service = "- {apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: default}, \
         spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}}\n";
    let slice = "- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}, \
         ports: [{name: https, port: 6443, protocol: TCP}], endpoints: [{addresses: [192.0.2.2]}]}\n";
    let mut asked = flows();
    let mut flow = asked["flows"][21].clone();
    for (key, value) in [
        ("namespace", "default"),
        ("pod", "kubernetes"),
        ("uid", ""),
        ("node", ""),
    ] {
        flow["to"][key] = value.into();
    }
    flow["to"]["address"] = "10.96.0.1".into();
    flow["to"]["kind"] = "service".into();
    (flow["protocol"], flow["port"]) = ("TCP".into(), 443.into());
    asked["flows"] = vec![flow].into();
    let file = write_flows(&dir, &asked);
    let arguments = [
        "--flows",
        &file,
        "--cluster-from",
        text(dir.path()),
        "--egress",
        "--namespace",
        "blue",
        "--json",
    ];
    for (objects, fate) in [
        (service.to_owned(), "not_looked_at"),
        (format!("{service}{slice}"), "kept"),
    ] {
        std::fs::write(dir.path().join("all.yaml"), format!("{CLUSTER}{objects}")).unwrap();
        let document: Value = serde_json::from_str(&said(&policy("suggest", &arguments))).unwrap();
        assert_eq!(document["flows"][0]["fate"], fate, "{document:#}");
        let kept = document
            .to_string()
            .contains(r#"{"ipBlock":{"cidr":"192.0.2.2/32"}}"#);
        assert_eq!(kept, fate == "kept", "{document:#}");
    }
}

#[test]
fn pods_that_have_ended_and_that_no_flow_names_change_nothing() {
    let dir = cluster();
    let before = with_cluster(&dir, "");
    assert!(before.contains("blue-jobs/job-x"), "one that a flow names stays");
    let pod = |name: &str, phase: &str, labels: &str| {
        format!(
            "- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: blue, uid: u-{name}, labels: {{{labels}}}}}, \
             spec: {{nodeName: node-a, containers: [{{name: c}}]}}, status: {{phase: {phase}, podIP: 10.0.0.2}}}}\n"
        )
    };
    let ended = pod("old-1", "Failed", "app: web, track: old") + &pod("old-2", "Succeeded", "app: once");
    std::fs::write(dir.path().join("all.yaml"), format!("{CLUSTER}{ended}")).unwrap();
    assert_eq!(with_cluster(&dir, ""), before);
}

#[test]
fn names_that_are_taken_are_not_used_again() {
    let dir = cluster();
    let taken = CLUSTER.replace(
        "{name: vault, namespace: blue}",
        "{name: partywall-db, namespace: blue}",
    );
    std::fs::write(dir.path().join("all.yaml"), taken).unwrap();
    let yaml = with_cluster(&dir, "--namespace blue");
    assert!(yaml.contains("  name: partywall-db-2\n"), "{yaml}");
}

#[test]
fn a_cluster_without_any_policy_is_remarked_upon() {
    let dir = cluster();
    let bare = CLUSTER
        .split("- apiVersion: networking.k8s.io/v1")
        .next()
        .unwrap();
    std::fs::write(dir.path().join("all.yaml"), bare).unwrap();
    let note = "there is no policy in the directory at all";
    assert!(with_cluster(&dir, "").contains(&format!("# note: {note}")));
    let document: Value = serde_json::from_str(&with_cluster(&dir, "--json")).unwrap();
    let notes = document["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|n| n.as_str().unwrap().starts_with(note)),
        "{notes:?}"
    );
}

#[test]
fn a_hostile_name_cannot_leave_its_comment() {
    let dir = cluster();
    let mut hostile = flows();
    for flow in hostile["flows"].as_array_mut().unwrap() {
        flow["from"]["pod"] = "x\n---\nkind: Pod".into();
        flow["from"]["tenant"] = "red\u{2028}kind: Pod".into();
        flow["from"]["namespace"] = "red".into();
        flow["from"]["uid"] = "new".into();
        flow["from"]["kind"] = "".into();
        flow["verdict"] = "open\r\nkind: Pod".into();
    }
    let file = write_flows(&dir, &hostile);
    let output = policy("suggest", &["--flows", &file]);
    let yaml = said(&output);
    let lines = |of: &str| {
        yaml.lines()
            .filter(|l| l.contains(of) && !l.trim_start().starts_with('#'))
            .count()
    };
    assert_eq!(lines("kind: Pod"), 0, "{yaml}");
    objects::read(&yaml).unwrap();
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_2() {
    let dir = cluster();
    let broken = tempfile::tempdir().unwrap();
    let bad = |key: &str, value: Value| {
        let mut bad = flows();
        bad["flows"][3][key] = value;
        let file = broken.path().join(key);
        std::fs::write(&file, bad.to_string()).unwrap();
        file.display().to_string()
    };
    let good = write_flows(&dir, &flows());
    let here = text(dir.path()).to_owned();
    let twice = cluster();
    std::fs::write(twice.path().join("older.yaml"), CLUSTER).unwrap();
    let mapping = broken.path().join("policy");
    std::fs::write(&mapping, "tenants: [{name: crimson, namespaces: [red]}]\n").unwrap();
    for (arguments, needles) in [
        (vec!["--flows", "/nowhere"], vec!["/nowhere"]),
        (
            vec!["--flows", &bad("protocol", "TPC".into())],
            vec!["flow 3", "protocol", "\"TPC\""],
        ),
        (
            vec!["--flows", &bad("port", 70_000.into())],
            vec!["flow 3", "port", "70000"],
        ),
        (
            vec!["--flows", &bad("delivered", "x".into())],
            vec!["delivered", "invalid type"],
        ),
        (
            vec!["--flows", &good, "--cluster-from", "/nowhere"],
            vec!["/nowhere"],
        ),
        (
            vec!["--flows", &good, "--cluster-from", text(twice.path())],
            vec!["--cluster-from", "Namespace blue", "older.yaml", "more objects"],
        ),
        (
            vec!["--flows", &good, "--namespace", "rad"],
            vec!["--namespace", "\"rad\"", "red"],
        ),
        (
            vec!["--flows", &good, "--tenant", "rad"],
            vec!["--tenant", "\"rad\"", "navy"],
        ),
        (vec!["--flows", &good, "--policy", "x"], vec!["--cluster-from"]),
        (
            vec![
                "--flows",
                &good,
                "--cluster-from",
                &here,
                "--policy",
                mapping.to_str().unwrap(),
            ],
            vec!["\"red\"", "\"crimson\"", "--policy"],
        ),
    ] {
        let output = policy("suggest", &arguments);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(output.stdout.is_empty());
        for needle in needles {
            assert!(line.contains(needle), "{needle:?} is not in {line}");
        }
    }
}

#[test]
fn nobody_there_is_exit_code_3() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = policy("suggest", &["--aggregator", &closed.to_string()]);
    assert_eq!(output.status.code(), Some(3));
}
