//! Which records are one flow.

use super::cx::Cx;
use super::record::Record;
use super::{Key, Table};
use crate::identity::Owner;
use crate::limits::NS_PER_S;

/// Two ends' last words of one flow are no further apart than this: an interval of each agent, and what a queue holds up. This and the next are more
/// where agents report seldom.
const APART_NS: u64 = 10 * NS_PER_S;
/// Of several that may have opened, those that were heard of this lately did.
const LATELY_NS: u64 = 5 * NS_PER_S;

/// Who opened what a receiver's record is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opener {
    None,
    One {
        record: u32,
        /// It named the receiver's own address: all that it counted is of this flow.
        exact: bool,
    },
    /// Several use the same address: how much is whose, the receiver cannot tell.
    Several,
}

impl Table {
    pub(super) fn opener_of(&self, receiver: &Record, cx: &Cx<'_>) -> Opener {
        let key = Key::of(receiver);
        let mut found: Vec<(u32, bool)> = Vec::new();
        let exact = self.openers.get(&key).into_iter().flatten();
        found.extend(exact.map(|id| (*id, true)));
        let addresses = cx.directory.addresses();
        let services = addresses.before(key.to, key.protocol, key.port);
        let through = |from, (vip, port): (_, u16)| {
            let key = Key {
                from,
                to: vip,
                port,
                ..key
            };
            self.openers.get(&key).into_iter().flatten()
        };
        for service in services.clone() {
            found.extend(through(key.from, service).map(|id| (*id, false)));
        }
        if found.is_empty() && services.clone().next().is_some() {
            // A pod that meets itself behind a Service: on the way its address becomes the node's, or that of a bridge nobody knows.
            let at = addresses.at(key.from, receiver.last_ns);
            if matches!(at, Owner::Node(_) | Owner::Outside { private: true }) {
                for service in services {
                    let own = through(key.to, service)
                        .filter(|id| self.get(**id).is_some_and(|o| o.owner == receiver.owner));
                    found.extend(own.map(|id| (*id, false)));
                }
            }
        }
        found.retain(|(id, _)| self.get(*id).is_some_and(|o| meet(o, receiver, cx)));
        if self.owners(&found) > 1 {
            let latest = found
                .iter()
                .filter_map(|(id, _)| self.get(*id))
                .map(|o| o.last_ns);
            let least = latest.max().unwrap_or(0).min(receiver.last_ns);
            let lately = |o: &Record| o.last_ns.saturating_add(slack_ns(LATELY_NS, o, receiver, cx)) >= least;
            found.retain(|(id, _)| self.get(*id).is_some_and(lately));
        }
        match self.owners(&found) {
            0 => Opener::None,
            1 => found
                .into_iter()
                .max_by_key(|(id, _)| self.get(*id).map_or(0, |o| o.last_ns))
                .map_or(Opener::None, |(record, exact)| Opener::One { record, exact }),
            _ => Opener::Several,
        }
    }

    /// How many different ones these records are about.
    fn owners(&self, records: &[(u32, bool)]) -> usize {
        let mut owners: Vec<_> = records
            .iter()
            .filter_map(|(id, _)| self.get(*id))
            .map(|r| (&r.owner, &r.node))
            .collect();
        owners.dedup();
        let first = owners.first().copied();
        owners.iter().filter(|o| Some(**o) != first).count() + usize::from(first.is_some())
    }

    /// Records of who accepted what an opener's record is about.
    pub(super) fn receivers_of(&self, opener: &Record, cx: &Cx<'_>) -> Vec<u32> {
        let key = Key::of(opener);
        let mut out = Vec::new();
        out.extend(self.receivers.get(&key).into_iter().flatten());
        let addresses = cx.directory.addresses();
        for (to, port) in addresses
            .behind(key.to, key.protocol, key.port)
            .into_iter()
            .flatten()
        {
            let behind = Key {
                to: *to,
                port: *port,
                ..key
            };
            out.extend(self.receivers.get(&behind).into_iter().flatten());
            if *to == key.from {
                // It meets itself: see above. By whose address is not known, so all of its own are looked at.
                out.extend(self.own_receivers(opener, &behind, cx));
            }
        }
        out.retain(|id| self.get(*id).is_some_and(|r| meet(opener, r, cx)));
        // A record that ended has its successor under the same key.
        let goes_on = |id: &u32| self.get(*id).is_some_and(|r| r.ended_ns().is_none());
        if out.iter().any(goes_on) {
            out.retain(goes_on);
        }
        out
    }

    fn own_receivers(&self, opener: &Record, behind: &Key, cx: &Cx<'_>) -> Vec<u32> {
        let nodes = cx.directory.addresses().of_node(&opener.node);
        nodes
            .filter_map(|from| self.receivers.get(&Key { from, ..*behind }))
            .flatten()
            .copied()
            .filter(|id| self.get(*id).is_some_and(|r| r.owner == opener.owner))
            .collect()
    }
}

/// They may be about the same packets: neither ended before the other began.
fn meet(opener: &Record, receiver: &Record, cx: &Cx<'_>) -> bool {
    let [apart_ns, lately_ns] = [APART_NS, LATELY_NS].map(|least| slack_ns(least, opener, receiver, cx));
    let end_ns = |r: &Record| r.ended_ns().unwrap_or(u64::MAX).saturating_add(lately_ns);
    opener.last_ns.saturating_add(apart_ns) >= receiver.first_ns
        && (receiver.ended_ns().is_none() || receiver.last_ns.saturating_add(apart_ns) >= opener.first_ns)
        && end_ns(receiver) >= opener.first_ns
        && end_ns(opener) >= receiver.first_ns
}

fn slack_ns(least: u64, a: &Record, b: &Record, cx: &Cx<'_>) -> u64 {
    least.max(cx.apart_ns([&a.node, &b.node]))
}
