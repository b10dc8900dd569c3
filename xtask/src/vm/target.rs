//! Architectures of guests: what differs between them, and how our programs come to one that is not this machine's.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::debian::{self, Suites};
use crate::{ebpf::toolchain, paths, run, tools};

/// As Debian calls it. Guests of our own architecture run the programs of `target/release`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arch {
    #[default]
    Amd64,
    Arm64,
}

/// What a guest of an architecture is booted with.
pub(crate) struct Machine {
    /// QEMU's program, and Debian's package that has it.
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) args: &'static [&'static str],
    pub(crate) console: &'static str,
    pub(crate) strip: &'static str,
}

impl Arch {
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    pub(crate) const fn machine(self) -> Machine {
        match self {
            Self::Amd64 => Machine {
                program: "qemu-system-x86_64",
                package: "qemu-system-x86",
                args: &["-cpu", "Nehalem"],
                console: "ttyS0",
                strip: "strip",
            },
            // One without pointer authentication, which is slow to emulate.
            Self::Arm64 => Machine {
                program: "qemu-system-aarch64",
                package: "qemu-system-arm",
                args: &["-machine", "virt,gic-version=3", "-cpu", "cortex-a72"],
                console: "ttyAMA0",
                strip: "aarch64-linux-gnu-strip",
            },
        }
    }
}

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// The linker and the static libc. binutils' strip comes with it.
const PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Debian's package of the standard library for `/usr/bin/rustc`.
const STD: &str = "libstd-rust-web-dev";

/// Builds our programs for arm64, linked statically: nothing of that architecture is installed on this machine.
pub(crate) struct Cross {
    /// Where Debian's compiler finds a standard library for arm64; none: rustup's toolchain has one.
    sysroot: Option<PathBuf>,
}

impl Cross {
    pub(crate) fn find() -> Result<Self> {
        tools::debian_packages(&PACKAGES, "link programs for arm64")?;
        if run::captured(
            Command::new("rustup")
                .args(["target", "list", "--installed"])
                .current_dir(paths::root()),
        )
        .is_ok_and(|targets| targets.lines().any(|line| line == TARGET))
        {
            return Ok(Self { sysroot: None });
        }
        toolchain::debian(&format!(
            "compile for arm64 (or run `rustup target add {TARGET}`)"
        ))?;
        Ok(Self {
            sysroot: Some(sysroot()?),
        })
    }

    /// Cargo that builds for arm64.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self.sysroot {
            Some(_) => toolchain::debian_cargo(),
            None => Command::new("cargo"),
        };
        let mut flags = OsString::from("-Ctarget-feature=+crt-static");
        if let Some(dir) = &self.sysroot {
            flags.push("\u{1f}--sysroot=");
            flags.push(dir);
        }
        command
            // With a target named, these reach neither build scripts nor macros, which run here.
            .env("CARGO_BUILD_TARGET", TARGET)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
            // Optimisation across units shows nothing in an emulated guest.
            .envs([
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
                ("CARGO_PROFILE_RELEASE_DEBUG", "none"),
            ]);
        command
    }

    /// Where cargo leaves a program.
    pub(crate) fn release(name: &str) -> PathBuf {
        paths::target().join(TARGET).join("release").join(name)
    }
}

/// The standard library of exactly the compiler's version: another one is refused by the compiler.
fn sysroot() -> Result<PathBuf> {
    let version = run::captured(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${Version}",
        &format!("{STD}:{}", Arch::Amd64.debian()),
    ]))?;
    let codename = debian::codename()?;
    let security = format!("{codename}-security");
    let suites = Suites::open("rust", &[&codename, &security])?;
    let unpacked = suites
        .unpacked(&format!("{STD}:{}={version}", Arch::Arm64.debian()))
        .with_context(|| {
            format!("Debian has {STD} {version} for arm64 no more: upgrade rustc-web and {STD}, or run `rustup target add {TARGET}`")
        })?;
    Ok(unpacked.join("usr"))
}
