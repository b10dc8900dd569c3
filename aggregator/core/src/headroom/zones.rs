//! A zone's loss: whether its pods find room on the nodes of the others.
//!
//! **Three answers.** *Yes*, where each pod found a place: a placement is a proof. *No*, where pods were left over and everything that could have helped was
//! known. Else it cannot be told, and why: a pod whose use nobody tells may be of any size, a node that is silent may have room.
//!
//! **At different times.** Each pod counts with its own highest minute, and not all had theirs at once. Where that is too much, and what the zone used
//! in its own highest minute is not, it cannot be told either, unless one of the pods would find no room even alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::history::Use;
use super::pack::{Bin, Item, first_fit};
use super::{Fit, Ground, Mover, Place, TenantFit, ZoneLoss, pool_of};
use crate::finding::{bytes, cores};

/// Where a Node object does not say how many pods it takes: what kubelets take by default.
const PODS_OF_A_NODE: u64 = 110;

pub(super) fn zones(ground: &Ground) -> Vec<ZoneLoss> {
    let zones: BTreeSet<&str> = ground.places.iter().filter_map(zone_of).collect();
    zones.into_iter().map(|zone| loss(ground, zone)).collect()
}

fn zone_of(place: &Place) -> Option<&str> {
    place.object.as_ref()?.zone.as_deref()
}

fn loss(ground: &Ground, zone: &str) -> ZoneLoss {
    let lost: Vec<&Place> = ground
        .places
        .iter()
        .filter(|p| zone_of(p) == Some(zone))
        .collect();
    let movers = lost.iter().filter_map(|p| ground.movers.get(&p.name)).flatten();
    let movers: Vec<&Mover> = movers.collect();
    let others: Vec<&Place> = ground
        .places
        .iter()
        .filter(|p| zone_of(p).is_some_and(|other| other != zone))
        .collect();
    let unplaced = ground.places.iter().filter(|p| zone_of(p).is_none()).count();
    let by_use = Question {
        ground,
        movers: &movers,
        others: &others,
        unplaced,
        size: |mover| mover.used,
        taken: |place| match place.most {
            None => Err("is silent"),
            Some(_) if place.memory_untold > 0 => Err("has pods of which no memory is told"),
            Some(most) => Ok(most),
        },
        at_once: Some(at_once(ground, &lost)),
    };
    let by_requests = Question {
        size: |mover| {
            let requests = mover.requests;
            Some(Use {
                cores: requests.cpu_ncores as f64 / 1e9,
                bytes: requests.memory_bytes as f64,
            })
        },
        taken: |place| Ok(place.requested),
        at_once: None,
        ..by_use
    };
    let (by_use, left_over) = by_use.answer();
    let (by_requests, _) = by_requests.answer();
    let mut tenants: BTreeMap<&Arc<str>, TenantFit> = BTreeMap::new();
    for (at, mover) in movers.iter().enumerate() {
        let fit = tenants.entry(&mover.tenant).or_insert_with(|| TenantFit {
            tenant: Arc::clone(&mover.tenant),
            ..TenantFit::default()
        });
        fit.pods += 1;
        fit.pods_left_over += u32::from(left_over.contains(&at));
    }
    let mut tenants: Vec<TenantFit> = tenants.into_values().filter(|t| t.pods_left_over > 0).collect();
    tenants.sort_by(|a, b| {
        b.pods_left_over
            .cmp(&a.pods_left_over)
            .then(a.tenant.cmp(&b.tenant))
    });
    ZoneLoss {
        summary: summary(zone, &movers, &by_use, &by_requests, &tenants),
        zone: zone.to_owned(),
        nodes: lost.len() as u32,
        pods: movers.len() as u32,
        by_use,
        by_requests,
        tenants,
    }
}

/// What the pods of the zone used in one minute, at the most. Of those that do not move, too.
fn at_once(ground: &Ground, lost: &[&Place]) -> Use {
    let mut pools: BTreeMap<(String, String), Use> = BTreeMap::new();
    for place in lost {
        let now = pools.entry(pool_of(place.object.as_ref())).or_default();
        now.plus(place.now.unwrap_or_default());
    }
    let mut sum = Use::default();
    for (pool, now) in pools {
        sum.plus(super::highest(ground.pools.get(&pool).copied(), now));
    }
    sum
}

/// By use or by requests.
#[derive(Clone, Copy)]
struct Question<'a> {
    ground: &'a Ground,
    movers: &'a [&'a Mover],
    others: &'a [&'a Place],
    /// Nodes of which no zone is known.
    unplaced: usize,
    size: fn(&Mover) -> Option<Use>,
    /// Or why it is not known.
    taken: fn(&Place) -> Result<Use, &'static str>,
    /// Of all movers in the same minute; `None`: they are what they are at any time.
    at_once: Option<Use>,
}

