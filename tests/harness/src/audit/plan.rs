//! What shall happen: who reaches whom and when, and who is away.

use std::{fmt::Write as _, net::Ipv4Addr};

use crate::restarts::Random;

pub(super) const S: u64 = 1_000_000_000;
pub(super) const SLOT: u64 = 10 * S;
/// Slots of the run.
pub(super) const SLOTS: u64 = 16;

/// Two to a node; red has a second pod on the last.
pub(super) const TENANTS: [&str; 6] = ["red", "blue", "green", "amber", "teal", "gray"];
pub(super) const NODES: [&str; 3] = ["sim-a", "sim-b", "sim-c"];

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) tenant: &'static str,
    pub(super) node: usize,
    pub(super) address: Ipv4Addr,
}

impl Place {
    pub(super) fn uid(&self) -> String {
        format!("{}-{}", self.tenant, self.node)
    }
}

pub(super) fn places() -> Vec<Place> {
    let mut out: Vec<Place> = Vec::new();
    let homes = TENANTS.iter().enumerate().map(|(i, tenant)| (*tenant, i / 2));
    for (i, (tenant, node)) in homes.chain([("red", 2)]).enumerate() {
        out.push(Place {
            tenant,
            node,
            address: Ipv4Addr::new(10, 1, node as u8, i as u8 + 1),
        });
    }
    out
}

/// The same as Kubernetes objects.
pub(super) fn objects() -> String {
    let mut text = String::new();
    for place in places() {
        let _infallible = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{}, namespace: {}, uid: {}}}, \
             spec: {{nodeName: {}, containers: [{{name: c}}]}}, status: {{phase: Running, podIPs: [{{ip: {}}}]}}}}",
            place.node,
            place.tenant,
            place.uid(),
            NODES[place.node],
            place.address
        );
    }
    for tenant in TENANTS {
        let _infallible = writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {tenant}}}}}"
        );
    }
    text
}

/// A connection is made, and something goes to and fro.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    pub(super) at_ns: u64,
    pub(super) from: Place,
    pub(super) to: Place,
}

/// An agent cannot be heard. Unix nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// It lives, and keeps its reports.
    pub(super) keeps: bool,
}

#[derive(Debug)]
pub(super) struct Plan {
    /// The first moment of the first slot.
    pub(super) begins_ns: u64,
    pub(super) bursts: Vec<Burst>,
    /// By node.
    pub(super) outages: [Vec<Outage>; 3],
    /// The aggregator is killed, and begun again.
    pub(super) kill_ns: u64,
    pub(super) again_ns: u64,
}

/// Slots: the agent of sim-b is dead in some, the aggregator is killed in one, sim-c is cut off in some.
const DEAD: (u64, u64) = (3, 7);
const KILL: u64 = 9;
const CUT: (u64, u64) = (12, 13);
/// After an agent was heard of last its node's word still counts for a while: who reaches it then is named by nobody. No traffic of its pods.
const FRESH_S: u64 = 16;

impl Plan {
    pub(super) fn new(begins_ns: u64, random: &mut Random) -> Self {
        let at = |slot: u64, tenths: u64| begins_ns + slot * SLOT + tenths * S / 10;
        let dead = Outage {
            from_ns: at(DEAD.0, 10),
            to_ns: at(DEAD.1, 10),
            keeps: false,
        };
        let cut = Outage {
            from_ns: at(CUT.0, 10),
            to_ns: at(CUT.1, 60),
            keeps: true,
        };
        let mut plan = Self {
            begins_ns,
            bursts: Vec::new(),
            outages: [Vec::new(), vec![dead], vec![cut]],
            kill_ns: at(KILL, 25),
            again_ns: at(KILL, 55),
        };
        let places = places();
        // Some pairs talk now and then, most never.
        let mut pairs = Vec::new();
        while pairs.len() < 12 {
            let [a, b] = [(); 2].map(|()| random.below(places.len() as u64) as usize);
            if places[a].tenant != places[b].tenant && !pairs.contains(&(a, b)) {
                pairs.push((a, b));
            }
        }
        for slot in 0..SLOTS {
            for (a, b) in &pairs {
                if random.below(100) < 35 {
                    // In the middle of a slot: within one, whichever node tells.
                    let at_ns = at(slot, 15 + random.below(70));
                    plan.burst(at_ns, &places[*a], &places[*b]);
                }
            }
        }
        plan.bursts.sort_by_key(|burst| burst.at_ns);
        plan
    }

    fn burst(&mut self, at_ns: u64, from: &Place, to: &Place) {
        let near = |ns: u64, before: u64, after: u64| (ns - before..ns + after).contains(&at_ns);
        let dead = self.outages[1][0];
        let of_dead = from.node == 1 || to.node == 1;
        let fresh = near(dead.from_ns, S, FRESH_S * S) || near(dead.to_ns, S, 2 * S);
        // What was judged just before the kill may be on the disk or not; and an agent's first reports after it are a base for what is new.
        let slot_before = self.begins_ns + (KILL - 1) * SLOT;
        let torn = (slot_before..slot_before + 65 * S / 10).contains(&at_ns)
            || near(self.kill_ns, 15 * S / 10, 3 * S / 10)
            || (self.kill_ns + 12 * S / 10..self.begins_ns + (KILL + 1) * SLOT).contains(&at_ns);
        if (of_dead && fresh) || torn {
            return;
        }
        self.bursts.push(Burst {
            at_ns,
            from: from.clone(),
            to: to.clone(),
        });
    }
}
