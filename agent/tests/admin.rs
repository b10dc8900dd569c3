//! /metrics, /healthz and /readyz over a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use partywall_agent::admin;
use partywall_agent::metrics::Status;
use partywall_agent::reader::Tracked;
use partywall_agent::uplink::{SpoolStats, UplinkStats};
use partywall_proto::v1::{AgentCost, Coverage, Feature, Loss, ProgramCost};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Admin {
    address: SocketAddr,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn start(status: Status) -> Admin {
    let listener = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (status, watched) = watch::channel(status);
    let served = tokio::spawn(admin::serve(
        listener,
        watched,
        Duration::from_secs(1),
        stop.clone(),
    ));
    Admin {
        address,
        status,
        stop,
        served,
    }
}

/// Status code, headers in lower case, body.
async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

fn read_just_now() -> Status {
    Status {
        reading: 7,
        read_at: Some(Instant::now()),
        interval: Duration::from_secs(1),
        read_duration: Duration::from_micros(1_500),
        counting: true,
        tracked: Tracked {
            cgroups: 40,
            pods: 12,
            containers: 20,
            slots: 33,
            watched: 31,
            flows: 4,
            sockets: 5,
        },
        switches: 123_456,
        wall_clock_shift_ns: -3_600_000_000_000,
        coverage: Coverage {
            features: vec![
                Feature {
                    name: "cpu_ledger".to_owned(),
                    present: true,
                    reason: String::new(),
                },
                Feature {
                    name: "steal".to_owned(),
                    present: false,
                    reason: "no \"paravirt\"".to_owned(),
                },
            ],
            losses: vec![Loss {
                stage: "queue".to_owned(),
                reason: "full".to_owned(),
                unit: "reports".to_owned(),
                count: 3,
            }],
        },
        cost: AgentCost {
            cpu_ns: 1_500_000_000,
            memory_bytes: 20 << 20,
            memory_source: "rss".to_owned(),
            map_bytes: 9 << 20,
            programs: vec![ProgramCost {
                name: "sched_switch".to_owned(),
                run_ns: 250_000_000,
                runs: 1_000,
            }],
        },
        uplink: UplinkStats {
            connected: true,
            queued_reports: 2,
            queued_bytes: 900,
            sent: 9,
            sent_bytes: 4_500,
            acknowledged: 5,
            duplicate: 1,
            refused_by_reason: [("node".to_owned(), 1)].into(),
            reconnects: 4,
            last_receipt_age: Some(Duration::from_millis(250)),
            spool: Some(SpoolStats {
                usable: true,
                reports: 11,
                bytes: 90_000,
                errors: 2,
                ..SpoolStats::default()
            }),
            ..UplinkStats::default()
        },
    }
}

/// The table of docs/metrics.md has a row for each metric of a scrape.
fn documented(scrape: &str) {
    let docs = include_str!("../../docs/metrics.md");
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let row = format!("| `{name}{suffix}` | {kind} |");
        assert!(docs.contains(&row), "docs/metrics.md lacks {row}");
    }
}

#[tokio::test]
async fn metrics_tell_the_snapshot() {
    let admin = start(read_just_now()).await;
    let (code, head, body) = get(admin.address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    documented(&body);
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        &format!("partywall_agent_build_info{{version=\"{version}\"}} 1") as &str,
        "partywall_agent_readings_total 7",
        "partywall_agent_interval_seconds 1.0",
        "partywall_agent_read_duration_seconds 0.0015",
        "partywall_agent_counting 1",
        "partywall_agent_wall_clock_shift_seconds -3600.0",
        "partywall_agent_switches_total 123456",
        "partywall_agent_cgroups 40",
        "partywall_agent_pods 12",
        "partywall_agent_containers 20",
        "partywall_agent_memory_cgroups 31",
        "partywall_agent_slots_used 33",
        "partywall_agent_slots 1024",
        "partywall_agent_flows_used 4",
        "partywall_agent_flows 16384",
        "partywall_agent_sockets_used 5",
        "partywall_agent_sockets 65536",
        "partywall_agent_feature{feature=\"cpu_ledger\"} 1",
        "partywall_agent_feature{feature=\"steal\"} 0",
        "partywall_agent_losses_total{stage=\"queue\",reason=\"full\",unit=\"reports\"} 3",
        "partywall_agent_cpu_seconds_total 1.5",
        "partywall_agent_memory_bytes{source=\"rss\"} 20971520",
        "partywall_agent_map_bytes 9437184",
        "partywall_agent_program_run_seconds_total{program=\"sched_switch\"} 0.25",
        "partywall_agent_program_runs_total{program=\"sched_switch\"} 1000",
        "partywall_agent_uplink_connected 1",
        "partywall_agent_uplink_reconnects_total 4",
        "partywall_agent_uplink_last_receipt_age_seconds 0.25",
        "partywall_agent_reports_sent_total 9",
        "partywall_agent_reports_sent_bytes_total 4500",
        "partywall_agent_receipts_total{outcome=\"accepted\"} 5",
        "partywall_agent_receipts_total{outcome=\"duplicate\"} 1",
        "partywall_agent_receipts_total{outcome=\"refused\"} 1",
        "partywall_agent_reports_refused_total{field=\"node\"} 1",
        "partywall_agent_queue_reports 2",
        "partywall_agent_queue_bytes 900",
        "partywall_agent_spool_usable 1",
        "partywall_agent_spool_reports 11",
        "partywall_agent_spool_bytes 90000",
        "partywall_agent_spool_errors_total 2",
    ];
    let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples, expected, "{body}");
    assert!(body.ends_with("# EOF\n"));
    for line in body.lines().filter(|line| line.starts_with("# HELP")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(body.contains(&format!("# TYPE {name} ")), "{line}");
    }
}

