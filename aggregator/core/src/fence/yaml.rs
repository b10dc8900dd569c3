//! A policy as YAML that kubectl takes, with a comment for each rule.

use std::fmt::Write as _;

use super::model::{Direction, NetworkPolicy, Peer, Port, PortNumber, Rule};
use super::selector::{Operator, Selector};
use crate::yaml::{comment, quoted, scalar};

/// By which what was suggested is found again.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "partywall");

/// One document, of a policy that is made here. Notes are of the rules, in their order.
pub fn document(policy: &NetworkPolicy, ingress: &[String], egress: &[String]) -> String {
    let (key, value) = MANAGED_BY;
    let labels = format!("  labels:\n    {key}: {value}\n");
    text(policy, &labels, ingress, egress)
}

/// One document, of a policy that somebody else made: which labels it has is not known, and none is theirs to be given.
pub fn unlabelled(policy: &NetworkPolicy) -> String {
    text(policy, "", &[], &[])
}

fn text(policy: &NetworkPolicy, labels: &str, ingress: &[String], egress: &[String]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {}\n  namespace: {}\n{labels}spec:\n",
        scalar(&policy.name),
        scalar(&policy.namespace)
    );
    selector(&mut text, "  podSelector:", "    ", &policy.pods);
    text.push_str("  policyTypes:\n");
    for (direction, name) in [(Direction::Ingress, "Ingress"), (Direction::Egress, "Egress")] {
        if policy.rules(direction).is_some() {
            line(&mut text, "  - ", name);
        }
    }
    for (direction, notes) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
        let rules = policy.rules(direction).unwrap_or_default();
        if !rules.is_empty() {
            line(&mut text, "  ", &format!("{}:", direction.as_str()));
        }
        for (i, rule) in rules.iter().enumerate() {
            if let Some(note) = notes.get(i) {
                comment(&mut text, "  ", note);
            }
            self::rule(&mut text, rule, direction);
        }
    }
    text
}

fn line(text: &mut String, indent: &str, content: &str) {
    let _ = writeln!(text, "{indent}{content}");
}

fn rule(text: &mut String, rule: &Rule, direction: Direction) {
    let mut dash = "  - ";
    if !rule.peers.is_empty() {
        line(text, dash, &format!("{}:", direction.peers_field()));
        dash = "    ";
        for peer in &rule.peers {
            self::peer(text, peer);
        }
    }
    if !rule.ports.is_empty() {
        line(text, dash, "ports:");
        dash = "    ";
        for port in &rule.ports {
            self::port(text, port);
        }
    }
    if dash == "  - " {
        line(text, dash, "{}");
    }
}

fn peer(text: &mut String, peer: &Peer) {
    match peer {
        Peer::Block(block) => {
            line(text, "    - ", "ipBlock:");
            line(
                text,
                "        ",
                &format!("cidr: {}", quoted(&block.cidr().to_string())),
            );
            let except: Vec<String> = block
                .except()
                .iter()
                .map(|part| quoted(&part.to_string()))
                .collect();
            if !except.is_empty() {
                line(text, "        ", &format!("except: [{}]", except.join(", ")));
            }
        }
        Peer::Pods { namespaces, pods } => {
            let mut dash = "    - ";
            for (name, of) in [("namespaceSelector:", namespaces), ("podSelector:", pods)] {
                if let Some(of) = of {
                    selector(text, &format!("{dash}{name}"), "        ", of);
                    dash = "      ";
                }
            }
        }
    }
}

fn port(text: &mut String, port: &Port) {
    line(text, "    - ", &format!("protocol: {}", port.protocol));
    match &port.number {
        PortNumber::Any => {}
        PortNumber::Named(name) => line(text, "      ", &format!("port: {}", scalar(name))),
        PortNumber::Range(first, last) => {
            line(text, "      ", &format!("port: {first}"));
            if first != last {
                line(text, "      ", &format!("endPort: {last}"));
            }
        }
    }
}

fn selector(text: &mut String, head: &str, indent: &str, selector: &Selector) {
    if selector.is_empty() {
        line(text, head, " {}");
        return;
    }
    line(text, head, "");
    if !selector.match_labels.is_empty() {
        line(text, indent, "matchLabels:");
        for (key, value) in &selector.match_labels {
            line(text, indent, &format!("  {}: {}", scalar(key), scalar(value)));
        }
    }
    if selector.match_expressions.is_empty() {
        return;
    }
    line(text, indent, "matchExpressions:");
    for expression in &selector.match_expressions {
        line(text, indent, &format!("- key: {}", scalar(&expression.key)));
        let (operator, values) = match &expression.operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        line(text, indent, &format!("  operator: {operator}"));
        if let Some(values) = values {
            let values: Vec<String> = values.iter().map(|v| scalar(v)).collect();
            line(text, indent, &format!("  values: [{}]", values.join(", ")));
        }
    }
}
