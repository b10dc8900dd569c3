//! What the agent does without something that it would like to have: each taken away from a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partywall_agent::config::{CheckArgs, Config, LinkArgs};
use partywall_agent::link::LinkConfig;
use partywall_agent::uplink::{SpoolConfig, Uplink, UplinkConfig};
use partywall_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use partywall_proto::v1::{CpuSample, Outcome, Receipt, Report};
use rustix::thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set};
use serde_json::Value;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// What the child shall do, and what is taken away from it before.
const CHILD: &str = "PARTYWALL_TEST_CHILD";
const WITHOUT: &str = "PARTYWALL_TEST_WITHOUT";
/// Loading takes long in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Not a test: what the children of these tests run.
#[test]
fn the_child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    if let Ok(without) = std::env::var(WITHOUT) {
        let error = without_it(&without);
        panic!("{error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    match what.as_str() {
        "check" => {
            let report = partywall_agent::check::run(&CheckArgs {
                json: true,
                cgroup_root: None,
                aggregator: None,
                link: LinkArgs::default(),
                spool_dir: None,
            });
            println!("\nreport {}", serde_json::to_string(&report).unwrap());
        }
        "run" => runtime.block_on(async {
            let running = partywall_agent::start(config("http://127.0.0.1:9".to_owned()))
                .await
                .unwrap();
            println!("\nhttp {}", running.http_addr);
            // Until the test lets go.
            let _ = std::io::stdin().read(&mut [0]);
        }),
        other => panic!("{other}"),
    }
}

/// This thread, and what it becomes, does without. Capabilities go from the bounding set: what root executes has all that are in it.
fn without_it(what: &str) -> std::io::Error {
    let drop = |capability| remove_capability_from_bounding_set(capability).unwrap();
    match what {
        // Which stands for each of the others.
        "CAP_BPF" => [CapabilitySet::SYS_ADMIN, CapabilitySet::BPF].map(drop),
        "CAP_PERFMON" => [CapabilitySet::SYS_ADMIN, CapabilitySet::PERFMON].map(drop),
        "CAP_NET_ADMIN" => [CapabilitySet::SYS_ADMIN, CapabilitySet::NET_ADMIN].map(drop),
        "BTF" => {
            #[allow(
                deprecated,
                reason = "no file descriptors are unshared, which is what is unsafe"
            )]
            rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
            mount(&["--make-rprivate", "/"]);
            mount(&["-t", "tmpfs", "none", "/sys/kernel/btf"]);
            [(), ()]
        }
        other => panic!("{other}"),
    };
    Command::new("/proc/self/exe")
        .args(["--exact", "degraded::the_child", "--nocapture"])
        .env_remove(WITHOUT)
        .exec()
}

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "mount {arguments:?}: {status}");
}

fn config(aggregator: String) -> Config {
    Config {
        node: "node-a".to_owned(),
        link: LinkConfig::plaintext(aggregator),
        insecure_plaintext: true,
        // Loading takes seconds in an emulated guest.
        interval: Duration::from_secs(60),
        cgroup_root: None,
        http_listen: "127.0.0.1:0".parse().unwrap(),
        queue_bytes: 1 << 20,
        spool: None,
        object: None,
    }
}

fn child(what: &str, without: &str) -> Child {
    Command::new("/proc/self/exe")
        .args(["--exact", "degraded::the_child", "--nocapture"])
        .env(CHILD, what)
        .env(WITHOUT, without)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child says after `word`.
fn said(child: &mut Child, word: &str) -> String {
    // Left open: the child has more to say.
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix(word).map(str::to_owned))
        .unwrap_or_else(|| panic!("the child said no {word:?}"))
}

/// `partywall-agent check --json` without something.
struct Check(Value);

impl Check {
    fn without(what: &str) -> Self {
        let mut child = child("check", what);
        let report = said(&mut child, "report ");
        child.wait().unwrap();
        Self(serde_json::from_str(&report).unwrap())
    }

