//! What a person and a program read of a run.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    judge::{Raised, title},
    run::Shown,
    scenario::Scenario,
    stage::{Lost, Sent},
};

/// How one scenario came out.
pub(crate) enum Outcome {
    Ran(Box<Shown>),
    Skipped(String),
    /// Could not be run at all.
    Failed(String),
}

#[derive(Debug, Default, Serialize, PartialEq)]
pub(crate) struct Summary {
    run: usize,
    skipped: usize,
    failed: usize,
    expected: usize,
    found: usize,
    #[serde(rename = "false")]
    falses: usize,
    measures_outside: usize,
    /// Faults of a run beside its verdict: a worker or daemon that ended, a ledger that does not add up, a refused report.
    faults: usize,
    median_seconds_to_breach: Option<f64>,
    #[serde(skip)]
    seconds: Vec<f64>,
}

impl Summary {
    pub(crate) fn add(&mut self, scenario: &Scenario, outcome: &Outcome) {
        match outcome {
            Outcome::Skipped(_) => self.skipped += 1,
            Outcome::Failed(_) => {
                self.run += 1;
                self.failed += 1;
                self.expected += scenario.expect.len();
            }
            Outcome::Ran(shown) => {
                self.run += 1;
                self.expected += shown.verdict.expected.len();
                self.found += shown
                    .verdict
                    .expected
                    .iter()
                    .filter(|judged| judged.found)
                    .count();
                self.falses += shown.verdict.falses.len();
                self.measures_outside += shown.measures.iter().filter(|measured| !measured.ok).count();
                self.faults += shown.faults.len();
                self.seconds
                    .extend(shown.verdict.expected.iter().filter_map(|judged| judged.seconds));
                self.median_seconds_to_breach = median(&mut self.seconds);
            }
        }
    }

    /// Whether everything that ran was right, and enough ran.
    pub(crate) fn is_right(&self, require_all: bool) -> bool {
        self.found == self.expected
            && self.falses == 0
            && self.measures_outside == 0
            && self.failed == 0
            && self.faults == 0
            && (!require_all || self.skipped == 0)
    }

