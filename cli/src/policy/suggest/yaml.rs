//! A policy as YAML that kubectl takes, with a comment for each rule.

use std::fmt::Write as _;

use partywall_aggregator_core::fence::{
    Direction, NetworkPolicy, Operator, Peer, Port, PortNumber, Rule, Selector,
};

/// By which what was suggested is found again.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "partywall");

/// One document. Notes are of the rules, in their order.
pub(super) fn document(policy: &NetworkPolicy, ingress: &[String], egress: &[String]) -> String {
    let (key, value) = MANAGED_BY;
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {}\n  namespace: {}\n  labels:\n    {key}: {value}\nspec:\n",
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

/// Nothing in it can end the line.
pub(super) fn comment(text: &mut String, indent: &str, note: &str) {
    let note = crate::text::clean(note);
    let _ = writeln!(text, "{indent}# {note}");
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
        // Suggestions leave nothing out of a block.
        Peer::Block(block) => {
            line(text, "    - ", "ipBlock:");
            line(text, "        ", &format!("cidr: {}", quoted(&block.to_string())));
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

/// Plain where every YAML reader takes it for text, else in quotes.
pub(super) fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan"];
    let is_plain = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// JSON's quotes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for (text, wanted) in [
            ("web", "web"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
            ("True", "\"True\""),
            ("y", "\"y\""),
            ("1e5", "\"1e5\""),
            ("0x10", "\"0x10\""),
            ("123", "\"123\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
        ] {
            assert_eq!(scalar(text), wanted);
        }
    }
}
