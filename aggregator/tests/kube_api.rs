//! The API source against a server that speaks list and watch, with everything that goes wrong there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use partywall_aggregator::identify::api::{Phase, RESOURCES, Source, Target, Timing, Watched};
use partywall_aggregator::identify::{ClusterStatus, dir};
use partywall_aggregator::state::State;
use partywall_aggregator_core::identity::Cluster;
use partywall_aggregator_core::policy::Policy;
use partywall_apiserver::{Fault, Server, Token, What};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// As it is, in small.
fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        page_size: 50,
        answer: ms(700),
        watch: Duration::from_secs(60),
        silence: Duration::from_secs(30),
        settled: ms(50),
        pause_least: ms(20),
        pause_most: ms(100),
        absent: ms(200),
        absent_least: ms(10),
        hold: ms(10),
    }
}

/// A server, a source that follows it, and what the source told the judge.
struct Cx {
    server: Server,
    state: Arc<State>,
    dir: tempfile::TempDir,
    _stop: Option<DropGuard>,
}

impl Cx {
    /// A server with namespaces `red` and `blue`, which nobody follows yet.
    async fn new() -> Self {
        let server = Server::on_loopback().await.unwrap();
        for name in ["red", "blue"] {
            server
                .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
                .unwrap();
        }
        Self {
            server,
            state: Arc::new(State::new(&Policy::default(), "default", [])),
            dir: tempfile::tempdir().unwrap(),
            _stop: None,
        }
    }

    fn target(&self) -> Target {
        let path = self.dir.path().join("kubeconfig");
        std::fs::write(&path, self.server.kubeconfig()).unwrap();
        Target::Kubeconfig {
            path,
            context: Some("test".to_owned()),
        }
    }

    async fn follow(&mut self, timing: &Timing) {
        let of = Arc::clone(self.state.cluster("").unwrap());
        let (source, _) = Source::open(&self.target(), of, timing).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(source.follow(stop.clone()));
        self._stop = Some(stop.drop_guard());
    }

    /// With pods `red/p0` to `red/p{pods - 1}`, followed and known.
    async fn synced(pods: usize, timing: &Timing) -> Self {
        let mut cx = Self::new().await;
        cx.pods(0..pods);
        cx.follow(timing).await;
        cx.until("the first list", |cx| {
            cx.names().len() == pods && cx.status().loads > 0
        })
        .await;
        cx.until("nine resources", |cx| {
            cx.api()
                .iter()
                .all(|r| matches!(r.phase, Phase::Watching | Phase::Absent))
        })
        .await;
        cx
    }

    fn pods(&self, range: std::ops::Range<usize>) {
        range.for_each(|i| self.server.apply(&pod(&format!("p{i}"))).unwrap());
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(self.state.cluster("").unwrap().lock().directory().cluster())
    }

    /// Of the pods, as the judge knows them.
    fn names(&self) -> BTreeSet<String> {
        self.cluster().pods.iter().map(|p| p.name.clone()).collect()
    }

    /// Of the pods, as the server has them.
    fn truth(&self) -> BTreeSet<String> {
        let dump = self.server.dump("pods");
        let items = dump["items"].as_array().unwrap();
        items
            .iter()
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn status(&self) -> ClusterStatus {
        self.state.cluster("").unwrap().source.get()
    }

    fn api(&self) -> Vec<Watched> {
        self.status().api.unwrap().resources
    }

    fn of_pods(&self) -> Watched {
        self.api().into_iter().find(|r| r.name == "pods").unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            let (status, requests) = (self.of_pods(), self.server.requests());
            let last: Vec<_> = requests.iter().rev().take(5).collect();
            assert!(began.elapsed() < PATIENCE, "{what}: {status:#?}\n{last:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the judge knows is what the server has, and stays so.
    async fn agrees(&self, what: &str) {
        self.until(what, |cx| cx.names() == cx.truth()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(self.names(), self.truth(), "{what}");
    }

    fn count(&self, verb: &str, plural: &str) -> usize {
        let requests = self.server.requests();
        requests
            .iter()
            .filter(|r| r.verb == verb && r.path.ends_with(&format!("/{plural}")))
            .count()
    }
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "red", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]},
    })
}

fn tenant(name: &str) -> Value {
    json!({"apiVersion": "capsule.clastix.io/v1beta2", "kind": "Tenant", "metadata": {"name": name}})
}

