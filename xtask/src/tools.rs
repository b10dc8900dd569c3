//! Installs what is missing, by name: Debian packages with apt-get, cargo tools into `target/tools`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{paths, run};

/// Makes sure that every one of these Debian packages is installed. `why` completes "needed to …".
pub(crate) fn debian_packages(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !run::succeeds(Command::new("apt-get").arg("--version")) {
        bail!(
            "needed to {why}: Debian's packages {}, and this system has no apt-get",
            missing.join(" ")
        );
    }
    if !is_root() {
        bail!("needed to {why}: run `sudo {by_hand}`, then this command again");
    }
    eprintln!("installing Debian packages to {why}: {}", missing.join(" "));
    let apt_get = || Command::new("apt-get");
    apt_update(apt_get())?;
    apt_install(apt_get, &missing)
}

/// What a mirror may take for package lists or packages: in an ordinary case a tenth of it.
pub(crate) const MIRROR_LIMIT: Duration = Duration::from_mins(5);

/// `apt_get`: the command without its arguments, whatever it is made to see.
pub(crate) fn apt_update(mut apt_get: Command) -> Result<()> {
    // Without the option, a list that cannot be fetched is a warning, and what is missing is noticed much later.
    run::fetched(
        apt_get.args([
            "update",
            "--quiet",
            "--quiet",
            "--option",
            "APT::Update::Error-Mode=any",
        ]),
        MIRROR_LIMIT,
    )
}

/// `apt_get`: as of [`apt_update`]; `rest`: packages, options before them.
pub(crate) fn apt_install(apt_get: impl Fn() -> Command, rest: &[&str]) -> Result<()> {
    let install = |more: &[&str]| {
        let mut command = apt_get();
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "install",
                "--quiet",
                "--quiet",
                "--yes",
                "--no-install-recommends",
            ])
            .args(more)
            .args(rest);
        command
    };
    // Only the fetching has a limit: an installation is not to be ended half-way.
    run::fetched(&mut install(&["--download-only"]), MIRROR_LIMIT)?;
    run::streamed(&mut install(&[]))
}

/// Where prometheus, promtool, prometheus-alertmanager and amtool are. Their packages come with services, which tests start for themselves.
pub(crate) fn monitoring() -> Result<PathBuf> {
    let why = "hold metrics, rules and alerts against real servers";
    let packages = ["prometheus", "prometheus-alertmanager"];
    let missing: Vec<&str> = packages
        .into_iter()
        .filter(|package| !installed(package))
        .collect();
    // Who has them has their services for a reason.
    if !missing.is_empty() {
        let refused = RefusedServices::begin()?;
        debian_packages(&missing, why)?;
        drop(refused);
        if run::succeeds(Command::new("systemctl").arg("--version")) {
            run::captured(Command::new("systemctl").arg("disable").args(&missing))?;
        }
    }
    Ok("/usr/bin".into())
}

/// Asked by packages whether they may start their services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// As long as it lives, no package that is installed starts a service.
struct RefusedServices {
    /// Not where somebody else refuses or rules already.
    ours: bool,
}

impl RefusedServices {
    fn begin() -> Result<Self> {
        let ours = is_root() && !Path::new(POLICY).exists();
        if ours {
            // 101: not allowed.
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        }
        Ok(Self { ours })
    }
}

impl Drop for RefusedServices {
    fn drop(&mut self) {
        if self.ours {
            let _already_gone = fs::remove_file(POLICY);
        }
    }
}

/// What the network of scenarios' pods is made with.
pub(crate) fn network() -> Result<()> {
    if ["ip", "nft"]
        .iter()
        .all(|program| run::succeeds(Command::new(program).arg("-V")))
    {
        return Ok(());
    }
    debian_packages(&["iproute2", "nftables"], "make networks for pods")
}

/// Fails in one line unless the caller is root.
pub(crate) fn need_root(what: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "{what} loads eBPF programs and makes cgroups, so it needs root: run it with `sudo --preserve-env=PATH,HOME`"
    )
}

pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

