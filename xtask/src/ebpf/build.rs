//! One cargo call that compiles an eBPF crate to an object whose bytes do not depend on where it was built.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Object, toolchain::Toolchain};
use crate::{paths, run};

pub(crate) const TARGET: &str = "bpfel-unknown-none";
pub(crate) const PROFILE: &str = "bpf";

/// Flags that every object is built with, beside the path remapping. Part of the manifest.
/// `--btf`: map definitions and the verifier's line info need BTF in the object.
pub(crate) const FLAGS: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Builds `object` and returns where cargo left it.
pub(crate) fn build(object: &Object, toolchain: &Toolchain) -> Result<PathBuf> {
    let target_dir = paths::target().join("ebpf");
    let remaps = remaps(toolchain, &target_dir);
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    flags.extend(
        remaps
            .iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );

    run::streamed(
        toolchain
            .cargo()
            .args([
                "build",
                "--package",
                object.package,
                "--bin",
                object.package,
                "--features",
                "bpf",
            ])
            .args(["--profile", PROFILE, "--target", TARGET, "-Z", "build-std=core"])
            // Clippy is not to be had for this target everywhere: rustc's own warnings are all there are.
            .args(["-Z", "warnings", "--config", "build.warnings='deny'"])
            .arg("--target-dir")
            .arg(&target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env("PATH", with_dir(&toolchain.linker_dir)?)
            .current_dir(paths::root()),
    )
    .with_context(|| format!("{} does not build for BPF", object.package))?;

    let linked = target_dir.join(TARGET).join(PROFILE).join(object.package);
    let built = target_dir.join(object.file);
    // DWARF has served its purpose once BTF is made from it: it is nine tenths of the object.
    run::streamed(
        Command::new(&toolchain.strip)
            .arg("--strip-debug")
            .arg("-o")
            .args([&built, &linked]),
    )?;
    refuse_machine_paths(&built, &remaps)?;
    Ok(built)
}

/// Directories of this machine, and what stands for each in the object. Of two that match, rustc takes the later.
fn remaps(toolchain: &Toolchain, target_dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut remaps = vec![(paths::root(), ".")];
    if let Some(home) = paths::cargo_home() {
        remaps.push((home.clone(), "/cargo"));
        // The registry's directory carries a hash of where the registry is.
        let registries = fs::read_dir(home.join("registry/src"));
        let registries = registries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        remaps.extend(registries.map(|path| (path, "/cargo/registry")));
    }
    remaps.push((target_dir.to_path_buf(), "/target"));
    remaps.extend(toolchain.core_sources.iter().map(|path| (path.clone(), "/rust")));
    remaps
}

fn with_dir(dir: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(
        [dir.to_path_buf()].into_iter().chain(env::split_paths(&path)),
    )?)
}

/// An object that names this machine could not be rebuilt elsewhere, and would tell users where it was made.
fn refuse_machine_paths(built: &Path, remaps: &[(PathBuf, &str)]) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    for (path, _) in remaps {
        let path = path.to_string_lossy();
        if memory_contains(&bytes, path.as_bytes()) {
            bail!("{} contains the path {path} of this machine", built.display());
        }
    }
    Ok(())
}

fn memory_contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
