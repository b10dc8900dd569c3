//! The release programs.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{paths, run};

/// Builds all of them and returns the path of one; the others lie beside it, where it looks for them.
///
/// Always the same set: cargo settles on one set of features for what they share, and builds it once.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    run::streamed(
        Command::new("cargo")
            .args([
                "build",
                "--release",
                "--locked",
                "--workspace",
                "--exclude",
                "xtask",
                "--bins",
            ])
            .current_dir(paths::root()),
    )?;
    Ok(paths::target().join("release").join(name))
}
