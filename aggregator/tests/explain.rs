//! Every kind of breach explained, and what is proposed taken at its word: it is valid for its kind, and it ends the breach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../core/tests/net/mod.rs"]
mod net;
#[path = "../core/tests/sim/mod.rs"]
mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use net::{Net, TCP, ip, traffic};
use partywall_aggregator::identify::objects;
use partywall_aggregator_core::World;
use partywall_aggregator_core::breach::BreachState;
use partywall_aggregator_core::explain::{Explanation, Remedy};
use partywall_aggregator_core::finding::figure_named;
use partywall_aggregator_core::identity::{
    ContainerObject, LimitRangeObject, NodeObject, OwnerRef, QuotaObject, Resources, Scope,
};
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::report::{OomScope, Reclaim};
use serde_json::Value;
use sim::{Ran, S, Sim, Unresolved, Waited};

fn explain(world: &World, now: partywall_aggregator_core::Now, kind: &str) -> Explanation {
    let stories = world.book().stories("");
    let story = stories.into_iter().find(|s| s.breach.key.kind.as_str() == kind);
    let told = world.explain(story.unwrap_or_else(|| panic!("no {kind}")), now);
    for figure in &told.breach.evidence {
        assert!(
            figure_named(figure.name).is_some(),
            "{} is not in FIGURES",
            figure.name
        );
    }
    assert!(told.rules.len() > 1, "{:?}", told.rules);
    let times: Vec<u64> = told.timeline.iter().map(|m| m.at_unix_ns).collect();
    assert!(times.is_sorted() && times.len() >= 3, "{:?}", told.timeline);
    for remedy in &told.remedies {
        valid(remedy);
    }
    told
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("---\n")
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e} in\n{text}")))
        .collect()
}

/// Nothing that stands in the YAML is unknown to the kind.
fn kept<T: serde::de::DeserializeOwned + serde::Serialize>(given: &Value) {
    let read: T = serde_json::from_value(given.clone()).unwrap_or_else(|e| panic!("{e} in {given:#}"));
    let back = serde_json::to_value(read).unwrap();
    within(given, &back, "");
}

fn within(given: &Value, back: &Value, path: &str) {
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => {
            for (key, value) in given {
                let other = back
                    .get(key)
                    .unwrap_or_else(|| panic!("{path}.{key} is not known"));
                within(value, other, &format!("{path}.{key}"));
            }
        }
        (Value::Array(given), Value::Array(back)) => {
            assert_eq!(given.len(), back.len(), "{path}");
            given.iter().zip(back).for_each(|(g, b)| within(g, b, path));
        }
        // An empty list or map may be left out.
        _ => assert_eq!(given, back, "{path}"),
    }
}

fn valid(remedy: &Remedy) {
    assert!(
        !remedy.what.is_empty() && !remedy.why.is_empty() && !remedy.by.is_empty(),
        "{remedy:?}"
    );
    if remedy.yaml.is_empty() {
        return;
    }
    for document in documents(&remedy.yaml) {
        match (remedy.kind, document["kind"].as_str()) {
            ("allowance", None) | ("request" | "quota", None) => {
                let yaml = remedy.yaml.clone();
                Policy::from_yaml(&yaml).unwrap_or_else(|e| panic!("{e} in\n{yaml}"));
            }
            ("placement", Some("KubeletConfiguration")) => {
                let cpu = document["systemReserved"]["cpu"].as_str().unwrap();
                partywall_aggregator_core::quantity::Quantity::parse_nanos(cpu).unwrap();
            }
            ("network_policy", Some("NetworkPolicy")) => {
                kept::<NetworkPolicy>(&document);
                objects::read(&remedy.yaml).unwrap();
            }
            (_, Some("Deployment")) => kept::<Deployment>(&document),
            (_, Some("StatefulSet")) => kept::<StatefulSet>(&document),
            (_, Some("Pod")) => kept::<Pod>(&document),
            ("quota", Some("ResourceQuota")) => kept::<ResourceQuota>(&document),
            other => panic!("{other:?} in {document:#}"),
        }
    }
}

fn remedy<'a>(told: &'a Explanation, kind: &str) -> &'a Remedy {
    let found = told.remedies.iter().find(|r| r.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:#?}", told.remedies))
}