#[tokio::test]
async fn it_lists_in_pages_once_and_watches_from_there() {
    let mut cx = Cx::new().await;
    cx.server.define("tenants", true);
    cx.pods(0..120);
    cx.follow(&timing()).await;
    cx.until("the first list", |cx| cx.names().len() == 120).await;
    assert_eq!(cx.count("list", "pods"), 3, "120 pods, 50 a page");

    cx.server.apply(&pod("new")).unwrap();
    cx.until("a new pod", |cx| cx.names().contains("new")).await;
    let mut changed = pod("new");
    changed["metadata"]["labels"]["app"] = json!("other");
    cx.server.apply(&changed).unwrap();
    cx.until("a changed label", |cx| {
        cx.cluster()
            .pods
            .iter()
            .any(|p| p.name == "new" && p.labels["app"] == "other")
    })
    .await;
    cx.server.delete("pods", "red", "p7");
    cx.until("a deletion", |cx| !cx.names().contains("p7")).await;
    cx.agrees("all of it").await;

    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked: BTreeMap<(String, &str), usize> =
        cx.server.requests().iter().fold(BTreeMap::new(), |mut n, r| {
            *n.entry((r.path.clone(), r.verb)).or_default() += 1;
            n
        });
    // Nothing but what the ClusterRole grants, each listed once and watched once: nothing polls.
    let expected = RESOURCES.iter().flat_map(|r| {
        let root = if r.api == "v1" { "api" } else { "apis" };
        let path = format!("/{root}/{}/{}", r.api, r.plural);
        let pages = if r.plural == "pods" { 3 } else { 1 };
        [((path.clone(), "list"), pages), ((path, "watch"), 1)]
    });
    assert_eq!(asked, expected.collect());
    for request in cx.server.requests().iter().filter(|r| r.verb == "watch") {
        assert_eq!(
            request.parameter("allowWatchBookmarks"),
            Some("true"),
            "{request:?}"
        );
        assert!(
            request.parameter("timeoutSeconds").is_some() && request.parameter("resourceVersion").is_some()
        );
    }
    let status = cx.status();
    assert!(status.broken.is_empty() && status.api.as_ref().unwrap().is_synced());
    assert!(!status.api.unwrap().is_stale());
}

const OBJECTS: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: eu-1a, topology.kubernetes.io/region: eu-1, eks.amazonaws.com/compute-type: hybrid}}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: Hostname, address: node-a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: blue, labels: {app: web}, annotations: {kubernetes.io/config.mirror: abc}}
spec:
  nodeName: node-a
  priorityClassName: high
  activeDeadlineSeconds: 60
  initContainers: [{name: sidecar, restartPolicy: Always, resources: {requests: {cpu: 50m}}}]
  containers:
  - {name: app, ports: [{name: http, containerPort: 8080}], resources: {limits: {cpu: 1, memory: 1Gi}}}
  - {name: log, resources: {requests: {cpu: 0.5}}}
status: {phase: Running, podIPs: [{ip: 10.0.0.7}, {ip: \"fd00::7\"}], hostIPs: [{ip: 192.168.0.1}],
  containerStatuses: [{name: app, containerID: \"containerd://c0ffee\", conditions: []}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: blue}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: blue, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.7], conditions: {ready: true}}]
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: all, namespace: blue}
spec: {hard: {limits.cpu: 2, requests.memory: 1Gi, pods: 10}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: important, namespace: blue}
spec: {hard: {cpu: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In, values: [high]}]}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: odd, namespace: blue}
spec: {hard: {pods: 1}, scopes: [CrossNamespacePodAffinity]}
---
apiVersion: v1
kind: LimitRange
metadata: {name: limits, namespace: blue}
spec: {limits: [{type: Container, max: {cpu: 4, memory: 2Gi}, default: {memory: 1Gi}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: blue}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: http}]}]}
---
apiVersion: capsule.clastix.io/v1beta2
kind: Tenant
metadata: {name: oil}
status: {namespaces: [blue]}
";