/// cargo-nextest: the one on PATH, else one of our own.
pub(crate) fn nextest() -> Result<PathBuf> {
    if run::succeeds(Command::new("cargo-nextest").args(["nextest", "--version"])) {
        return Ok("cargo-nextest".into());
    }
    CargoTool {
        name: "cargo-nextest",
        version: "0.9.143",
        flavour: "",
        args: &[],
        envs: &[],
    }
    .path()
}

/// Unoptimised: it runs for a second, and compiles in a third of the time.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let envs = &[("CARGO_PROFILE_DEV_DEBUG", "0")];
    CargoTool {
        name: "cargo-deny",
        version: "0.20.2",
        flavour: "",
        args: &["--debug"],
        envs,
    }
    .path()
}

/// `perf bench` is the switch-heavy load of the measurements.
pub(crate) fn perf() -> Result<()> {
    if run::succeeds(Command::new("perf").arg("--version")) {
        return Ok(());
    }
    debian_packages(&["linux-perf"], "load the scheduler with `perf bench`")
}

/// The browser that the page is looked at with.
pub(crate) fn chromium() -> Result<()> {
    if run::succeeds(Command::new("chromium").arg("--version")) {
        return Ok(());
    }
    debian_packages(&["chromium"], "look at the page")
}

pub(crate) fn npm(why: &str) -> Result<()> {
    if ["npm", "node"]
        .iter()
        .all(|program| run::succeeds(Command::new(program).arg("--version")))
    {
        return Ok(());
    }
    debian_packages(&["npm", "nodejs"], why)
}

/// Packages at pinned versions into `target/tools/NAME`, without their scripts; that directory.
pub(crate) fn npm_packages(name: &str, packages: &[&str], why: &str) -> Result<PathBuf> {
    let dir = paths::tools().join(name);
    let done = dir.join("done");
    let wanted = packages.join("\n");
    if fs::read_to_string(&done).is_ok_and(|found| found == wanted) {
        return Ok(dir);
    }
    npm(why)?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    fs::write(dir.join("package.json"), "{ \"private\": true }\n")?;
    run::fetched(
        Command::new("npm")
            .args([
                "install",
                "--silent",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
            ])
            .args(packages)
            .current_dir(&dir),
        MIRROR_LIMIT,
    )?;
    fs::write(done, wanted)?;
    Ok(dir)
}

fn installed(package: &str) -> bool {
    run::captured(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    #[expect(unsafe_code, reason = "one call that std does not offer")]
    unsafe {
        libc::geteuid() == 0
    }
}

/// A program from crates.io at a pinned version, built once into its own directory below `target/tools`.
pub(crate) struct CargoTool<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// Tells builds of the same version apart; empty when there is one only.
    pub(crate) flavour: &'a str,
    pub(crate) args: &'a [&'a str],
    pub(crate) envs: &'a [(&'a str, &'a str)],
}

impl CargoTool<'_> {
    /// Path of the program; builds it when it is not there yet.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let dash = if self.flavour.is_empty() { "" } else { "-" };
        let dir = paths::tools().join(format!("{}-{}{dash}{}", self.name, self.version, self.flavour));
        let program = dir.join("bin").join(self.name);
        if self.is_right(&program) {
            return Ok(program);
        }
        eprintln!(
            "building {} {} (once, into {})",
            self.name,
            self.version,
            paths::shown(&dir)
        );
        run::streamed(
            Command::new("cargo")
                .args([
                    "install",
                    self.name,
                    "--version",
                    self.version,
                    "--locked",
                    "--force",
                    "--root",
                ])
                .arg(&dir)
                .arg("--target-dir")
                .arg(paths::tools().join("build"))
                .args(self.args)
                .envs(self.envs.iter().copied())
                .current_dir(paths::root()),
        )
        .with_context(|| format!("cannot build {} {}", self.name, self.version))?;
        if !self.is_right(&program) {
            bail!(
                "{} was built and does not say that it is version {}",
                paths::shown(&program),
                self.version
            );
        }
        Ok(program)
    }

    fn is_right(&self, program: &Path) -> bool {
        program.is_file()
            && run::captured(Command::new(program).arg("--version"))
                .is_ok_and(|text| text.split_whitespace().any(|word| word == self.version))
    }
}