/// The pod just made has one container that asks for what the pod does, and a Deployment that made it.
fn owned(sim: &mut Sim, cpu_m: u64, memory_mib: u64) {
    let pod = Arc::make_mut(sim.cluster.pods.last_mut().unwrap());
    let hash = "pod-template-hash".to_owned();
    pod.labels = BTreeMap::from([
        ("app".to_owned(), pod.name.clone()),
        (hash, "5d8f6c7b9".to_owned()),
    ])
    .into();
    pod.owner = Some(OwnerRef {
        kind: "ReplicaSet".into(),
        name: format!("{}-5d8f6c7b9", pod.name).into(),
    });
    pod.containers = Arc::new([ContainerObject {
        name: "main".into(),
        requests: Resources {
            cpu_ncores: cpu_m * 1_000_000,
            memory_bytes: memory_mib << 20,
        },
        ..ContainerObject::default()
    }]);
    sim.publish();
}

fn hog() -> (Sim, u32, u32) {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    owned(&mut sim, 500, 0);
    let batch = sim.pod("red", "batch", 100);
    owned(&mut sim, 100, 0);
    (sim, web, batch)
}

#[test]
fn a_noisy_neighbour() {
    let (mut sim, web, batch) = hog();
    let work = [
        Ran(web, 300),
        Ran(batch, 900),
        Waited(web, batch, 500),
        Unresolved(web, 50),
    ];
    sim.ticks(12, &work);
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    let wait = told
        .breach
        .evidence
        .iter()
        .find(|f| f.name == "wait_cores")
        .unwrap();
    let sum: f64 = told.ledger.iter().map(|s| s.cores).sum();
    assert!((sum - wait.value).abs() < 1e-9, "{sum} of {}", wait.value);
    assert!((told.ledger.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(&*told.ledger[0].runner, "red");
    assert_eq!(&*told.ledger[1].runner, "<unresolved>");
    assert!(
        told.doubts.iter().any(|d| d.contains("further back")),
        "{:?}",
        told.doubts
    );
    let roles: Vec<_> = told
        .parties
        .iter()
        .map(|p| (p.role, &*p.tenant, &*p.pod))
        .collect();
    assert_eq!(
        roles,
        [
            ("culprit", "red", ""),
            ("culprit", "red", "red/batch"),
            ("victim", "blue", "blue/web")
        ]
    );
    let pod = &told.parties[1];
    assert!((pod.used_cores.unwrap() - 0.9).abs() < 1e-9 && (pod.entitled_cores.unwrap() - 0.1).abs() < 1e-9);
    let asks = remedy(&told, "request");
    assert!(
        asks.yaml.contains("kind: Deployment") && asks.yaml.contains("name: batch\n"),
        "{}",
        asks.yaml
    );
    assert!(asks.yaml.contains("cpu: \"900m\""), "{}", asks.yaml);
    assert!(remedy(&told, "limit").yaml.contains("cpu: \"100m\""));
    // Taken at its word.
    let pod = Arc::make_mut(sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap());
    pod.requests.cpu_ncores = 900_000_000;
    sim.publish();
    sim.ticks(8, &work);
    assert!(
        !sim.firing().iter().any(|b| b.starts_with("NoisyNeighbour")),
        "{:?}",
        sim.firing()
    );
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    assert_eq!(told.breach.state, BreachState::Resolved);
    assert!(told.timeline.last().unwrap().what.contains("resolved"));
    assert!(!told.ledger.is_empty(), "of its worst moment");
    // Long gone, and still explained by what was used then.
    sim.ticks(15, &[Ran(web, 300)]);
    let pod = Arc::make_mut(sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap());
    pod.requests.cpu_ncores = 100_000_000;
    sim.publish();
    sim.tick(&[Ran(web, 300)]);
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    assert!(
        remedy(&told, "request").yaml.contains("cpu: \"900m\""),
        "what it used then"
    );
    // Once more: the earlier time is told too.
    let pod = Arc::make_mut(sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap());
    pod.requests.cpu_ncores = 100_000_000;
    sim.publish();
    sim.ticks(5, &work);
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    assert_eq!(told.breach.state, BreachState::Firing);
    assert!(
        told.timeline[0].what.starts_with("it had fired before"),
        "{:?}",
        told.timeline
    );
}

#[test]
fn an_overcommitted_node() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 800);
    owned(&mut sim, 800, 0);
    let batch = sim.pod("red", "batch", 800);
    owned(&mut sim, 800, 0);
    sim.ticks(10, &[Ran(web, 500), Ran(batch, 500), Waited(web, batch, 500)]);
    let told = explain(&sim.world, sim.now, "NodeOvercommitted");
    let apart = remedy(&told, "placement");
    assert_eq!(&*apart.by, "blue");
    assert!(
        apart.yaml.contains("podAntiAffinity") && !apart.yaml.contains("template-hash"),
        "{}",
        apart.yaml
    );
    assert_eq!(told.parties.iter().filter(|p| p.role == "neighbour").count(), 1);
}

