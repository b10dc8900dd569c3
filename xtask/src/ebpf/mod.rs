//! `cargo xtask ebpf`: the compiled eBPF objects are kept in the repository, so that stable Rust alone builds and runs
//! Partywall. This rebuilds them, and proves that they are what the sources say.

mod build;
mod manifest;
pub(crate) mod toolchain;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::paths;
use manifest::Manifest;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing: fail when an object or its manifest is stale (needs no eBPF toolchain)
    #[arg(long)]
    check: bool,
    /// With --check: build again as well, and fail when the bytes differ
    #[arg(long, requires = "check")]
    rebuild: bool,
    /// Only this package
    #[arg(long, value_name = "PACKAGE")]
    only: Option<String>,
    /// Which compiler to build with
    #[arg(long, value_enum, default_value_t)]
    toolchain: toolchain::Choice,
}

/// One eBPF crate whose object is kept in the repository.
struct Object {
    /// Package and binary; the binary needs feature `bpf`.
    package: &'static str,
    /// The crate's directory.
    dir: &'static str,
    /// Every directory or file whose bytes decide what the object is.
    sources: &'static [&'static str],
    /// Name of the object; it is kept in `dir/object`, beside `manifest.toml`.
    file: &'static str,
}

const OBJECTS: [Object; 2] = [
    Object {
        package: "partywall-ebpf",
        dir: "agent-ebpf",
        sources: &[
            "agent-ebpf/Cargo.toml",
            "agent-ebpf/src",
            "agent-ebpf/abi/Cargo.toml",
            "agent-ebpf/abi/src",
        ],
        file: "partywall.bpf.o",
    },
    Object {
        package: "partywall-bench-ebpf",
        dir: "tests/bench-ebpf",
        sources: &["tests/bench-ebpf/Cargo.toml", "tests/bench-ebpf/src"],
        file: "bench.bpf.o",
    },
];

impl Object {
    fn kept(&self) -> PathBuf {
        paths::root().join(self.dir).join("object").join(self.file)
    }

    fn manifest(&self) -> PathBuf {
        paths::root().join(self.dir).join("object/manifest.toml")
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.only
        && !OBJECTS.iter().any(|object| object.package == name)
    {
        bail!(
            "--only {name}: there are {}",
            OBJECTS.map(|object| object.package).join(" and ")
        );
    }
    for object in OBJECTS
        .iter()
        .filter(|object| args.only.as_deref().is_none_or(|name| name == object.package))
    {
        match (args.check, args.rebuild) {
            (false, _) => write(object, args.toolchain)?,
            (true, false) => check(object)?,
            (true, true) => {
                check(object)?;
                rebuild(object, args.toolchain).map(drop)?;
            }
        }
    }
    Ok(())
}

/// Every kept object is the one of its sources.
pub(crate) fn check_all() -> Result<()> {
    OBJECTS.iter().try_for_each(check)
}

/// Every kept object is fresh and is what its sources build. Where another compiler than the recorded one is at hand and
/// builds other bytes, those take the kept object's place if `install` says so.
pub(crate) fn rebuild_all(install: bool) -> Result<()> {
    for object in &OBJECTS {
        check(object)?;
        if let Rebuilt::Otherwise(built) = rebuild(object, toolchain::Choice::Auto)?
            && install
        {
            let kept = object.kept();
            fs::copy(&built, &kept).with_context(|| format!("cannot write {}", paths::shown(&kept)))?;
            println!(
                "{}: replaced, so that what follows runs what was built here",
                paths::shown(&kept)
            );
        }
    }
    Ok(())
}

fn write(object: &Object, choice: toolchain::Choice) -> Result<()> {
    let toolchain = toolchain::find(choice)?;
    let built = build::build(object, &toolchain)?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let manifest = Manifest::of(object, &bytes, &toolchain)?;
    let kept = object.kept();
    if let Some(dir) = kept.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", paths::shown(dir)))?;
    }
    fs::write(&kept, &bytes).with_context(|| format!("cannot write {}", paths::shown(&kept)))?;
    manifest.write(&object.manifest())?;
    println!(
        "{}: {} bytes, sha256 {}",
        paths::shown(&kept),
        bytes.len(),
        manifest.object.sha256
    );
    Ok(())
}

/// The kept object is the one the manifest describes, and the sources are those it came from.
fn check(object: &Object) -> Result<()> {
    let manifest = Manifest::read(&object.manifest())?;
    let kept = object.kept();
    let bytes = fs::read(&kept).with_context(|| format!("cannot read {}", paths::shown(&kept)))?;
    let mut stale = manifest.stale_sources(object)?;
    let found = manifest::sha256(&bytes);
    if found != manifest.object.sha256 {
        stale.push(format!(
            "{} is not the object that was recorded (sha256 {found})",
            paths::shown(&kept)
        ));
    }
    if !stale.is_empty() {
        bail!(
            "{} is stale: run `cargo xtask ebpf` and commit {}/object\n  {}",
            paths::shown(&kept),
            object.dir,
            stale.join("\n  ")
        );
    }
    println!(
        "{}: fresh ({} sources, {} bytes)",
        paths::shown(&kept),
        manifest.source.files.len(),
        bytes.len()
    );
    Ok(())
}

enum Rebuilt {
    Same,
    /// By another compiler, into other bytes: it may choose other instructions, and only the recorded one can prove them.
    Otherwise(PathBuf),
}

/// Builds from source and compares the bytes.
fn rebuild(object: &Object, choice: toolchain::Choice) -> Result<Rebuilt> {
    let manifest = Manifest::read(&object.manifest())?;
    let recorded = &manifest.toolchain;
    let toolchain = toolchain::find_recorded(choice, recorded)?;
    let built = build::build(object, &toolchain)?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let kept = paths::shown(&object.kept());
    if manifest::sha256(&bytes) == manifest.object.sha256 {
        println!("{kept}: rebuilt, the same {} bytes", bytes.len());
        return Ok(Rebuilt::Same);
    }
    let here = toolchain.record();
    if *recorded != here {
        println!(
            "{kept}: NOT COMPARED: recorded with {}, LLVM {}; rebuilt into other bytes with {}, LLVM {}",
            recorded.rustc, recorded.llvm, here.rustc, here.llvm
        );
        return Ok(Rebuilt::Otherwise(built));
    }
    bail!(
        "{kept} is not what its sources build with {}: {} bytes, sha256 {}, now in {}; run `cargo xtask ebpf` and commit; \
         if that changes nothing, the build depends on this machine",
        recorded.rustc,
        bytes.len(),
        manifest::sha256(&bytes),
        built.display()
    )
}
