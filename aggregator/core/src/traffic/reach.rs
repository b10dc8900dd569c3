//! `CredentialReach`: a pod reached the instance metadata service, and with it the node's credentials, in a cluster that gives pods their own by Pod
//! Identity.
//!
//! Where Pod Identity is not in use, the metadata service is how pods get any credentials at all, and reaching it no breach. Whether it is, the flows
//! tell (its agent answers somebody), unless the policy file says so. Host-network pods and those of `system` are the node's own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::cx::Cx;
use super::ends::{End, What};
use super::outcome::Outcome;
use crate::breach::{BreachKey, BreachKind, seconds};
use crate::finding::{Detail, Figure, Finding, Reached};
use crate::identity::{Pod, Protocol};
use crate::limits::MAX_REACHERS;
use crate::losses::Losses;
use crate::policy::PodIdentity;

const TCP: u8 = 6;

#[derive(Debug, Default)]
pub(super) struct Reach {
    /// The agent of Pod Identity answered somebody.
    identity_seen: bool,
    by_pod: BTreeMap<Arc<str>, Reacher>,
}

#[derive(Debug)]
struct Reacher {
    pod: Arc<Pod>,
    address: IpAddr,
    times: u64,
    last_ns: u64,
}

impl Reach {
    pub(super) fn note(
        &mut self,
        from: &End,
        to: &End,
        protocol: u8,
        outcome: Outcome,
        cx: &Cx<'_>,
        losses: &mut Losses,
    ) {
        // Both speak HTTP: an answer to a ping gives nothing away, and a packet that nobody answers says nothing of the cluster.
        let answered = matches!(outcome, Outcome::Delivered | Outcome::Continues);
        if !answered || Protocol::from_number(protocol) != Protocol::Tcp {
            return;
        }
        match to.what {
            What::PodIdentity => self.identity_seen = true,
            What::Metadata => {
                let Some(pod) = from.pod().filter(|p| !p.host_network) else {
                    return;
                };
                if from.named_tenant().is_none() {
                    return;
                }
                if self.by_pod.len() >= MAX_REACHERS && !self.by_pod.contains_key(&pod.uid) {
                    losses.add("judge", "reacher_cap", "pods", 1);
                    return;
                }
                let reached = self
                    .by_pod
                    .entry(Arc::clone(&pod.uid))
                    .or_insert_with(|| Reacher {
                        pod: Arc::clone(pod),
                        address: to.address,
                        times: 0,
                        last_ns: 0,
                    });
                reached.times += 1;
                reached.last_ns = cx.now.mono_ns;
            }
            _ => {}
        }
    }

    pub(super) fn findings(&mut self, cx: &Cx<'_>, out: &mut Vec<Finding>) {
        let t = &cx.policy.thresholds;
        let shown_ns = seconds(t.windows.fast_seconds);
        let kept_ns = shown_ns.saturating_add(seconds(t.credential_reach.clear_after_seconds));
        let now_ns = cx.now.mono_ns;
        self.by_pod
            .retain(|_, r| now_ns.saturating_sub(r.last_ns) <= kept_ns);
        let (in_use, how) = match cx.policy.fence.pod_identity {
            PodIdentity::Yes => (true, "the policy file says"),
            PodIdentity::No => (false, ""),
            PodIdentity::Auto => (self.identity_seen, "its agent answers pods"),
        };
        if !in_use {
            return;
        }
        for reached in self.by_pod.values() {
            if now_ns.saturating_sub(reached.last_ns) <= shown_ns {
                out.push(reached.finding(how, cx));
            }
        }
    }
}

impl Reacher {
    fn finding(&self, how: &str, cx: &Cx<'_>) -> Finding {
        let pod = format!("{}/{}", self.pod.namespace, self.pod.name);
        let tenant = Arc::clone(cx.directory.tenants.name(self.pod.tenant));
        let node = self.pod.node.clone().unwrap_or_default();
        let subject: Arc<str> = Arc::from(pod.as_str());
        Finding {
            head: format!(
                "{pod} of {tenant} reached the instance metadata service at {}",
                self.address
            ),
            tail: format!(
                ": from there the credentials of node {node} can be had; pods of this cluster have their own by Pod Identity ({how})"
            ),
            evidence: vec![Figure {
                name: "times",
                value: self.times as f64,
            }],
            covered: cx.covered(&node),
            key: BreachKey {
                kind: BreachKind::CredentialReach,
                tenant,
                against: Arc::from(""),
                node,
                subject: Arc::clone(&subject),
            },
            culprits: Vec::new(),
            detail: Detail::Reached(vec![Reached {
                from: subject,
                to: Arc::from(self.address.to_string()),
                protocol: TCP,
                port: 0,
            }]),
            weight: self.times as f64,
            confidence: None,
            ready: true,
        }
    }
}