#[test]
fn the_system_s_noise() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let daemon = sim.host("/system.slice/backup.service");
    sim.ticks(8, &[Ran(web, 300), Ran(daemon, 900), Waited(web, daemon, 400)]);
    let told = explain(&sim.world, sim.now, "SystemNoise");
    assert!(remedy(&told, "placement").yaml.contains("cpu: \"900m\""));
    let slowdown = told
        .rules
        .iter()
        .find(|r| r.rule == "system_noise.min_slowdown")
        .unwrap();
    assert_eq!(slowdown.found, "2.33x");
}

#[test]
fn a_quota() {
    for (kind, cores, remedies) in [
        ("QuotaExceeded", 1, &["quota", "limit"][..]),
        ("QuotaNear", 2, &["quota"]),
    ] {
        let (mut sim, _, batch) = hog();
        sim.cluster.quotas.push(QuotaObject {
            namespace: "red".into(),
            name: "team".into(),
            cpu_ncores: Some(cores * 1_000_000_000),
            keys: ["limits.cpu", "", ""],
            ..QuotaObject::default()
        });
        sim.publish();
        sim.ticks(8, &[Ran(batch, 1_700)]);
        let told = explain(&sim.world, sim.now, kind);
        let kinds: Vec<_> = told.remedies.iter().map(|r| r.kind).collect();
        assert_eq!(kinds, remedies);
        let quota = remedy(&told, "quota");
        assert!(quota.yaml.contains("limits.cpu: \"2240m\""), "{}", quota.yaml);
        assert!(
            told.rules.iter().any(|r| r.rule == "ResourceQuota red/team"),
            "{:?}",
            told.rules
        );
        if kind == "QuotaExceeded" {
            // Above 0.969 of its quota one that fires goes on.
            let limit = remedy(&told, "limit");
            assert!(limit.yaml.contains("cpu: \"968m\""), "{}", limit.yaml);
            sim.ticks(8, &[Ran(batch, 968)]);
            let told = sim.firing();
            assert!(told.iter().all(|b| !b.contains("QuotaExceeded")), "{told:?}");
        }
        sim.cluster.quotas[0].cpu_ncores = Some(2_240_000_000);
        sim.publish();
        sim.ticks(8, &[Ran(batch, 1_700)]);
        assert!(sim.firing().is_empty(), "{:?}", sim.firing());
    }
}

#[test]
fn quotas_of_the_policy_file_and_of_pods() {
    let mut sim = Sim::new("tenants: [{name: red, namespaces: [red], quota: {pods: 2}}]");
    for name in ["a", "b", "c"] {
        let pod = sim.pod("red", name, 10);
        owned(&mut sim, 10, 0);
        let pods = &mut sim.cluster.pods;
        Arc::make_mut(pods.last_mut().unwrap()).owner = Some(OwnerRef {
            kind: "StatefulSet".into(),
            name: "db".into(),
        });
        sim.publish();
        sim.tick(&[Ran(pod, 1)]);
    }
    sim.ticks(6, &[]);
    let told = explain(&sim.world, sim.now, "QuotaExceeded");
    let scaled = remedy(&told, "replicas");
    assert!(
        scaled.yaml.contains("kind: StatefulSet") && scaled.yaml.contains("replicas: 2"),
        "{}",
        scaled.yaml
    );
    let quota = remedy(&told, "quota");
    let policy = Policy::from_yaml(&quota.yaml).unwrap();
    assert_eq!(policy.tenant_quotas["red"][2], Some(4.0));
}

