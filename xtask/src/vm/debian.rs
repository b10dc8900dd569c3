//! Packages of any Debian suite, fetched and unpacked beside the system: nothing is installed, nothing of the system's changes.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use crate::{paths, run, tools};

/// Package lists are asked for again after this time.
const FRESH: Duration = Duration::from_hours(24);

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Some suites' package lists, in a directory of their own.
pub(crate) struct Suites {
    dir: PathBuf,
}

impl Suites {
    /// Fetches the lists of `suites` unless they are fresh. `name`: the directory, one for each set of suites.
    pub(crate) fn open(name: &str, suites: &[&str]) -> Result<Self> {
        let dir = paths::vm().join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let sources: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror(suite)))
            .collect();
        let shown = dir.display();
        let config = format!(
            "Dir::Etc::sourcelist \"{shown}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
             Dir::State::lists \"{shown}/lists\";\nDir::Cache \"{shown}/cache\";\n\
             APT::Architectures {{ \"amd64\"; \"arm64\"; }};\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        );
        let suites = Self { dir };
        let stamp = suites.dir.join("updated");
        let same = fs::read_to_string(suites.dir.join("sources.list")).is_ok_and(|old| old == sources);
        let fresh = fs::metadata(&stamp)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < FRESH));
        if !same || !fresh {
            fs::write(suites.dir.join("sources.list"), sources)?;
            fs::write(suites.dir.join("apt.conf"), config)?;
            tools::apt_update(suites.apt("apt-get"))?;
            fs::write(stamp, "")?;
        }
        Ok(suites)
    }

    /// A command of apt's that sees these suites alone.
    pub(crate) fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }

    /// Names of packages that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = run::captured(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The directory with what `package` contains (`name`, `name:arch` or `name:arch=version`), fetched when it is not there yet.
    pub(crate) fn unpacked(&self, package: &str) -> Result<PathBuf> {
        let name = package.replace(':', "-");
        let dir = paths::vm().join("packages").join(&name);
        if dir.is_dir() {
            return Ok(dir);
        }
        let parts = dir.with_file_name(format!("{name}.part"));
        if parts.exists() {
            fs::remove_dir_all(&parts)?;
        }
        let fetched = parts.join("deb");
        fs::create_dir_all(&fetched)?;
        run::fetched(
            self.apt("apt-get")
                .args(["download", "--quiet", "--quiet", package])
                .current_dir(&fetched),
            tools::MIRROR_LIMIT,
        )?;
        let file = fs::read_dir(&fetched)?
            .flatten()
            .next()
            .with_context(|| format!("apt-get download {package} left no file"))?
            .path();
        run::streamed(Command::new("dpkg").arg("-x").arg(file).arg(parts.join("root")))?;
        // Renamed when it is whole: an interrupted fetch is made again.
        fs::rename(parts.join("root"), &dir)?;
        fs::remove_dir_all(parts)?;
        Ok(dir)
    }
}

/// The release that this machine runs.
pub(crate) fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME")
}

/// The Debian mirror that this system is configured with; Debian's own where it has none.
fn mirror(suite: &str) -> String {
    let (label, default) = if suite.ends_with("-security") {
        ("Debian-Security", "http://deb.debian.org/debian-security")
    } else {
        ("Debian", "http://deb.debian.org/debian")
    };
    run::captured(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        &format!("Label: {label}"),
    ]))
    .ok()
    .and_then(|uris| uris.lines().next().map(str::to_owned))
    .filter(|uri| !uri.is_empty())
    .unwrap_or_else(|| default.to_owned())
}
