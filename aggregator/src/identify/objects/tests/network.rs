use partywall_aggregator_core::identity::{ContainerPort, Protocol, TargetPort};
use proptest::prelude::*;

use super::super::*;
use super::POD;

#[test]
fn what_tells_pods_apart_on_the_network_is_read() {
    let pod = POD
        .replace("namespace: blue", "namespace: blue, labels: {app: web, env: prod, bare: }")
        .replace("  - name: b\n", "  - name: b\n    ports: [{name: http, containerPort: 8080}, {containerPort: 53, protocol: UDP}]\n")
        .replace("phase: Running", "phase: Running, hostIP: 192.0.2.1, hostIPs: [{ip: 192.0.2.1}, {ip: \"2001:db8::1\"}]");
    let pod = read(&pod).unwrap().cluster.pods.remove(0);
    let labels: Vec<_> = pod.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["app=web", "bare=", "env=prod"]);
    assert_eq!(
        *pod.containers[1].ports,
        [
            ContainerPort {
                name: Some("http".into()),
                number: 8080,
                protocol: Protocol::Tcp
            },
            ContainerPort {
                name: None,
                number: 53,
                protocol: Protocol::Udp
            },
        ]
    );
    assert_eq!(pod.host_addresses.len(), 2);
    assert!(!pod.terminal && !pod.host_network);
    assert!(read(&POD.replace("Running", "Failed")).unwrap().cluster.pods[0].terminal);
    for (ports, needles) in [
        ("[{containerPort: 0}]", ["ports[0].containerPort", "\"0\""]),
        ("[{name: http}]", ["ports[0]", "containerPort is absent"]),
        (
            "[{containerPort: 80, protocol: HTTP}]",
            ["ports[0].protocol", "HTTP"],
        ),
        ("[{containerPort: 80, name: UPPER}]", ["ports[0].name", "UPPER"]),
    ] {
        let error = read(&POD.replace("- name: b\n", &format!("- name: b\n    ports: {ports}\n")));
        let error = error.unwrap_err().to_string();
        assert!(needles.iter().all(|n| error.contains(n)), "{error}");
    }
}

#[test]
fn services_slices_and_nodes_are_read() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: blue}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, \"fd01::7\"]
  externalIPs: [203.0.113.7]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}, {port: 53, protocol: UDP, nodePort: 0}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.8}, {hostname: lb.example}]}}
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: blue}
spec: {clusterIP: None, clusterIPs: [None]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x1, namespace: blue, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.7], conditions: {ready: true}}, {addresses: [10.0.0.8]}]
ports: [{name: http, port: 8080, protocol: TCP}, {name: \"\"}]
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: ExternalIP, address: 203.0.113.1}, {type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: node-a}]}
";
    let Cluster {
        services,
        endpoint_slices,
        nodes,
        ..
    } = read(text).unwrap().cluster;
    let web = &services[0];
    assert_eq!(web.cluster_ips.len(), 2);
    assert_eq!(web.external_ips.len(), 2);
    assert_eq!(web.selector["app"], "web");
    assert_eq!(web.ports[0].target, TargetPort::Name("http".into()));
    assert_eq!(web.ports[1].target, TargetPort::Number(53));
    assert_eq!(web.ports[1].protocol, Protocol::Udp);
    assert!(services[1].cluster_ips.is_empty());
    assert_eq!(endpoint_slices[0].service.as_deref(), Some("web"));
    assert_eq!(
        (endpoint_slices[0].addresses.len(), endpoint_slices[0].ports.len()),
        (2, 1)
    );
    let addresses: Vec<_> = nodes[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "203.0.113.1"]);
    for (from, to, needles) in [
        (
            "clusterIPs: [10.96.0.7,",
            "clusterIPs: [10.96.0.777,",
            ["spec.clusterIPs[0]", "10.96.0.777"],
        ),
        ("port: 80,", "port: 80000,", ["spec.ports[0].port", "80000"]),
        (
            "targetPort: http",
            "targetPort: HTTP",
            ["spec.ports[0].targetPort", "HTTP"],
        ),
        (
            "addresses: [10.0.0.7]",
            "addresses: [ten]",
            ["endpoints[0].addresses[0]", "ten"],
        ),
        (
            "address: 192.0.2.1",
            "address: here",
            ["status.addresses[1].address", "here"],
        ),
    ] {
        let error = read(&text.replace(from, to)).unwrap_err().to_string();
        assert!(needles.iter().all(|n| error.contains(n)), "{error}");
    }
}

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: blue}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    - namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red]}]}
    ports:
    - {protocol: TCP, port: 80, endPort: 90}