#[tokio::test]
async fn a_directory_and_the_api_with_the_same_objects_are_the_same_cluster() {
    let mut cx = Cx::new().await;
    cx.server.define("tenants", true);
    cx.server.apply_yaml(OBJECTS).unwrap();
    cx.follow(&timing()).await;
    cx.until("the first list", |cx| cx.status().loads > 0).await;
    let objects = cx.dir.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    // In the order in which the source has them.
    for (i, resource) in RESOURCES.iter().enumerate() {
        let text = cx.server.dump(resource.plural).to_string();
        std::fs::write(objects.join(format!("{i}.json")), text).unwrap();
    }
    let (from_files, status) = dir::read_once(&objects).unwrap();
    let from_api = cx.cluster();
    assert_eq!(*from_api, from_files);
    assert_eq!((status.ignored, status.duplicates), (0, 0));
    let node = &from_api.nodes[0];
    assert_eq!(
        (node.zone.as_deref(), node.region.as_deref(), node.hybrid),
        (Some("eu-1a"), Some("eu-1"), true)
    );
    let web = &from_api.pods[0];
    assert!(web.terminating && !web.best_effort && web.priority_class.as_deref() == Some("high"));
    assert_eq!(from_api.quotas.len(), 2);
    let unjudged = &cx.status().unjudged_quotas;
    assert!(
        unjudged[0].name == "odd" && unjudged[0].reason.contains("CrossNamespacePodAffinity"),
        "{unjudged:?}"
    );
    assert_eq!(cx.status().capsule_tenants, Some(1));
}

#[tokio::test]
async fn a_bookmark_saves_a_list() {
    let mut cx = Cx::new().await;
    cx.server.set_bookmark_interval(Duration::from_millis(20));
    cx.pods(0..3);
    cx.follow(&timing()).await;
    cx.until("the first list", |cx| cx.names().len() == 3).await;
    // Changes of others only: without bookmarks, the pods' watch would still be where it began.
    for i in 0..20 {
        cx.server.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i}"), "namespace": "red"}})).unwrap();
    }
    cx.server.compact();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let watches = cx.of_pods().watches;
    cx.server.end_watches();
    cx.until("a watch anew", |cx| cx.of_pods().watches > watches)
        .await;
    cx.pods(3..5);
    cx.agrees("after the end of the watch").await;
    assert_eq!((cx.count("list", "pods"), cx.of_pods().relists), (1, 0));
    assert_eq!(cx.of_pods().errors, BTreeMap::new());
}