    /// The last line.
    pub(crate) fn line(&self) -> String {
        let Self {
            run,
            expected,
            found,
            falses,
            measures_outside,
            ..
        } = self;
        let median = self
            .median_seconds_to_breach
            .map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
        format!(
            "scenarios: {run} run, {expected} expected, {found} found, {falses} false, \
             {measures_outside} measures outside bounds, median time to breach {median} s"
        )
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

pub(crate) const HEADER: &str =
    "    SCENARIO                            EXPECTED  FOUND  FALSE  SECONDS TO BREACH";

/// The row of one scenario, and a line for everything that needs explaining.
pub(crate) fn row(scenario: &Scenario, outcome: &Outcome) -> String {
    let name = &scenario.name;
    let shown = match outcome {
        Outcome::Skipped(why) => return format!("--  {name:<34}  skipped: {why}"),
        Outcome::Failed(why) => return format!("!!  {name:<34}  failed: {}", indent(why)),
        Outcome::Ran(shown) => shown,
    };
    let verdict = &shown.verdict;
    let seconds: Vec<String> = verdict
        .expected
        .iter()
        .filter_map(|judged| {
            let expect = &judged.expect;
            let title = title(
                &expect.breach,
                &expect.tenant,
                expect.against.as_deref().unwrap_or(""),
            );
            Some(format!("{title} {:.1}", judged.seconds?))
        })
        .collect();
    let mark = if shown.is_right() { "ok" } else { "!!" };
    let found = verdict.expected.iter().filter(|judged| judged.found).count();
    let mut lines = vec![format!(
        "{mark}  {name:<34}  {:>8}  {found:>5}  {:>5}  {}",
        verdict.expected.len(),
        verdict.falses.len(),
        if seconds.is_empty() {
            "-".to_owned()
        } else {
            seconds.join(", ")
        },
    )];
    lines.extend(
        shown
            .measures
            .iter()
            .map(|measured| format!("      {}", measured.title())),
    );
    if !shown.killed.is_empty() {
        lines.push(format!(
            "      killed, out of memory: {}",
            shown.killed.join(", ")
        ));
    }
    lines.extend(shown.sent.iter().map(|sent| format!("      {}", sent.line())));
    lines.extend(shown.lost.iter().map(|lost| format!("      {}", lost.line())));
    for judged in verdict.expected.iter().filter(|judged| !judged.found) {
        let expect = &judged.expect;
        let title = title(
            &expect.breach,
            &expect.tenant,
            expect.against.as_deref().unwrap_or(""),
        );
        lines.push(format!(
            "      expected {title}: {}",
            judged.problem.as_deref().unwrap_or("")
        ));
    }
    lines.extend(
        verdict
            .falses
            .iter()
            .map(|wrong| format!("      {}: {}", wrong.why, told(&wrong.raised))),
    );
    lines.extend(
        shown
            .faults
            .iter()
            .map(|fault| format!("      fault: {}", indent(fault))),
    );
    if !shown.is_right() {
        lines.extend(
            shown
                .raised
                .iter()
                .map(|raised| format!("      raised: {}", told(raised))),
        );
        lines.extend(
            shown
                .log_tails
                .iter()
                .map(|tail| format!("      {}", indent(tail))),
        );
    }
    lines.join("\n")
}

fn told(raised: &Raised) -> String {
    let end = raised
        .resolved_s
        .map_or_else(|| "the end".to_owned(), |s| format!("{s:.1} s"));
    format!(
        "{} from {:.1} s to {end}: {}",
        raised.title(),
        raised.fired_s,
        raised.summary
    )
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n      ")
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    about: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    shown: Option<ShownEntry<'a>>,
}

#[derive(Serialize)]
struct ShownEntry<'a> {
    #[serde(flatten)]
    verdict: &'a crate::judge::Verdict,
    measures: &'a [crate::measure::Measured],
    raised: &'a [Raised],
    killed: &'a [String],
    sent: &'a [Sent],
    lost: &'a [Lost],
    beside: BTreeMap<&'a str, f64>,
    faults: &'a [String],
}

/// The whole run as one JSON document.
pub(crate) fn json(outcomes: &[(Scenario, Outcome)], summary: &Summary) -> serde_json::Result<String> {
    let entries: Vec<Entry<'_>> = outcomes
        .iter()
        .map(|(scenario, outcome)| {
            let (outcome, reason, shown) = match outcome {
                Outcome::Ran(shown) if shown.is_right() => ("right", None, Some(shown)),
                Outcome::Ran(shown) => ("wrong", None, Some(shown)),
                Outcome::Skipped(why) => ("skipped", Some(why.as_str()), None),
                Outcome::Failed(why) => ("failed", Some(why.as_str()), None),
            };
            let shown = shown.map(|shown| ShownEntry {
                verdict: &shown.verdict,
                measures: &shown.measures,
                raised: &shown.raised,
                killed: &shown.killed,
                sent: &shown.sent,
                lost: &shown.lost,
                beside: shown
                    .beside
                    .iter()
                    .map(|(cgroup, cores)| (cgroup.as_str(), *cores))
                    .collect(),
                faults: &shown.faults,
            });
            Entry {
                name: &scenario.name,
                about: &scenario.about,
                outcome,
                reason,
                shown,
            }
        })
        .collect();
    serde_json::to_string_pretty(&serde_json::json!({ "scenarios": entries, "summary": summary }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        judge::{Began, judge},
        scenario::parse,
    };

    const TEXT: &str = r#"
name = "x"
about = "x"
seconds = 10
[[expect]]
breach = "NoisyNeighbour"
tenant = "red"
within_s = 5
"#;

    fn ran(fired_s: f64) -> (Scenario, Outcome) {
        let scenario = parse(TEXT).unwrap();
        let raised = Raised {
            kind: "NoisyNeighbour".to_owned(),
            fingerprint: "ab".to_owned(),
            tenant: "red".to_owned(),
            against: "blue".to_owned(),
            subject: "blue/web".to_owned(),
            summary: "red took 0.6 cores".to_owned(),
            culprits: Vec::new(),
            fired_s,
            resolved_s: None,
        };
        let began = [Began {
            tenant: "red".to_owned(),
            at_s: 1.0,
        }];
        let verdict = judge(&scenario.expect, &[], true, std::slice::from_ref(&raised), &began);
        (
            scenario,
            Outcome::Ran(Box::new(Shown {
                verdict,
                raised: vec![raised],
                ..Shown::default()
            })),
        )
    }

    fn summary(outcomes: &[(Scenario, Outcome)]) -> Summary {
        let mut summary = Summary::default();
        for (scenario, outcome) in outcomes {
            summary.add(scenario, outcome);
        }
        summary
    }

    #[test]
    fn the_last_line_is_the_formats() {
        let outcomes = [
            ran(4.0),
            ran(3.0),
            (parse(TEXT).unwrap(), Outcome::Skipped("psi".to_owned())),
        ];
        let summary = summary(&outcomes);
        assert_eq!(
            summary.line(),
            "scenarios: 2 run, 2 expected, 2 found, 0 false, 0 measures outside bounds, median time to breach 2.5 s"
        );
        assert!(summary.is_right(false));
        assert!(
            !summary.is_right(true),
            "a skip is a failure where all are required"
        );
    }

    #[test]
    fn anything_wrong_is_not_right() {
        assert!(!summary(&[ran(9.0)]).is_right(false));
        assert!(!summary(&[(parse(TEXT).unwrap(), Outcome::Failed("no agent".to_owned()))]).is_right(false));
        let (scenario, Outcome::Ran(mut shown)) = ran(4.0) else {
            unreachable!()
        };
        shown.faults.push("the ledger does not add up".to_owned());
        assert!(!summary(&[(scenario, Outcome::Ran(shown))]).is_right(false));
    }

    #[test]
    fn a_wrong_row_explains_itself() {
        let (scenario, outcome) = ran(9.0);
        let row = row(&scenario, &outcome);
        assert!(row.starts_with("!!  x"), "{row}");
        assert!(
            row.contains("late: 8.0 s, allowed 5.0 s") && row.contains("red took 0.6 cores"),
            "{row}"
        );
    }

    #[test]
    fn json_says_the_same() {
        let outcomes = [
            ran(4.0),
            (parse(TEXT).unwrap(), Outcome::Skipped("psi".to_owned())),
        ];
        let value: serde_json::Value =
            serde_json::from_str(&json(&outcomes, &summary(&outcomes)).unwrap()).unwrap();
        assert_eq!(value["scenarios"][0]["outcome"], "right");
        assert_eq!(value["scenarios"][0]["expected"][0]["seconds"], 3.0);
        assert_eq!(value["scenarios"][1]["reason"], "psi");
        assert_eq!(value["summary"]["found"], 1);
        assert_eq!(value["summary"]["false"], 0);
    }
}