";

#[test]
fn policies_are_held_to_what_the_api_server_admits() {
    let policy = read(POLICY).unwrap().cluster.network_policies.remove(0);
    assert_eq!(policy.to_string(), "blue/p");
    assert_eq!(
        (policy.ingress.as_ref().map(Vec::len), &policy.egress),
        (Some(1), &None)
    );
    let table: &[(&str, &str, u64, &[&str])] = &[
        (
            "cidr: 10.0.0.0/8",
            "cidr: 10.0.0.0/33",
            9,
            &[
                "NetworkPolicy \"blue/p\"",
                "spec.ingress[0].from[0].ipBlock.cidr",
                "10.0.0.0/33",
            ],
        ),
        (
            "cidr: 10.0.0.0/8",
            "cidr: 10.0.0.1",
            9,
            &["ipBlock.cidr", "\"10.0.0.1\""],
        ),
        (
            "cidr: 10.0.0.0/8, ",
            "",
            9,
            &["from[0].ipBlock", "cidr is absent"],
        ),
        (
            "[10.1.0.0/16]",
            "[11.1.0.0/16]",
            9,
            &["ipBlock.except[0]", "11.1.0.0/16", "not within 10.0.0.0/8"],
        ),
        (
            "[10.1.0.0/16]",
            "[10.0.0.0/8]",
            9,
            &["ipBlock.except[0]", "not within"],
        ),
        ("[10.1.0.0/16]", "[[]]", 9, &["ipBlock.except[0]"]),
        (
            "[10.1.0.0/16]}",
            "[10.1.0.0/16]}\n      podSelector: {}",
            9,
            &["from[0]", "an ipBlock and a selector"],
        ),
        (
            "ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}",
            "{}",
            9,
            &["from[0]", "names no peer"],
        ),
        (
            "ipBlock:",
            "ipblock:",
            9,
            &[
                "from[0]",
                "\"ipblock\"",
                "podSelector, namespaceSelector, ipBlock",
            ],
        ),
        (
            "operator: In",
            "operator: in",
            10,
            &["matchExpressions[0].operator", "\"in\""],
        ),
        (
            "operator: In, ",
            "",
            10,
            &["matchExpressions[0]", "operator is absent"],
        ),
        ("key: team, ", "", 10, &["matchExpressions[0]", "key is absent"]),
        (
            "key: team",
            "key: a/b/c",
            10,
            &["matchExpressions[0].key", "a/b/c"],
        ),
        (
            ", values: [red]",
            "",
            10,
            &["matchExpressions[0]", "In needs values"],
        ),
        (
            "operator: In",
            "operator: Exists",
            10,
            &["matchExpressions[0].values", "takes no values"],
        ),
        ("values: [red]", "values: [\"a b\"]", 10, &["values[0]", "a b"]),
        ("values: [red]", "values: red", 10, &["values", "not a list"]),
        (
            "app: web",
            "app: -web",
            5,
            &["spec.podSelector.matchLabels.app", "-web"],
        ),
        (
            "app: web",
            "\"a b\": web",
            5,
            &["spec.podSelector.matchLabels.a b", "no label key"],
        ),
        ("app: web", "app: [web]", 5, &["matchLabels.app", "a list"]),
        (
            "matchLabels:",
            "app:",
            5,
            &["spec.podSelector", "\"app\"", "matchLabels"],
        ),
        (
            "[Ingress]",
            "[ingress]",
            6,
            &["spec.policyTypes[0]", "\"ingress\""],
        ),
        (
            "[Ingress]",
            "[Ingress, Egress, Egress]",
            6,
            &["spec.policyTypes", "3 entries"],
        ),
        ("[Ingress]", "Ingress", 6, &["spec.policyTypes", "not a list"]),
        (
            "protocol: TCP",
            "protocol: tcp",
            12,
            &["ports[0].protocol", "\"tcp\""],
        ),
        (
            "protocol: TCP",
            "protocol: ICMP",
            12,
            &["ports[0].protocol", "\"ICMP\""],
        ),
        ("port: 80,", "port: 0,", 12, &["ports[0].port", "\"0\""]),
        ("port: 80,", "port: 65536,", 12, &["ports[0].port", "65536"]),
        ("port: 80,", "port: Web,", 12, &["ports[0].port", "Web"]),
        (
            "port: 80,",
            "port: http,",
            12,
            &["ports[0].endPort", "\"90\"", "number alone"],
        ),
        (
            "port: 80, ",
            "",
            12,
            &["ports[0].endPort", "\"90\"", "with a port alone"],
        ),
        (
            "endPort: 90",
            "endPort: 79",
            12,
            &["ports[0].endPort", "79", "80"],
        ),
        (
            "endPort: 90",
            "endPort: 99999",
            12,
            &["ports[0].endPort", "99999"],
        ),
        ("endPort:", "endport:", 12, &["ports[0]", "\"endport\""]),
        (
            "  ingress:\n",
            "  Ingress:\n",
            8,
            &["spec: has an unknown field", "\"Ingress\""],
        ),
        (
            "- from:",
            "- to:",
            9,
            &["spec.ingress[0]", "\"to\"", "from, ports"],
        ),
        ("name: p", "name: P", 3, &["metadata.name", "\"P\""]),
        (
            "namespace: blue",
            "namespace: Blue",
            3,
            &["metadata.namespace", "Blue"],
        ),
    ];
    for (from, to, line, needles) in table {
        assert!(POLICY.contains(from), "{from}");
        let error = read(&POLICY.replacen(from, to, 1)).expect_err(to);
        for needle in *needles {
            assert!(
                error.to_string().contains(needle),
                "{to}: {error}\nlacks {needle}"
            );
        }
        assert_eq!(error.line, *line, "{to}: {error}");
    }
}

