use super::model::{Fit, Headroom, Pool, Room, Tenant, Zone};
use super::*;
use crate::sample;

const GIB: f64 = 1_073_741_824.0;

fn pool(zone: &str, pool: &str, most: f64) -> Pool {
    Pool {
        cluster: "default".into(),
        zone: zone.into(),
        pool: pool.into(),
        nodes: 3,
        cpu: Room {
            capacity: Some(12.0),
            used_now: Some(most / 2.0),
            used_most: Some(most),
            requested: 10.5,
        },
        memory: Room {
            capacity: Some(48.0 * GIB),
            used_now: Some(20.0 * GIB),
            used_most: Some(24.0 * GIB),
            requested: 30.0 * GIB,
        },
        ..Pool::default()
    }
}

fn headroom() -> Headroom {
    let silent = Pool {
        silent_nodes: 1,
        cpu: Room {
            capacity: None,
            used_now: None,
            used_most: None,
            requested: 1.0,
        },
        doubts: vec!["node-z is silent: what runs there is not in the use".into()],
        ..pool("eu-1c", "", 0.0)
    };
    let fit = |fits, why: &str, left_over| Fit {
        fits,
        why: why.into(),
        moved_cores: 8.0,
        free_cores: 5.0,
        moved_memory_bytes: 20.0 * GIB,
        free_memory_bytes: 30.0 * GIB,
        pods_left_over: left_over,
    };
    Headroom {
        judged_unix_seconds: 1_785_412_271.5,
        over_seconds: 7_440.0,
        mark: 0.8,
        pools: vec![
            pool("eu-1a", "general", 10.1),
            pool("eu-1b", "general", 3.0),
            silent,
        ],
        zones: vec![
            Zone {
                cluster: "default".into(),
                zone: "eu-1a".into(),
                nodes: 3,
                pods: 40,
                by_use: fit(Some(false), "there is less free than they need", 12),
                by_requests: fit(None, "node-z is silent", 3),
                tenants: vec![Tenant {
                    tenant: "blue".into(),
                    pods: 20,
                    pods_left_over: 12,
                }],
                summary: "without zone eu-1a its 40 pods would not fit".into(),
            },
            Zone {
                cluster: "default".into(),
                zone: "eu-1b".into(),
                nodes: 3,
                pods: 8,
                by_use: fit(Some(true), "each pod found a node", 0),
                by_requests: fit(Some(true), "each pod found a node", 0),
                tenants: vec![],
                summary: "without zone eu-1b its 8 pods would fit".into(),
            },
        ],
    }
}

#[test]
fn it_reads_as_recorded() {
    sample::golden("headroom.txt", &tell(&headroom(), Paint::Never, 100));
}

#[test]
fn the_mark_is_seen_in_every_bar() {
    for (share, wanted) in [
        (Some(0.0), "[                |   ]"),
        (Some(0.001), "[█               |   ]"),
        (Some(0.5), "[██████████      |   ]"),
        (Some(0.8), "[████████████████|   ]"),
        (Some(0.81), "[████████████████|█  ]"),
        (Some(0.9), "[████████████████|█  ]"),
        (Some(7.0), "[████████████████|███]"),
        (None, "[                |   ]"),
    ] {
        assert_eq!(bar(share, 0.8), wanted);
    }
}

#[test]
fn nothing_known_is_said() {
    assert!(tell(&Headroom::default(), Paint::Never, 80).starts_with("no node is known"));
    let no_zones = Headroom {
        zones: vec![],
        ..headroom()
    };
    assert!(tell(&no_zones, Paint::Never, 80).contains("no Node object names a zone"));
}
