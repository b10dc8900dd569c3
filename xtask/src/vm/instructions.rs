//! How many instructions the verifier walked, per program and kernel: `tests/vm/instructions.toml`. Growth is noticed before a kernel refuses.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};

use crate::paths;

const TABLE: &str = "tests/vm/instructions.toml";

/// What a program may grow by before somebody looks at it.
const GROWTH_PERCENT: u64 = 20;

const HEAD: &str = "# Instructions that the verifier walked, by kernel and program: `cargo xtask vm --record` writes this file.
# A program that grows by more than 20 % fails `cargo xtask vm`. Kernels before 5.16 do not tell.
";

/// By kernel series, then by program.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    counts: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Counts {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string(paths::root().join(TABLE)).context(TABLE)?;
        Ok(Self {
            counts: toml::from_str(&text).context(TABLE)?,
        })
    }

    pub(crate) fn write(&self) -> Result<()> {
        let text = format!("{HEAD}\n{}", toml::to_string(&self.counts)?);
        fs::write(paths::root().join(TABLE), text).context(TABLE)
    }

    pub(crate) fn set(&mut self, series: &str, program: &str, count: u32) {
        self.counts
            .entry(series.to_owned())
            .or_default()
            .insert(program.to_owned(), count);
    }

    /// # Errors
    /// The program has grown too much, or is not in the table.
    pub(crate) fn judge(&self, series: &str, program: &str, count: u32) -> Result<()> {
        let Some(known) = self.counts.get(series).and_then(|programs| programs.get(program)) else {
            bail!("{TABLE} has no {program} for kernel {series}: run `cargo xtask vm --record`");
        };
        if u64::from(count) * 100 > u64::from(*known) * (100 + GROWTH_PERCENT) {
            bail!(
                "{program} has {count} verified instructions on kernel {series}, {known} in {TABLE}: more than {GROWTH_PERCENT} % above"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn growth_beyond_a_fifth_fails() {
        let mut counts = Counts::default();
        counts.set("6.1", "switch_btf", 1000);
        assert!(counts.judge("6.1", "switch_btf", 1200).is_ok());
        let error = counts
            .judge("6.1", "switch_btf", 1201)
            .expect_err("grown")
            .to_string();
        assert!(
            error.contains("switch_btf") && error.contains("1201") && error.contains("6.1"),
            "{error}"
        );
        assert!(counts.judge("5.10", "switch_btf", 1).is_err());
    }
}