impl Question<'_> {
    /// And which of the movers found no room.
    fn answer(&self) -> (Fit, BTreeSet<usize>) {
        let mut fit = Fit::default();
        // What may have room, but how much is not known.
        let mut unknown_places = Vec::new();
        let mut bins: Vec<Bin> = Vec::new();
        let mut places: Vec<&Place> = Vec::new();
        for place in self.others {
            let Some(object) = place.object.as_ref().filter(|o| !o.unschedulable) else {
                continue;
            };
            let (Some(ncores), Some(memory)) = (object.cpu_ncores, object.memory_bytes) else {
                unknown_places.push(format!("the capacity of {} is not known", place.name));
                continue;
            };
            let taken = match (self.taken)(place) {
                Ok(taken) => taken,
                Err(why) => {
                    unknown_places.push(format!("{} {why}", place.name));
                    continue;
                }
            };
            let free =
                |capacity: u64, taken: f64| (capacity as f64 * self.ground.mark - taken).max(0.0) as u64;
            let bin = Bin {
                ncores: free(ncores, taken.cores * 1e9),
                bytes: free(memory, taken.bytes),
                pods: object.pods.unwrap_or(PODS_OF_A_NODE).saturating_sub(place.pods),
            };
            fit.free_cores += bin.ncores as f64 / 1e9;
            fit.free_memory_bytes += bin.bytes as f64;
            bins.push(bin);
            places.push(place);
        }
        let mut sizes: Vec<(usize, Item)> = Vec::new();
        let mut unknown_movers = 0u32;
        for (at, mover) in self.movers.iter().enumerate() {
            let Some(used) = (self.size)(mover) else {
                unknown_movers += 1;
                continue;
            };
            fit.moved_cores += used.cores;
            fit.moved_memory_bytes += used.bytes;
            let item = Item {
                ncores: (used.cores * 1e9).ceil() as u64,
                bytes: used.bytes as u64,
            };
            sizes.push((at, item));
        }
        let items: Vec<Item> = sizes.iter().map(|(_, item)| *item).collect();
        let admits = |item: usize, bin: usize| {
            let mover = sizes.get(item).and_then(|(at, _)| self.movers.get(*at));
            let taints = places.get(bin).and_then(|p| p.object.as_ref()).map(|o| &o.taints);
            mover.zip(taints).is_some_and(|(mover, taints)| {
                let tolerations = &mover.tolerations;
                taints
                    .iter()
                    .all(|taint| tolerations.iter().any(|t| t.tolerates(taint)))
            })
        };
        let empty = bins.clone();
        let placed = first_fit(&items, &mut bins, admits);
        let left = placed.iter().zip(&sizes).filter(|(place, _)| place.is_none());
        let left_over: BTreeSet<usize> = left.map(|(_, (at, _))| *at).collect();
        fit.pods_left_over = left_over.len() as u32;
        // Some found no room, and each of them would alone.
        let each_alone = placed.iter().zip(&items).enumerate().all(|(at, (place, item))| {
            let room = |(to, bin): (usize, &Bin)| bin.takes(item) && admits(at, to);
            place.is_some() || empty.iter().enumerate().any(room)
        });
        let pods: u64 = empty.iter().map(|bin| bin.pods).sum();
        let fits_at_once = self.at_once.is_some_and(|used| {
            each_alone
                && items.len() as u64 <= pods
                && used.cores <= fit.free_cores
                && used.bytes <= fit.free_memory_bytes
        });
        if self.unplaced > 0 {
            unknown_places.push(format!("of {} nodes no zone is known", self.unplaced));
        }
        (fit.fits, fit.why) = match (left_over.is_empty(), unknown_movers, unknown_places.is_empty()) {
            (true, 0, _) => (Some(true), "each pod found a node".to_owned()),
            (true, n, _) => {
                unknown_places.push(format!("of {n} of the pods nobody tells what they use"));
                (None, unknown_places.join(", "))
            }
            (false, _, false) => (None, unknown_places.join(", ")),
            (false, _, true) if self.others.is_empty() => (Some(false), "there is no other zone".to_owned()),
            (false, _, true) if fits_at_once => (
                None,
                "their highest minutes together find no room, but they were not all at once: what the zone used in one minute is less than what is free"
                    .to_owned(),
            ),
            (false, _, true) => {
                let short =
                    fit.moved_cores > fit.free_cores || fit.moved_memory_bytes > fit.free_memory_bytes;
                let why = match short {
                    true => "there is less free than they need",
                    false => {
                        "enough is free in all, but not on nodes that each could take; another order might do"
                    }
                };
                (Some(false), why.to_owned())
            }
        };
        (fit, left_over)
    }
}

fn summary(zone: &str, movers: &[&Mover], by_use: &Fit, by_requests: &Fit, tenants: &[TenantFit]) -> String {
    if movers.is_empty() {
        return format!("without zone {zone} nothing would have to move");
    }
    let verdict = match by_use.fits {
        Some(true) => "would fit into the other zones".to_owned(),
        Some(false) => format!(
            "would not fit into the other zones: {} of them found no room",
            by_use.pods_left_over
        ),
        None => format!("may or may not fit into the other zones: {}", by_use.why),
    };
    let because = match by_use.fits {
        Some(false) => format!(" ({})", by_use.why),
        _ => String::new(),
    };
    let named: Vec<String> = tenants
        .iter()
        .take(3)
        .map(|t| format!("{} of {} of {}", t.pods_left_over, t.pods, t.tenant))
        .collect();
    let of_whom = match (named.as_slice(), tenants.len().saturating_sub(3)) {
        ([], _) => String::new(),
        (named, 0) => format!("; {}", named.join(", ")),
        (named, more) => format!("; {} and of {more} more tenants", named.join(", ")),
    };
    let requests = match by_requests.fits {
        Some(true) => "they would".to_owned(),
        Some(false) => format!("{} would not", by_requests.pods_left_over),
        None => "it cannot be told".to_owned(),
    };
    format!(
        "without zone {zone} its {} pods, which use {} cores and {} at most (each its own highest minute), {verdict}{because}{of_whom}, where {} cores and {} are free up to the mark; \
         by requests {requests}",
        movers.len(),
        cores(by_use.moved_cores),
        bytes(by_use.moved_memory_bytes),
        cores(by_use.free_cores),
        bytes(by_use.free_memory_bytes),
    )
}
