//! One answer of an aggregator for the tests of every view, and files to hold what they must look like.

use std::path::PathBuf;

use partywall_proto::v1;

use crate::model::Snapshot;

/// 2026-07-30T11:51:11Z
pub(crate) const JUDGED_UNIX_NS: u64 = 1_785_412_271_500_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;
const CLUSTER: &str = "default";
const EU: &str = "eu-1";

pub(crate) fn snapshot() -> Snapshot {
    wire().into()
}

/// Two nodes in two zones, one of them on other premises; red takes blue's CPU, green is no part of it, and one pod has a name that tries to clear the screen.
pub(crate) fn wire() -> v1::Snapshot {
    v1::Snapshot {
        judged_unix_ns: JUDGED_UNIX_NS,
        window_ns: 10 * SECOND_NS,
        nodes: vec![
            node("node-a", 1, 1.0),
            v1::NodeView {
                zone: "hall-2".into(),
                region: String::new(),
                hybrid: true,
                ..node("node-b", 3, 0.85)
            },
        ],
        tenants: vec![
            v1::TenantView {
                memory_bytes: Some(50 * MIB),
                working_set_bytes: Some(40 * MIB),
                requested_memory_bytes: 64 * MIB,
                node_stall: Some(0.2),
                limit_stall: Some(0.0),
                ..tenant("blue", 0.2, 0.5, 0.31, 0.0)
            },
            tenant("green", 0.05, 0.25, 0.002, 0.0),
            v1::TenantView {
                quota_cores: Some(1.5),
                memory_bytes: Some(912 * MIB),
                working_set_bytes: Some(800 * MIB),
                requested_memory_bytes: 100 * MIB,
                quota_memory_bytes: Some(512 * MIB),
                quota_pods: Some(5),
                node_stall: Some(0.0),
                limit_stall: Some(0.0),
                ..tenant("red", 1.9, 0.1, 0.004, 0.31)
            },
        ],
        pods: vec![
            v1::PodView {
                requested_memory_bytes: 64 * MIB,
                memory: Some(memory()),
                ..pod("blue", "blue", "web", 0.2, 0.5, 0.31, Some(2.58))
            },
            pod("green", "green", "api", 0.05, 0.25, 0.002, Some(1.04)),
            pod("red", "red", "batch\x1b[2J", 1.9, 0.1, 0.004, Some(1.0)),
            v1::PodView {
                slowdown: None,
                wait_p99_ns: None,
                ..pod("red", "red", "sleeper", 0.0, 0.1, 0.0, None)
            },
        ],
        ledger: [
            ("blue", "red", 0.31),
            ("blue", "system", 0.01),
            ("blue", "<idle>", 0.003),
            ("green", "red", 0.002),
            ("red", "red", 1.4),
            ("red", "blue", 0.004),
            ("red", "<throttled>", 0.25),
            ("system", "red", 0.02),
        ]
        .map(|(waiter, runner, cores)| v1::LedgerCell {
            cluster: CLUSTER.into(),
            waiter: waiter.into(),
            runner: runner.into(),
            cores,
        })
        .into(),
        breaches: vec![noisy(), quota(), squeeze()],
        losses: vec![],
        traffic: vec![
            traffic("red", "blue", v1::Verdict::Open, 74 << 10, 7_400.0),
            traffic("red", "blue", v1::Verdict::Blocked, 180, 0.0),
            traffic("blue", "blue", v1::Verdict::Within, 3 * MIB, 120_000.0),
            traffic("green", "blue", v1::Verdict::Leaked, 2 << 10, 210.0),
        ],
        unattributed: vec![v1::Unattributed {
            cluster: CLUSTER.into(),
            reason: "source_unconfirmed".into(),
            bytes: 512,
            packets: 8,
            bytes_per_second: 51.0,
        }],
        folded: vec![v1::TenantTraffic {
            verdict: v1::Verdict::Unspecified.into(),
            ..traffic("red", "", v1::Verdict::Open, 9 << 10, 900.0)
        }],
        clusters: vec![v1::ClusterView {
            name: CLUSTER.into(),
            source: "api".into(),
            synced: true,
            age_ns: Some(2 * SECOND_NS),
            namespaces: 3,
            pods: 4,
            ..v1::ClusterView::default()
        }],
    }
}

