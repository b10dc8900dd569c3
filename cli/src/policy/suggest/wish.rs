//! What is wanted of a flow: kept, closed, or not kept for a reason.

use partywall_aggregator_core::fence::{End, Pod, Traffic};

use super::super::seen::Seen;
use super::scene::Scene;
use crate::args::PolicySuggest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Keep,
    /// Between different tenants, and nothing allows it.
    Close,
    /// No rule is written for it.
    Drop(&'static str),
}

/// Of an end that is no pod, where a rule could name it.
const OUTSIDE: &str = "it is outside of the cluster, and --keep-outside was not given";

pub(super) fn wish(seen: &Seen, traffic: &Traffic<'_>, scene: &Scene, args: &PolicySuggest) -> Wish {
    let flow = &seen.flow;
    if !flow.delivered {
        return Wish::Drop("it was never delivered");
    }
    if is_within_tenant(traffic, scene) {
        return Wish::Keep;
    }
    match flow.verdict.as_str() {
        "open" if args.keep_cross_tenant => {}
        "open" | "leaked" => return Wish::Close,
        "allowed" => {}
        "within" => {
            if let Some(why) = outside(seen, args) {
                return Wish::Drop(why);
            }
        }
        _ => return Wish::Drop("its verdict is not known"),
    }
    match (traffic.protocol.has_ports(), traffic.port) {
        (false, _) => Wish::Drop("NetworkPolicy cannot admit this protocol without admitting every port"),
        (true, 0) => Wish::Drop("its port is not known"),
        _ => Wish::Keep,
    }
}

/// Why a flow with an end that is no pod's, node's or service's is not kept.
fn outside(seen: &Seen, args: &PolicySuggest) -> Option<&'static str> {
    let flow = &seen.flow;
    [&flow.from, &flow.to]
        .into_iter()
        .find_map(|end| match end.kind.as_str() {
            "" | "node" | "service" | "pod_identity" => None,
            // A DNS cache on the node.
            "link_local" if flow.port == 53 => None,
            "metadata" => Some("the instance metadata service gives away the node's credentials"),
            "multicast" | "loopback" => Some("NetworkPolicy says nothing of such addresses"),
            _ => (!args.keep_outside).then_some(OUTSIDE),
        })
}

/// What the rule for the tenant's own namespaces admits; that selects no pod in its node's network.
pub(super) fn is_within_tenant(traffic: &Traffic<'_>, scene: &Scene) -> bool {
    let (End::Pod(from), End::Pod(to)) = (traffic.from, traffic.to) else {
        return false;
    };
    let tenant = |pod: &Pod| scene.tenant_of(&pod.namespace.name).to_owned();
    !from.host_network && !to.host_network && tenant(from) == tenant(to)
}
