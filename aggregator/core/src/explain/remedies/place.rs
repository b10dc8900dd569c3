//! Nobody took more than his due: another place, or room kept for the system.

use std::sync::Arc;

use super::super::cx::Cx;
use super::super::parties::culprit_pods;
use super::super::{PLATFORM, Remedy};
use super::workload::{self, Source};
use crate::fence::lasting;
use crate::finding::cores;
use crate::sums::Party;
use crate::yaml::{Yaml, comment};

/// The victim's pods away from those that ran meanwhile.
pub(super) fn apart(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let Some(victim) = cx.pod(&key.subject) else {
        return Vec::new();
    };
    let neighbour = culprit_pods(cx).into_iter().find_map(|(_, name)| {
        let pod = cx.pod(&name)?;
        let labels = lasting(&pod.labels);
        (!labels.is_empty()).then_some((pod, labels))
    });
    let Some((neighbour, labels)) = neighbour else {
        return Vec::new();
    };
    let labels = labels.into_iter().map(|(k, v)| (k, Yaml::Text(v))).collect();
    let term = Yaml::map([
        ("labelSelector", Yaml::map([("matchLabels", Yaml::Map(labels))])),
        ("namespaces", Yaml::List(vec![Yaml::text(&neighbour.namespace)])),
        ("topologyKey", Yaml::text("kubernetes.io/hostname")),
    ]);
    let preferred = Yaml::map([("weight", Yaml::Number(100)), ("podAffinityTerm", term)]);
    let anti = [(
        "preferredDuringSchedulingIgnoredDuringExecution",
        Yaml::List(vec![preferred]),
    )];
    let affinity = Yaml::map([("podAntiAffinity", Yaml::map(anti))]);
    let source = Source::of(victim);
    let mut yaml = String::new();
    let note = "a merge replaces the list of terms: add your own, where there are any";
    comment(&mut yaml, "", note);
    vec![Remedy {
        kind: "placement",
        by: Arc::clone(&key.against),
        what: format!(
            "{} keeps away from nodes with pods like {}/{}",
            source.named(),
            neighbour.namespace,
            neighbour.name
        ),
        why: format!(
            "all kept within what they were promised, and on {} that is more than it can give at once; the scheduler finds the victim another node where it can",
            key.node
        ),
        yaml: yaml + &source.with(Yaml::map([("affinity", affinity)])),
    }]
}

/// What the system uses, kept for it: pods are promised that much less.
pub(super) fn reserved(cx: &Cx<'_>) -> Vec<Remedy> {
    let node = &cx.breach().key.node;
    let used: f64 = cx
        .units()
        .filter(|found| found.node.name == *node && found.unit.party == Party::SYSTEM)
        .filter_map(|found| found.used_cores())
        .sum();
    let used = used.max(cx.figure("taken_cores").unwrap_or(0.0));
    let amount = workload::cpu((used * 1e9) as u64);
    let mut yaml = String::new();
    let note = format!(
        "part of the kubelet's configuration of {node}, to be merged into it; what is reserved there already is not known"
    );
    comment(&mut yaml, "", &note);
    let document = Yaml::map([
        ("apiVersion", Yaml::text("kubelet.config.k8s.io/v1beta1")),
        ("kind", Yaml::text("KubeletConfiguration")),
        ("systemReserved", Yaml::map([("cpu", Yaml::text(&amount))])),
    ]);
    yaml += &document.document();
    vec![Remedy {
        kind: "placement",
        by: Arc::from(PLATFORM),
        what: format!("{amount} of CPU are reserved on {node} for what is no tenant's"),
        why: format!(
            "the system's own work used {} cores there; what is reserved for it is promised to no pod",
            cores(used)
        ),
        yaml,
    }]
}
