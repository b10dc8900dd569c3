//! A command that consists of stages: all of them run, whatever one of them says, and each ends in one summary line.

use std::time::Instant;

use anyhow::{Result, bail};

pub(crate) enum Outcome {
    Passed,
    /// Not run, and why. Never used for what this machine could do.
    Skipped(String),
}

pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// What it proves, in a few words.
    about: &'static str,
    run: fn() -> Result<Outcome>,
}

impl Stage {
    pub(crate) const fn new(name: &'static str, about: &'static str, run: fn() -> Result<Outcome>) -> Self {
        Self { name, about, run }
    }
}

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// The stages named in `only`, or all when it is empty; an error when one of the names is none.
pub(crate) fn chosen<'a>(stages: &'a [Stage], only: &[String]) -> Result<Vec<&'a Stage>> {
    if let Some(name) = only
        .iter()
        .find(|name| !stages.iter().any(|stage| stage.name == **name))
    {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        bail!(
            "--only {name}: there is no such stage; there are {}",
            names.join(", ")
        );
    }
    Ok(stages
        .iter()
        .filter(|stage| only.is_empty() || only.iter().any(|name| name == stage.name))
        .collect())
}

pub(crate) fn list(stages: &[Stage]) {
    for stage in stages {
        println!("{:<10} {}", stage.name, stage.about);
    }
}

/// Runs the stages in order, then prints a line for each.
pub(crate) fn run(stages: &[&Stage]) -> Tally {
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    let first = Instant::now();
    for stage in stages {
        let began = Instant::now();
        let minutes = (began - first).as_secs_f64() / 60.0;
        eprintln!("\n=== {}, after {minutes:.1} min: {}", stage.name, stage.about);
        let outcome = (stage.run)();
        let seconds = began.elapsed().as_secs_f64();
        let (word, why) = match outcome {
            Ok(Outcome::Passed) => {
                tally.passed += 1;
                ("ok", String::new())
            }
            Ok(Outcome::Skipped(why)) => {
                tally.skipped += 1;
                ("skipped", why)
            }
            Err(error) => {
                tally.failed += 1;
                eprintln!("error: {error:#}");
                // The summary has one line for each stage; the whole error is above.
                (
                    "FAILED",
                    format!("{error:#}").lines().next().unwrap_or_default().to_owned(),
                )
            }
        };
        lines.push(format!("{:<10} {word:<7} {seconds:>7.1} s  {why}", stage.name));
    }
    println!();
    for line in lines {
        println!("{}", line.trim_end());
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Stage, chosen, run};
    use anyhow::bail;

    const STAGES: [Stage; 3] = [
        Stage::new("good", "passes", || Ok(Outcome::Passed)),
        Stage::new("bad", "fails", || bail!("broken")),
        Stage::new("absent", "is skipped", || {
            Ok(Outcome::Skipped("no such hardware".to_owned()))
        }),
    ];

    #[test]
    fn every_stage_runs_and_counts_once() {
        let all: Vec<&Stage> = STAGES.iter().collect();
        let tally = run(&all);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
    }

    #[test]
    fn only_takes_known_names() {
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            chosen(&STAGES, &only).map(|stages| stages.iter().map(|stage| stage.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all"), ["good", "bad", "absent"]);
        assert_eq!(names(&["absent"]).expect("one"), ["absent"]);
        let error = names(&["god"]).expect_err("no such stage").to_string();
        assert!(
            error.contains("god") && error.contains("good, bad, absent"),
            "{error}"
        );
    }
}
