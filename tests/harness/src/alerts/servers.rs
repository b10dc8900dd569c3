//! Real Alertmanagers and a real Prometheus, on loopback, with nothing kept but what is in their directory.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use crate::http;

/// As Debian calls it.
const ALERTMANAGER: &str = "prometheus-alertmanager";
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// Where their programs are.
#[derive(Clone)]
pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn find(dir: PathBuf) -> Result<Self> {
        for name in ["amtool", "prometheus", ALERTMANAGER, "promtool"] {
            let path = dir.join(name);
            ensure!(
                path.is_file(),
                "{} is not there: `cargo xtask alerts` fetches it",
                path.display()
            );
        }
        Ok(Self(dir))
    }

    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(self.0.join(name))
    }
}

/// Runs `command`, with `input` where there is some; gives what it says, on both ways out, if it ends well.
pub(super) fn said(command: &mut Command, input: Option<&str>) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {text}",
        output.status
    );
    Ok(text)
}

/// A server under test. Killed when dropped.
pub(super) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    pub(super) address: SocketAddr,
}

impl Server {
    async fn start(
        name: &str,
        command: &mut Command,
        address: SocketAddr,
        dir: &Path,
        ready: &str,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        partywall_workload::end_with_this_thread(command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut server = Self {
            name: name.to_owned(),
            child,
            log,
            address,
        };
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            if let Some(status) = server.child.try_wait()? {
                bail!("{name} ended with {status}\n{}", server.log());
            }
            match http::get(address, ready).await {
                Ok((200, _)) => return Ok(server),
                _ if Instant::now() > deadline => bail!("{name} was not ready\n{}", server.log()),
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn log(&self) -> String {
        format!(
            "--- {}\n{}",
            self.name,
            fs::read_to_string(&self.log).unwrap_or_default()
        )
    }

    /// The JSON behind `path`.
    pub(super) async fn json(&self, path: &str) -> Result<Value> {
        let (code, body) = http::get(self.address, path).await?;
        ensure!(code == 200, "{}: GET {path}: {code} {body}", self.name);
        serde_json::from_str(&body).with_context(|| format!("{}: GET {path}", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An Alertmanager whose notifications go to `receiver`, nearly at once.
pub(super) async fn alertmanager(
    programs: &Programs,
    name: &str,
    address: SocketAddr,
    receiver: &str,
    dir: &Path,
) -> Result<Server> {
    let dir = dir.join(name);
    fs::create_dir_all(&dir)?;
    let config = dir.join("alertmanager.yaml");
    // Grouped as one would: what a tenant does is one thing to look at. The times are the usual ones, shortened.
    fs::write(
        &config,
        format!(
            "route:\n  receiver: test\n  group_by: [alertname, cluster, tenant]\n  group_wait: 1s\n  group_interval: 1s\n  \
             repeat_interval: 1h\nreceivers:\n- name: test\n  webhook_configs:\n  - url: {receiver}\n"
        ),
    )?;
    said(programs.command("amtool").arg("check-config").arg(&config), None)?;
    let mut command = programs.command(ALERTMANAGER);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        // No cluster of its own: each is told everything by us, which is what is under test.
        .arg("--cluster.listen-address=");
    Server::start(name, &mut command, address, &dir, "/-/ready").await
}

/// A Prometheus that scrapes `targets` (job, address) each second and judges by the shipped rules.
pub(super) async fn prometheus(
    programs: &Programs,
    address: SocketAddr,
    targets: &[(&str, SocketAddr)],
    rules: &[PathBuf],
    dir: &Path,
) -> Result<Server> {
    let dir = dir.join("prometheus");
    fs::create_dir_all(&dir)?;
    let mut config = String::from(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files:\n",
    );
    for rules in rules {
        config += &format!(
            "- {}\n",
            rules
                .canonicalize()
                .with_context(|| rules.display().to_string())?
                .display()
        );
    }
    config += "scrape_configs:\n";
    for (job, target) in targets {
        config += &format!(
            "- job_name: {job}\n  honor_labels: true\n  static_configs: [{{targets: [\"{target}\"]}}]\n"
        );
    }
    let path = dir.join("prometheus.yaml");
    fs::write(&path, config)?;
    said(
        programs.command("promtool").args(["check", "config"]).arg(&path),
        None,
    )?;
    let mut command = programs.command("prometheus");
    command
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"));
    Server::start("prometheus", &mut command, address, &dir, "/-/ready").await
}
