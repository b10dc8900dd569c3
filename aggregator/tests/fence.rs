//! What NetworkPolicies say, case by case: `fence/cases.yaml` over the one cluster of `fence/cluster.yaml`, both read as files are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use partywall_aggregator::identify::objects;
use partywall_aggregator_core::fence::{
    Decision, Doubt, End, Exemption, Family, Fence, Question, Stand, Traffic, Verdict,
};
use partywall_aggregator_core::identity::Cluster;
use serde::Deserialize;

const CLUSTER: &str = include_str!("fence/cluster.yaml");
const CASES: &str = include_str!("fence/cases.yaml");
/// What the table is asked to have at least.
const LEAST: usize = 120;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    title: String,
    /// Namespace and name → the YAML of the spec.
    #[serde(default)]
    policies: BTreeMap<String, String>,
    /// Other objects, as they are.
    #[serde(default)]
    objects: String,
    /// `from > to port => verdict; why`
    checks: Vec<String>,
}

impl Case {
    fn cluster(&self) -> Cluster {
        let mut text = format!("{CLUSTER}\n---\n{}", self.objects);
        for (name, spec) in &self.policies {
            let (namespace, name) = name.split_once('/').expect("namespace/name");
            let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
            text += &format!(
                "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
            );
        }
        let read = objects::read(&text);
        read.unwrap_or_else(|error| panic!("{}: {error}", self.title))
            .cluster
    }
}

fn end<'a>(fence: &'a Fence, name: &str) -> End<'a> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return fence.at(address);
    }
    match name.split_once('/') {
        Some((namespace, pod)) => End::Pod(
            fence
                .pod(namespace, pod)
                .unwrap_or_else(|| panic!("no pod {name}")),
        ),
        None => End::Node(fence.node(name).unwrap_or_else(|| panic!("no node {name}")), None),
    }
}

/// `from > to port`, `from > to port v6`
fn traffic<'a>(fence: &'a Fence, asked: &str) -> Traffic<'a> {
    let words: Vec<&str> = asked.split_whitespace().collect();
    let ([from, ">", to, port] | [from, ">", to, port, "v4" | "v6"]) = words[..] else {
        panic!("{asked:?} is not `from > to port`");
    };
    let question: Question = port.parse().unwrap_or_else(|error| panic!("{asked}: {error}"));
    let traffic = question.between(end(fence, from), end(fence, to));
    let mut traffic = traffic.unwrap_or_else(|| panic!("{asked}: no such port"));
    traffic.family = match words.last() {
        Some(&"v4") => Some(Family::V4),
        Some(&"v6") => Some(Family::V6),
        _ => None,
    };
    traffic
}

/// As the table says it: the verdict, and what each end says unless that is nothing.
fn told(decision: &Decision) -> String {
    let mut words = vec![decision.verdict().as_str().to_owned()];
    for (direction, stand) in decision.stands() {
        let direction = direction.as_str();
        let why = match stand {
            Stand::Free | Stand::Exempt(Exemption::NoPod) => continue,
            Stand::Exempt(Exemption::Itself) => "itself".to_owned(),
            Stand::Exempt(Exemption::OwnNode) => "own node".to_owned(),
            Stand::Exempt(Exemption::HostNetwork) => "host network".to_owned(),
            Stand::Admits(admission) => format!("by {admission}"),
            Stand::Denies(policies) => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                format!("not by {}", names.join(" "))
            }
            Stand::Unknown(Doubt::Foreign(_)) => "foreign".to_owned(),
            Stand::Unknown(Doubt::NamespaceUnseen(name)) => format!("labels of {name}"),
            Stand::Unknown(Doubt::NoAddress) => "address".to_owned(),
            Stand::Unknown(Doubt::Family) => "family".to_owned(),
        };
        // An admission says itself which direction it is of.
        words.push(match stand {
            Stand::Admits(_) => why,
            _ => format!("{direction} {why}"),
        });
    }
    words.join("; ")
}

fn cases() -> Vec<Case> {
    serde_saphyr::from_str(CASES).unwrap_or_else(|error| panic!("cases.yaml: {error}"))
}