/// The same, and cluster `eu-1` beside it, where node and tenants bear names that are here too: another red takes another blue's CPU. Its API is away
/// and its node silent.
pub(crate) fn two_clusters() -> Snapshot {
    let mut all = wire();
    let there = || EU.to_owned();
    all.clusters.push(v1::ClusterView {
        name: there(),
        stale: true,
        age_ns: Some(242 * SECOND_NS),
        problems: vec!["networkpolicies: the API forbids to list them".into()],
        ..all.clusters[0].clone()
    });
    all.nodes.push(v1::NodeView {
        cluster: there(),
        zone: "eu-west-1a".into(),
        age_ns: 65 * SECOND_NS,
        clock_offset_seconds: Some(-3_600.0),
        ..node("node-a", 1, 1.0)
    });
    all.tenants.extend([
        v1::TenantView {
            cluster: there(),
            ..tenant("blue", 0.3, 0.5, 0.11, 0.0)
        },
        v1::TenantView {
            cluster: there(),
            ..tenant("red", 0.9, 0.1, 0.0, 0.11)
        },
    ]);
    all.pods.push(v1::PodView {
        cluster: there(),
        ..pod("blue", "blue", "web", 0.3, 0.5, 0.11, Some(1.4))
    });
    all.ledger.push(v1::LedgerCell {
        cluster: there(),
        waiter: "blue".into(),
        runner: "red".into(),
        cores: 0.11,
    });
    all.breaches.push(v1::Breach {
        cluster: there(),
        fingerprint: "0e0e0e0e0e0e0e0e".into(),
        ..noisy()
    });
    all.traffic.push(v1::TenantTraffic {
        cluster: there(),
        ..traffic("red", "blue", v1::Verdict::Open, 5 << 10, 500.0)
    });
    all.unattributed.push(v1::Unattributed {
        cluster: there(),
        reason: "pod_unknown".into(),
        bytes: 100,
        packets: 2,
        bytes_per_second: 10.0,
    });
    all.into()
}

fn node(name: &str, age_s: u64, covered: f64) -> v1::NodeView {
    let program = v1::ProgramCost {
        name: "sched_switch".into(),
        run_ns: 55_000_000,
        runs: 1_000_000,
    };
    v1::NodeView {
        cluster: CLUSTER.into(),
        name: name.into(),
        zone: "us-east-1a".into(),
        region: "us-east-1".into(),
        hybrid: false,
        clock_offset_seconds: Some(0.002),
        online_cpus: 4,
        used_cores: 1.08,
        age_ns: age_s * SECOND_NS,
        covered,
        features: vec![
            v1::Feature {
                name: "tp_btf".into(),
                present: true,
                reason: String::new(),
            },
            v1::Feature {
                name: "steal_time".into(),
                present: false,
                reason: "no paravirt clock".into(),
            },
        ],
        losses: vec![v1::Loss {
            stage: "ring".into(),
            reason: "full".into(),
            unit: "events".into(),
            count: 3,
        }],
        cost: Some(v1::AgentCost {
            cpu_ns: 40_000_000,
            memory_bytes: 20 * 1024 * 1024,
            memory_source: "cgroup".into(),
            map_bytes: 9 * 1024 * 1024,
            programs: vec![program],
        }),
        agent_cores: 0.004,
        oom_kills: vec![v1::OomTotal {
            trigger: "red".into(),
            victim: "blue".into(),
            scope: "node".into(),
            kills: 2,
        }],
    }
}

fn traffic(
    from: &str,
    to: &str,
    verdict: v1::Verdict,
    bytes: u64,
    bytes_per_second: f64,
) -> v1::TenantTraffic {
    v1::TenantTraffic {
        cluster: CLUSTER.into(),
        from: from.into(),
        to: to.into(),
        verdict: verdict.into(),
        bytes,
        packets: bytes / 60,
        connections: bytes / 2_000,
        bytes_per_second,
    }
}

/// A kernel with PSI and the reclaim tracepoints, for a pod without a limit.
fn memory() -> v1::PodMemory {
    v1::PodMemory {
        sample: Some(v1::MemorySample {
            current_bytes: Some(50 * MIB),
            working_set_bytes: Some(40 * MIB),
            events: Some(v1::MemoryEvents {
                oom_kill: 1,
                ..v1::MemoryEvents::default()
            }),
            major_faults: Some(1_200),
            refaults: Some(900),
            memory_pressure: Some(v1::Pressure {
                some_us: 2_500_000,
                full_us: Some(1_000_000),
            }),
            limit_reclaim: Some(v1::Reclaim::default()),
            node_reclaim: Some(v1::Reclaim {
                stall_ns: 2 * SECOND_NS,
                pages: 40_000,
                times: 80,
            }),
            ..v1::MemorySample::default()
        }),
        node_stall: 0.2,
        pressure_some: Some(0.25),
        pressure_full: Some(0.1),
        refaults_per_second: Some(90.0),
        growth: -1_048_576.0,
        ..v1::PodMemory::default()
    }
}

