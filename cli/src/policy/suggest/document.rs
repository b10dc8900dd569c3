//! What is printed: YAML with comments, or one JSON document.

use std::collections::BTreeMap;

use partywall_aggregator_core::fence::{
    Direction, MANAGED_BY, NetworkPolicy, Operator, Peer, Port, PortNumber, Rule, Selector, document,
};
use partywall_aggregator_core::yaml;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::seen::AllSeen;
use super::fate::{Fate, Told};
use super::plan::Plan;
use crate::text::{count, utc};

/// Flows named before each policy; the counts are of all of them.
const LISTED: usize = 20;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    /// As `kubectl apply -f -` takes each.
    policies: Vec<Value>,
    flows: &'a [Told],
    /// Flows by fate.
    counts: BTreeMap<Fate, usize>,
    notes: &'a [String],
    /// Flows of pods that no policy was asked for.
    elsewhere: usize,
    seen_until_unix_seconds: f64,
    /// That the aggregator knew besides.
    left_out: u64,
    #[serde(skip)]
    plan: &'a Plan,
}

impl<'a> Document<'a> {
    pub(super) fn new(plan: &'a Plan, seen: &AllSeen) -> Self {
        let mut counts = BTreeMap::new();
        for told in &plan.flows {
            *counts.entry(told.fate).or_default() += 1;
        }
        Self {
            policies: plan.policies.iter().map(|s| object(&s.policy)).collect(),
            flows: &plan.flows,
            counts,
            notes: &plan.notes,
            elsewhere: plan.elsewhere,
            seen_until_unix_seconds: seen.until_unix_seconds(),
            left_out: seen.left_out,
            plan,
        }
    }

    pub(super) fn to_yaml(&self) -> String {
        let mut text = String::new();
        let mut say = |note: &str| yaml::comment(&mut text, "", note);
        let flows = count(self.flows.len(), "flow", "flows");
        let until = match self.seen_until_unix_seconds {
            0.0 => "none was ever seen".to_owned(),
            until => format!("the last one seen at {}", utc(until)),
        };
        let policies = count(self.policies.len(), "policy", "policies");
        say(&format!(
            "partywall policy suggest: {policies} from {flows}, {until}"
        ));
        let counts = Fate::ALL.iter().filter_map(|fate| {
            let n = self.counts.get(fate)?;
            Some(format!("{n} {}", fate.words()))
        });
        let counts: Vec<String> = counts.collect();
        if !counts.is_empty() {
            say(&format!("flows: {}", counts.join(", ")));
        }
        if self.elsewhere > 0 {
            let elsewhere = count(self.elsewhere, "flow is", "flows are");
            say(&format!("note: {elsewhere} of pods that no policy is asked for"));
        }
        if self.left_out > 0 {
            say(&format!(
                "note: the aggregator knew {} more flows, with fewer bytes: what they use may be cut",
                self.left_out
            ));
        }
        for note in self.notes {
            say(&format!("note: {note}"));
        }
        self.flows_of(&mut text, None);
        for suggested in &self.plan.policies {
            let policy = &suggested.policy;
            text.push_str("---\n");
            yaml::comment(&mut text, "", &format!("{policy}: {}", suggested.about));
            self.flows_of(&mut text, Some(&policy.to_string()));
            text.push_str(&document(policy, &suggested.ingress, &suggested.egress));
        }
        text
    }

    /// Those that are kept stand beside their rules.
    fn flows_of(&self, text: &mut String, policy: Option<&str>) {
        let is_of = |told: &&Told| told.policy.as_deref() == policy && told.fate != Fate::Kept;
        let mut told: Vec<&Told> = self.flows.iter().filter(is_of).collect();
        told.sort_by(|a, b| a.fate.cmp(&b.fate).then(b.bytes.cmp(&a.bytes)));
        for told in told.iter().take(LISTED) {
            yaml::comment(text, "", &told.line());
        }
        if let Some(more @ 1..) = told.len().checked_sub(LISTED) {
            yaml::comment(
                text,
                "",
                &format!("and {more} more flows that are not kept; --json lists them"),
            );
        }
    }
}

/// The same object as the YAML's.
fn object(policy: &NetworkPolicy) -> Value {
    let directions = [(Direction::Ingress, "Ingress"), (Direction::Egress, "Egress")];
    let with_rules = |(direction, name): &(Direction, &'static str)| {
        policy.rules(*direction).map(|rules| (*direction, *name, rules))
    };
    let spoken: Vec<_> = directions.iter().filter_map(with_rules).collect();
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), selector(&policy.pods));
    let types: Vec<&str> = spoken.iter().map(|(_, name, _)| *name).collect();
    spec.insert("policyTypes".to_owned(), json!(types));
    for (direction, _, rules) in spoken {
        let rules: Vec<Value> = rules.iter().map(|r| rule(r, direction)).collect();
        spec.insert(direction.as_str().to_owned(), rules.into());
    }
    let (key, value) = MANAGED_BY;
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy.name, "namespace": policy.namespace, "labels": {key: value}},
        "spec": spec,
    })
}

fn rule(rule: &Rule, direction: Direction) -> Value {
    let mut out = Map::new();
    if !rule.peers.is_empty() {
        let peers: Vec<Value> = rule.peers.iter().map(peer).collect();
        out.insert(direction.peers_field().to_owned(), peers.into());
    }
    if !rule.ports.is_empty() {
        let ports: Vec<Value> = rule.ports.iter().map(port).collect();
        out.insert("ports".to_owned(), ports.into());
    }
    out.into()
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Block(block) => json!({"ipBlock": {"cidr": block.to_string()}}),
        Peer::Pods { namespaces, pods } => {
            let of = [("namespaceSelector", namespaces), ("podSelector", pods)];
            let of = of
                .into_iter()
                .filter_map(|(name, s)| Some((name.to_owned(), selector(s.as_ref()?))));
            Map::from_iter(of).into()
        }
    }
}

fn port(port: &Port) -> Value {
    let protocol = port.protocol.to_string();
    match &port.number {
        PortNumber::Any => json!({"protocol": protocol}),
        PortNumber::Named(name) => json!({"protocol": protocol, "port": name}),
        PortNumber::Range(first, last) if first == last => json!({"protocol": protocol, "port": first}),
        PortNumber::Range(first, last) => json!({"protocol": protocol, "port": first, "endPort": last}),
    }
}

fn selector(selector: &Selector) -> Value {
    let mut out = Map::new();
    if !selector.match_labels.is_empty() {
        out.insert("matchLabels".to_owned(), json!(selector.match_labels));
    }
    let expressions = selector.match_expressions.iter().map(|e| match &e.operator {
        Operator::In(values) => json!({"key": e.key, "operator": "In", "values": values}),
        Operator::NotIn(values) => json!({"key": e.key, "operator": "NotIn", "values": values}),
        Operator::Exists => json!({"key": e.key, "operator": "Exists"}),
        Operator::DoesNotExist => json!({"key": e.key, "operator": "DoesNotExist"}),
    });
    let expressions: Vec<Value> = expressions.collect();
    if !expressions.is_empty() {
        out.insert("matchExpressions".to_owned(), expressions.into());
    }
    out.into()
}
