//! The release programs.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{paths, run};

/// Builds all of them and returns the path of one; the others lie beside it, where it looks for them.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    run::streamed(build(&mut Command::new("cargo"), &[]))?;
    Ok(paths::target().join("release").join(name))
}

/// Makes `cargo` build all of them, or those named in `only`.
///
/// Always from the same set of packages: cargo settles on one set of features for what they share, and builds it once.
pub(crate) fn build<'a>(cargo: &'a mut Command, only: &[&str]) -> &'a mut Command {
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--workspace",
            "--exclude",
            "xtask",
        ])
        .current_dir(paths::root());
    for name in only {
        cargo.args(["--bin", name]);
    }
    if only.is_empty() {
        cargo.arg("--bins");
    }
    cargo
}