#[test]
fn every_case_of_the_table() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in cases() {
        let cluster = case.cluster();
        let fence = Fence::new(&cluster);
        let mut turned = cluster.clone();
        turned.network_policies.reverse();
        turned.pods.reverse();
        let turned = Fence::new(&turned);
        for check in &case.checks {
            count += 1;
            let (asked, wanted) = check
                .split_once(" => ")
                .unwrap_or_else(|| panic!("{check:?} has no =>"));
            let got = told(&fence.decide(&traffic(&fence, asked)));
            if got != wanted.trim() {
                wrong.push(format!(
                    "{}\n  {asked}\n    wanted {}\n    got    {got}",
                    case.title,
                    wanted.trim()
                ));
            }
            assert_eq!(
                told(&turned.decide(&traffic(&turned, asked))),
                got,
                "{}: order",
                case.title
            );
            let explained = fence.explain(&traffic(&fence, asked));
            assert_eq!(
                told(&explained.decision),
                got,
                "{}: the same, explained",
                case.title
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} are wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= LEAST, "{count} checks");
}

/// What the table says of two pods stands in the matrix of that port.
#[test]
fn a_matrix_has_what_the_table_says() {
    let mut found = 0;
    for case in cases() {
        let fence = Fence::new(&case.cluster());
        let pods = fence.pods().len();
        for check in &case.checks {
            let (asked, wanted) = check.split_once(" => ").unwrap();
            let words: Vec<&str> = asked.split_whitespace().collect();
            // Of one family alone: a matrix asks for both.
            let [from, ">", to, port] = words[..] else {
                continue;
            };
            let question: Question = port.parse().unwrap();
            let mut matrix = fence.matrix(&question, |_| true);
            assert_eq!(fence.matrix(&question, |_| true).count(), pods * (pods - 1));
            let pair = matrix.find(|(a, b, _)| (a.to_string(), b.to_string()) == (from.into(), to.into()));
            if let Some((_, _, verdict)) = pair {
                found += 1;
                let wanted = wanted.split(';').next().map(str::trim);
                assert_eq!(verdict.map(Verdict::as_str), wanted, "{}: {check}", case.title);
            }
        }
    }
    assert!(found >= LEAST, "{found} pairs of pods");
}

#[test]
fn a_policy_that_selects_no_pod_changes_nothing() {
    for case in cases() {
        let cluster = case.cluster();
        let mut more = cluster.clone();
        let nothing = Case {
            title: "nothing".to_owned(),
            policies: ["blue/a", "red/a", "green/z", "empty/a"]
                .map(|name| {
                    (
                        name.to_owned(),
                        "podSelector: {matchLabels: {app: nobody}}".to_owned(),
                    )
                })
                .into(),
            objects: String::new(),
            checks: Vec::new(),
        };
        more.network_policies
            .extend(nothing.cluster().network_policies.iter().map(Arc::clone));
        let (fence, more) = (Fence::new(&cluster), Fence::new(&more));
        for check in &case.checks {
            let asked = check.split(" => ").next().unwrap();
            let (before, after) = (
                fence.decide(&traffic(&fence, asked)),
                more.decide(&traffic(&more, asked)),
            );
            assert_eq!(before, after, "{}: {asked}", case.title);
        }
    }
}

#[test]
fn pods_that_have_ended_are_no_ends() {
    let fence = Fence::new(&objects::read(CLUSTER).unwrap().cluster);
    assert!(fence.pod("blue", "done").is_none());
    assert!(
        matches!(fence.at("10.0.1.1".parse().unwrap()), End::Pod(pod) if &*pod.name == "web"),
        "its address is another's by now"
    );
    assert!(matches!(fence.at("192.0.2.1".parse().unwrap()), End::Node(node, _) if &*node.name == "node-a"));
    assert!(matches!(
        fence.at("::ffff:10.0.1.1".parse().unwrap()),
        End::Pod(_)
    ));
    assert!(matches!(fence.at("8.8.8.8".parse().unwrap()), End::Address(_)));
    let nobody = Fence::new(&Cluster::default());
    let out = End::Address("8.8.8.8".parse().unwrap());
    let question: Question = "80".parse().unwrap();
    let verdict = question.between(out, out).map(|t| nobody.decide(&t).verdict());
    assert_eq!(verdict, Some(Verdict::Open));
}
