//! Which kernels are booted, and what is expected of each: `tests/vm/kernels.toml`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{debian::Suites, target::Arch};
use crate::paths;

/// All that have a kernel of the table.
pub(crate) const SUITES: [&str; 5] = ["bullseye", "bookworm", "trixie", "trixie-backports", "forky"];

const TABLE: &str = "tests/vm/kernels.toml";

/// The series of whatever is the highest version that the suites have.
const NEWEST: &str = "newest";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kernel: Vec<Expected>,
}

/// One line of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expected {
    /// The version's first numbers, or `newest`.
    pub(crate) series: String,
    #[serde(default)]
    pub(crate) arch: Arch,
    /// Features that `partywall-agent check` must say are absent, each with the reason in words of ours.
    #[serde(default)]
    pub(crate) absent: BTreeMap<String, String>,
    /// Kernel tests that this kernel cannot pass, each with the reason.
    #[serde(default)]
    pub(crate) skip: BTreeMap<String, String>,
    /// Booted locked down, in this mode: a guest of its own.
    #[serde(default)]
    pub(crate) lockdown: Option<String>,
    /// Only kernel tests whose name contains this.
    #[serde(default)]
    pub(crate) only: Option<String>,
    /// Whether the scenarios that the host cannot run are run here; on amd64 alone.
    #[serde(default)]
    pub(crate) scenarios: bool,
    /// What of it `cargo xtask test` has time for.
    #[serde(default)]
    pub(crate) tested: Tested,
}

/// What `cargo xtask test` runs on a kernel; `cargo xtask vm` runs everything on each.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tested {
    /// It is not booted.
    #[default]
    No,
    /// Every program is loaded and checked, and scenarios are run, but no kernel tests.
    Scenarios,
    All,
}

/// A kernel that can be booted.
pub(crate) struct Kernel {
    pub(crate) arch: Arch,
    pub(crate) version: String,
    pub(crate) image: PathBuf,
}

impl Expected {
    /// As in `--kernel` and in every table: the series, the architecture where it is not the usual one, and whether it is locked down.
    pub(crate) fn name(&self) -> String {
        let mut name = self.series.clone();
        if self.arch != Arch::Amd64 {
            name = format!("{name}-{}", self.arch.debian());
        }
        if self.lockdown.is_some() {
            name.push_str("-locked-down");
        }
        name
    }
}

/// Names of the kernels that `cargo xtask test` boots.
pub(crate) fn tested() -> Result<Vec<String>> {
    let mut lines = expected(&[])?;
    lines.retain(|line| line.tested != Tested::No);
    Ok(lines.iter().map(Expected::name).collect())
}

/// The lines of the table, or those named in `only`.
pub(crate) fn expected(only: &[String]) -> Result<Vec<Expected>> {
    let path = paths::root().join(TABLE);
    let table: Table = toml::from_str(&fs::read_to_string(&path).context(TABLE)?).context(TABLE)?;
    if let Some(unknown) = only
        .iter()
        .find(|name| !table.kernel.iter().any(|kernel| kernel.name() == **name))
    {
        let known: Vec<String> = table.kernel.iter().map(Expected::name).collect();
        bail!("--kernel {unknown}: {TABLE} has {}", known.join(", "));
    }
    Ok(table
        .kernel
        .into_iter()
        .filter(|kernel| only.is_empty() || only.contains(&kernel.name()))
        .collect())
}

/// The newest kernel of each line's series, fetched.
pub(crate) fn fetch(suites: &Suites, lines: &[Expected]) -> Result<Vec<Kernel>> {
    let names = suites.names("linux-")?;
    lines.iter().map(|line| fetch_one(suites, &names, line)).collect()
}

fn fetch_one(suites: &Suites, names: &[String], line: &Expected) -> Result<Kernel> {
    let (series, arch) = (line.series.as_str(), line.arch.debian());
    let (prefix, suffix) = ("linux-image-", format!("-cloud-{arch}"));
    let version = names
        .iter()
        .filter_map(|name| {
            name.strip_prefix(prefix)?
                .strip_suffix(&suffix)
                .map(str::to_owned)
        })
        .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        .filter(|version| series == NEWEST || version.starts_with(&format!("{series}.")))
        .max_by_key(|version| numbers(version))
        .with_context(|| {
            format!(
                "no suite of {} has a kernel {series} for {arch}",
                SUITES.join(", ")
            )
        })?;
    // From Linux 6.19 on the image is a package of its own, and `linux-image` only depends on it.
    let split = format!("linux-binary-{version}{suffix}");
    let package = if names.contains(&split) {
        split
    } else {
        format!("{prefix}{version}{suffix}")
    };
    let dir = suites.unpacked(&format!("{package}:{arch}"))?;
    let name = format!("vmlinuz-{version}{suffix}");
    let image = [
        dir.join("boot").join(&name),
        dir.join(format!("usr/lib/modules/{version}{suffix}/vmlinuz")),
        dir.join("usr/lib").join(&name),
    ]
    .into_iter()
    .find(|path| path.is_file())
    .with_context(|| format!("package {package} has no {name}"))?;
    Ok(Kernel {
        arch: line.arch,
        version,
        image,
    })
}

/// Orders `6.12.107+deb13` behind `6.12.95+deb13`.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Arch, Tested, expected, numbers};

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(numbers("6.12.107+deb13") > numbers("6.12.95+deb13"));
        assert!(numbers("6.12.107+deb13") > numbers("6.12.107+deb12"));
        assert!(numbers("7.3.4+deb13") > numbers("6.18.15+deb13"));
    }

    #[test]
    fn the_table_is_whole() {
        let all = expected(&[]).expect("the table");
        assert!(all.iter().any(|kernel| kernel.series == "5.10"));
        assert!(all.iter().any(|kernel| kernel.scenarios));
        assert!(
            all.iter()
                .all(|kernel| kernel.tested != Tested::No || !kernel.scenarios),
            "`cargo xtask test` runs every scenario somewhere"
        );
        assert!(
            all.iter()
                .all(|kernel| kernel.arch == Arch::Amd64 || !kernel.scenarios)
        );
        let error = expected(&["4.19".to_owned()])
            .expect_err("no such line")
            .to_string();
        assert!(error.contains("4.19") && error.contains("5.10, "), "{error}");
    }

    #[test]
    fn a_name_picks_one_architecture() {
        for (name, arch) in [("6.1", Arch::Amd64), ("6.1-arm64", Arch::Arm64)] {
            let lines = expected(&[name.to_owned()]).expect("a line");
            assert_eq!(lines.len(), 1, "{name}");
            assert_eq!((lines[0].series.as_str(), lines[0].arch), ("6.1", arch));
        }
    }
}
