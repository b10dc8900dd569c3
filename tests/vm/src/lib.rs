//! What `cargo xtask vm` asks of a guest, and what the guest says: a file in the initramfs, and marked lines on the console.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Where the guest finds its [`Job`].
pub const JOB_FILE: &str = "/job.json";

/// Where the guest mounts its scratch disk: a real disk, on which files are page cache and not memory.
pub const SCRATCH: &str = "/scratch";

/// Begins each line of the console that is a [`Said`].
pub const MARK: &str = "@partywall ";

/// What a guest does between boot and power-off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Kernel modules, loaded in this order.
    pub modules: Vec<String>,
    /// What to write to which file below /proc/sys.
    pub settings: BTreeMap<String, String>,
    pub steps: Vec<Step>,
    /// A shell on the console after the steps.
    pub shell: bool,
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Killed after this time.
    pub limit: Duration,
    /// Its standard output is for the host's program, not for whoever watches.
    pub captured: bool,
    /// A file that it writes, for the host.
    pub file: Option<String>,
}

/// What a guest says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// User space runs.
    Booted { release: String, cpus: usize },
    /// A step ended.
    Ended {
        step: String,
        /// Its exit code; none: killed.
        code: Option<i32>,
        seconds: f64,
        /// What it printed, where that is captured.
        output: Option<String>,
        /// What it wrote to its file.
        file: Option<String>,
    },
    /// All steps ended; nothing follows.
    Done,
    /// The guest cannot go on.
    Failed { error: String },
}

impl Said {
    /// The line for the console.
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_else(|error| format!("\"{error}\""));
        format!("{MARK}{json}")
    }

    /// What a line of the console says; `None`: it is not marked.
    ///
    /// # Errors
    /// It is marked, and nothing that a guest says.
    pub fn parse(line: &str) -> Option<Result<Self, serde_json::Error>> {
        // The firmware and the kernel may leave a line unfinished before.
        let (_, json) = line.trim_end().split_once(MARK)?;
        Some(serde_json::from_str(json))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let said = Said::Ended {
            step: "check".to_owned(),
            code: None,
            seconds: 1.5,
            output: Some("two\nlines \u{1b}[0m".to_owned()),
            file: None,
        };
        let line = format!("\u{1b}[c{}\r\n", said.line());
        assert_eq!(line.lines().count(), 1);
        assert_eq!(Said::parse(&line).unwrap().unwrap(), said);
        assert!(Said::parse("[    0.5] a kernel message").is_none());
        assert!(Said::parse("@partywall {\"half\":").unwrap().is_err());
    }
}