#[test]
fn a_limit_holds_each_container_or_is_not_offered() {
    let container = |name: &str, cpu_ncores: u64| ContainerObject {
        name: name.into(),
        requests: Resources {
            cpu_ncores,
            memory_bytes: 0,
        },
        ..ContainerObject::default()
    };
    for (second, wanted) in [(3_000_000, true), (0, false)] {
        let (mut sim, web, batch) = hog();
        let pod = sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap();
        Arc::make_mut(pod).containers = vec![container("main", 97_000_000), container("side", second)].into();
        sim.publish();
        sim.ticks(12, &[Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)]);
        let told = explain(&sim.world, sim.now, "NoisyNeighbour");
        let limit = told.remedies.iter().find(|r| r.kind == "limit");
        assert_eq!(limit.is_some(), wanted, "{:?}", told.remedies);
        if let Some(limit) = limit {
            assert!(
                limit.yaml.contains("\"97m\"") && limit.yaml.contains("\"3m\""),
                "{}",
                limit.yaml
            );
        }
    }
}

#[test]
fn a_sidecar_stands_among_the_init_containers() {
    let container = |name: &str, cpu_ncores: u64, sidecar| ContainerObject {
        name: name.into(),
        requests: Resources {
            cpu_ncores,
            memory_bytes: 0,
        },
        sidecar,
        ..ContainerObject::default()
    };
    let (mut sim, web, batch) = hog();
    let pod = sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap();
    Arc::make_mut(pod).containers = vec![
        container("main", 30_000_000, false),
        container("proxy", 70_000_000, true),
    ]
    .into();
    sim.cluster.limit_ranges.push(LimitRangeObject {
        namespace: "red".into(),
        name: "limits".into(),
        max_cpu_ncores: Some(50_000_000),
        ..LimitRangeObject::default()
    });
    sim.publish();
    sim.ticks(12, &[Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)]);
    let spec = |remedy: &Remedy| documents(&remedy.yaml).remove(0)["spec"]["template"]["spec"].clone();
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    // The increase goes to the one that asks for most.
    let asks = spec(remedy(&told, "request"));
    assert!(asks["containers"].is_null(), "{asks:#}");
    assert_eq!(asks["initContainers"][0]["name"], "proxy");
    let held = spec(remedy(&told, "limit"));
    for (list, name, limit) in [("containers", "main", "30m"), ("initContainers", "proxy", "70m")] {
        assert_eq!(held[list].as_array().map(Vec::len), Some(1), "{held:#}");
        assert_eq!(held[list][0]["name"], name);
        assert_eq!(held[list][0]["resources"]["limits"]["cpu"], limit);
    }
    let stories = sim.world.book().stories("");
    let ranges = stories
        .into_iter()
        .filter(|s| s.breach.key.kind.as_str() == "LimitRangeExceeded");
    let proxy = ranges
        .filter(|s| s.breach.key.subject.contains("proxy"))
        .map(|s| sim.world.explain(s, sim.now));
    let limited = proxy.map(|told| spec(remedy(&told, "limit"))).next().unwrap();
    assert!(limited["containers"].is_null(), "{limited:#}");
    assert_eq!(limited["initContainers"][0]["resources"]["limits"]["cpu"], "50m");
}

#[test]
fn quotas_that_bind_together_and_a_pod_of_two_containers() {
    let (mut sim, _, batch) = hog();
    let quota = |name: &str, cores: u64| QuotaObject {
        namespace: "red".into(),
        name: name.into(),
        cpu_ncores: Some(cores * 1_000_000_000),
        keys: ["limits.cpu", "", ""],
        ..QuotaObject::default()
    };
    sim.cluster.quotas = vec![quota("small", 1), quota("middle", 2), quota("large", 9)];
    sim.publish();
    sim.ticks(8, &[Ran(batch, 1_700)]);
    let told = explain(&sim.world, sim.now, "QuotaExceeded");
    let raised = remedy(&told, "quota");
    assert!(
        raised.yaml.contains("name: small") && raised.yaml.contains("name: middle"),
        "{}",
        raised.yaml
    );
    assert!(!raised.yaml.contains("name: large"), "{}", raised.yaml);
    assert_eq!(raised.what.matches("2240m").count(), 2, "{}", raised.what);
    // With a second container nobody knows which of them uses it, nor whether the other is held.
    let pods = &mut sim.cluster.pods;
    let pod = pods.iter_mut().find(|p| p.name == "batch").unwrap();
    let pod = Arc::make_mut(pod);
    let mut containers = pod.containers.to_vec();
    containers.push(ContainerObject {
        name: "side".into(),
        ..ContainerObject::default()
    });
    pod.containers = containers.into();
    sim.publish();
    sim.ticks(2, &[Ran(batch, 1_700)]);
    let told = explain(&sim.world, sim.now, "QuotaExceeded");
    assert!(
        told.remedies.iter().all(|r| r.kind != "limit"),
        "{:?}",
        told.remedies
    );
}