#[tokio::test]
async fn metrics_before_the_first_reading_are_well_formed() {
    let admin = start(Status::default()).await;
    let (code, _, body) = get(admin.address, "/metrics").await;
    assert_eq!(code, 200);
    assert!(body.contains("partywall_agent_readings_total 0"), "{body}");
    assert!(!body.contains("losses"), "{body}");
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn healthy_while_readings_come() {
    let admin = start(Status::default()).await;
    assert_eq!(get(admin.address, "/healthz").await.0, 200, "it has just begun");
    admin.status.send_replace(read_just_now());
    let (code, head, body) = get(admin.address, "/healthz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["healthy"]), (200, &true.into()));
    assert!(head.contains("content-type: application/json"), "{head}");

    let stuck = Status {
        read_at: Some(Instant::now().checked_sub(Duration::from_secs(4)).unwrap()),
        ..read_just_now()
    };
    admin.status.send_replace(stuck);
    let (code, _, body) = get(admin.address, "/healthz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["healthy"]), (503, &false.into()));
    assert_eq!(body["reason"], "no reading for 4.0 s, at most 3.0 s are healthy");
}

#[tokio::test]
async fn an_agent_that_never_reads_becomes_unhealthy() {
    let admin = start(Status::default()).await;
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(get(admin.address, "/healthz").await.0, 503);
}

#[tokio::test]
async fn ready_after_the_first_reading() {
    let admin = start(Status::default()).await;
    let (code, _, body) = get(admin.address, "/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &body["missing"]),
        (503, &serde_json::json!(["first_reading"]))
    );

    admin.status.send_replace(read_just_now());
    let (code, _, body) = get(admin.address, "/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["ready"]), (200, &true.into()));
    let absent = serde_json::json!([{ "feature": "steal", "reason": "no \"paravirt\"" }]);
    assert_eq!(body["absent_features"], absent);
}

#[tokio::test]
async fn a_blind_agent_is_healthy_and_not_ready() {
    let admin = start(Status {
        counting: false,
        ..read_just_now()
    })
    .await;
    assert_eq!(
        get(admin.address, "/healthz").await.0,
        200,
        "a restart would not help"
    );
    let (code, _, body) = get(admin.address, "/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &body["missing"]),
        (503, &serde_json::json!(["anything_counted"]))
    );
}

#[tokio::test]
async fn anything_else_is_not_there() {
    let admin = start(Status::default()).await;
    let (code, _, body) = get(admin.address, "/debug").await;
    assert_eq!(code, 404);
    assert!(body.contains("/metrics"));
}

#[tokio::test]
async fn it_stops_though_a_connection_is_open() {
    let admin = start(Status::default()).await;
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    idle.read_u8().await.unwrap();
    admin.stop.cancel();
    tokio::time::timeout(Duration::from_secs(2), admin.served)
        .await
        .expect("stops")
        .unwrap();
    assert!(
        TcpStream::connect(admin.address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let admin = start(Status::default()).await;
    let error = admin::bind(admin.address)
        .await
        .expect_err("it is taken")
        .to_string();
    assert!(
        error.starts_with(&format!("--http-listen {}: ", admin.address)),
        "{error}"
    );
}
