//! Flows for clients.

use std::sync::Arc;

use super::Table;
use super::ends::{End, Reason, What};
use super::record::{Judged, Record};
use super::totals::Verdict;
use crate::breach::seconds;
use crate::identity::{Directory, UNKNOWN};
use crate::limits::MAX_FLOWS_SHOWN;
use crate::policy::Policy;
use crate::report::{Role, Traffic};
use crate::traffic::totals::OUTSIDE;
use crate::world::Now;

/// Which flows. Empty fields do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Only between different tenants.
    pub cross_tenant: bool,
    /// "tenant", "namespace/" or "namespace/pod".
    pub from: String,
    pub to: String,
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowList {
    pub judged_unix_ns: u64,
    pub window_ns: u64,
    /// Most bytes first.
    pub flows: Vec<FlowView>,
    pub left_out: u64,
}

/// One end of a flow. Texts are empty where they do not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowEnd {
    pub tenant: Arc<str>,
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub uid: Arc<str>,
    pub node: Arc<str>,
    pub address: String,
    /// What it is where it is no pod.
    pub kind: &'static str,
    pub unattributed: Option<Reason>,
}

/// Which end told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Both,
    Opener,
    Receiver,
}

impl Seen {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Opener => "opener",
            Self::Receiver => "receiver",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct FlowView {
    pub from: FlowEnd,
    pub to: FlowEnd,
    /// IANA number.
    pub protocol: u8,
    pub port: u16,
    pub verdict: Verdict,
    pub reason: Arc<str>,
    pub seen_by: Seen,
    pub delivered: bool,
    /// As the opener's side has it; cumulative since its agent's start.
    pub traffic: Traffic,
    pub first_seen_unix_ns: u64,
    pub last_seen_unix_ns: u64,
    pub bytes_per_second: f64,
}

impl FlowFilter {
    fn admits(&self, judged: &Judged, directory: &Directory) -> bool {
        let (from, to) = (&judged.from, &judged.to);
        let differ = || match (from.named_tenant(), to.named_tenant()) {
            (Some(a), Some(b)) => a != b,
            _ => false,
        };
        (!self.cross_tenant || differ())
            && (self.verdicts.is_empty() || self.verdicts.contains(&judged.verdict))
            && names(&self.from, from, directory)
            && names(&self.to, to, directory)
    }
}

fn names(wanted: &str, end: &End, directory: &Directory) -> bool {
    let (namespace, name) = match &end.what {
        What::Pod(pod) => (&*pod.namespace, &*pod.name),
        What::Service(service) => (&*service.namespace, &*service.name),
        _ => ("", ""),
    };
    match wanted.split_once('/') {
        None if wanted.is_empty() => true,
        None => *tenant(end, directory) == *wanted,
        Some((ns, "")) => ns == namespace,
        Some((ns, pod)) => ns == namespace && pod == name,
    }
}

fn tenant(end: &End, directory: &Directory) -> Arc<str> {
    match (end.tenant, end.reason()) {
        (Some(tenant), _) => Arc::clone(directory.tenants.name(tenant)),
        (None, Some(_)) => Arc::from(UNKNOWN),
        (None, None) => Arc::from(OUTSIDE),
    }
}

fn end_view(end: &End, directory: &Directory) -> FlowEnd {
    let mut out = FlowEnd {
        tenant: tenant(end, directory),
        node: end.node.clone().unwrap_or_default(),
        address: end.address.to_string(),
        unattributed: end.reason(),
        ..FlowEnd::default()
    };
    out.kind = match &end.what {
        What::Pod(pod) => {
            out.namespace = Arc::clone(&pod.namespace);
            out.pod = Arc::clone(&pod.name);
            out.uid = Arc::clone(&pod.uid);
            ""
        }
        What::Service(service) => {
            out.namespace = Arc::from(&*service.namespace);
            out.pod = Arc::from(&*service.name);
            "service"
        }
        What::Node(_) => "node",
        What::Metadata => "metadata",
        What::PodIdentity => "pod_identity",
        What::Loopback => "loopback",
        What::LinkLocal => "link_local",
        What::Multicast => "multicast",
        What::Outside { .. } => "outside",
        What::Unnamed(_) => "",
    };
    out
}

impl Table {
    pub(crate) fn list(
        &self,
        filter: &FlowFilter,
        directory: &Directory,
        policy: &Policy,
        judged: Now,
    ) -> FlowList {
        let window_ns = seconds(policy.thresholds.windows.length_seconds);
        let mut found: Vec<(u64, u32, &Record, &Judged)> = Vec::new();
        for (id, record) in self.records.iter().enumerate() {
            if let Some(record) = record.as_deref().filter(|r| r.primary)
                && let Some(judged) = record.judged()
                && filter.admits(judged, directory)
            {
                found.push((record.marks().bytes(), id as u32, record, judged));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let left_out = found.len().saturating_sub(MAX_FLOWS_SHOWN) as u64;
        let flows = found
            .into_iter()
            .take(MAX_FLOWS_SHOWN)
            .map(|(_, _, record, j)| FlowView {
                from: end_view(&j.from, directory),
                to: end_view(&j.to, directory),
                protocol: record.flow.protocol,
                port: record.flow.port,
                verdict: j.verdict,
                reason: Arc::clone(&j.reason),
                seen_by: match (record.flow.role, record.partner()) {
                    (Role::Opened | Role::Unknown, _) => Seen::Opener,
                    (Role::Accepted, Some(_)) => Seen::Both,
                    (Role::Accepted, None) => Seen::Receiver,
                },
                delivered: j.delivered,
                traffic: record.marks(),
                first_seen_unix_ns: record.first_unix_ns,
                last_seen_unix_ns: record.last_unix_ns,
                bytes_per_second: record.rate(judged.mono_ns, window_ns),
            })
            .collect();
        FlowList {
            judged_unix_ns: judged.unix_ns,
            window_ns,
            flows,
            left_out,
        }
    }

    /// Flows known, both ends' records.
    pub(crate) fn records(&self) -> usize {
        self.len()
    }
}