#[test]
fn a_limit_is_for_pods_that_the_quota_counts() {
    for (scope, wanted, other) in [
        (Scope::NotTerminating, "service", "job"),
        (Scope::Terminating, "job", "service"),
    ] {
        let mut sim = Sim::new("");
        let service = sim.pod("red", "service", 100);
        owned(&mut sim, 100, 0);
        let job = sim.pod("red", "job", 100);
        owned(&mut sim, 100, 0);
        Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).terminating = true;
        sim.cluster.quotas.push(QuotaObject {
            namespace: "red".into(),
            name: "team".into(),
            cpu_ncores: Some(500_000_000),
            keys: ["limits.cpu", "", ""],
            scopes: [scope].into(),
            ..QuotaObject::default()
        });
        sim.publish();
        // The one uses more than the other, whichever is counted.
        sim.ticks(8, &[Ran(service, 700), Ran(job, 900)]);
        let told = explain(&sim.world, sim.now, "QuotaExceeded");
        let limit = remedy(&told, "limit");
        assert!(
            limit.what.contains(wanted) && !limit.what.contains(other),
            "{}",
            limit.what
        );
        assert!(limit.yaml.contains(&format!("name: {wanted}")), "{}", limit.yaml);
        assert!(limit.yaml.contains("cpu: \"484m\""), "{}", limit.yaml);
        // At its word.
        let given = if wanted == "service" {
            [Ran(service, 484), Ran(job, 900)]
        } else {
            [Ran(service, 700), Ran(job, 484)]
        };
        sim.ticks(8, &given);
        let told = sim.firing();
        assert!(told.iter().all(|b| !b.contains("QuotaExceeded")), "{told:?}");
    }
}

#[test]
fn a_limit_range() {
    let mut sim = Sim::new("");
    let batch = sim.pod("red", "batch", 100);
    owned(&mut sim, 100, 0);
    sim.cluster.limit_ranges.push(LimitRangeObject {
        namespace: "red".into(),
        name: "limits".into(),
        max_cpu_ncores: Some(500_000_000),
        ..LimitRangeObject::default()
    });
    sim.publish();
    sim.ticks(6, &[Ran(batch, 100)]);
    let told = explain(&sim.world, sim.now, "LimitRangeExceeded");
    let limit = remedy(&told, "limit");
    let document = documents(&limit.yaml).remove(0);
    let container = &document["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"]["cpu"], "500m", "{}", limit.yaml);
    assert!(told.rules[0].rule == "LimitRange red/limits" && told.rules[0].found.starts_with("no limit"));
}

fn squeezed() -> (Sim, u32) {
    let mut sim = Sim::new("");
    let web = sim.memory_pod("blue", "web", 64);
    owned(&mut sim, 0, 64);
    let hog = sim.memory_pod("red", "hog", 100);
    owned(&mut sim, 0, 100);
    sim.holds(web, 50, 40);
    sim.holds(hog, 100, 100);
    (sim, web)
}

#[test]
fn a_squeeze() {
    let (mut sim, web) = squeezed();
    let hog = web + 1;
    for second in 0..10 {
        sim.memory(web, |m| {
            let reclaim = m.node_reclaim.get_or_insert_with(Reclaim::default);
            reclaim.stall_ns += 200 * sim::MS;
            reclaim.times += 1;
        });
        sim.memory(hog, |m| m.current_bytes = Some((120 + 20 * second) << 20));
        sim.tick(&[]);
    }
    let told = explain(&sim.world, sim.now, "MemorySqueeze");
    assert!(
        told.doubts.iter().any(|d| d.contains("inferred")),
        "{:?}",
        told.doubts
    );
    assert!(
        remedy(&told, "request").yaml.contains("memory: 300Mi")
            || remedy(&told, "request").yaml.contains("memory: \"300Mi\""),
        "{}",
        remedy(&told, "request").yaml
    );
    assert!(remedy(&told, "limit").yaml.contains("100Mi"));
    assert!(told.ledger.is_empty());
}

