//! Compares what was raised with what the scenario says. Pure: all times are seconds since the observation began.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::scenario::{Expect, Refuse};

/// A breach that fired, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Raised {
    pub(crate) kind: String,
    #[serde(skip)]
    pub(crate) fingerprint: String,
    pub(crate) tenant: String,
    pub(crate) against: String,
    pub(crate) subject: String,
    pub(crate) summary: String,
    pub(crate) culprits: Vec<String>,
    pub(crate) fired_s: f64,
    pub(crate) resolved_s: Option<f64>,
}

impl Raised {
    /// "NoisyNeighbour red→blue (blue/web)"
    pub(crate) fn title(&self) -> String {
        let subject = if self.subject.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.subject)
        };
        format!("{}{subject}", title(&self.kind, &self.tenant, &self.against))
    }
}

/// "NoisyNeighbour red→blue"
pub(crate) fn title(kind: &str, tenant: &str, against: &str) -> String {
    let arrow = if against.is_empty() { "" } else { "→" };
    format!("{kind} {tenant}{arrow}{against}")
}

/// A piece of work that began.
#[derive(Clone, Debug)]
pub(crate) struct Began {
    pub(crate) tenant: String,
    pub(crate) at_s: f64,
}

/// One expectation, compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) expect: Expect,
    pub(crate) found: bool,
    /// From the start of the work that caused it to the breach; absent: never fired.
    pub(crate) seconds: Option<f64>,
    /// Why it was not found.
    pub(crate) problem: Option<String>,
}

/// A breach that must not have been raised.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct False {
    #[serde(flatten)]
    pub(crate) raised: Raised,
    pub(crate) why: &'static str,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    pub(crate) expected: Vec<Judged>,
    #[serde(rename = "false")]
    pub(crate) falses: Vec<False>,
}

pub(crate) fn judge(
    expect: &[Expect],
    refuse: &[Refuse],
    exhaustive: bool,
    raised: &[Raised],
    began: &[Began],
) -> Verdict {
    let expected = expect
        .iter()
        .map(|entry| judge_one(entry, raised, began))
        .collect();
    let falses = raised.iter().filter_map(|breach| {
        let refused = refuse.iter().any(|entry| {
            entry.breach == breach.kind
                && entry
                    .tenant
                    .as_ref()
                    .is_none_or(|tenant| *tenant == breach.tenant)
                && entry
                    .against
                    .as_ref()
                    .is_none_or(|against| *against == breach.against)
        });
        let unexpected = exhaustive && !expect.iter().any(|entry| names(entry, breach));
        let why = match (refused, unexpected) {
            (true, _) => "refused",
            (false, true) => "not expected",
            (false, false) => return None,
        };
        Some(False {
            raised: breach.clone(),
            why,
        })
    });
    Verdict {
        expected,
        falses: falses.collect(),
    }
}

fn names(expect: &Expect, breach: &Raised) -> bool {
    expect.breach == breach.kind
        && expect.tenant == breach.tenant
        && expect
            .against
            .as_ref()
            .is_none_or(|against| *against == breach.against)
}

fn judge_one(expect: &Expect, raised: &[Raised], began: &[Began]) -> Judged {
    let matching = || raised.iter().filter(|breach| names(expect, breach));
    let first = matching().min_by(|a, b| a.fired_s.total_cmp(&b.fired_s));
    let Some(first) = first else {
        return Judged {
            expect: expect.clone(),
            found: false,
            seconds: None,
            problem: Some("not raised".to_owned()),
        };
    };
    let seconds = first.fired_s - cause_s(expect, first, began);
    let open = matching().find(|breach| breach.resolved_s.is_none());
    let problem = if seconds > expect.within_s {
        Some(format!("late: {seconds:.1} s, allowed {:.1} s", expect.within_s))
    } else if let Some(least) = expect.not_before_s.filter(|least| seconds < *least) {
        Some(format!("early: {seconds:.1} s, not before {least:.1} s"))
    } else {
        let open = open.filter(|_| expect.resolved);
        let open = open.map(|breach| format!("{} did not clear before the end", breach.title()));
        open.or_else(|| flapped(expect, matching()))
    };
    Judged {
        expect: expect.clone(),
        found: problem.is_none(),
        seconds: Some(seconds),
        problem,
    }
}