    fn able(&self) -> bool {
        self.0["able"].as_bool().unwrap()
    }

    /// Why a feature is absent; `None`: it is there.
    fn absent(&self, name: &str) -> Option<String> {
        let features = self.0["features"].as_array().unwrap();
        let feature = features
            .iter()
            .find(|feature| feature["name"] == name)
            .unwrap_or_else(|| panic!("no feature {name}"));
        let reason = feature["reason"].as_str().unwrap().to_owned();
        (feature["present"] == false).then_some(reason)
    }
}

#[test]
fn without_net_admin_traffic_is_not_counted_and_the_rest_is() {
    let check = Check::without("CAP_NET_ADMIN");
    assert!(check.able());
    assert_eq!(check.absent("ledger"), None);
    for feature in ["net_admin", "flows", "timeouts"] {
        let why = check.absent(feature).expect(feature);
        assert!(why.starts_with("CAP_NET_ADMIN is missing"), "{feature}: {why}");
    }
}

#[test]
fn without_bpf_or_perfmon_nothing_is_counted_and_the_capability_is_named() {
    for (capability, feature) in [("CAP_BPF", "rights"), ("CAP_PERFMON", "perfmon")] {
        let check = Check::without(capability);
        assert!(!check.able());
        for feature in [feature, "ledger", "flows"] {
            let why = check.absent(feature).expect(feature);
            assert!(why.starts_with(capability), "{feature}: {why}");
        }
        assert!(check.0["load_error"].as_str().unwrap().contains(capability));
    }
}

