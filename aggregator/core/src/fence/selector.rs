//! Label selectors, as `metav1.LabelSelector` defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What must hold of labels, all of it. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<Expression>,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub key: String,
    pub operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(BTreeSet<String>),
    /// Holds, too, where the label is absent.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

/// Why `operator` and `values` make no [`Operator`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    #[error("{0:?} is none of In, NotIn, Exists, DoesNotExist")]
    Unknown(String),
    #[error("{0} needs values")]
    NoValues(String),
    #[error("{0} takes no values")]
    Values(String),
}

impl Operator {
    /// # Errors
    /// An operator that Kubernetes does not know, or one with values that it does not take, or without those that it needs.
    pub fn new(operator: &str, values: BTreeSet<String>) -> Result<Self, OperatorError> {
        match (operator, values.is_empty()) {
            ("In", false) => Ok(Self::In(values)),
            ("NotIn", false) => Ok(Self::NotIn(values)),
            ("In" | "NotIn", true) => Err(OperatorError::NoValues(operator.to_owned())),
            ("Exists", true) => Ok(Self::Exists),
            ("DoesNotExist", true) => Ok(Self::DoesNotExist),
            ("Exists" | "DoesNotExist", false) => Err(OperatorError::Values(operator.to_owned())),
            _ => Err(OperatorError::Unknown(operator.to_owned())),
        }
    }

    fn admits(&self, value: Option<&String>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|v| values.contains(v)),
            Self::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

impl Selector {
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self
                .match_expressions
                .iter()
                .all(|e| e.operator.admits(labels.get(&e.key)))
    }

    /// Like [`Self::matches`] where only some labels are known, and others may exist: `None` where it depends on those.
    pub fn matches_some_known(&self, known: &BTreeMap<String, String>) -> Option<bool> {
        let labels = self
            .match_labels
            .iter()
            .map(|(k, v)| known.get(k).map(|value| value == v));
        let expressions = self
            .match_expressions
            .iter()
            .map(|e| known.get(&e.key).map(|value| e.operator.admits(Some(value))));
        let parts: Vec<Option<bool>> = labels.chain(expressions).collect();
        // One that fails settles it, whatever the others would say.
        if parts.contains(&Some(false)) {
            Some(false)
        } else if parts.contains(&None) {
            None
        } else {
            Some(true)
        }
    }
}

/// As `kubectl -l` spells it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
        let labels = self.match_labels.iter().map(|(k, v)| format!("{k}={v}"));
        let expressions = self.match_expressions.iter().map(|e| match &e.operator {
            Operator::In(values) => format!("{} in ({})", e.key, set(values)),
            Operator::NotIn(values) => format!("{} notin ({})", e.key, set(values)),
            Operator::Exists => e.key.clone(),
            Operator::DoesNotExist => format!("!{}", e.key),
        });
        f.write_str(&labels.chain(expressions).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Selector {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Selector {
            match_expressions: vec![Expression {
                key: key.to_owned(),
                operator: Operator::new(operator, values).unwrap(),
            }],
            ..Selector::default()
        }
    }

    #[test]
    fn each_operator_as_kubernetes_means_it() {
        let have = labels(&[("app", "web"), ("empty", "")]);
        let table = [
            ("app", "In", &["web", "api"][..], true),
            ("app", "In", &["api"], false),
            ("other", "In", &["web"], false),
            ("empty", "In", &[""], true),
            ("app", "NotIn", &["api"], true),
            ("app", "NotIn", &["web"], false),
            ("other", "NotIn", &["web"], true),
            ("app", "Exists", &[], true),
            ("empty", "Exists", &[], true),
            ("other", "Exists", &[], false),
            ("app", "DoesNotExist", &[], false),
            ("empty", "DoesNotExist", &[], false),
            ("other", "DoesNotExist", &[], true),
        ];
        for (key, operator, values, wanted) in table {
            let selector = expression(key, operator, values);
            assert_eq!(selector.matches(&have), wanted, "{selector}");
        }
        assert!(Selector::default().matches(&have) && Selector::default().matches(&labels(&[])));
    }

    #[test]
    fn all_must_hold_and_keys_and_values_are_compared_whole() {
        let mut selector = expression("tier", "NotIn", &["db"]);
        selector.match_labels = labels(&[("app", "web")]);
        assert!(selector.matches(&labels(&[("app", "web")])));
        assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "db")])));
        assert!(!selector.matches(&labels(&[("app", "Web")])));
        assert!(!selector.matches(&labels(&[("app", "web2")])));
        assert_eq!(selector.to_string(), "app=web,tier notin (db)");
    }

    #[test]
    fn what_depends_on_unknown_labels_is_unknown() {
        let known = labels(&[("name", "blue")]);
        let named = |value: &str| Selector {
            match_labels: labels(&[("name", value)]),
            ..Selector::default()
        };
        assert_eq!(Selector::default().matches_some_known(&known), Some(true));
        assert_eq!(named("blue").matches_some_known(&known), Some(true));
        assert_eq!(named("red").matches_some_known(&known), Some(false));
        assert_eq!(
            expression("team", "DoesNotExist", &[]).matches_some_known(&known),
            None
        );
        let mut both = expression("team", "Exists", &[]);
        both.match_labels = labels(&[("name", "red")]);
        assert_eq!(both.matches_some_known(&known), Some(false));
        both.match_labels = labels(&[("name", "blue")]);
        assert_eq!(both.matches_some_known(&known), None);
    }

    #[test]
    fn operators_take_the_values_that_the_api_server_admits() {
        let some = || BTreeSet::from(["a".to_owned()]);
        for (operator, values, needle) in [
            ("In", BTreeSet::new(), "needs values"),
            ("NotIn", BTreeSet::new(), "needs values"),
            ("Exists", some(), "takes no values"),
            ("DoesNotExist", some(), "takes no values"),
            ("in", some(), "\"in\" is none of"),
            ("", some(), "none of"),
        ] {
            let error = Operator::new(operator, values).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
