//! What the core knows → what clients get.

use partywall_aggregator_core::breach::{Breach, BreachKind, BreachState};
use partywall_aggregator_core::identity::{ResolvedBy, Said};
use partywall_aggregator_core::losses::Losses;
use partywall_aggregator_core::report as core;
use partywall_aggregator_core::snapshot::{NodeView, PodMemory, PodView, Snapshot, TenantView};
use partywall_proto::v1;

use super::traffic;
use crate::identify::api::Status;
use crate::state::Cluster;

/// Adds what is known of one cluster. The moments of several lie milliseconds apart: `judged_unix_ns` is the earliest.
pub fn add_snapshot(
    all: &mut v1::Snapshot,
    cluster: v1::ClusterView,
    snapshot: Snapshot,
    losses: Vec<v1::Loss>,
) {
    let name = &cluster.name;
    all.traffic.extend(traffic::between(name, &snapshot));
    all.unattributed.extend(traffic::unattributed(name, &snapshot));
    all.folded.extend(traffic::folded(name, &snapshot));
    all.judged_unix_ns = match all.judged_unix_ns {
        0 => snapshot.judged_unix_ns,
        earlier => earlier.min(snapshot.judged_unix_ns),
    };
    all.window_ns = snapshot.window_ns;
    let nodes = snapshot.nodes.into_iter();
    all.nodes.extend(nodes.map(|n| node(name, n)));
    all.tenants
        .extend(snapshot.tenants.iter().map(|t| tenant(name, t)));
    all.pods.extend(snapshot.pods.iter().map(|p| pod(name, p)));
    let cells = snapshot.ledger.into_iter();
    all.ledger.extend(cells.map(|c| v1::LedgerCell {
        cluster: name.clone(),
        waiter: c.waiter.to_string(),
        runner: c.runner.to_string(),
        cores: c.cores,
    }));
    all.breaches.extend(snapshot.breaches.into_iter().map(breach));
    add_losses(&mut all.losses, losses);
    all.clusters.push(cluster);
}

/// By which rule a namespace got its tenant.
pub fn explanation(
    cluster: &str,
    namespace: String,
    said: Vec<(ResolvedBy, Said)>,
) -> v1::NamespaceExplanation {
    let mut out = v1::NamespaceExplanation {
        cluster: cluster.to_owned(),
        namespace,
        ..v1::NamespaceExplanation::default()
    };
    for (by, said) in said {
        let (outcome, detail) = match said {
            Said::Named(tenant, detail) if out.tenant.is_empty() => {
                out.tenant = tenant;
                by.as_str().clone_into(&mut out.resolved_by);
                (v1::RuleOutcome::Named, detail)
            }
            Said::Named(tenant, detail) => (
                v1::RuleOutcome::NotNeeded,
                format!("{detail}; would be {tenant:?}"),
            ),
            Said::Silent(detail) => (v1::RuleOutcome::Silent, detail),
            Said::Rejected(detail) => (v1::RuleOutcome::Rejected, detail),
        };
        out.rules.push(v1::RuleTried {
            rule: by.as_str().to_owned(),
            outcome: outcome.into(),
            detail,
        });
    }
    out
}

/// What is known of a cluster's source.
pub fn cluster_view(cluster: &Cluster) -> v1::ClusterView {
    let source = cluster.source.get();
    let files = source.broken.iter();
    let files = files.map(|(file, problem)| format!("{}: {problem}", file.display()));
    let watches = source.api.iter().flat_map(Status::problems);
    let watches = watches.map(|(resource, problem)| format!("{resource}: {problem}"));
    let quotas = source.unjudged_quotas.iter();
    let quotas = quotas.map(|q| {
        format!(
            "ResourceQuota {}/{} is not judged: {}",
            q.namespace, q.name, q.reason
        )
    });
    v1::ClusterView {
        name: cluster.name.to_string(),
        source: match (&source.api, source.files) {
            (Some(_), _) => "api",
            (None, 0) => "none",
            (None, _) => "files",
        }
        .to_owned(),
        // Files are read before anything is listened to.
        synced: source.api.as_ref().is_none_or(Status::is_synced),
        age_ns: source
            .api
            .as_ref()
            .and_then(Status::age)
            .map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        stale: source.api.as_ref().is_some_and(Status::is_stale),
        namespaces: source.namespaces as u64,
        pods: source.pods as u64,
        problems: files.chain(watches).chain(quotas).collect(),
    }
}

/// Sums by place: an aggregator loses things in one place, whosever they are.
fn add_losses(all: &mut Vec<v1::Loss>, losses: Vec<v1::Loss>) {
    for loss in losses {
        let same =
            |l: &&mut v1::Loss| (&l.stage, &l.reason, &l.unit) == (&loss.stage, &loss.reason, &loss.unit);
        match all.iter_mut().find(same) {
            Some(sum) => sum.count = sum.count.saturating_add(loss.count),
            None => all.push(loss),
        }
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

pub(super) fn breach_kind(kind: BreachKind) -> v1::BreachKind {
    match kind {
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
    }
}

pub fn breach(breach: Breach) -> v1::Breach {
    let state = match breach.state {
        BreachState::Pending => v1::BreachState::Pending,
        BreachState::Firing => v1::BreachState::Firing,
        BreachState::Resolved => v1::BreachState::Resolved,
    };
    v1::Breach {
        fingerprint: breach.fingerprint,
        cluster: breach.cluster.to_string(),
        kind: breach_kind(breach.key.kind).into(),
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

fn node(cluster: &str, node: NodeView) -> v1::NodeView {
    v1::NodeView {
        cluster: cluster.to_owned(),
        zone: node.zone,
        region: node.region,
        hybrid: node.hybrid,
        clock_offset_seconds: node.clock_offset_ns.map(|ns| ns as f64 / 1e9),
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

fn tenant(cluster: &str, tenant: &TenantView) -> v1::TenantView {
    v1::TenantView {
        cluster: cluster.to_owned(),
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

fn pod(cluster: &str, pod: &PodView) -> v1::PodView {
    v1::PodView {
        cluster: cluster.to_owned(),
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
