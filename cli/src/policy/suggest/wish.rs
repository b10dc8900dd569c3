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
    // What is no pod behind a Service (the API server) is no other tenant's, whatever is said of the Service as a whole.
    if flow.to.kind == "service" && !matches!(traffic.to, End::Pod(_)) {
        return match traffic.to {
            End::Address(_) if !args.keep_outside => Wish::Drop(OUTSIDE),
            _ => Wish::Keep,
        };
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

#[cfg(test)]
mod tests {
    use partywall_aggregator::identify::objects;
    use partywall_aggregator_core::identity::Protocol;
    use partywall_aggregator_core::policy::Policy;

    use super::super::fate::Fate;
    use super::super::plan::Plan;
    use super::*;
    use crate::flows;

    const CLUSTER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: blue, uid: u1}
spec: {nodeName: node-a, containers: [{name: c}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: control-plane}
status: {addresses: [{type: InternalIP, address: 10.0.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [ENDPOINT]}]
ports: [{name: https, port: 6443, protocol: TCP}]
";

    #[test]
    fn the_api_server_is_not_cut() {
        let end = |tenant: &str, namespace: &str, pod: &str, address: &str| flows::End {
            tenant: tenant.into(),
            namespace: namespace.into(),
            pod: pod.into(),
            address: address.into(),
            ..flows::End::default()
        };
        for (endpoint, keep_outside, verdict, fate) in [
            ("10.0.0.9", false, "within", Fate::Kept),
            ("10.0.0.9", false, "open", Fate::Kept),
            ("203.0.113.9", false, "within", Fate::Cut),
            ("203.0.113.9", true, "within", Fate::Kept),
        ] {
            let mut seen = Seen {
                flow: flows::Flow {
                    from: end("blue", "blue", "web", "10.0.0.1"),
                    to: end("default", "default", "kubernetes", "10.96.0.1"),
                    protocol: "TCP".into(),
                    port: 443,
                    verdict: verdict.into(),
                    delivered: true,
                    ..flows::Flow::default()
                },
                protocol: Protocol::Tcp,
                port: 443,
                from: "10.0.0.1".parse().ok(),
                to: "10.96.0.1".parse().ok(),
            };
            seen.flow.to.kind = "service".into();
            let args = PolicySuggest {
                egress: true,
                keep_outside,
                ..PolicySuggest::default()
            };
            let cluster = objects::read(&CLUSTER.replace("ENDPOINT", endpoint))
                .unwrap()
                .cluster;
            let flows = [seen];
            let scene = Scene::new(Some(cluster), &Policy::default(), &flows).unwrap();
            let plan = Plan::new(&scene, &flows, &args);
            let fates: Vec<_> = plan.flows.iter().map(|told| told.fate).collect();
            assert_eq!(fates, [fate], "{endpoint} {verdict}");
        }
    }
}
