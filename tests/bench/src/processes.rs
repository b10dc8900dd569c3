//! The real agent and the real aggregator, as release programs in processes of their own.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_workload::{HostCgroup, cgroup2_mount};
use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal, kill_process},
};

use crate::{load::thread_sleep, programs};

/// Loading takes well under a second, reading 55,000 pods some; a busy machine may need longer.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(10);

/// A program that stops with SIGTERM when it is dropped.
struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(name: &'static str, args: &[String]) -> Result<Self> {
        let path = program(name)?;
        let child = Command::new(&path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        Ok(Self { name, child })
    }

    /// Waits until `/readyz` says 200.
    fn await_ready(&mut self, http: SocketAddr) -> Result<()> {
        let began = Instant::now();
        while !ready(http) {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended at once ({status}); run it by hand to see why",
                    self.name
                );
            }
            if began.elapsed() > START {
                bail!("{} is not ready after {} s", self.name, START.as_secs());
            }
            thread_sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Bytes of the process' own: anonymous memory and page tables.
    fn own_bytes(&self) -> Result<f64> {
        Ok((self.status_kib("RssAnon:")? + self.status_kib("VmPTE:")?) * 1024.0)
    }

    fn status_kib(&self, name: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        value.with_context(|| format!("/proc/PID/status has no {name}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > STOP {
                let _already_gone = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            thread_sleep(Duration::from_millis(10));
        }
    }
}

/// Beside this program: cargo puts them there.
fn program(name: &str) -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is missing: `cargo xtask bench` builds it", path.display());
    }
    Ok(path)
}

fn ready(http: SocketAddr) -> bool {
    get(http, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Head and body of what a server answers.
fn get(http: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&http, Duration::from_millis(200))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a metric without labels.
fn metric(http: SocketAddr, name: &str) -> Result<f64> {
    let text = get(http, "/metrics")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("{name} is not among the metrics of {http}"))
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// User and system time of this process so far, in seconds.
pub(crate) fn self_cpu_seconds() -> Result<f64> {
    cpu_seconds("self")
}

fn cpu_seconds(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything: field 3 and on.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11)
        .zip(ticks(12))
        .context("/proc/PID/stat has no CPU time")?;
    Ok((user + system) / clock_ticks_per_second() as f64)
}

/// Takes reports: the agent's, or those of the nodes of a large cluster.
pub(crate) struct Aggregator {
    process: Process,
    pub(crate) grpc: SocketAddr,
    http: SocketAddr,
}

impl Aggregator {
    /// `cluster`: a directory of Kubernetes objects.
    pub(crate) fn start(cluster: Option<&Path>) -> Result<Self> {
        Self::start_with(cluster, None)
    }

    /// `state`: where totals survive it.
    pub(crate) fn start_with(cluster: Option<&Path>, state: Option<&Path>) -> Result<Self> {
        let (grpc, http) = (free_address()?, free_address()?);
        let mut args = vec![format!("--grpc-listen={grpc}"), format!("--http-listen={http}")];
        args.push("--insecure-plaintext".to_owned());
        args.extend(cluster.map(|dir| format!("--cluster-from={}", dir.display())));
        args.extend(state.map(|dir| format!("--state-dir={}", dir.display())));
        let mut process = Process::start("partywall-aggregator", &args)?;
        process.await_ready(http)?;
        Ok(Self { process, grpc, http })
    }

    /// User and system time of the process so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.process.child.id().to_string())
    }

    /// The largest that was ever resident, file pages included.
    pub(crate) fn peak_bytes(&self) -> Result<f64> {
        Ok(self.process.status_kib("VmHWM:")? * 1024.0)
    }

    /// Written to storage so far.
    pub(crate) fn written_bytes(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.process.child.id()))?;
        let value = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        value
            .and_then(|v| v.trim().parse().ok())
            .context("/proc/PID/io has no write_bytes")
    }

    pub(crate) fn scrape(&self) -> Result<String> {
        Ok(get(self.http, "/metrics")?)
    }

    /// The sum of all series of a metric.
    pub(crate) fn sum_of(&self, name: &str) -> Result<f64> {
        let text = self.scrape()?;
        let of = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        Ok(of
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    pub(crate) fn own_bytes(&self) -> Result<f64> {
        self.process.own_bytes()
    }

    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        metric(self.http, name)
    }
}

/// The whole agent, with default settings.
pub(crate) struct Agent {
    process: Process,
    cgroup: HostCgroup,
    http: SocketAddr,
    /// The programs that it loaded.
    pub(crate) ids: Vec<u32>,
}

impl Agent {
    pub(crate) fn start(aggregator: &Aggregator) -> Result<Self> {
        let before = programs::loaded()?;
        let cgroup = HostCgroup::create("/system.slice/partywall-agent.service", &cgroup2_mount()?)?;
        let http = free_address()?;
        let args = [
            "--node=bench".to_owned(),
            format!("--aggregator=http://{}", aggregator.grpc),
            "--insecure-plaintext".to_owned(),
            format!("--http-listen={http}"),
        ];
        let mut process = Process::start("partywall-agent", &args)?;
        fs::write(
            cgroup.cgroup().join("cgroup.procs"),
            process.child.id().to_string(),
        )?;
        process.await_ready(http)?;
        let ids: Vec<u32> = programs::loaded()?
            .into_keys()
            .filter(|id| !before.contains_key(id))
            .collect();
        if ids.is_empty() {
            bail!("partywall-agent is ready and has loaded no program");
        }
        Ok(Self {
            process,
            cgroup,
            http,
            ids,
        })
    }

    /// CPU time that the process has used, in microseconds, by its cgroup.
    pub(crate) fn cpu_microseconds(&self) -> Result<f64> {
        let path = self.cgroup.cgroup().join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        usage
            .and_then(|value| value.trim().parse().ok())
            .context("cpu.stat has no usage_usec")
    }

    /// `memory.current` of its cgroup, where there is a memory controller.
    pub(crate) fn memory_current(&self) -> Option<f64> {
        fs::read_to_string(self.cgroup.cgroup().join("memory.current"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub(crate) fn own_bytes(&self) -> Result<f64> {
        self.process.own_bytes()
    }

    /// Bytes of reports that it has sent.
    pub(crate) fn sent_bytes(&self) -> Result<f64> {
        metric(self.http, "partywall_agent_reports_sent_bytes_total")
    }

    /// Bytes of the maps and programs that it holds, as the kernel counts them.
    pub(crate) fn ebpf_bytes(&self) -> Result<f64> {
        let mut bytes = 0.0;
        let mut seen = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.process.child.id()))? {
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            let field = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let id = field("map_id:")
                .map(|id| ("map", id))
                .or(field("prog_id:").map(|id| ("program", id)));
            let (Some((kind, id)), Some(memlock)) = (id, field("memlock:")) else {
                continue;
            };
            // Two descriptors may be of the same map.
            let key = format!("{kind} {id}");
            if !seen.contains(&key) {
                bytes += memlock.parse::<f64>()?;
                seen.push(key);
            }
        }
        Ok(bytes)
    }
}

/// Map bytes on a machine of 320 possible CPUs, by the agent's own formula.
pub(crate) fn map_bytes_320_cpus() -> Result<f64> {
    let output = Command::new(program("partywall-agent")?)
        .args(["check", "--json"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value =
        serde_json::from_str(&text).context("`partywall-agent check --json` is no JSON")?;
    let bytes = json.get("map_bytes_320_cpus").and_then(serde_json::Value::as_f64);
    bytes.context("`partywall-agent check --json` has no map_bytes_320_cpus")
}