/// Everything that happens while the server's memory of it is lost: pods that go, come, and come again under the same name.
async fn changes_unseen(cx: &Cx) {
    cx.server.go_away();
    cx.until("the loss of the server", |cx| cx.of_pods().problem.is_some())
        .await;
    for i in 0..20 {
        cx.server.delete("pods", "red", &format!("p{i}"));
    }
    cx.pods(10..15);
    cx.pods(100..120);
    cx.server.compact();
    cx.server.come_back();
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew_and_nothing_is_lost_or_comes_back() {
    for gone_as_status in [false, true] {
        let cx = Cx::synced(60, &timing()).await;
        cx.server.set_gone_as_status(gone_as_status);
        let uid = |cx: &Cx| {
            cx.cluster()
                .pods
                .iter()
                .find(|p| p.name == "p12")
                .map(|p| p.uid.clone())
        };
        let before = uid(&cx);
        changes_unseen(&cx).await;
        cx.agrees("after 410").await;
        assert_eq!(cx.names().len(), 60 - 20 + 5 + 20);
        assert!(
            before.is_some() && uid(&cx).is_some() && uid(&cx) != before,
            "made anew under its name"
        );
        let of_pods = cx.of_pods();
        assert!(of_pods.relists >= 1 && of_pods.errors["gone"] >= 1, "{of_pods:?}");
        cx.until("no problem", |cx| cx.of_pods().problem.is_none()).await;
    }
}

#[tokio::test]
async fn an_open_watch_that_is_told_410_lists_anew() {
    let cx = Cx::synced(60, &timing()).await;
    cx.server.expire_watches();
    cx.pods(60..70);
    cx.server.delete("pods", "red", "p0");
    cx.agrees("after the event 410").await;
    assert!(cx.of_pods().relists >= 1);
}

#[tokio::test]
async fn pages_that_expire_half_way_are_begun_anew() {
    let mut cx = Cx::new().await;
    cx.pods(0..240);
    cx.server.fault(
        Fault::of("pods", What::Slow(Duration::from_millis(60)))
            .verb("list")
            .times(5),
    );
    cx.follow(&timing()).await;
    cx.until("the second page", |cx| cx.count("list", "pods") >= 2)
        .await;
    cx.server.delete("pods", "red", "p239");
    cx.server.expire_pages();
    cx.agrees("the whole list").await;
    let tokens = cx
        .server
        .requests()
        .into_iter()
        .filter(|r| r.path.ends_with("/pods") && r.verb == "list");
    let limits: Vec<_> = tokens.map(|r| r.parameter("limit").unwrap().to_owned()).collect();
    assert!(
        limits.contains(&"50".to_owned()) && limits.contains(&"100".to_owned()),
        "larger pages: {limits:?}"
    );
    assert_eq!(cx.of_pods().errors["gone"], 1);
}

#[tokio::test]
async fn links_that_break_in_any_way_lose_nothing() {
    let cx = Cx::synced(10, &timing()).await;
    let mut next = 10;
    let mut churn = async |cx: &Cx, what: &str| {
        cx.pods(next..next + 5);
        cx.server.delete("pods", "red", &format!("p{}", next - 3));
        next += 5;
        cx.agrees(what).await;
    };
    for (what, kind) in [
        (What::Cut, Some("cut")),
        (What::Half, Some("malformed")),
        (What::Ends, None),
        (What::Hang, Some("slow")),
        (
            What::Status {
                code: 500,
                retry_after_s: None,
            },
            Some("refused"),
        ),
        (
            What::Text {
                code: 502,
                text: "<html>Bad Gateway</html>",
            },
            Some("refused"),
        ),
        (
            What::Status {
                code: 401,
                retry_after_s: None,
            },
            Some("unauthorized"),
        ),
        (What::Slow(Duration::from_millis(200)), None),
    ] {
        let before = cx.of_pods().errors;
        let name = format!("{what:?}");
        cx.server.fault(Fault::of("pods", what).verb("watch").times(2));
        let watches = cx.count("watch", "pods");
        cx.server.end_watches();
        cx.until("a watch that fails", |cx| cx.count("watch", "pods") > watches)
            .await;
        churn(&cx, &name).await;
        if let Some(kind) = kind {
            let count = |errors: &BTreeMap<&str, u64>| errors.get(kind).copied().unwrap_or(0);
            assert!(
                count(&cx.of_pods().errors) > count(&before),
                "{name}: {:?}",
                cx.of_pods().errors
            );
        }
        cx.server.clear_faults();
    }
    for round in 0..20 {
        cx.server.cut_connections();
        churn(&cx, &format!("cut {round}")).await;
    }
    assert_eq!(cx.count("list", "pods"), 1, "every watch went on where it was");
}

#[tokio::test]
async fn lists_that_fail_in_any_way_are_tried_again() {
    let mut cx = Cx::new().await;
    cx.pods(0..120);
    for what in [
        What::Cut,
        What::Half,
        What::Hang,
        What::Status {
            code: 503,
            retry_after_s: Some(1),
        },
        What::Text {
            code: 200,
            text: "{\"kind\": \"PodList\", \"metadata\": {}, \"items\": []}",
        },
        What::Text {
            code: 200,
            text: "[]",
        },
    ] {
        cx.server.fault(Fault::of("pods", what).verb("list").times(1));
    }
    cx.follow(&timing()).await;
    cx.agrees("the whole list").await;
    let errors = cx.of_pods().errors;
    assert_eq!(errors.values().sum::<u64>(), 6, "{errors:?}");
    assert_eq!(
        (errors["malformed"], errors["slow"], errors["refused"]),
        (3, 1, 1),
        "{errors:?}"
    );
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_circle() {
    let cx = Cx::synced(1, &timing()).await;
    cx.server.fault(Fault::of("pods", What::Ends).verb("watch"));
    cx.server.forget_requests();
    cx.server.end_watches();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let watches = cx.count("watch", "pods");
    // From 20 ms to 100 ms apart, less jitter.
    assert!((3..=40).contains(&watches), "{watches}");
}

#[tokio::test]
async fn a_watch_that_is_silent_is_opened_anew() {
    let patient = Timing {
        silence: Duration::from_millis(200),
        ..timing()
    };
    let cx = Cx::synced(3, &patient).await;
    cx.server
        .fault(Fault::of("pods", What::Silent).verb("watch").times(1));
    cx.server.end_watches();
    cx.until("the silent watch", |cx| cx.count("watch", "pods") >= 2)
        .await;
    cx.pods(3..6);
    cx.agrees("what was not heard").await;
    assert!(cx.of_pods().errors["silent"] >= 1);
    assert_eq!(cx.of_pods().problem, None, "a quiet cluster is no fault");
}

#[tokio::test]
async fn an_object_that_makes_no_sense_keeps_its_last_good_state_and_harms_no_other() {
    let cx = Cx::synced(5, &timing()).await;
    let broken = |name: &str| {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!(["app"]);
        pod["spec"]["nodeName"] = json!("node-b");
        pod
    };
    cx.server.put_raw("pods", broken("p1")).unwrap();
    cx.server.put_raw("pods", broken("never-good")).unwrap();
    cx.pods(5..7);
    cx.until("the others", |cx| {
        cx.names().len() == 7 && cx.of_pods().malformed == 2
    })
    .await;
    let node = |cx: &Cx, name: &str| {
        cx.cluster()
            .pods
            .iter()
            .find(|p| p.name == name)
            .and_then(|p| p.node.clone())
    };
    assert_eq!(node(&cx, "p1").as_deref(), Some("node-a"), "as it was");
    assert_eq!(node(&cx, "never-good"), None);
    let named = cx.of_pods().malformed_named;
    assert_eq!(named[0].0, "red/never-good");
    assert!(
        named[1].0 == "red/p1" && named[1].1.contains("metadata.labels") && named[1].1.contains("a list"),
        "{named:?}"
    );

    // The same in a list: the rest of it counts, and what was good before still does.
    cx.server.expire_watches();
    cx.until("a list anew", |cx| {
        cx.of_pods().relists >= 1 && cx.of_pods().phase == Phase::Watching
    })
    .await;
    assert_eq!((cx.names().len(), cx.of_pods().malformed), (7, 2));
    assert_eq!(node(&cx, "p1").as_deref(), Some("node-a"));

    cx.server
        .put_raw("pods", json!({"metadata": {"namespace": "red"}, "spec": 7}))
        .unwrap();
    cx.pods(1..2);
    cx.server.delete("pods", "red", "never-good");
    cx.server.apply(&pod("after")).unwrap();
    cx.until("good again", |cx| {
        cx.of_pods().malformed == 0 && cx.names().contains("after")
    })
    .await;
    assert_eq!(
        cx.of_pods().errors["unnamed"],
        1,
        "what bears no name is counted, and passed over"
    );
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_is_known_and_its_age() {
    let cx = Cx::synced(20, &timing()).await;
    let age = |cx: &Cx| cx.status().api.unwrap().age().unwrap();
    cx.server.go_away();
    let began = Instant::now();
    cx.until("what went wrong", |cx| cx.of_pods().problem.is_some())
        .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        age(&cx) >= Duration::from_millis(500) && age(&cx) <= began.elapsed() + Duration::from_millis(500)
    );
    let problem = cx.of_pods().problem.unwrap();
    assert!(
        problem.contains("no connection") || problem.contains("cut"),
        "{problem}"
    );
    assert!(!cx.of_pods().is_up());
    assert_eq!(cx.names().len(), 20, "judged from what was last known");
    assert!(
        cx.status()
            .api
            .unwrap()
            .problems()
            .any(|(resource, _)| resource == "pods")
    );

    cx.server.delete("pods", "red", "p0");
    cx.pods(20..25);
    cx.server.come_back();
    cx.agrees("after it came back").await;
    cx.until("all is well", |cx| cx.api().iter().all(Watched::is_up))
        .await;
    assert!(age(&cx) < began.elapsed());
    assert_eq!(cx.count("list", "pods"), 1, "the watch went on where it was");
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_waited_for() {
    let mut cx = Cx::new().await;
    cx.pods(0..3);
    cx.server.go_away();
    cx.follow(&timing()).await;
    cx.until("what went wrong", |cx| cx.of_pods().problem.is_some())
        .await;
    let status = cx.status();
    assert!(!status.api.as_ref().unwrap().is_synced() && status.api.unwrap().age().is_none());
    cx.server.come_back();
    cx.agrees("after it came").await;
}

#[tokio::test]
async fn a_right_that_lacks_is_named_and_nothing_is_judged_from_a_part() {
    let mut cx = Cx::new().await;
    cx.pods(0..3);
    cx.server.fault(Fault::of(
        "limitranges",
        What::Status {
            code: 403,
            retry_after_s: None,
        },
    ));
    cx.follow(&timing()).await;
    let limits = |cx: &Cx| cx.api().into_iter().find(|r| r.name == "limitranges").unwrap();
    cx.until("the refusal", |cx| limits(cx).problem.is_some()).await;
    cx.until("the others", |cx| {
        cx.api().iter().filter(|r| r.is_known).count() == 8
    })
    .await;
    let problem = limits(&cx).problem.unwrap();
    for needle in [
        "a right lacks",
        "cannot list resource \"limitranges\"",
        "system:serviceaccount:partywall:aggregator",
    ] {
        assert!(problem.contains(needle), "{problem}");
    }
    assert!(cx.names().is_empty() && !cx.status().api.unwrap().is_synced());
    cx.server.clear_faults();
    cx.agrees("after the right was granted").await;
    assert!(limits(&cx).errors["forbidden"] >= 1 && limits(&cx).problem.is_none());
}

#[tokio::test]
async fn capsule_may_come_later_and_go_again() {
    let slow = Timing {
        absent: Duration::from_secs(60),
        ..timing()
    };
    let cx = Cx::synced(1, &slow).await;
    assert_eq!(cx.cluster().capsule_tenants, None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(cx.count("list", "tenants"), 1, "not polled");

    // Capsule comes: the label of a namespace says that it is worth to look.
    cx.server.define("tenants", true);
    cx.server.apply(&tenant("oil")).unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "red", "labels": {"capsule.clastix.io/tenant": "oil"}}});
    cx.server.apply(&namespace).unwrap();
    let known = |cx: &Cx| cx.cluster().capsule_tenants.clone();
    cx.until("the tenant", |cx| {
        known(cx) == Some(BTreeSet::from(["oil".to_owned()]))
    })
    .await;
    let of_red = |cx: &Cx| {
        let cluster = cx.state.cluster("").unwrap();
        let world = cluster.lock();
        let directory = world.directory();
        directory
            .namespace_tenant("red")
            .map(|t| directory.tenants.name(t).to_string())
    };
    cx.until("its namespace", |cx| of_red(cx).as_deref() == Some("oil"))
        .await;
    cx.server.delete("tenants", "", "oil");
    cx.until("a tenant that is gone names nobody", |cx| {
        of_red(cx).as_deref() == Some("red")
    })
    .await;
    assert_eq!(known(&cx), Some(BTreeSet::new()));

    cx.server.define("tenants", false);
    cx.until("no more Capsule", |cx| known(cx).is_none()).await;
}

#[tokio::test]
async fn the_server_reviews_tokens_as_a_real_one() {
    let cx = Cx::new().await;
    cx.server.add_token(
        "good",
        Token {
            user: "system:serviceaccount:partywall:agent".into(),
            uid: "sa-uid".into(),
            audiences: vec!["partywall".into()],
            pod: Some(("agent-x".into(), "pod-uid".into())),
            node: Some(("node-a".into(), "node-uid".into())),
            refused: None,
        },
    );
    let (client, _) = cx.target().client().await.unwrap();
    let reviews: kube::Api<TokenReview> = kube::Api::all(client);
    let review = async |token: &str, audience: &str| {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.into(),
                audiences: Some(vec![audience.into()]),
            },
            ..TokenReview::default()
        };
        let reviewed = reviews
            .create(&kube::api::PostParams::default(), &review)
            .await
            .unwrap();
        reviewed.status.unwrap()
    };
    let good = review("good", "partywall").await;
    assert_eq!(
        (good.authenticated, good.audiences),
        (Some(true), Some(vec!["partywall".into()]))
    );
    let user = good.user.unwrap();
    assert_eq!(
        user.username.as_deref(),
        Some("system:serviceaccount:partywall:agent")
    );
    assert_eq!(
        user.extra.unwrap()["authentication.kubernetes.io/node-name"],
        ["node-a"]
    );
    for (token, audience, problem) in [
        ("good", "other", "token audiences"),
        ("bad", "partywall", "invalid bearer token"),
    ] {
        let refused = review(token, audience).await;
        assert_ne!(refused.authenticated, Some(true));
        assert!(refused.error.unwrap().contains(problem));
    }
}