fn tenant(name: &str, used: f64, entitled: f64, stolen: f64, taken: f64) -> v1::TenantView {
    v1::TenantView {
        cluster: CLUSTER.into(),
        name: name.into(),
        namespaces: vec![name.into()],
        resolved_by: "namespace".into(),
        pods: 1,
        used_cores: used,
        entitled_cores: entitled,
        quota_cores: None,
        wait_cores: stolen + 0.01,
        stolen_cores: stolen,
        taken_cores: taken,
        ..v1::TenantView::default()
    }
}

fn pod(
    tenant: &str,
    namespace: &str,
    name: &str,
    used: f64,
    entitled: f64,
    stolen: f64,
    slowdown: Option<f64>,
) -> v1::PodView {
    v1::PodView {
        cluster: CLUSTER.into(),
        tenant: tenant.into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: format!("0000-{namespace}-{}", name.len()),
        node: "node-a".into(),
        used_cores: used,
        entitled_cores: entitled,
        wait_cores: stolen + 0.013,
        stolen_cores: stolen,
        slowdown,
        system_cores: 0.01,
        idle_cores: 0.003,
        wait_p50_ns: Some(131_072),
        wait_p99_ns: Some(16_777_216),
        ..v1::PodView::default()
    }
}

fn noisy() -> v1::Breach {
    v1::Breach {
        fingerprint: "00c0ffee00c0ffee".into(),
        cluster: CLUSTER.into(),
        kind: v1::BreachKind::NoisyNeighbour.into(),
        state: v1::BreachState::Firing.into(),
        tenant: "red".into(),
        against: "blue".into(),
        node: "node-a".into(),
        subject: "blue/web".into(),
        summary: "red/batch took 0.31 cores of blue/web's promised 0.50 on node-a for 14 s; blue/web ran 2.6x slower".into(),
        since_unix_ns: JUDGED_UNIX_NS - 14 * SECOND_NS,
        firing_unix_ns: JUDGED_UNIX_NS - 12 * SECOND_NS,
        resolved_unix_ns: 0,
        evidence: vec![
            v1::Figure { name: "stolen_cores".into(), value: 0.31 },
            v1::Figure { name: "slowdown".into(), value: 2.58 },
        ],
        culprits: vec![v1::Culprit {
            tenant: "red".into(),
            pod: "red/batch".into(),
            stolen_cores: 0.31,
            share: 1.0,
            ..v1::Culprit::default()
        }],
        covered: 1.0,
        ..v1::Breach::default()
    }
}

fn squeeze() -> v1::Breach {
    v1::Breach {
        fingerprint: "5eed5eed5eed5eed".into(),
        cluster: CLUSTER.into(),
        kind: v1::BreachKind::MemorySqueeze.into(),
        state: v1::BreachState::Pending.into(),
        tenant: "red".into(),
        against: "blue".into(),
        node: "node-a".into(),
        subject: "blue/web".into(),
        summary: "red/batch squeezed blue/web on node-a for 1 s (inferred, confidence 0.85)".into(),
        since_unix_ns: JUDGED_UNIX_NS - SECOND_NS,
        evidence: vec![
            v1::Figure {
                name: "node_stall_seconds_per_second".into(),
                value: 0.2,
            },
            v1::Figure {
                name: "over_request_bytes".into(),
                value: (812 * MIB) as f64,
            },
            v1::Figure {
                name: "growth_bytes_per_second".into(),
                value: (20 * MIB) as f64,
            },
        ],
        culprits: vec![v1::Culprit {
            tenant: "red".into(),
            pod: "red/batch".into(),
            share: 0.9,
            over_request_bytes: Some(812 * MIB),
            growth_bytes_per_second: Some((20 * MIB) as f64),
            ..v1::Culprit::default()
        }],
        covered: 1.0,
        confidence: Some(0.85),
        ..v1::Breach::default()
    }
}

fn quota() -> v1::Breach {
    v1::Breach {
        fingerprint: "0badcafe0badcafe".into(),
        cluster: CLUSTER.into(),
        kind: v1::BreachKind::QuotaExceeded.into(),
        state: v1::BreachState::Resolved.into(),
        tenant: "red".into(),
        summary: "red used 1.90 cores of its quota of 1.50".into(),
        since_unix_ns: JUDGED_UNIX_NS - 300 * SECOND_NS,
        firing_unix_ns: JUDGED_UNIX_NS - 290 * SECOND_NS,
        resolved_unix_ns: JUDGED_UNIX_NS - 100 * SECOND_NS,
        covered: 0.85,
        ..v1::Breach::default()
    }
}

/// Compares with `tests/golden/NAME`. `PARTYWALL_BLESS=1` writes it instead: look at the difference before committing.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("PARTYWALL_BLESS").is_some() {
        std::fs::write(&path, actual).expect("writing the golden file");
        return;
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        actual == expected,
        "{} differs (PARTYWALL_BLESS=1 rewrites it); now:\n{actual}",
        path.display()
    );
}
