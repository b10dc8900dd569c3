//! A compiler that can build `core` for BPF: a rustup nightly with `rust-src`, or Debian's packages.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{run, tools};

/// Pinned together with aya in the root Cargo.toml.
const BPF_LINKER: &str = "0.13.0";

/// A recent rustc (1.96 in Debian 12) with the sources of `core`. LLVM for bpf-linker follows from its version.
const DEBIAN: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

#[derive(Clone, Copy, Default, PartialEq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// The rustup nightly when it has rust-src, else Debian's packages
    #[default]
    Auto,
    Nightly,
    Debian,
}

pub(crate) struct Toolchain {
    choice: Choice,
    rustc_version: String,
    llvm_version: String,
    /// Where the compiler finds the sources of `core`, every spelling of it.
    pub(crate) core_sources: Vec<PathBuf>,
    /// Directory of bpf-linker, to be put on PATH.
    pub(crate) linker_dir: PathBuf,
    /// `llvm-strip` of the LLVM that bpf-linker is linked with.
    pub(crate) strip: PathBuf,
}

/// What the manifest says about the toolchain. The same record builds the same bytes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) rustc: String,
    pub(crate) llvm: String,
    pub(crate) bpf_linker: String,
}

impl Toolchain {
    pub(crate) fn record(&self) -> Record {
        Record {
            rustc: self.rustc_version.clone(),
            llvm: self.llvm_version.clone(),
            bpf_linker: BPF_LINKER.to_owned(),
        }
    }

    /// A `cargo` of this toolchain, free of what the calling cargo left in the environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut command;
        if self.choice == Choice::Nightly {
            command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
        } else {
            command = debian_cargo();
            // build-std is unstable; Debian's compiler is a stable one.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        without_callers(&mut command);
        command
    }
}

/// Debian's `cargo` and compiler, free of what the calling cargo left in the environment.
pub(crate) fn debian_cargo() -> Command {
    let mut command = Command::new("/usr/bin/cargo");
    command.env("RUSTC", "/usr/bin/rustc");
    without_callers(&mut command);
    command
}

fn without_callers(command: &mut Command) {
    for name in [
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(name);
    }
}

/// Installs Debian's compiler where it is missing. `why` completes "needed to …".
pub(crate) fn debian(why: &str) -> Result<()> {
    tools::debian_packages(&DEBIAN, why)
}

/// Finds what was asked for; installs Debian's packages and builds bpf-linker where they are missing.
pub(crate) fn find(choice: Choice) -> Result<Toolchain> {
    match choice {
        Choice::Nightly if !nightly_has_sources() => {
            bail!(
                "rustup has no nightly with rust-src: `rustup toolchain install nightly --component rust-src`"
            )
        }
        Choice::Nightly => complete(Choice::Nightly),
        Choice::Auto if nightly_has_sources() => complete(Choice::Nightly),
        Choice::Auto | Choice::Debian => {
            debian("compile eBPF (or have a rustup nightly with rust-src)")?;
            complete(Choice::Debian)
        }
    }
}

/// Like [`find`]; where there is a choice, the compiler that made the recorded object.
pub(crate) fn find_recorded(choice: Choice, recorded: &Record) -> Result<Toolchain> {
    let version = run::captured(rustc(Choice::Debian).arg("--version"));
    match choice {
        Choice::Auto if version.is_ok_and(|version| version.trim() == recorded.rustc) => find(Choice::Debian),
        _ => find(choice),
    }
}

fn nightly_has_sources() -> bool {
    run::captured(rustc(Choice::Nightly).args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

fn rustc(choice: Choice) -> Command {
    if choice == Choice::Nightly {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "rustc"]);
        command
    } else {
        Command::new("/usr/bin/rustc")
    }
}

fn complete(choice: Choice) -> Result<Toolchain> {
    let version = run::captured(rustc(choice).arg("-vV"))?;
    let field = |name: &str| {
        version
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("`rustc -vV` says no `{name}`:\n{version}"))
    };
    let llvm_version = field("LLVM version:")?;
    let rustc_version = version.lines().next().unwrap_or_default().to_owned();

    let sysroot = run::captured(rustc(choice).args(["--print", "sysroot"]))?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let real = sources
        .canonicalize()
        .with_context(|| format!("no sources of `core` at {}", sources.display()))?;

    let (linker_dir, strip) = linker(&llvm_version)?;
    Ok(Toolchain {
        choice,
        linker_dir,
        strip,
        rustc_version,
        llvm_version,
        core_sources: vec![sources, real],
    })
}

/// bpf-linker reads the compiler's bitcode, so it is linked with LLVM of the compiler's major version.
/// Returns its directory, and `llvm-strip`.
fn linker(llvm_version: &str) -> Result<(PathBuf, PathBuf)> {
    let major = llvm_version.split('.').next().unwrap_or(llvm_version);
    let (flavour, prefix) = (format!("llvm-{major}"), format!("/usr/lib/llvm-{major}"));
    let packages = [
        format!("llvm-{major}-dev"),
        format!("libllvm{major}"),
        format!("libpolly-{major}-dev"),
    ];
    tools::debian_packages(&packages.each_ref().map(String::as_str), "build bpf-linker")?;
    let program = tools::CargoTool {
        name: "bpf-linker",
        version: BPF_LINKER,
        flavour: &flavour,
        args: &["--no-default-features", "--features", &flavour],
        envs: &[("LLVM_PREFIX", &prefix)],
    }
    .path()?;
    let dir = program.parent().context("bpf-linker has no directory")?;
    Ok((dir.to_path_buf(), Path::new(&prefix).join("bin/llvm-strip")))
}
