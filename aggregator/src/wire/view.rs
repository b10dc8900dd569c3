//! What the core knows → what clients get.

use partywall_aggregator_core::breach::{Breach, BreachKind, BreachState};
use partywall_aggregator_core::losses::Losses;
use partywall_aggregator_core::report as core;
use partywall_aggregator_core::snapshot::{NodeView, PodMemory, PodView, Snapshot, TenantView};
use partywall_proto::v1;

use super::traffic;

pub fn snapshot(snapshot: Snapshot, losses: Vec<v1::Loss>) -> v1::Snapshot {
    v1::Snapshot {
        traffic: traffic::between(&snapshot),
        unattributed: traffic::unattributed(&snapshot),
        folded: traffic::folded(&snapshot),
        judged_unix_ns: snapshot.judged_unix_ns,
        window_ns: snapshot.window_ns,
        nodes: snapshot.nodes.into_iter().map(node).collect(),
        tenants: snapshot.tenants.iter().map(tenant).collect(),
        pods: snapshot.pods.iter().map(pod).collect(),
        ledger: snapshot
            .ledger
            .into_iter()
            .map(|c| v1::LedgerCell {
                waiter: c.waiter.to_string(),
                runner: c.runner.to_string(),
                cores: c.cores,
            })
            .collect(),
        breaches: snapshot.breaches.into_iter().map(breach).collect(),
        losses,
    }
}

/// The aggregator's own losses.
pub fn losses(losses: &Losses) -> Vec<v1::Loss> {
    losses
        .iter()
        .map(|(key, count)| v1::Loss {
            stage: key.stage.to_owned(),
            reason: key.reason.to_owned(),
            unit: key.unit.to_owned(),
            count,
        })
        .collect()
}

pub fn breach(breach: Breach) -> v1::Breach {
    let kind = match breach.key.kind {
        BreachKind::NoisyNeighbour => v1::BreachKind::NoisyNeighbour,
        BreachKind::NodeOvercommitted => v1::BreachKind::NodeOvercommitted,
        BreachKind::SystemNoise => v1::BreachKind::SystemNoise,
        BreachKind::QuotaNear => v1::BreachKind::QuotaNear,
        BreachKind::QuotaExceeded => v1::BreachKind::QuotaExceeded,
        BreachKind::MemorySqueeze => v1::BreachKind::MemorySqueeze,
        BreachKind::CrossTenantOom => v1::BreachKind::CrossTenantOom,
        BreachKind::LimitRangeExceeded => v1::BreachKind::LimitRangeExceeded,
        BreachKind::FlatNetwork => v1::BreachKind::FlatNetwork,
        BreachKind::FenceLeak => v1::BreachKind::FenceLeak,
        BreachKind::Probe => v1::BreachKind::Probe,
        BreachKind::CredentialReach => v1::BreachKind::CredentialReach,
    };
    let state = match breach.state {
        BreachState::Pending => v1::BreachState::Pending,
        BreachState::Firing => v1::BreachState::Firing,
        BreachState::Resolved => v1::BreachState::Resolved,
    };
    v1::Breach {
        fingerprint: breach.fingerprint,
        kind: kind.into(),
        state: state.into(),
        tenant: breach.key.tenant.to_string(),
        against: breach.key.against.to_string(),
        node: breach.key.node.to_string(),
        subject: breach.key.subject.to_string(),
        summary: breach.summary,
        since_unix_ns: breach.since_unix_ns,
        firing_unix_ns: breach.firing_unix_ns,
        resolved_unix_ns: breach.resolved_unix_ns,
        evidence: breach
            .evidence
            .iter()
            .map(|f| v1::Figure {
                name: f.name.to_owned(),
                value: f.value,
            })
            .collect(),
        culprits: breach
            .culprits
            .iter()
            .map(|c| v1::Culprit {
                tenant: c.tenant.to_string(),
                pod: c.pod.to_string(),
                stolen_cores: c.stolen_cores,
                share: c.share,
                over_request_bytes: c.over_request_bytes,
                growth_bytes_per_second: c.growth_bytes_per_second,
            })
            .collect(),
        covered: breach.covered,
        confidence: breach.confidence,
    }
}

