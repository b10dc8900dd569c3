//! Which kernels are booted, and what is expected of each: `tests/vm/kernels.toml`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::debian::Suites;
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
    /// Features that `partywall-agent check` must say are absent, each with the reason in words of ours.
    #[serde(default)]
    pub(crate) absent: BTreeMap<String, String>,
    /// Kernel tests that this kernel cannot pass, each with the reason.
    #[serde(default)]
    pub(crate) skip: BTreeMap<String, String>,
    /// Whether the scenarios that the host cannot run are run here.
    #[serde(default)]
    pub(crate) scenarios: bool,
}

/// A kernel that can be booted.
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
}

/// The lines of the table, or those whose series is named in `only`.
pub(crate) fn expected(only: &[String]) -> Result<Vec<Expected>> {
    let path = paths::root().join(TABLE);
    let table: Table = toml::from_str(&fs::read_to_string(&path).context(TABLE)?).context(TABLE)?;
    if let Some(unknown) = only
        .iter()
        .find(|series| !table.kernel.iter().any(|kernel| kernel.series == **series))
    {
        let known: Vec<&str> = table.kernel.iter().map(|kernel| kernel.series.as_str()).collect();
        bail!("--kernel {unknown}: {TABLE} has {}", known.join(", "));
    }
    Ok(table
        .kernel
        .into_iter()
        .filter(|kernel| only.is_empty() || only.contains(&kernel.series))
        .collect())
}

/// The newest kernel of a series, fetched. `arch` as Debian calls it.
pub(crate) fn fetch(suites: &Suites, series: &str, arch: &str) -> Result<Kernel> {
    let (prefix, suffix) = ("linux-image-", format!("-cloud-{arch}"));
    let version = suites
        .names(prefix)?
        .iter()
        .filter_map(|name| {
            name.strip_prefix(prefix)?
                .strip_suffix(&suffix)
                .map(str::to_owned)
        })
        .filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        .filter(|version| series == NEWEST || version.starts_with(&format!("{series}.")))
        .max_by_key(|version| numbers(version))
        .with_context(|| format!("no suite of {} has a kernel {series}", SUITES.join(", ")))?;
    // From Linux 6.19 on the image is a package of its own, and `linux-image` only depends on it.
    let split = format!("linux-binary-{version}{suffix}");
    let package = if suites.names(&split)?.contains(&split) {
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
    Ok(Kernel { version, image })
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
    use super::{expected, numbers};

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
        let error = expected(&["4.19".to_owned()])
            .expect_err("no such line")
            .to_string();
        assert!(error.contains("4.19") && error.contains("5.10, 6.1"), "{error}");
    }
}
