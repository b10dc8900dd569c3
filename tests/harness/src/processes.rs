//! The real agent and aggregator, as a node and a cluster would run them.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::http;

/// The node's name in everything that the harness makes.
pub(crate) const NODE: &str = "node-a";
/// Loading and attaching takes tens of milliseconds; a cold machine that verifies programs under load may need seconds.
const READY_PATIENCE: Duration = Duration::from_secs(20);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Where the binaries are.
#[derive(Clone, Debug)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    /// `dir`, or where the harness itself lies.
    pub(crate) fn find(dir: Option<PathBuf>) -> Result<Self> {
        let own = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
        let dir = dir
            .or_else(own)
            .context("cannot tell where this program lies: give --bin-dir")?;
        for name in ["partywall-agent", "partywall-aggregator"] {
            let path = dir.join(name);
            if !path.is_file() {
                bail!(
                    "{} is not there: build it (cargo build --release -p {name}) or give --bin-dir",
                    path.display()
                );
            }
        }
        Ok(Self(dir))
    }
}

/// What an aggregator learns of its cluster from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Files(&'a Path),
    /// A kubeconfig.
    Api(&'a Path),
}

/// A daemon under test. Killed when dropped.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
    pub(crate) http: SocketAddr,
}

impl Daemon {
    pub(crate) async fn aggregator(
        binaries: &Binaries,
        grpc: SocketAddr,
        cluster: Source<'_>,
        policy: Option<&Path>,
        logs: &Path,
    ) -> Result<Self> {
        let http = free_address()?;
        let mut command = Command::new(binaries.0.join("partywall-aggregator"));
        command
            .arg("--grpc-listen")
            .arg(grpc.to_string())
            .arg("--http-listen")
            .arg(http.to_string());
        command.arg("--insecure-plaintext");
        match cluster {
            Source::Files(dir) => command.arg("--cluster-from").arg(dir),
            Source::Api(kubeconfig) => command.arg("--kube-api").arg(kubeconfig),
        };
        if let Some(policy) = policy {
            command.arg("--policy").arg(policy);
        }
        Self::start("partywall-aggregator", command, http, logs).await
    }

    /// One whose totals survive it, in `state`. Not ready yet.
    pub(crate) fn durable_aggregator(
        binaries: &Binaries,
        grpc: SocketAddr,
        cluster: &Path,
        state: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let http = free_address()?;
        let mut command = Command::new(binaries.0.join("partywall-aggregator"));
        command.args([format!("--grpc-listen={grpc}"), format!("--http-listen={http}")]);
        command.arg("--insecure-plaintext");
        command.arg("--cluster-from").arg(cluster);
        command.arg("--state-dir").arg(state);
        Self::spawn("partywall-aggregator", command, http, logs)
    }

    pub(crate) async fn agent(binaries: &Binaries, report_to: SocketAddr, logs: &Path) -> Result<Self> {
        let http = free_address()?;
        let mut command = Command::new(binaries.0.join("partywall-agent"));
        command.args(["--node", NODE, "--aggregator", &format!("http://{report_to}")]);
        command
            .arg("--insecure-plaintext")
            .arg("--http-listen")
            .arg(http.to_string());
        Self::start("partywall-agent", command, http, logs).await
    }

    async fn start(name: &'static str, command: Command, http: SocketAddr, logs: &Path) -> Result<Self> {
        let mut daemon = Self::spawn(name, command, http, logs)?;
        daemon.wait_ready().await?;
        Ok(daemon)
    }

    /// Not ready yet. `http`: where it answers.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        http: SocketAddr,
        logs: &Path,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // The harness starts daemons on its main thread only, which lives as long as it does.
        partywall_workload::end_with_this_thread(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            child,
            log,
            http,
        })
    }

    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            self.still_runs()?;
            match http::get(self.http, "/readyz").await {
                Ok((200, _)) => return Ok(()),
                other if Instant::now() > deadline => {
                    let seen =
                        other.map_or_else(|error| error.to_string(), |(code, body)| format!("{code} {body}"));
                    bail!(
                        "{} was not ready after {} s: {seen}",
                        self.name,
                        READY_PATIENCE.as_secs()
                    );
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error where it ended by itself.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself: {status}\n{}", self.name, self.log_tail(10)),
        }
    }

    /// The last `lines` of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        let tail = &all[all.len().saturating_sub(lines)..];
        format!(
            "--- {} log, last {} of {} lines\n{}",
            self.name,
            tail.len(),
            all.len(),
            tail.join("\n")
        )
    }

    /// SIGTERM, which must end it with success.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "{} ended with {status} on SIGTERM\n{}",
                    self.name,
                    self.log_tail(10)
                ),
                None if Instant::now() > deadline => {
                    bail!(
                        "{} did not end within {} s of SIGTERM",
                        self.name,
                        STOP_PATIENCE.as_secs()
                    )
                }
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _already_gone = kill_process(pid, signal);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}
