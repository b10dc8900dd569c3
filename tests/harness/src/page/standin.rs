//! Nodes that are not there: what this machine's kernel cannot give (memory controllers, a second node, two hundred tenants), sent over the real wire.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use partywall_proto::v1::{
    AgentCost, Coverage, CpuSample, Entity, Feature, HostCgroup, LedgerRow, Loss, MemoryEvents, MemorySample,
    OomKill, OomScope, Pod, Pressure, Reclaim, Report, entity::Kind,
    ingest_service_client::IngestServiceClient,
};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Endpoint;

const STEP: Duration = Duration::from_secs(1);
const STEP_NS: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// Ends when dropped.
pub(super) struct Standin {
    task: JoinHandle<()>,
}

/// A pod that is told of: what it runs, and how long it waits in all for each of the others, in a second.
pub(super) struct Told {
    pub(super) uid: String,
    pub(super) run_ns: u64,
    /// Index of the pod that ran, time.
    pub(super) waits: Vec<(usize, u64)>,
    pub(super) memory_bytes: Option<u64>,
}

impl Standin {
    /// Reports every second.
    pub(super) async fn start(to: SocketAddr, node: &str, pods: Vec<Told>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
        let channel = endpoint
            .connect()
            .await
            .context("a stand-in cannot reach the aggregator")?;
        let (reports, out) = mpsc::channel(1);
        let receipts = IngestServiceClient::new(channel)
            .ingest(ReceiverStream::new(out))
            .await?;
        let mut receipts = receipts.into_inner();
        let node = node.to_owned();
        let task = tokio::spawn(async move {
            let taking = async {
                while let Some(Ok(receipt)) = receipts.next().await {
                    if !receipt.reason.is_empty() {
                        tracing::error!(receipt.reason, "a stand-in's report was refused");
                    }
                }
            };
            let sending = async {
                for second in 1.. {
                    if reports.send(report(&node, &pods, second)).await.is_err() {
                        return;
                    }
                    sleep(STEP).await;
                }
            };
            tokio::join!(taking, sending);
        });
        Ok(Self { task })
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn index(at: usize) -> u32 {
    // Entities are numbered from 1 on.
    u32::try_from(at + 1).unwrap_or(u32::MAX)
}

fn report(node: &str, pods: &[Told], second: u64) -> Report {
    let unix_ns = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    let boot_ns = (1_000 + second) * STEP_NS;
    let host = index(pods.len());
    let mut entities: Vec<Entity> = pods
        .iter()
        .enumerate()
        .map(|(at, pod)| Entity {
            index: index(at),
            born_boot_ns: 0,
            kind: Some(Kind::Pod(Pod { uid: pod.uid.clone() })),
        })
        .collect();
    entities.push(Entity {
        index: host,
        born_boot_ns: 0,
        // Would be markup.
        kind: Some(Kind::Host(HostCgroup {
            path: "/system.slice/<script>globalThis.ran=1</script>".to_owned(),
        })),
    });
    let waits = |pod: &Told| pod.waits.iter().map(|(_, ns)| ns * second).sum::<u64>();
    let mut cpu: Vec<CpuSample> = pods
        .iter()
        .enumerate()
        .map(|(at, pod)| CpuSample {
            entity: index(at),
            run_ns: pod.run_ns * second,
            wait_ns: waits(pod),
            waits: vec![0, 0, 0, 0, 3 * second, 40 * second, 9 * second],
        })
        .collect();
    cpu.push(CpuSample {
        entity: host,
        run_ns: STEP_NS / 50 * second,
        ..CpuSample::default()
    });
    let ledger = pods.iter().enumerate().map(|(at, pod)| LedgerRow {
        waiter: index(at),
        runners: pod.waits.iter().map(|(runner, _)| index(*runner)).collect(),
        ran_ns: pod.waits.iter().map(|(_, ns)| ns * second).collect(),
        ..LedgerRow::default()
    });
    let memory = pods.iter().enumerate().filter_map(|(at, pod)| {
        let bytes = pod.memory_bytes?;
        Some(MemorySample {
            entity: index(at),
            current_bytes: Some(bytes + second % 7 * MIB),
            working_set_bytes: Some(bytes - bytes / 8),
            limit_bytes: Some(4 * bytes),
            events: Some(MemoryEvents {
                max: second / 3,
                ..MemoryEvents::default()
            }),
            major_faults: Some(second),
            refaults: Some(second * 12),
            memory_pressure: Some(Pressure {
                some_us: second * 9_000,
                full_us: Some(second * 2_000),
            }),
            limit_reclaim: Some(Reclaim {
                stall_ns: second * 1_500_000,
                pages: second * 64,
                times: second,
            }),
            node_reclaim: Some(Reclaim {
                stall_ns: second * 400_000,
                pages: second * 32,
                times: second,
            }),
            ..MemorySample::default()
        })
    });
    let killed = second == 4 && pods.iter().any(|pod| pod.memory_bytes.is_some());
    let oom_kills = killed.then_some(OomKill {
        at_boot_ns: boot_ns - STEP_NS / 2,
        trigger: 2,
        victim: 2,
        scope: OomScope::Limit.into(),
        ..OomKill::default()
    });
    let feature = |name: &str, reason: &str| Feature {
        name: name.to_owned(),
        present: reason.is_empty(),
        reason: reason.to_owned(),
    };
    Report {
        node: node.to_owned(),
        boot_id: format!("boot-{node}"),
        agent_start_unix_ns: 1,
        sequence: second,
        captured_unix_ns: unix_ns,
        captured_boot_ns: boot_ns,
        interval_ns: STEP_NS,
        online_cpus: 8,
        entities: if second == 1 { entities } else { Vec::new() },
        cpu,
        ledger: ledger.collect(),
        memory: memory.collect(),
        oom_kills: oom_kills.into_iter().collect(),
        coverage: Some(Coverage {
            features: vec![
                feature("ledger", ""),
                feature("memory", ""),
                feature(
                    "flows",
                    "cgroup_skb: the kernel refuses it (EPERM): bpf is locked down",
                ),
            ],
            losses: vec![Loss {
                stage: "uplink".to_owned(),
                reason: "queue_full".to_owned(),
                unit: "reports".to_owned(),
                count: 3,
            }],
        }),
        cost: Some(AgentCost {
            cpu_ns: second * STEP_NS / 200,
            memory_bytes: 23 * MIB,
            memory_source: "rss".to_owned(),
            map_bytes: 14 * MIB,
            ..AgentCost::default()
        }),
        ..Report::default()
    }
}

/// The two pods of node-b: memory, an OOM kill, features that are off.
pub(super) fn node_b() -> Vec<Told> {
    let pod = |uid: &str, run_ns, waits, memory_bytes| Told {
        uid: uid.to_owned(),
        run_ns,
        waits,
        memory_bytes: Some(memory_bytes),
    };
    vec![
        pod("uid-blue-cache", STEP_NS / 5, vec![(1, STEP_NS / 40)], 190 * MIB),
        pod("uid-red-hoard", STEP_NS / 3, vec![(0, STEP_NS / 300)], 410 * MIB),
    ]
}

/// So many tenants of one pod each, each of which waits for all others.
pub(super) fn crowd(tenants: usize) -> Vec<Told> {
    let told = |at: usize| Told {
        uid: format!("uid-{at}"),
        run_ns: STEP_NS / 40 + at as u64 * 200_000,
        // From a tenth of a millisecond to some hundred, spread over all of the scale.
        waits: (0..tenants)
            .filter(|runner| *runner != at)
            .map(|runner| {
                let spread = (at * 7 + runner * 13) % 97;
                (runner, 600_000 * (1 << (spread / 12)))
            })
            .collect(),
        memory_bytes: Some(64 * MIB),
    };
    (0..tenants).map(told).collect()
}
