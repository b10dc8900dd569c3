//! `cargo xtask image`: an OCI image made without a registry and without a container tool: static programs and nothing else.
//!
//! One image has both daemons and the cli: one thing to mirror, to sign and to scan, and the two sides of a release that fit each
//! other. The same sources and the same compiler make the same bytes.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{deploy, harness, paths, run, stage::Outcome, tools};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the image goes: a layout directory `oci` and an archive for `skopeo copy oci-archive:…` [default: target/image]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With programs that are hardly optimised, in a third of the time: what the test starts
    #[arg(long)]
    quick: bool,
}

/// What lies at the root of the image.
const PROGRAMS: [&str; 3] = ["partywall", "partywall-agent", "partywall-aggregator"];

/// Whom the programs run as, unless the pod says otherwise: the agent's does.
const USER: &str = "65532:65532";
/// So that both users have a name where somebody looks.
const PASSWD: &str = "root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n";

/// What the test needs: a runtime, two readers of images that are not ours, and a container engine's own seccomp profile.
const TEST_PACKAGES: [&str; 4] = ["golang-github-containers-common", "runc", "skopeo", "umoci"];
/// Of the first of them.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| paths::target().join("image"));
    let image = Image::build(args.quick)?;
    let (digest, archive) = image.write(&out)?;
    println!("{}\n{digest}", paths::shown(&archive));
    Ok(())
}

/// Installs what [`test()`] needs.
pub(crate) fn prepare() -> Result<()> {
    tools::debian_packages(&TEST_PACKAGES, "start the image as a node would")?;
    deploy::prepare()
}

/// The image, started by runc as the rendered manifests say, loads its programs and names a culprit.
pub(crate) fn test() -> Result<Outcome> {
    prepare()?;
    let out = paths::target().join("image-test");
    let image = Image::build(true)?;
    let (digest, archive) = image.write(&out)?;
    let (again, _) = image.write(&out)?;
    ensure!(
        digest == again,
        "the same programs made the images {digest} and {again}"
    );
    let inspected = run::captured(
        Command::new("skopeo")
            .arg("inspect")
            .arg(format!("oci-archive:{}", archive.display())),
    )?;
    ensure!(
        inspected.contains(&digest),
        "skopeo reads another image than {digest}: {inspected}"
    );
    let manifests = out.join("manifests.yaml");
    fs::write(&manifests, deploy::manifests(&[])?)?;
    let path = |path: &Path| path.display().to_string();
    harness::run(
        "image",
        &[
            "--image",
            &path(&out.join("oci")),
            "--manifests",
            &path(&manifests),
            "--seccomp",
            SECCOMP,
        ],
        Duration::from_mins(3),
    )
}

struct Image {
    /// Directory with the programs.
    programs: PathBuf,
    /// `amd64`
    architecture: &'static str,
    /// Of the last commit, or as SOURCE_DATE_EPOCH has it: seconds since 1970.
    epoch: String,
    /// The commit, where there is one.
    revision: Option<String>,
}