#[test]
fn without_btf_traffic_is_counted() {
    let check = Check::without("BTF");
    assert!(check.able());
    assert_eq!(check.absent("flows"), None);
    for feature in ["btf", "ledger", "run_time"] {
        let why = check.absent(feature).expect(feature);
        assert!(why.contains("/sys/kernel/btf/vmlinux"), "{feature}: {why}");
    }
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn an_agent_that_can_count_nothing_stays_and_says_so() {
    let mut child = child("run", "CAP_BPF");
    let http = said(&mut child, "http ");
    let begun = Instant::now();
    while get(&http, "/metrics")
        .1
        .contains("partywall_agent_readings_total 0")
    {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    let (_, metrics) = get(&http, "/metrics");
    for line in [
        "partywall_agent_counting 0",
        "partywall_agent_queue_reports 1",
        "partywall_agent_feature{feature=\"flows\"} 0",
        "partywall_agent_feature{feature=\"ledger\"} 0",
        "partywall_agent_feature{feature=\"cgroup_v2\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line:?} in {metrics}"
        );
    }
    assert_eq!(get(&http, "/healthz").0, 200, "a restart would not help");
    let (code, ready) = get(&http, "/readyz");
    assert!(code == 503 && ready.contains("CAP_BPF"), "{ready}");
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// Keeps what it is told, and has counted it.
#[derive(Clone, Default)]
struct Aggregator(Arc<Mutex<Vec<Report>>>);

#[tonic::async_trait]
impl IngestService for Aggregator {
    type IngestStream = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

    async fn ingest(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let told = Arc::clone(&self.0);
        let receipts = request.into_inner().map(move |report| {
            let report = report?;
            let sequence = report.sequence;
            told.lock().unwrap().push(report);
            Ok(Receipt {
                sequence,
                outcome: Outcome::Accepted.into(),
                ..Receipt::default()
            })
        });
        Ok(Response::new(Box::pin(receipts)))
    }
}

impl Aggregator {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(IngestServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// When each agent run's first and last readings were, in order of time.
    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for report in self.0.lock().unwrap().iter() {
            let at_ns = report.captured_boot_ns;
            let run = runs.entry(report.agent_start_unix_ns).or_insert((at_ns, at_ns));
            run.1 = run.1.max(at_ns);
        }
        runs.into_values().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_one_agent_to_the_next_at_most_one_interval_is_lost() {
    let aggregator = Aggregator::default();
    let config = config(format!("http://{}", aggregator.start().await));
    let until = async |runs: usize| {
        let begun = Instant::now();
        while aggregator.runs().len() < runs {
            assert!(begun.elapsed() < PATIENCE, "no report of agent run {runs}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let old = partywall_agent::start(config.clone()).await.unwrap();
    until(1).await;
    old.stop().await.unwrap();
    let new = partywall_agent::start(config.clone()).await.unwrap();
    until(2).await;
    new.stop().await.unwrap();
    let runs = aggregator.runs();
    let ((_, old_last_ns), (new_first_ns, _)) = (runs[0], runs[1]);
    // The first reading follows attaching at once.
    let lost = Duration::from_nanos(new_first_ns - old_last_ns);
    println!("not counted between two agents: {lost:?}");
    assert!(lost < config.interval, "{lost:?}");
}

/// A file system that is full, and later is not.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "none",
            path(dir.path()),
        ]);
        Self(dir)
    }

    fn grow(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}"), path(self.0.path())]);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The file is closed by a thread that may still be at it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_that_memory_can_hold() {
    const REPORTS: u64 = 300;
    let disk = Small::new("3m");
    let uplink = |dir: &Path| {
        Uplink::new(UplinkConfig {
            link: LinkConfig::plaintext("http://127.0.0.1:9"),
            queue_bytes: 12 << 20,
            spool: Some(SpoolConfig {
                dir: dir.to_owned(),
                bytes: 64 << 20,
            }),
        })
        .unwrap()
    };
    let until = async |uplink: &Uplink, what: &str, holds: &dyn Fn(u64, u64, u64) -> bool| {
        let begun = Instant::now();
        loop {
            let stats = uplink.stats();
            let spool = stats.spool.clone().unwrap();
            if holds(stats.queued_reports as u64, spool.reports, spool.errors) {
                return spool;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let full = uplink(disk.0.path());
    // Some 30 KB each, 9 MB in all: half of the bound is reached, and then the disk's.
    for sequence in 1..=REPORTS {
        full.push(Report {
            sequence,
            agent_start_unix_ns: 1,
            cpu: (0..2_500)
                .map(|entity| CpuSample {
                    entity,
                    run_ns: sequence << 40,
                    ..CpuSample::default()
                })
                .collect(),
            ..Report::default()
        });
    }
    let spool = until(&full, "the disk is full", &|_, _, errors| errors > 0).await;
    assert!(!spool.usable);
    until(&full, "none is lost", &|memory, disk, _| memory + disk == REPORTS).await;
    assert!(full.stats().losses().iter().all(|loss| loss.count == 0));
    disk.grow("64m");
    assert_eq!(full.drain(Duration::from_millis(50)).await, 0, "all on disk now");
    let next = uplink(disk.0.path());
    until(&next, "all there", &|_, disk, _| disk == REPORTS).await;
    drop(next);
}

#[tokio::test]
async fn a_spool_on_a_read_only_file_system_is_done_without() {
    let disk = Small::new("1m");
    mount(&["-o", "remount,ro", path(disk.0.path())]);
    let aggregator = Aggregator::default();
    let uplink = Uplink::new(UplinkConfig {
        link: LinkConfig::plaintext(format!("http://{}", aggregator.start().await)),
        queue_bytes: 1 << 20,
        spool: Some(SpoolConfig {
            dir: disk.0.path().to_owned(),
            bytes: 64 << 20,
        }),
    })
    .unwrap();
    uplink.push(Report {
        sequence: 1,
        ..Report::default()
    });
    assert_eq!(uplink.drain(Duration::from_secs(20)).await, 0);
    let spool = uplink.stats().spool.unwrap();
    assert!(!spool.usable && spool.errors == 1, "{spool:?}");
    assert_eq!(
        aggregator.0.lock().unwrap().len(),
        1,
        "the report went without it"
    );
}