#[test]
fn a_kill_across_tenants() {
    let (mut sim, web) = squeezed();
    let hog = web + 1;
    sim.holds(hog, 500, 500);
    sim.ticks(2, &[]);
    sim.holds(hog, 1, 1);
    sim.kill(hog, web, OomScope::Node);
    sim.tick(&[]);
    let told = explain(&sim.world, sim.now, "CrossTenantOom");
    assert!(
        remedy(&told, "request").yaml.contains("500Mi"),
        "{}",
        remedy(&told, "request").yaml
    );
    assert!(
        told.rules.iter().any(|r| r.found == "1 kills"),
        "{:?}",
        told.rules
    );
}

/// red/client on node-a, blue/web and blue/db on node-b; a monitor that an allowance admits.
fn two(policy: &str) -> (Net, net::Pod, net::Pod) {
    let mut net = Net::new(policy);
    let client = net.pod("red", "client", "node-a", "10.0.0.1");
    let web = net.pod("blue", "web", "node-b", "10.0.1.1");
    net.object("blue", "db", "node-b", &["10.0.1.2"]);
    for pod in &mut net.cluster.pods {
        let pod = Arc::make_mut(pod);
        pod.labels = BTreeMap::from([("app".to_owned(), pod.name.clone())]).into();
    }
    net.cluster.nodes = ["node-a", "node-b"]
        .iter()
        .zip(["192.168.0.1", "192.168.0.2"])
        .map(|(name, address)| NodeObject {
            name: (*name).to_owned(),
            addresses: vec![ip(address)],
            ..NodeObject::default()
        })
        .collect();
    net.publish();
    (net, client, web)
}

#[test]
fn a_flat_network() {
    let policy = "fence: {allow: [{name: monitoring, from: {namespaces: [green]}}]}";
    let (mut net, client, web) = two(policy);
    let monitor = net.pod("green", "monitor", "node-a", "10.0.0.9");
    let pods = &mut net.cluster.pods;
    Arc::make_mut(pods.last_mut().unwrap()).labels =
        BTreeMap::from([("app".to_owned(), "monitor".to_owned())]).into();
    net.publish();
    net.connects(monitor, web, 9_090, 500);
    net.connects(client, web, 80, 1_000);
    net.ticks(2);
    let told = explain(&net.world, net.now, "FlatNetwork");
    let asks: Vec<&str> = told.rules.iter().map(|r| r.found.as_str()).collect();
    assert!(
        asks.contains(&"none does") && asks.contains(&"none of monitoring does"),
        "{:?}",
        told.rules
    );
    let closing = remedy(&told, "network_policy");
    assert_eq!(&*closing.by, "blue");
    let read = objects::read(&closing.yaml).unwrap().cluster.network_policies;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].to_string(), "blue/partywall-web");
    assert!(
        closing.yaml.contains("9090") && !closing.yaml.contains("red"),
        "{}",
        closing.yaml
    );
    // It closes what was open, and cuts nothing else.
    net.cluster.network_policies.extend(read);
    net.publish();
    net.ticks(15);
    net.connects(client, web, 80, 1_000);
    net.connects(monitor, web, 9_090, 500);
    net.ticks(2);
    let mut shown = net.shown();
    shown.sort();
    assert_eq!(
        shown,
        [
            "green/monitor>blue/web 9090 allowed both",
            "red/client>blue/web 80 leaked both"
        ],
        "delivered in this test although denied: the verdict shows that it is denied now"
    );
    // Or it is meant so.
    let allowance = remedy(&told, "allowance");
    let (mut net, client, web) = two(&allowance.yaml);
    net.connects(client, web, 80, 1_000);
    net.ticks(2);
    assert_eq!(net.shown(), ["red/client>blue/web 80 allowed both"]);
}

/// What the fence says of a connection from red/client.
fn verdict(net: &Net, to: &str, port: u16) -> &'static str {
    let fence = net.world.directory().fence();
    let decision = fence.decide(&partywall_aggregator_core::fence::Traffic {
        from: partywall_aggregator_core::fence::End::Pod(fence.pod("red", "client").unwrap()),
        to: fence.at(ip(to)),
        protocol: partywall_aggregator_core::identity::Protocol::Tcp,
        port,
        family: None,
    });
    decision.verdict().as_str()
}