impl Image {
    /// Compiles the programs.
    fn build(quick: bool) -> Result<Self> {
        let (target, architecture) = match env::consts::ARCH {
            "x86_64" => ("x86_64-unknown-linux-gnu", "amd64"),
            "aarch64" => ("aarch64-unknown-linux-gnu", "arm64"),
            other => bail!("there are images for x86_64 and aarch64, not for {other}"),
        };
        let profile = if quick { "image-test" } else { "image" };
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "build",
                "--locked",
                "--bins",
                "--target",
                target,
                "--profile",
                profile,
            ])
            .env("CARGO_ENCODED_RUSTFLAGS", flags())
            .current_dir(paths::root());
        for name in PROGRAMS {
            cargo.args(["--package", name]);
        }
        run::streamed(&mut cargo)?;
        let programs = paths::target().join(target).join(profile);
        for name in PROGRAMS {
            is_static(&programs.join(name))?;
        }
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            run::captured(git.args(args).current_dir(paths::root())).map(|said| said.trim().to_owned())
        };
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => {
                ensure!(
                    epoch.parse::<u32>().is_ok(),
                    "SOURCE_DATE_EPOCH {epoch:?}: is no number of seconds since 1970"
                );
                epoch
            }
            Err(_) => git(&["log", "-1", "--format=%ct"])
                .context("no commit to take the image's date from: set SOURCE_DATE_EPOCH")?,
        };
        Ok(Self {
            programs,
            architecture,
            epoch,
            revision: git(&["rev-parse", "HEAD"]).ok(),
        })
    }

    /// Writes the layout and the archive below `out`; gives the manifest's digest and the archive's path.
    fn write(&self, out: &Path) -> Result<(String, PathBuf)> {
        fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let scratch = tempfile::tempdir_in(out)?;
        let layout = out.join("oci");
        if layout.exists() {
            fs::remove_dir_all(&layout).with_context(|| layout.display().to_string())?;
        }
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;

        let layer = self.layer(scratch.path())?;
        let diff_id = format!("sha256:{:x}", Sha256::digest(fs::read(&layer)?));
        // Without the name and date that gzip would put in.
        run::captured(
            Command::new("gzip")
                .args(["--no-name", "--keep", "--best"])
                .arg(&layer),
        )?;
        let layer = descriptor(
            &blobs,
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &fs::read(layer.with_extension("tar.gz"))?,
        )?;
        let created = self.created()?;
        let labels = self.labels(&created);
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": created,
            "config": {
                "User": USER,
                "Entrypoint": ["/partywall"],
                "Env": ["PATH=/"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": "cargo xtask image"}],
        });
        let config = descriptor(
            &blobs,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        )?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": [layer],
            "annotations": labels,
        });
        let mut manifest = descriptor(&blobs, media_type, manifest.to_string().as_bytes())?;
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": env!("CARGO_PKG_VERSION")});
        manifest["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(
            layout.join("oci-layout"),
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        )?;

        let archive = out.join(format!(
            "partywall-{}-{}.tar",
            env!("CARGO_PKG_VERSION"),
            self.architecture
        ));
        self.tar(&archive, &layout)?;
        Ok((digest, archive))
    }

    /// The one layer, uncompressed.
    fn layer(&self, scratch: &Path) -> Result<PathBuf> {
        let root = scratch.join("root");
        for dir in ["", "etc", "licenses"] {
            let dir = root.join(dir);
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        for name in PROGRAMS {
            let place = root.join(name);
            // Symbols stay, for names in a stack trace; line tables would make the image three times as large.
            run::captured(
                Command::new("strip")
                    .args(["--strip-debug", "-o"])
                    .arg(&place)
                    .arg(self.programs.join(name)),
            )?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        }
        let file = |place: &str, bytes: &[u8]| -> Result<()> {
            let place = root.join(place);
            fs::write(&place, bytes)?;
            Ok(fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?)
        };
        file("etc/passwd", PASSWD.as_bytes())?;
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            file(
                &format!("licenses/{licence}"),
                &fs::read(paths::root().join(licence))?,
            )?;
        }
        let layer = scratch.join("layer.tar");
        self.tar(&layer, &root)?;
        Ok(layer)
    }

    /// All that is in `root`, in an order and with owners and dates that do not depend on where or when.
    fn tar(&self, archive: &Path, root: &Path) -> Result<()> {
        run::captured(
            Command::new("tar")
                .args([
                    "--create",
                    "--format=ustar",
                    "--sort=name",
                    "--owner=0",
                    "--group=0",
                    "--numeric-owner",
                ])
                .arg(format!("--mtime=@{}", self.epoch))
                .arg("--file")
                .arg(archive)
                .arg("--directory")
                .arg(root)
                .arg("."),
        )
        .map(drop)
    }

    /// The epoch as RFC 3339 has it.
    fn created(&self) -> Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", "+%FT%TZ", "--date"])
            .arg(format!("@{}", self.epoch));
        Ok(run::captured(&mut date)?.trim().to_owned())
    }

    fn labels(&self, created: &str) -> Value {
        let mut labels = json!({
            "org.opencontainers.image.title": "partywall",
            "org.opencontainers.image.description": "Who disturbs whom on a shared Kubernetes cluster, with proof",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)",
            "org.opencontainers.image.created": created,
        });
        if let Some(revision) = &self.revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        labels
    }
}

/// Compiler flags: linked statically, and without this machine's paths in messages.
///
/// glibc has looked up names without shared objects since 2.34, so a static program resolves them with nothing beside it but
/// /etc/resolv.conf and /etc/hosts.
fn flags() -> String {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.push(format!("--remap-path-prefix={}=", paths::root().display()));
    if let Some(home) = paths::cargo_home() {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    flags.join("\u{1f}")
}

/// Neither an interpreter nor a library is asked for.
fn is_static(program: &Path) -> Result<()> {
    let said = run::captured(
        Command::new("readelf")
            .args(["--wide", "--program-headers", "--dynamic"])
            .arg(program),
    )?;
    for asked in ["(NEEDED)", "INTERP"] {
        ensure!(
            !said.contains(asked),
            "{}: not linked statically: readelf shows {asked}",
            paths::shown(program)
        );
    }
    Ok(())
}

/// Puts the bytes among the blobs.
fn descriptor(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = format!("{:x}", Sha256::digest(bytes));
    fs::write(blobs.join(&digest), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}