#[test]
fn kinds_that_are_not_evaluated_are_kept_by_name() {
    let kinds = [
        (
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            "CiliumNetworkPolicy.cilium.io blue/x",
        ),
        (
            "cilium.io/v2",
            "CiliumClusterwideNetworkPolicy",
            "CiliumClusterwideNetworkPolicy.cilium.io x",
        ),
        (
            "projectcalico.org/v3",
            "NetworkPolicy",
            "NetworkPolicy.projectcalico.org blue/x",
        ),
        (
            "projectcalico.org/v3",
            "GlobalNetworkPolicy",
            "GlobalNetworkPolicy.projectcalico.org x",
        ),
        (
            "crd.projectcalico.org/v1",
            "NetworkPolicy",
            "NetworkPolicy.crd.projectcalico.org blue/x",
        ),
        (
            "crd.projectcalico.org/v1",
            "GlobalNetworkPolicy",
            "GlobalNetworkPolicy.crd.projectcalico.org x",
        ),
        (
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicy",
            "AdminNetworkPolicy.policy.networking.k8s.io x",
        ),
        (
            "policy.networking.k8s.io/v1alpha1",
            "BaselineAdminNetworkPolicy",
            "BaselineAdminNetworkPolicy.policy.networking.k8s.io x",
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            "ClusterNetworkPolicy.policy.networking.k8s.io x",
        ),
        (
            "crd.antrea.io/v1beta1",
            "NetworkPolicy",
            "NetworkPolicy.crd.antrea.io blue/x",
        ),
        (
            "crd.antrea.io/v1beta1",
            "ClusterNetworkPolicy",
            "ClusterNetworkPolicy.crd.antrea.io x",
        ),
        (
            "new.example/v1",
            "FancyNetworkPolicy",
            "FancyNetworkPolicy.new.example blue/x",
        ),
    ];
    for (api, kind, shown) in kinds {
        let of = |metadata: &str| {
            format!("apiVersion: {api}\nkind: {kind}\nmetadata: {metadata}\nspec: {{whatever: 1}}\n")
        };
        let read_one = |text: &str| read(text).unwrap().cluster.foreign_policies.remove(0).to_string();
        assert_eq!(read_one(&of("{name: x, namespace: blue}")), shown);
        let list = format!(
            "apiVersion: {api}\nkind: {kind}List\nitems: [{{metadata: {{name: x, namespace: blue}}}}]\n"
        );
        assert_eq!(read_one(&list), shown);
    }
    let new = "apiVersion: new.example/v1\nkind: WideNetworkPolicy\nmetadata: {name: x}\n";
    assert_eq!(read(new).unwrap().cluster.foreign_policies[0].namespace, None);
    let staged =
        "apiVersion: projectcalico.org/v3\nkind: StagedNetworkPolicy\nmetadata: {name: x, namespace: blue}\n";
    let staged = read(staged).unwrap();
    assert_eq!((staged.cluster.foreign_policies.len(), staged.ignored), (0, 1));
}