/// A breach that fired more or less often than it must.
fn flapped<'a>(expect: &Expect, matching: impl Iterator<Item = &'a Raised>) -> Option<String> {
    let times = expect.times?;
    let mut fired: BTreeMap<String, usize> = BTreeMap::new();
    for breach in matching {
        *fired.entry(breach.title()).or_default() += 1;
    }
    let (title, count) = fired.into_iter().find(|(_, count)| *count != times)?;
    Some(format!("{title} fired {count} times, not {times}"))
}

/// When the work that caused the breach began: the last work of the two tenants that began before the breach fired. Where
/// nobody's neighbour is at fault (`system`), anybody's work counts.
fn cause_s(expect: &Expect, breach: &Raised, began: &[Began]) -> f64 {
    let concerned = |work: &&Began| {
        expect.tenant == "system" || work.tenant == breach.tenant || work.tenant == breach.against
    };
    let before = began
        .iter()
        .filter(|work| work.at_s <= breach.fired_s)
        .filter(concerned);
    before.map(|work| work.at_s).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(tenant: &str, against: Option<&str>, resolved: bool) -> Expect {
        Expect {
            breach: "NoisyNeighbour".to_owned(),
            tenant: tenant.to_owned(),
            against: against.map(str::to_owned),
            within_s: 5.0,
            not_before_s: None,
            resolved,
            times: None,
        }
    }

    fn raised(tenant: &str, against: &str, fired_s: f64, resolved_s: Option<f64>) -> Raised {
        Raised {
            kind: "NoisyNeighbour".to_owned(),
            fingerprint: String::new(),
            tenant: tenant.to_owned(),
            against: against.to_owned(),
            subject: format!("{against}/web"),
            summary: String::new(),
            culprits: Vec::new(),
            fired_s,
            resolved_s,
        }
    }

    fn began(tenant: &str, at_s: f64) -> Began {
        Began {
            tenant: tenant.to_owned(),
            at_s,
        }
    }

    fn refuse(tenant: &str) -> Refuse {
        Refuse {
            breach: "NoisyNeighbour".to_owned(),
            tenant: Some(tenant.to_owned()),
            against: None,
        }
    }

    fn problem(expect: Expect, seen: &[Raised], works: &[Began]) -> Option<String> {
        let verdict = judge(&[expect], &[], true, seen, works);
        assert_eq!(verdict.expected[0].found, verdict.expected[0].problem.is_none());
        verdict.expected[0].problem.clone()
    }

    #[test]
    fn found_in_time() {
        let verdict = judge(
            &[expect("red", Some("blue"), false)],
            &[],
            true,
            &[raised("red", "blue", 4.0, None)],
            &[],
        );
        assert!(verdict.expected[0].found && verdict.falses.is_empty());
        assert_eq!(verdict.expected[0].seconds, Some(4.0));
    }

    #[test]
    fn what_must_be_waited_for_is_wrong_when_it_comes_early() {
        let waited_for = Expect {
            not_before_s: Some(3.0),
            ..expect("red", None, false)
        };
        let at = |fired_s| raised("red", "blue", fired_s, None);
        // The clock is that of within_s: from the start of the work.
        let works = [began("red", 1.0)];
        let early = problem(waited_for.clone(), &[at(3.9)], &works);
        assert_eq!(early.unwrap(), "early: 2.9 s, not before 3.0 s");
        assert_eq!(problem(waited_for.clone(), &[at(4.1)], &works), None);
        // That it comes again in time does not excuse it.
        let again = problem(waited_for, &[at(2.0), at(4.1)], &works);
        assert!(again.unwrap().starts_with("early: 1.0 s"));
    }

    #[test]
    fn missing_or_against_another_tenant_is_not_found() {
        assert_eq!(
            problem(expect("red", None, false), &[], &[]).unwrap(),
            "not raised"
        );
        let wrong = [raised("red", "green", 4.0, None)];
        assert_eq!(
            problem(expect("red", Some("blue"), false), &wrong, &[]).unwrap(),
            "not raised"
        );
    }

    #[test]
    fn time_counts_from_the_last_work_of_those_concerned() {
        let seen = [raised("red", "blue", 9.0, None)];
        let early = [began("red", 0.0), began("blue", 0.0)];
        assert!(
            problem(expect("red", None, false), &seen, &early)
                .unwrap()
                .starts_with("late: 9.0 s")
        );
        // Neither a stranger's work nor work that began after the breach is its cause.
        let others = [began("red", 0.0), began("green", 6.0), began("red", 9.5)];
        assert!(problem(expect("red", None, false), &seen, &others).is_some());
        for cause in ["red", "blue"] {
            assert_eq!(
                problem(
                    expect("red", None, false),
                    &seen,
                    &[began("red", 0.0), began(cause, 5.0)]
                ),
                None
            );
        }
    }

    #[test]
    fn nobodys_breach_is_caused_by_anybodys_work() {
        let seen = [raised("system", "blue", 9.0, None)];
        assert_eq!(
            problem(expect("system", None, false), &seen, &[began("green", 6.0)]),
            None
        );
    }

    #[test]
    fn what_must_clear_must_clear_everywhere() {
        let cleared = raised("red", "blue", 3.0, Some(9.0));
        assert_eq!(
            problem(expect("red", None, true), std::slice::from_ref(&cleared), &[]),
            None
        );
        let again = [cleared, raised("red", "blue", 10.0, None)];
        assert!(
            problem(expect("red", None, true), &again, &[])
                .unwrap()
                .contains("did not clear")
        );
    }

    #[test]
    fn what_must_fire_once_must_not_flap() {
        let once = |victim| raised("red", victim, 3.0, Some(9.0));
        let times = |times| Expect {
            times: Some(times),
            ..expect("red", None, true)
        };
        // Two victims are two breaches, each with a life of its own.
        let seen = [once("blue"), once("green")];
        assert_eq!(problem(times(1), &seen, &[]), None);
        let again = [
            once("blue"),
            once("green"),
            raised("red", "blue", 12.0, Some(20.0)),
        ];
        let flaps = problem(times(1), &again, &[]).unwrap();
        assert_eq!(flaps, "NoisyNeighbour red→blue (blue/web) fired 2 times, not 1");
        assert!(problem(times(2), &again, &[]).unwrap().contains("green"));
    }

    #[test]
    fn what_nobody_expects_is_false_only_where_the_list_is_exhaustive() {
        let seen = [
            raised("red", "blue", 3.0, None),
            raised("green", "blue", 3.0, Some(4.0)),
        ];
        let entries = [expect("red", None, false)];
        let verdict = judge(&entries, &[], true, &seen, &[]);
        assert_eq!(verdict.falses.len(), 1);
        assert_eq!(
            (verdict.falses[0].raised.tenant.as_str(), verdict.falses[0].why),
            ("green", "not expected")
        );
        assert!(judge(&entries, &[], false, &seen, &[]).falses.is_empty());
    }

    #[test]
    fn what_is_refused_is_false_even_where_the_list_is_not_exhaustive() {
        let seen = [
            raised("red", "blue", 3.0, None),
            raised("green", "blue", 3.0, None),
        ];
        let verdict = judge(&[], &[refuse("green")], false, &seen, &[]);
        assert_eq!(verdict.falses.len(), 1);
        assert_eq!(
            (verdict.falses[0].raised.tenant.as_str(), verdict.falses[0].why),
            ("green", "refused")
        );
        assert!(judge(&[], &[refuse("pink")], false, &seen, &[]).falses.is_empty());
    }
}
