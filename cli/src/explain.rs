//! `partywall tenants --explain NAMESPACE`: the rules in the order in which they are tried, and what each one says.

use partywall_proto::v1;
use serde::Serialize;

use crate::output::{Paint, Tone};
use crate::table::{Cell, Column, Row, Table};
use crate::text::clean;

/// In the form that is printed as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Explanation {
    pub cluster: String,
    pub namespace: String,
    pub tenant: String,
    /// The rule that named it.
    pub resolved_by: String,
    /// All, in the order in which they are tried.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rule {
    pub rule: String,
    /// `named`, `silent`, `rejected` or `not_needed`.
    pub outcome: String,
    pub detail: String,
}

impl From<v1::NamespaceExplanation> for Explanation {
    fn from(wire: v1::NamespaceExplanation) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            namespace: clean(&wire.namespace),
            tenant: clean(&wire.tenant),
            resolved_by: clean(&wire.resolved_by),
            rules: wire.rules.into_iter().map(Rule::from).collect(),
        }
    }
}

impl From<v1::RuleTried> for Rule {
    fn from(wire: v1::RuleTried) -> Self {
        let outcome = match v1::RuleOutcome::try_from(wire.outcome) {
            Ok(v1::RuleOutcome::Named) => "named".to_owned(),
            Ok(v1::RuleOutcome::Silent) => "silent".to_owned(),
            Ok(v1::RuleOutcome::Rejected) => "rejected".to_owned(),
            Ok(v1::RuleOutcome::NotNeeded) => "not_needed".to_owned(),
            Ok(v1::RuleOutcome::Unspecified) | Err(_) => format!("unknown({})", wire.outcome),
        };
        Self {
            rule: clean(&wire.rule),
            outcome,
            detail: clean(&wire.detail),
        }
    }
}

impl Explanation {
    /// The tenant in words, and a row for each rule.
    pub(crate) fn to_text(&self, paint: Paint) -> String {
        let Self {
            cluster,
            namespace,
            tenant,
            ..
        } = self;
        let of = if cluster.is_empty() {
            String::new()
        } else {
            format!(" of cluster {cluster}")
        };
        let tenant = paint.tint(Tone::Strong, tenant);
        let why = self.why();
        format!(
            "namespace {namespace}{of} is tenant {tenant}'s: {why}\n\n{}",
            self.table().to_text(paint)
        )
    }

    fn why(&self) -> String {
        match self.resolved_by.as_str() {
            "system" => "the policy counts it to the system".to_owned(),
            "policy" => "the policy gives it to that tenant".to_owned(),
            "capsule" => "Capsule labelled it so".to_owned(),
            "vcluster" => "vcluster labelled it so".to_owned(),
            "hnc" => "it is below that one in the tree of the Hierarchical Namespace Controller".to_owned(),
            "label" => "it has the label that the policy goes by".to_owned(),
            "namespace" => "no rule names another, so it is its own tenant".to_owned(),
            rule => format!("by rule {rule}"),
        }
    }

    fn table(&self) -> Table {
        let row = |rule: &Rule| {
            let tone = match rule.outcome.as_str() {
                "named" => Tone::Good,
                "rejected" => Tone::Warn,
                _ => Tone::Dim,
            };
            Row {
                cells: vec![
                    Cell::new(rule.rule.as_str()),
                    Cell::toned(rule.outcome.replace('_', " "), tone),
                    Cell::toned(
                        rule.detail.as_str(),
                        if tone == Tone::Dim { tone } else { Tone::Plain },
                    ),
                ],
                note: None,
            }
        };
        Table {
            columns: vec![
                Column::name("RULE", 0),
                Column::name("OUTCOME", 0),
                Column::name("DETAIL", 0),
            ],
            rows: self.rules.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_safe_to_print() {
        let hostile = "x\u{1b}[2J";
        let wire = v1::NamespaceExplanation {
            cluster: hostile.into(),
            namespace: hostile.into(),
            tenant: hostile.into(),
            resolved_by: hostile.into(),
            rules: vec![v1::RuleTried {
                rule: hostile.into(),
                outcome: 77,
                detail: hostile.into(),
            }],
        };
        let explanation = Explanation::from(wire);
        assert_eq!(explanation.rules[0].outcome, "unknown(77)");
        let printed = serde_json::to_string(&explanation).expect("JSON");
        assert_eq!(printed.matches("u{1b}").count(), 6);
        assert!(!printed.contains('\u{1b}') && !printed.contains("\\u001b"));
    }

    #[test]
    fn every_outcome_has_a_word() {
        for number in 1..=4 {
            let rule = Rule::from(v1::RuleTried {
                outcome: number,
                ..v1::RuleTried::default()
            });
            assert!(!rule.outcome.contains('('), "{number}");
        }
    }

    #[test]
    fn the_tenant_stands_on_top_and_every_rule_below() {
        let rule = |rule: &str, outcome: &str, detail: &str| Rule {
            rule: rule.into(),
            outcome: outcome.into(),
            detail: detail.into(),
        };
        let explanation = Explanation {
            cluster: "eu-1".into(),
            namespace: "blue".into(),
            tenant: "navy".into(),
            resolved_by: "capsule".into(),
            rules: vec![
                rule(
                    "policy",
                    "silent",
                    "no tenant of the policy has namespace \"blue\"",
                ),
                rule("capsule", "named", "label capsule.clastix.io/tenant: \"navy\""),
                rule("namespace", "not_needed", "would be \"blue\""),
            ],
        };
        assert_eq!(
            explanation.to_text(Paint::Never),
            "namespace blue of cluster eu-1 is tenant navy's: Capsule labelled it so\n\n\
             RULE       OUTCOME     DETAIL\n\
             policy     silent      no tenant of the policy has namespace \"blue\"\n\
             capsule    named       label capsule.clastix.io/tenant: \"navy\"\n\
             namespace  not needed  would be \"blue\"\n"
        );
    }
}