proptest! {
    #[test]
    fn no_edit_of_a_policy_panics(at in 0..POLICY.len(), with in "\\PC{0,3}", cut in 0usize..9) {
        let (from, to) = (at, (at + cut).min(POLICY.len()));
        if POLICY.is_char_boundary(from) && POLICY.is_char_boundary(to) {
            let _ = read(&format!("{}{with}{}", &POLICY[..from], &POLICY[to..]));
        }
    }
}

#[test]
fn a_node_says_what_pods_may_have_and_whom_it_keeps_away() {
    let cluster = read(
        "
apiVersion: v1
kind: Node
metadata:
  name: big
  labels: {topology.kubernetes.io/zone: a, node.kubernetes.io/pool: other, karpenter.sh/nodepool: general}
spec:
  unschedulable: true
  taints:
    - {key: dedicated, value: gpu, effect: NoSchedule}
    - {key: soft, effect: PreferNoSchedule}
    - {key: node.kubernetes.io/unreachable, effect: NoExecute}
status:
  capacity: {cpu: \"4\", memory: 8Gi, pods: \"110\"}
  allocatable: {cpu: 3920m, memory: 7Gi}
---
apiVersion: v1
kind: Node
metadata: {name: bare}
",
    )
    .unwrap()
    .cluster;
    let [big, bare] = &cluster.nodes[..] else {
        panic!("{:?}", cluster.nodes)
    };
    assert_eq!(
        big.pool.as_deref(),
        Some("general"),
        "the first label of the list"
    );
    assert_eq!(
        (big.cpu_ncores, big.memory_bytes, big.pods),
        (Some(3_920_000_000), Some(7 << 30), Some(110))
    );
    assert!(big.unschedulable);
    let taints: Vec<_> = big
        .taints
        .iter()
        .map(|t| (&*t.key, &*t.value, &*t.effect))
        .collect();
    assert_eq!(
        taints,
        [
            ("dedicated", "gpu", "NoSchedule"),
            ("node.kubernetes.io/unreachable", "", "NoExecute")
        ]
    );
    assert_eq!(
        (bare.cpu_ncores, bare.pool.as_deref(), bare.unschedulable),
        (None, None, false)
    );
    let error = read("{apiVersion: v1, kind: Node, metadata: {name: n}, status: {allocatable: {cpu: lots}}}")
        .unwrap_err();
    assert!(
        error.to_string().contains("status.allocatable.cpu") && error.to_string().contains("lots"),
        "{error}"
    );
}

#[test]
fn a_pod_says_what_made_it_and_what_it_tolerates() {
    let cluster = read(
        "
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: blue
  uid: u
  ownerReferences:
    - {kind: Backup, name: b}
    - {kind: ReplicaSet, name: web-5d8f, controller: true}
spec:
  containers: [{name: main, resources: {requests: {cpu: 250m}, limits: {memory: 1Gi}}}]
  tolerations:
    - {key: dedicated, operator: Equal, value: gpu, effect: NoSchedule}
    - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
    - {operator: Exists}
",
    )
    .unwrap()
    .cluster;
    let pod = &cluster.pods[0];
    let owner = pod.owner.as_ref().unwrap();
    assert_eq!((&*owner.kind, &*owner.name), ("ReplicaSet", "web-5d8f"));
    let requests = pod.containers[0].requests;
    assert_eq!(
        (requests.cpu_ncores, requests.memory_bytes),
        (250_000_000, 1 << 30)
    );
    let taint = |key: &str, value: &str| partywall_aggregator_core::identity::Taint {
        key: key.into(),
        value: value.into(),
        effect: "NoSchedule".into(),
    };
    assert!(pod.tolerations[0].tolerates(&taint("dedicated", "gpu")));
    assert!(!pod.tolerations[0].tolerates(&taint("dedicated", "other")));
    assert!(pod.tolerations[1].tolerates(&taint("anything", "at-all")));
}

#[test]
fn nodes_that_can_have_no_agent_are_known() {
    let agentless = |labels: &str| {
        let node = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: a, labels: {{{labels}}}}}\n");
        read(&node).unwrap().cluster.nodes[0].agentless
    };
    for labels in [
        "type: virtual-kubelet",
        "eks.amazonaws.com/compute-type: fargate",
        "kubernetes.io/os: windows",
        "partywall.io/agentless: \"true\"",
    ] {
        assert!(agentless(labels), "{labels}");
    }
    for labels in [
        "",
        "type: kubelet",
        "eks.amazonaws.com/compute-type: auto",
        "kubernetes.io/os: linux",
        "partywall.io/agentless: \"false\"",
    ] {
        assert!(!agentless(labels), "{labels}");
    }
}
