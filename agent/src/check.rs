//! `partywall-agent check`: what this kernel lets the agent see.

use crate::config::CheckArgs;
use crate::kernel::features::{Facts, Feature, plan};
use crate::kernel::load::{Kernel, ProgramRuns};
use crate::kernel::maps::map_bytes_for;
use crate::link;
use crate::surroundings::{self, Surrounding};
use std::fmt::Write as _;

/// What was found. The JSON document is this struct.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// Whether anything can be counted here.
    pub able: bool,
    pub features: Vec<Feature>,
    /// What the kernel does not decide.
    pub surroundings: Vec<Surrounding>,
    /// Programs as the kernel verified them; empty when they were not loaded.
    pub programs: Vec<ProgramReport>,
    /// Why they were not.
    pub load_error: Option<String>,
    pub possible_cpus: u64,
    /// Kernel memory of the maps here, by formula.
    pub map_bytes: u64,
    /// Kernel memory of the maps as the kernel accounts it; absent when nothing was loaded.
    pub map_bytes_accounted: Option<u64>,
    /// Kernel memory of the maps on a machine with 320 possible CPUs, by formula.
    pub map_bytes_320_cpus: u64,
}

#[derive(Debug, serde::Serialize)]
pub struct ProgramReport {
    pub name: &'static str,
    /// Absent before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// Looks, loads and attaches everything once, and takes it away again. Needs a tokio runtime for the kernel side's log.
pub fn run(args: &CheckArgs) -> Report {
    let facts = Facts::probe(args.cgroup_root.as_deref());
    let (plan, mut features) = plan(&facts);
    let loaded = Kernel::load(&plan, &mut features, None);
    let cpus = aya::util::nr_cpus().map_or(0, |cpus| cpus as u64);
    let programs = loaded.as_ref().map_or_else(|_| Vec::new(), Kernel::program_runs);
    Report {
        kernel: facts.release,
        able: loaded.is_ok(),
        features,
        surroundings: {
            let mut all = surroundings::look(args.aggregator.as_deref(), args.spool_dir.as_deref());
            all.extend(link::look(
                args.link.tls().as_ref(),
                args.link.token_file.as_ref(),
            ));
            all
        },
        programs: programs
            .iter()
            .map(
                |&ProgramRuns {
                     name,
                     verified_instructions,
                     ..
                 }| ProgramReport {
                    name,
                    verified_instructions,
                },
            )
            .collect(),
        load_error: loaded.as_ref().err().map(ToString::to_string),
        possible_cpus: cpus,
        map_bytes: map_bytes_for(cpus),
        map_bytes_accounted: loaded.as_ref().ok().map(|kernel| kernel.maps.bytes()),
        map_bytes_320_cpus: map_bytes_for(320),
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("kernel {}, {} possible CPUs\n\n", self.kernel, self.possible_cpus);
        let width =
            |column: fn(&Feature) -> &str| self.features.iter().map(|f| column(f).len()).max().unwrap_or(0);
        let (name_width, reason_width) = (width(|f| f.name), width(|f| &f.reason).min(60));
        let _ = writeln!(
            text,
            "{:name_width$}  {:7}  {:reason_width$}  LOST WITHOUT IT",
            "FEATURE", "STATE", "HOW, OR WHY NOT"
        );
        for feature in &self.features {
            let state = if feature.present { "present" } else { "absent" };
            let _ = writeln!(
                text,
                "{:name_width$}  {state:7}  {:reason_width$}  {}",
                feature.name, feature.reason, feature.lost_without
            );
        }
        text.push('\n');
        self.tell_surroundings(&mut text);
        for program in &self.programs {
            let count = program
                .verified_instructions
                .map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            let _ = writeln!(
                text,
                "program {}: loaded, {count} instructions verified",
                program.name
            );
        }
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "maps: {:.1} MiB here, {:.1} MiB with 320 possible CPUs",
            mebibytes(self.map_bytes),
            mebibytes(self.map_bytes_320_cpus)
        );
        match &self.load_error {
            None => text.push_str("the agent can run here\n"),
            Some(error) => {
                let _ = writeln!(text, "nothing can be counted here: {error}");
            }
        }
        text
    }

    fn tell_surroundings(&self, text: &mut String) {
        let width = |column: fn(&Surrounding) -> &str| {
            let widths = self.surroundings.iter().map(|one| column(one).len());
            widths.max().unwrap_or(0)
        };
        let (name_width, found_width) = (width(|one| one.name), width(|one| &one.found).min(60));
        let _ = writeln!(
            text,
            "{:name_width$}  {:8}  {:found_width$}  WHEN IT IS NOT FINE",
            "BESIDES", "STATE", "HOW IT IS"
        );
        for one in &self.surroundings {
            let state = if one.fine { "fine" } else { "not fine" };
            let _ = writeln!(
                text,
                "{:name_width$}  {state:8}  {:found_width$}  {}",
                one.name, one.found, one.otherwise
            );
        }
        text.push('\n');
    }
}
