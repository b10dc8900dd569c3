//! A container that runc runs: started, asked as a kubelet would ask, looked at from outside, stopped.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use partywall_workload::{Pod, PodLink};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::sleep;

use crate::http;

/// Seconds at most, also where programs are verified under load.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// runc finds a v2 tree at /sys/fs/cgroup, as on a node: also on a machine that has it elsewhere.
const AS_ON_A_NODE: &str =
    "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec runc --root \"$0\" run --bundle \"$1\" \"$2\"";

/// Killed with its cgroup when the pod is dropped.
pub(crate) struct Container {
    name: String,
    runc: Child,
    /// runc's own records.
    state: PathBuf,
    log: PathBuf,
    /// On the node, of the container's first process.
    pub(crate) pid: u32,
    pub(crate) pod: Pod,
}

impl Container {
    /// Starts what `config` says in `bundle`; `pod` is where its cgroup is.
    pub(crate) async fn start(name: &str, bundle: &Path, config: &Value, pod: Pod) -> Result<Self> {
        fs::write(bundle.join("config.json"), config.to_string())?;
        let (state, log) = (bundle.join("runc"), bundle.join("log"));
        let stderr = File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", AS_ON_A_NODE])
            .args([&state, bundle])
            .arg(name)
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr);
        partywall_workload::end_with_this_thread(&mut command);
        let runc = command.spawn().context("cannot start unshare")?;
        let mut container = Self {
            name: name.to_owned(),
            runc,
            state,
            log,
            pid: 0,
            pod,
        };
        let deadline = Instant::now() + READY_PATIENCE;
        while container.pid == 0 {
            container.still_runs()?;
            ensure!(
                Instant::now() < deadline,
                "runc did not start {name}\n{}",
                container.log()
            );
            container.pid = container.first_process().unwrap_or(0);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(container)
    }

    /// As runc tells it.
    fn first_process(&self) -> Option<u32> {
        let mut command = Command::new("runc");
        let output = command
            .arg("--root")
            .arg(&self.state)
            .args(["state", &self.name])
            .output()
            .ok()?;
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        (state["status"] == "running").then(|| u32::try_from(state["pid"].as_u64()?).ok())?
    }

    /// Waits until it answers `path` at `address` with 200: the kubelet's probe, from the node.
    pub(crate) async fn ready(&mut self, node: &PodLink, address: SocketAddr, path: &str) -> Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            self.still_runs()?;
            match at_node(node, async || http::get(address, path).await) {
                Ok((200, _)) => return Ok(()),
                other if Instant::now() > deadline => {
                    bail!("{} is not ready: {other:?}\n{}", self.name, self.log())
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.runc.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself: {status}\n{}", self.name, self.log()),
        }
    }

    /// What the kernel says of its first process under `key` in /proc/PID/status.
    pub(crate) fn status(&self, key: &str) -> Result<String> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        Ok(line
            .with_context(|| format!("{path} has no {key}"))?
            .trim()
            .to_owned())
    }

    /// A path as the container sees it, with its mounts.
    pub(crate) fn within(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.pid).into()
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "--- {}\n{}",
            self.name,
            lines[lines.len().saturating_sub(15)..].join("\n")
        )
    }

    /// SIGTERM as the kubelet sends it; it has to end well, in time.
    pub(crate) async fn stop(mut self, grace_seconds: u64) -> Result<()> {
        self.still_runs()?;
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no pid")?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(grace_seconds);
        loop {
            match self.runc.try_wait()? {
                Some(status) if status.success() => break,
                Some(status) => bail!("{} ended with {status} on SIGTERM\n{}", self.name, self.log()),
                None if Instant::now() > deadline => {
                    bail!(
                        "{} runs {grace_seconds} s after SIGTERM\n{}",
                        self.name,
                        self.log()
                    )
                }
                None => sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(self.pod.remove()?)
    }
}

/// Runs `job` where the node's own processes run: sockets are made there.
pub(crate) fn at_node<T: Send>(node: &PodLink, job: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    node.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(job())
    })?
}
