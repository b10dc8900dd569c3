mod network;

use partywall_aggregator_core::identity::{LimitRangeObject, Resources};

use proptest::prelude::*;

use super::*;

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: blue, uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10}
spec:
  nodeName: node-a
  initContainers:
  - {name: setup, resources: {requests: {cpu: \"4\"}}}
  - {name: sidecar, restartPolicy: Always, resources: {requests: {cpu: 50m}}}
  containers:
  - name: a
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 1, memory: 128Mi}}
  - name: b
    resources: {limits: {cpu: 250m}}
status: {phase: Running, podIP: 10.0.0.7, podIPs: [{ip: 10.0.0.7}, {ip: \"fd00::7\"}],
  containerStatuses: [{name: a, containerID: \"containerd://c0ffee\"}, {name: b, containerID: \"\"}],
  initContainerStatuses: [{name: sidecar, containerID: \"containerd://5ide\"}]}
";

#[test]
fn a_pod_is_read_as_the_api_server_defaults_it() {
    let objects = read(POD).unwrap();
    let pod = &objects.cluster.pods[0];
    assert_eq!(
        pod.requests,
        Resources {
            cpu_ncores: 400_000_000,
            memory_bytes: 64 << 20
        }
    );
    assert_eq!(pod.cpu_limit_ncores, None, "the sidecar has none");
    let containers: Vec<_> = pod
        .containers
        .iter()
        .map(|c| {
            (
                &*c.name,
                c.id.as_deref(),
                c.cpu_limit_ncores,
                c.memory_limit_bytes,
                c.sidecar,
            )
        })
        .collect();
    assert_eq!(
        containers,
        [
            ("a", Some("c0ffee"), Some(1_000_000_000), Some(128 << 20), false),
            ("b", None, Some(250_000_000), None, false),
            ("sidecar", Some("5ide"), None, None, true),
        ]
    );
    assert_eq!(pod.node.as_deref(), Some("node-a"));
    assert_eq!(pod.addresses.len(), 2);
    let done = read(&POD.replace("Running", "Succeeded")).unwrap();
    assert!(
        done.cluster.pods[0].addresses.is_empty(),
        "its address may be another's by now"
    );
    let whole = read(&POD.replace(
        "  nodeName: node-a",
        "  nodeName: node-a\n  resources: {requests: {cpu: 2}}",
    ))
    .unwrap();
    assert_eq!(
        whole.cluster.pods[0].requests,
        Resources {
            cpu_ncores: 2_000_000_000,
            memory_bytes: 64 << 20
        }
    );
}

#[test]
fn lists_documents_and_json_are_the_same() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: blue, labels: {team: b, n: 1}}\n";
    let documents = format!(
        "{POD}---\n{namespace}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\nspec: {{containers: nonsense}}\n"
    );
    let a = read(&documents).unwrap();
    assert_eq!(
        (a.cluster.pods.len(), a.cluster.namespaces.len(), a.ignored),
        (1, 1, 1)
    );
    assert_eq!(a.cluster.namespaces[0].labels["n"], "1");
    let indent = |text: &str| {
        text.lines()
            .map(|l| format!("  {l}\n"))
            .collect::<String>()
            .replacen("  ", "- ", 1)
    };
    // kubectl sorts keys: `items` come before `kind`.
    let list = format!(
        "apiVersion: v1\nitems:\n{}{}kind: List\n",
        indent(POD),
        indent(namespace)
    );
    assert_eq!(read(&list).unwrap().cluster, a.cluster);
    let typed = indent(&POD.replace("apiVersion: v1\nkind: Pod\n", ""));
    let typed = format!("apiVersion: v1\nkind: PodList\nitems:\n{typed}");
    assert_eq!(read(&typed).unwrap().cluster.pods, a.cluster.pods);
    let json =
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"blue","labels":{"team":"b","n":"1"}}}"#;
    assert_eq!(read(json).unwrap().cluster.namespaces, a.cluster.namespaces);
    assert_eq!(read("").unwrap(), Objects::default());
}

#[test]
fn quotas_bound_what_may_be_used() {
    let quota = |hard: &str| {
        read(&format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: q, namespace: red}}\nspec: {hard}\n"
        ))
    };
    let ncores = |hard: &str| quota(hard).unwrap().cluster.quotas[0].cpu_ncores;
    assert_eq!(
        ncores("{hard: {limits.cpu: 2, requests.cpu: 1}}"),
        Some(2_000_000_000)
    );
    assert_eq!(ncores("{hard: {requests.cpu: 1}}"), Some(1_000_000_000));
    assert_eq!(ncores("{hard: {cpu: 500m, requests.cpu: 1}}"), Some(500_000_000));
    assert_eq!(ncores("{hard: {pods: 10}}"), None);
    let others = |hard: &str| {
        let quota = quota(hard).unwrap().cluster.quotas.remove(0);
        (quota.memory_bytes, quota.pods)
    };
    assert_eq!(
        others("{hard: {limits.memory: 2Gi, memory: 1Gi, pods: 10, count/pods: 8}}"),
        (Some(2 << 30), Some(8))
    );
    assert_eq!(
        others("{hard: {memory: 1Gi, requests.memory: 2Gi}}"),
        (Some(1 << 30), None)
    );
    let error = quota("{hard: {pods: -1}}").unwrap_err().to_string();
    assert!(
        error.contains("spec.hard.pods") && error.contains("-1"),
        "{error}"
    );
    let scopes = |spec: &str| {
        let objects = quota(spec).unwrap();
        assert_eq!(objects.ignored, 0);
        let names = |q: &QuotaObject| {
            q.scopes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and ")
        };
        let unjudged = objects.cluster.unjudged_quotas.first().map(|q| q.reason.clone());
        objects.cluster.quotas.first().map(names).or(unjudged).unwrap()
    };
    for (spec, shown) in [
        ("scopes: [BestEffort]", "BestEffort"),
        (
            "scopes: [Terminating, NotBestEffort]",
            "Terminating and NotBestEffort",
        ),
        (
            "scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [low, high]}]}",
            "PriorityClass in (high,low)",
        ),
        (
            "scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: NotIn, values: [low]}]}",
            "PriorityClass not in (low)",
        ),
        (
            "scopeSelector: {matchExpressions: [{scopeName: NotTerminating, operator: Exists}]}",
            "NotTerminating",
        ),
        (
            "scopes: [CrossNamespacePodAffinity]",
            "scope CrossNamespacePodAffinity: affinity terms of pods are not read",
        ),
        ("scopes: [Lunar]", "scope \"Lunar\" is not known"),
    ] {
        assert_eq!(scopes(&format!("{{hard: {{cpu: 1}}, {spec}}}")), shown);
    }
    for (expression, needles) in [
        (
            "{operator: In, values: [a]}",
            ["matchExpressions[0]", "scopeName is absent"],
        ),
        (
            "{scopeName: PriorityClass, operator: Near}",
            ["operator", "none of In, NotIn"],
        ),
        (
            "{scopeName: PriorityClass, operator: In}",
            ["values do not fit", "In"],
        ),
        (
            "{scopeName: BestEffort, operator: DoesNotExist}",
            ["operator", "must be Exists"],
        ),
    ] {
        let error = quota(&format!(
            "{{scopeSelector: {{matchExpressions: [{expression}]}}}}"
        ))
        .unwrap_err();
        assert!(needles.iter().all(|n| error.to_string().contains(n)), "{error}");
    }
}

#[test]
fn limit_ranges_of_containers_are_read() {
    let range = |limits: &str| {
        read(&format!(
            "apiVersion: v1\nkind: LimitRange\nmetadata: {{name: r, namespace: red}}\nspec: {{limits: {limits}}}\n"
        ))
    };
    let read = range(
        "[{type: Container, max: {cpu: 500m, memory: 1Gi}, default: {memory: 512Mi}}, {type: Pod, max: {cpu: 100m}}, \
         {type: Container, max: {cpu: 2}}]",
    );
    assert_eq!(
        read.unwrap().cluster.limit_ranges,
        [LimitRangeObject {
            namespace: "red".into(),
            name: "r".into(),
            max_cpu_ncores: Some(500_000_000),
            max_memory_bytes: Some(1 << 30),
            defaults_cpu: false,
            defaults_memory: true,
        }]
    );
    for (limits, needles) in [
        (
            "[{type: Container, max: {cpu: much}}]",
            ["spec.limits[0].max.cpu", "much"],
        ),
        (
            "[{type: Container, default: {memory: -1}}]",
            ["spec.limits[0].default.memory", "-1"],
        ),
        ("{type: Container}", ["spec.limits", "a mapping"]),
    ] {
        let error = range(limits).unwrap_err().to_string();
        assert!(needles.iter().all(|n| error.contains(n)), "{error}");
    }
}

#[test]
fn errors_name_line_object_field_and_value() {
    let table: &[(&str, &str, u64, &[&str])] = &[
        (
            "cpu: 100m",
            "cpu: -100m",
            11,
            &[
                "Pod \"blue/web\"",
                "spec.containers[0].resources.requests.cpu",
                "-100m",
                "negative",
            ],
        ),
        ("cpu: 100m", "cpu: 1e3Mi", 11, &["requests.cpu", "1e3Mi"]),
        ("cpu: 100m", "cpu: .nan", 11, &["requests.cpu", ".nan"]),
        ("cpu: 100m", "cpu: 1e300", 11, &["requests.cpu", "1e300"]),
        ("cpu: 100m", "cpu: [1]", 11, &["requests.cpu", "a list"]),
        ("cpu: 100m", "cpu: 100m, cpu: 200m", 11, &["cpu: 100m, cpu: 200m"]),
        ("memory: 64Mi", "memory: lots", 11, &["requests.memory", "lots"]),
        ("name: web", "name: Web", 3, &["metadata.name", "Web"]),
        ("name: web", "name: \"web\\n\"", 3, &["metadata.name", "web\\n"]),
        (
            "namespace: blue",
            "namespace: [a]",
            3,
            &["metadata.namespace", "a list"],
        ),
        (
            ", uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10",
            "",
            3,
            &["metadata", "uid is absent"],
        ),
        (
            "nodeName: node-a",
            "nodeName: {}",
            5,
            &["spec.nodeName", "a mapping"],
        ),
        (
            "podIP: 10.0.0.7",
            "podIP: 10.0.0.777",
            14,
            &["status.podIP", "10.0.0.777"],
        ),
        ("kind: Pod", "kind: [Pod]", 2, &["kind", "a list"]),
        (
            "metadata: {name: web, namespace: blue, uid: 0b81b3e4-9f5c-4d5e-8f55-3a2c7d1f9a10}\n",
            "",
            1,
            &["metadata is absent"],
        ),
        ("apiVersion: v1\nkind: Pod\n", "", 1, &["kind", "absent"]),
        (POD, "just words", 1, &["just words"]),
    ];
    for (from, to, line, needles) in table {
        let error = read(&POD.replacen(from, to, 1)).expect_err(to);
        for needle in *needles {
            assert!(
                error.to_string().contains(needle),
                "{to}: {error}\nlacks {needle}"
            );
        }
        assert_eq!(error.line, *line, "{to}: {error}");
    }
}

proptest! {
    #[test]
    fn no_edit_of_a_pod_panics(at in 0..POD.len(), with in "\\PC{0,3}", cut in 0usize..9) {
        let (from, to) = (at, (at + cut).min(POD.len()));
        if POD.is_char_boundary(from) && POD.is_char_boundary(to) {
            let _ = read(&format!("{}{with}{}", &POD[..from], &POD[to..]));
        }
    }
}
