//! Traffic since the aggregator's start: between tenants by verdict, of ends without a name by reason, and what agents folded.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::ends::Reason;
use crate::identity::Directory;
use crate::limits::MAX_TRAFFIC_SUMS;
use crate::losses::Losses;
use crate::policy::Policy;
use crate::snapshot::party_name;
use crate::sums::Party;

/// What the fence says of a flow, set against what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// An allowance of the policy file, or NetworkPolicy isolates an end and admits it.
    Allowed,
    /// Delivered, and no NetworkPolicy isolates either end.
    Open,
    /// Delivered, though the policies in force deny it.
    Leaked,
    /// Tried, not delivered.
    Blocked,
    /// Not known.
    Unknown,
    /// Between ends of one tenant, or with what is no tenant's.
    Within,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Open => "open",
            Self::Leaked => "leaked",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
            Self::Within => "within",
        }
    }
}

/// What was added to a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    /// Begun, whether or not they came about.
    pub(super) connections: u64,
}

/// A sum, and its bytes at moments of the window.
#[derive(Debug, Default)]
struct Sum {
    total: Amount,
    /// (the aggregator's monotonic clock, bytes), oldest first.
    past: VecDeque<(u64, u64)>,
}

/// Moments kept of a sum.
const MOMENTS: usize = 16;

impl Sum {
    fn add(&mut self, amount: Amount) {
        let t = &mut self.total;
        t.bytes = t.bytes.saturating_add(amount.bytes);
        t.packets = t.packets.saturating_add(amount.packets);
        t.connections = t.connections.saturating_add(amount.connections);
    }

    /// Another's, as if it had always been in this one: no rate comes of it.
    fn take_over(&mut self, other: &Self) {
        self.add(other.total);
        for (_, bytes) in &mut self.past {
            *bytes = bytes.saturating_add(other.total.bytes);
        }
    }

    fn mark(&mut self, now_ns: u64, window_ns: u64) {
        let gap_ns = window_ns / (MOMENTS as u64 - 4);
        if self
            .past
            .back()
            .is_none_or(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= gap_ns)
        {
            self.past.push_back((now_ns, self.total.bytes));
        }
        let old = |(at_ns, _): &(u64, u64)| now_ns.saturating_sub(*at_ns) >= window_ns;
        while self.past.get(1).is_some_and(old) || self.past.len() > MOMENTS {
            self.past.pop_front();
        }
    }

    fn rate(&self, now_ns: u64) -> f64 {
        let Some((at_ns, bytes)) = self.past.front() else {
            return 0.0;
        };
        match now_ns.saturating_sub(*at_ns) {
            0 => 0.0,
            over => self.total.bytes.saturating_sub(*bytes) as f64 * 1e9 / over as f64,
        }
    }
}

/// Traffic between two tenants with one verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantTraffic {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub verdict: Verdict,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    pub bytes_per_second: f64,
}

/// Traffic of which one end cannot be named.
#[derive(Clone, Debug, PartialEq)]
pub struct UnattributedView {
    pub reason: Reason,
    pub bytes: u64,
    pub packets: u64,
    pub bytes_per_second: f64,
}

/// Traffic that found no place among an agent's flows.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedView {
    pub tenant: Arc<str>,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    pub bytes_per_second: f64,
}

/// Shown in place of a tenant where an end is outside of the cluster, or no machine's address.
pub(super) const OUTSIDE: &str = "<outside>";

/// `None`: no tenant's.
type Side = Option<Party>;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    between: BTreeMap<(Side, Side, Verdict), Sum>,
    unattributed: BTreeMap<Reason, Sum>,
    folded: BTreeMap<Party, Sum>,
}

impl Totals {
    pub(super) fn add(
        &mut self,
        from: Side,
        to: Side,
        verdict: Verdict,
        amount: Amount,
        losses: &mut Losses,
    ) {
        let key = (from, to, verdict);
        if self.between.len() >= MAX_TRAFFIC_SUMS && !self.between.contains_key(&key) {
            losses.add("judge", "traffic_sum_cap", "bytes", amount.bytes);
            return;
        }
        self.between.entry(key).or_default().add(amount);
    }

    pub(super) fn add_unattributed(&mut self, reason: Reason, amount: Amount) {
        self.unattributed.entry(reason).or_default().add(amount);
    }

    pub(super) fn add_folded(&mut self, party: Party, amount: Amount) {
        self.folded.entry(party).or_default().add(amount);
    }