#[test]
fn groups_that_are_called_the_same_have_a_policy_each() {
    let (mut net, client, web) = two("");
    let store = net.pod("blue", "store", "node-b", "10.0.1.3");
    for (name, component) in [("web", "web"), ("store", "db")] {
        let pod = net.cluster.pods.iter_mut().find(|p| p.name == name).unwrap();
        Arc::make_mut(pod).labels = BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "shop".to_owned()),
            ("app.kubernetes.io/component".to_owned(), component.to_owned()),
        ])
        .into();
    }
    net.publish();
    net.connects(client, web, 80, 1_000);
    net.connects(client, store, 5_432, 1_000);
    net.ticks(2);
    let told = explain(&net.world, net.now, "FlatNetwork");
    let closing = remedy(&told, "network_policy");
    let read = objects::read(&closing.yaml).unwrap().cluster.network_policies;
    let names: Vec<String> = read.iter().map(ToString::to_string).collect();
    assert!(names.len() == 2 && names[0] != names[1], "{names:?}");
    for name in &names {
        assert!(
            name.starts_with("blue/partywall-shop-") && closing.what.contains(name),
            "{name}"
        );
    }
    assert_eq!(
        (verdict(&net, "10.0.1.1", 80), verdict(&net, "10.0.1.3", 80)),
        ("open", "open")
    );
    net.cluster.network_policies.extend(read);
    net.publish();
    assert_eq!(
        (verdict(&net, "10.0.1.1", 80), verdict(&net, "10.0.1.3", 80)),
        ("denied", "denied")
    );
}

#[test]
fn a_leak() {
    let (mut net, client, web) = two("");
    net.isolate("blue", "deny-all", &[]);
    // Long enough for a network plugin to enforce it.
    net.ticks(15);
    net.connects(client, web, 80, 1_000);
    net.ticks(3);
    let told = explain(&net.world, net.now, "FenceLeak");
    let denied = told
        .rules
        .iter()
        .find(|r| r.rule == "NetworkPolicy blue/deny-all")
        .unwrap();
    assert_eq!(denied.found, "denies it: it admits nothing");
    let kinds: Vec<_> = told.remedies.iter().map(|r| (r.kind, &*r.by)).collect();
    assert_eq!(
        kinds,
        [
            ("network_policy", "platform"),
            ("network_policy", "red"),
            ("allowance", "platform")
        ]
    );
    assert!(
        told.remedies[0].what.contains("node-b enforces blue/deny-all"),
        "{:?}",
        told.remedies[0]
    );
    let egress = objects::read(&told.remedies[1].yaml)
        .unwrap()
        .cluster
        .network_policies;
    assert!(egress[0].egress.is_some() && egress[0].namespace == "red");
    // Of the two only the one that is made here is said to be.
    let managed: Vec<bool> = told
        .remedies
        .iter()
        .map(|r| r.yaml.contains("managed-by"))
        .collect();
    assert_eq!(managed, [false, true, false]);
}

#[test]
fn a_probe() {
    let (mut net, client, web) = two("");
    for port in 1..=60 {
        net.tries(client, web.address, port);
    }
    net.ticks(4);
    let told = explain(&net.world, net.now, "Probe");
    let closing = remedy(&told, "network_policy");
    let read = objects::read(&closing.yaml).unwrap().cluster.network_policies;
    assert_eq!(read[0].to_string(), "red/partywall-client");
    assert!(closing.yaml.contains("port: 53"), "{}", closing.yaml);
}

#[test]
fn the_node_s_credentials() {
    let (mut net, client, _) = two("fence: {pod_identity: \"true\"}");
    let mut by = traffic((6, 600), (6, 900));
    (by.opened, by.established) = (1, 1);
    net.opens(client, ip("169.254.169.254"), TCP, 80, by);
    net.ticks(3);
    let told = explain(&net.world, net.now, "CredentialReach");
    let closing = remedy(&told, "network_policy");
    let read = objects::read(&closing.yaml).unwrap().cluster;
    assert!(
        closing.yaml.contains("except: [\"169.254.169.254/32\"]"),
        "{}",
        closing.yaml
    );
    // It admits everything but that.
    net.cluster.network_policies.extend(read.network_policies);
    net.publish();
    for (address, wanted) in [
        ("169.254.169.254", "denied"),
        ("8.8.8.8", "allowed"),
        ("10.0.1.1", "allowed"),
    ] {
        assert_eq!(verdict(&net, address, 80), wanted, "{address}");
    }
}