fn node(node: NodeView) -> v1::NodeView {
    v1::NodeView {
        name: node.name.to_string(),
        online_cpus: node.online_cpus,
        used_cores: node.used_cores,
        age_ns: node.age_ns,
        covered: node.covered,
        features: node
            .features
            .into_iter()
            .map(|f| v1::Feature {
                name: f.name,
                present: f.present,
                reason: f.reason,
            })
            .collect(),
        losses: node
            .losses
            .into_iter()
            .map(|l| v1::Loss {
                stage: l.stage,
                reason: l.reason,
                unit: l.unit,
                count: l.count,
            })
            .collect(),
        cost: Some(cost(node.cost)),
        agent_cores: node.agent_cores,
        oom_kills: node
            .oom_kills
            .iter()
            .map(|o| v1::OomTotal {
                trigger: o.trigger.to_string(),
                victim: o.victim.to_string(),
                scope: o.scope.as_str().to_owned(),
                kills: o.kills,
            })
            .collect(),
    }
}

fn cost(cost: core::AgentCost) -> v1::AgentCost {
    v1::AgentCost {
        cpu_ns: cost.cpu_ns,
        memory_bytes: cost.memory_bytes,
        memory_source: cost.memory_source,
        map_bytes: cost.map_bytes,
        programs: cost
            .programs
            .into_iter()
            .map(|p| v1::ProgramCost {
                name: p.name,
                run_ns: p.run_ns,
                runs: p.runs,
            })
            .collect(),
    }
}

fn tenant(tenant: &TenantView) -> v1::TenantView {
    v1::TenantView {
        name: tenant.name.to_string(),
        namespaces: tenant.namespaces.iter().map(ToString::to_string).collect(),
        resolved_by: tenant.resolved_by.to_string(),
        pods: tenant.pods,
        used_cores: tenant.used_cores,
        entitled_cores: tenant.entitled_cores,
        quota_cores: tenant.quota_cores,
        wait_cores: tenant.wait_cores,
        stolen_cores: tenant.stolen_cores,
        taken_cores: tenant.taken_cores,
        memory_bytes: tenant.memory_bytes,
        working_set_bytes: tenant.working_set_bytes,
        requested_memory_bytes: tenant.requested_memory_bytes,
        quota_memory_bytes: tenant.quota_memory_bytes,
        quota_pods: tenant.quota_pods,
        node_stall: tenant.node_stall,
        limit_stall: tenant.limit_stall,
    }
}

fn pod(pod: &PodView) -> v1::PodView {
    v1::PodView {
        tenant: pod.tenant.to_string(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        node: pod.node.to_string(),
        used_cores: pod.used_cores,
        entitled_cores: pod.entitled_cores,
        wait_cores: pod.wait_cores,
        stolen_cores: pod.stolen_cores,
        slowdown: pod.slowdown,
        same_tenant_cores: pod.same_tenant_cores,
        self_cores: pod.self_cores,
        system_cores: pod.system_cores,
        idle_cores: pod.idle_cores,
        throttled_cores: pod.throttled_cores,
        steal_cores: pod.steal_cores,
        unresolved_cores: pod.unresolved_cores,
        wait_p50_ns: pod.wait_p50_ns,
        wait_p99_ns: pod.wait_p99_ns,
        unknown_cores: pod.unknown_cores,
        memory: pod.memory.as_ref().map(memory),
        requested_memory_bytes: pod.requested_memory_bytes,
    }
}

fn memory(memory: &PodMemory) -> v1::PodMemory {
    let s = &memory.sample;
    let pressure = |p: core::Pressure| v1::Pressure {
        some_us: p.some_us,
        full_us: p.full_us,
    };
    let reclaim = |r: core::Reclaim| v1::Reclaim {
        stall_ns: r.stall_ns,
        pages: r.pages,
        times: r.times,
    };
    v1::PodMemory {
        sample: Some(v1::MemorySample {
            entity: 0,
            current_bytes: s.current_bytes,
            working_set_bytes: s.working_set_bytes,
            limit_bytes: s.limit_bytes,
            events: s.events.map(|e| v1::MemoryEvents {
                high: e.high,
                max: e.max,
                oom: e.oom,
                oom_kill: e.oom_kill,
            }),
            major_faults: s.major_faults,
            refaults: s.refaults,
            cpu_pressure: s.cpu_pressure.map(pressure),
            memory_pressure: s.memory_pressure.map(pressure),
            io_pressure: s.io_pressure.map(pressure),
            limit_reclaim: s.limit_reclaim.map(reclaim),
            node_reclaim: s.node_reclaim.map(reclaim),
        }),
        // Whether they were measured, the sample says.
        limit_stall: memory.limit_stall.unwrap_or(0.0),
        node_stall: memory.node_stall.unwrap_or(0.0),
        pressure_some: memory.pressure_some,
        pressure_full: memory.pressure_full,
        refaults_per_second: memory.refaults_per_second,
        growth: memory.growth,
    }
}