    /// Where all room is taken, tenants that are gone share theirs: counters that end do not go back, and those who live are not turned away for them.
    pub(crate) fn make_room(&mut self, directory: &Directory, policy: &Policy) {
        if self.between.len() < MAX_TRAFFIC_SUMS {
            return;
        }
        let living = directory.living_tenants(policy);
        let is_gone = |p: &Party| p.tenant().is_some_and(|t| !living.contains(&t));
        let named = |side: Side| side.map(|p| if is_gone(&p) { Party::GONE } else { p });
        for ((from, to, verdict), sum) in std::mem::take(&mut self.between) {
            let key = (named(from), named(to), verdict);
            match self.between.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(sum);
                }
                Entry::Occupied(mut place) => place.get_mut().take_over(&sum),
            }
        }
    }

    /// Keeps what rates come from.
    pub(super) fn mark(&mut self, now_ns: u64, window_ns: u64) {
        let sums = self.between.values_mut().chain(self.unattributed.values_mut());
        for sum in sums.chain(self.folded.values_mut()) {
            sum.mark(now_ns, window_ns);
        }
    }

    pub(crate) fn between(&self, directory: &Directory, now_ns: u64) -> Vec<TenantTraffic> {
        let name = |side: Side| side.map_or_else(|| Arc::from(OUTSIDE), |p| party_name(p, directory));
        self.between
            .iter()
            .map(|((from, to, verdict), sum)| TenantTraffic {
                from: name(*from),
                to: name(*to),
                verdict: *verdict,
                bytes: sum.total.bytes,
                packets: sum.total.packets,
                connections: sum.total.connections,
                bytes_per_second: sum.rate(now_ns),
            })
            .collect()
    }

    pub(crate) fn unattributed(&self, now_ns: u64) -> Vec<UnattributedView> {
        self.unattributed
            .iter()
            .map(|(reason, sum)| UnattributedView {
                reason: *reason,
                bytes: sum.total.bytes,
                packets: sum.total.packets,
                bytes_per_second: sum.rate(now_ns),
            })
            .collect()
    }

    pub(crate) fn folded(&self, directory: &Directory, now_ns: u64) -> Vec<FoldedView> {
        self.folded
            .iter()
            .map(|(party, sum)| FoldedView {
                tenant: party_name(*party, directory),
                bytes: sum.total.bytes,
                packets: sum.total.packets,
                connections: sum.total.connections,
                bytes_per_second: sum.rate(now_ns),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::{Cluster, Namespace};

    #[test]
    fn tenants_that_are_gone_share_their_room() {
        let namespace = |name: &str| Namespace {
            name: name.into(),
            ..Namespace::default()
        };
        let cluster = Cluster {
            namespaces: vec![namespace("red"), namespace("blue")],
            ..Cluster::default()
        };
        let policy = Policy::from_yaml("paths: [{prefix: /nginx, tenant: web}]").unwrap();
        let mut directory = Directory::default();
        directory.set_cluster(Arc::new(cluster), &policy, 0);
        let mut party = |name: &str| Some(Party::from(directory.tenants.id(name)));
        let (red, blue, web) = (party("red"), party("blue"), party("web"));
        let gone: Vec<Side> = (0..MAX_TRAFFIC_SUMS - 2)
            .map(|i| party(&format!("review-{i}")))
            .collect();
        let mut totals = Totals::default();
        let mut losses = Losses::default();
        let ten = Amount {
            bytes: 10,
            packets: 1,
            connections: 0,
        };
        totals.add(red, blue, Verdict::Open, ten, &mut losses);
        totals.add(web, None, Verdict::Within, ten, &mut losses);
        for (i, side) in gone.iter().enumerate() {
            let (from, to) = if i % 2 == 0 { (*side, blue) } else { (None, *side) };
            totals.add(from, to, Verdict::Within, ten, &mut losses);
        }
        totals.add(blue, red, Verdict::Open, ten, &mut losses);
        assert_eq!(losses.get("judge", "traffic_sum_cap"), 10);
        totals.make_room(&directory, &policy);
        totals.add(blue, red, Verdict::Open, ten, &mut losses);
        assert_eq!(losses.get("judge", "traffic_sum_cap"), 10);
        let half = (MAX_TRAFFIC_SUMS as u64 - 2) / 2 * 10;
        let rows = totals.between(&directory, 0);
        let mut rows: Vec<_> = rows.iter().map(|t| (&*t.from, &*t.to, t.bytes)).collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                ("<gone>", "blue", half),
                ("<outside>", "<gone>", half),
                ("blue", "red", 10),
                ("red", "blue", 10),
                ("web", "<outside>", 10),
            ]
        );
    }
}
