//! Which pods of a namespace a ResourceQuota with scopes bounds.

use std::collections::BTreeSet;
use std::fmt;

use super::PodObject;

/// One condition of a quota; a pod counts that meets all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// `spec.activeDeadlineSeconds` is set: it ends by itself.
    Terminating,
    NotTerminating,
    /// It requests nothing and is bounded by nothing.
    BestEffort,
    NotBestEffort,
    /// By `spec.priorityClassName`.
    PriorityClass(Classes),
}

/// Which priority classes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Classes {
    In(BTreeSet<String>),
    /// A pod without one, too: as label selectors have it.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Scope {
    pub fn holds(&self, pod: &PodObject) -> bool {
        match self {
            Self::Terminating => pod.terminating,
            Self::NotTerminating => !pod.terminating,
            Self::BestEffort => pod.best_effort,
            Self::NotBestEffort => !pod.best_effort,
            Self::PriorityClass(classes) => {
                let class = pod.priority_class.as_deref();
                match classes {
                    Classes::In(names) => class.is_some_and(|c| names.contains(c)),
                    Classes::NotIn(names) => class.is_none_or(|c| !names.contains(c)),
                    Classes::Exists => class.is_some(),
                    Classes::DoesNotExist => class.is_none(),
                }
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self {
            Self::Terminating => f.write_str("Terminating"),
            Self::NotTerminating => f.write_str("NotTerminating"),
            Self::BestEffort => f.write_str("BestEffort"),
            Self::NotBestEffort => f.write_str("NotBestEffort"),
            Self::PriorityClass(Classes::In(names)) => write!(f, "PriorityClass in ({})", list(names)),
            Self::PriorityClass(Classes::NotIn(names)) => write!(f, "PriorityClass not in ({})", list(names)),
            Self::PriorityClass(Classes::Exists) => f.write_str("PriorityClass set"),
            Self::PriorityClass(Classes::DoesNotExist) => f.write_str("PriorityClass not set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_apart_as_the_api_server_does() {
        let pod = |terminating, best_effort, class: Option<&str>| PodObject {
            terminating,
            best_effort,
            priority_class: class.map(Into::into),
            ..PodObject::default()
        };
        let plain = pod(false, false, None);
        let job = pod(true, true, Some("high"));
        let names = BTreeSet::from(["high".to_owned()]);
        for (scope, of_plain, of_job) in [
            (Scope::Terminating, false, true),
            (Scope::NotTerminating, true, false),
            (Scope::BestEffort, false, true),
            (Scope::NotBestEffort, true, false),
            (Scope::PriorityClass(Classes::In(names.clone())), false, true),
            (Scope::PriorityClass(Classes::NotIn(names)), true, false),
            (Scope::PriorityClass(Classes::Exists), false, true),
            (Scope::PriorityClass(Classes::DoesNotExist), true, false),
        ] {
            assert_eq!(
                (scope.holds(&plain), scope.holds(&job)),
                (of_plain, of_job),
                "{scope}"
            );
        }
    }
}