/// red/client, isolated by a policy with these egress rules, reached its node's credentials.
fn isolated_and_reached(egress: &str) -> (Net, Explanation) {
    let (mut net, client, _) = two("fence: {pod_identity: \"true\"}");
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: own, namespace: red}}\nspec: {{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{ports: [{{port: 8080}}]}}], egress: {egress}}}\n"
    );
    let read = objects::read(&policy).unwrap().cluster.network_policies;
    net.cluster.network_policies.extend(read);
    net.publish();
    let mut by = traffic((6, 600), (6, 900));
    (by.opened, by.established) = (1, 1);
    net.opens(client, ip("169.254.169.254"), TCP, 80, by);
    net.ticks(3);
    let told = explain(&net.world, net.now, "CredentialReach");
    (net, told)
}

#[test]
fn credentials_that_a_policy_admits_are_left_out_of_it() {
    for (egress, others) in [
        ("[{}]", "allowed"),
        ("[{ports: [{port: 80}]}]", "allowed"),
        (
            "[{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.1.0.0/16]}}]}]",
            "allowed",
        ),
        (
            "[{to: [{ipBlock: {cidr: 169.254.0.0/16}}, {ipBlock: {cidr: 8.8.8.8/32}}]}]",
            "allowed",
        ),
        // All that the rule admits: without peers it would admit everybody.
        ("[{to: [{ipBlock: {cidr: 169.254.169.254/32}}]}]", "denied"),
    ] {
        let (mut net, told) = isolated_and_reached(egress);
        assert_eq!(verdict(&net, "169.254.169.254", 80), "allowed", "{egress}");
        assert_eq!(verdict(&net, "8.8.8.8", 80), others, "{egress}");
        let closing = remedy(&told, "network_policy");
        assert_eq!(&*closing.by, "red");
        assert!(!closing.yaml.contains("managed-by"), "{}", closing.yaml);
        let read = objects::read(&closing.yaml).unwrap().cluster.network_policies;
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].to_string(), "red/own");
        assert_eq!(read[0].ingress, net.cluster.network_policies[0].ingress);
        net.cluster.network_policies = read;
        net.publish();
        assert_eq!(verdict(&net, "169.254.169.254", 80), "denied", "{}", closing.yaml);
        assert_eq!(verdict(&net, "8.8.8.8", 80), others, "{}", closing.yaml);
    }
}

#[test]
fn credentials_that_no_policy_admits_are_the_network_plugins_affair() {
    for egress in [
        "[]",
        "[{to: [{ipBlock: {cidr: 8.8.8.8/32}}]}]",
        "[{ports: [{protocol: UDP, port: 53}]}]",
    ] {
        let (net, told) = isolated_and_reached(egress);
        assert_eq!(verdict(&net, "169.254.169.254", 80), "denied", "{egress}");
        let enforced = remedy(&told, "network_policy");
        assert_eq!((&*enforced.by, enforced.yaml.as_str()), ("platform", ""));
        assert!(
            enforced.what.contains("node-a enforces red/own"),
            "{}",
            enforced.what
        );
    }
}

#[test]
fn hostile_names_stay_in_their_lines() {
    let (mut sim, web, batch) = hog();
    let evil = "x\nkind: Secret\n---\n\u{202e}";
    for pod in &mut sim.cluster.pods {
        let pod = Arc::make_mut(pod);
        pod.containers = Arc::new([ContainerObject {
            name: evil.into(),
            requests: pod.requests,
            ..ContainerObject::default()
        }]);
    }
    sim.publish();
    sim.ticks(6, &[Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)]);
    let told = explain(&sim.world, sim.now, "NoisyNeighbour");
    for remedy in &told.remedies {
        let documents = documents(&remedy.yaml);
        assert_eq!(documents.len(), 1, "{}", remedy.yaml);
        let containers = &documents[0]["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["name"], evil);
    }
    assert!(sim.now.mono_ns > S);
}
