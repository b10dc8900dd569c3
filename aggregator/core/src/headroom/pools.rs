//! Use against capacity, by zone and pool.

use std::collections::BTreeMap;

use super::history::Use;
use super::{Ground, Place, PoolHeadroom, Room, pool_of};

pub(super) fn pools(ground: &Ground) -> Vec<PoolHeadroom> {
    let mut by_pool: BTreeMap<(String, String), Vec<&Place>> = BTreeMap::new();
    for place in &ground.places {
        by_pool
            .entry(pool_of(place.object.as_ref()))
            .or_default()
            .push(place);
    }
    let pool = |(key, places): ((String, String), Vec<&Place>)| one(ground, key, &places);
    by_pool.into_iter().map(pool).collect()
}

fn one(ground: &Ground, key: (String, String), places: &[&Place]) -> PoolHeadroom {
    let silent = places.iter().filter(|p| p.now.is_none()).count();
    let sum = |of: fn(&Place) -> Option<f64>| -> Option<f64> { places.iter().map(|p| of(p)).sum() };
    let mut now: Option<Use> = None;
    let mut requested = Use::default();
    for place in places {
        requested.plus(place.requested);
        if let Some(used) = place.now {
            now.get_or_insert_default().plus(used);
        }
    }
    let count = |of: fn(&Place) -> u32| places.iter().map(|p| of(p)).sum::<u32>();
    let has_memory = count(|p| p.memory_told) > 0 || count(|p| p.memory_untold) == 0;
    // A minute that is not over yet counts as it is.
    let most = now.map(|now| super::highest(ground.pools.get(&key).copied(), now));
    let capacity = [
        sum(|p| Some(p.object.as_ref()?.cpu_ncores? as f64 / 1e9)),
        sum(|p| Some(p.object.as_ref()?.memory_bytes? as f64)),
    ];
    let mut doubts = Vec::new();
    let named = |which: &dyn Fn(&Place) -> bool| {
        let names: Vec<&str> = places.iter().filter(|p| which(p)).map(|p| &*p.name).collect();
        match names.as_slice() {
            [] => None,
            [one] => Some((*one).to_owned()),
            [one, two] => Some(format!("{one} and {two}")),
            [one, two, more @ ..] => Some(format!("{one}, {two} and {} more", more.len())),
        }
    };
    let has_room = |p: &Place| {
        p.object
            .as_ref()
            .is_some_and(|o| o.cpu_ncores.is_some() && o.memory_bytes.is_some())
    };
    if let Some(names) = named(&|p| p.object.is_none()) {
        doubts.push(format!(
            "there is no Node object of {names}: zone, pool and capacity are not known"
        ));
    }
    if let Some(names) = named(&|p| p.object.is_some() && !has_room(p)) {
        doubts.push(format!("the Node object of {names} says nothing of its capacity"));
    }
    if let Some(names) = named(&|p| p.now.is_none()) {
        doubts.push(format!("{names} is silent: what runs there is not in the use"));
    }
    if let Some(names) = named(&|p| p.memory_untold > 0) {
        doubts.push(format!(
            "of some pods on {names} no memory is told: there is more in use"
        ));
    }
    if let Some(names) = named(&|p| p.object.as_ref().is_some_and(|o| o.unschedulable)) {
        doubts.push(format!("{names} is cordoned: it takes no new pods"));
    }
    let (zone, pool) = key;
    PoolHeadroom {
        zone,
        pool,
        nodes: places.len() as u32,
        silent_nodes: silent as u32,
        cpu: Room {
            capacity: capacity[0],
            used_now: now.map(|u| u.cores),
            used_most: most.map(|u| u.cores),
            requested: requested.cores,
        },
        memory: Room {
            capacity: capacity[1],
            used_now: now.map(|u| u.bytes).filter(|_| has_memory),
            used_most: most.map(|u| u.bytes).filter(|_| has_memory),
            requested: requested.bytes,
        },
        doubts,
    }
}
