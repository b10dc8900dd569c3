//! The writing thread and its file, without a server around them.

use partywall_aggregator_core::policy::Policy;

use super::*;
use crate::state::State;

/// A breach fires, and is written. Returns what the trail says of itself then.
#[expect(clippy::disallowed_methods, reason = "no runtime is here")]
fn fires(state: &State, trail: &Trail, name: &str) -> Figures {
    let cluster = state.cluster("").unwrap();
    let now = cluster.now();
    let breach = v1::Breach {
        fingerprint: name.to_owned(),
        state: v1::BreachState::Firing.into(),
        firing_unix_ns: now.unix_ns,
        ..v1::Breach::default()
    };
    let sequence = |f: &Figures| f.head.map_or(0, |(sequence, _)| sequence);
    let before = sequence(&trail.figures());
    trail.judged(cluster, &mut cluster.lock(), &[Arc::new(breach)], now);
    for _ in 0..500 {
        let figures = trail.figures();
        if sequence(&figures) > before {
            return figures;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} was not written in five seconds");
}

fn told(trail: &Trail) -> Vec<String> {
    let past = trail.past(&v1::GetHistoryRequest::default()).unwrap();
    past.into_iter().map(|e| e.breach.unwrap().fingerprint).collect()
}

fn end(mut store: Store) {
    store.end();
    store.thread.take().unwrap().join().unwrap();
}

#[test]
fn pages_are_told_once_each_also_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::new(&Policy::default(), "default", []);
    let clusters: Vec<_> = state.clusters().cloned().collect();
    let store = Store::open(dir.path(), &clusters).unwrap();
    let cluster = state.cluster("").unwrap();
    let now = cluster.now();
    // Thirty in three moments.
    let fired: Vec<_> = (0..30u64)
        .map(|n| {
            Arc::new(v1::Breach {
                fingerprint: format!("{n:02}"),
                tenant: if n % 2 == 0 { "red" } else { "blue" }.into(),
                state: v1::BreachState::Firing.into(),
                firing_unix_ns: now.unix_ns + n / 10,
                ..v1::Breach::default()
            })
        })
        .collect();
    store.trail.judged(cluster, &mut cluster.lock(), &fired, now);
    fires(&state, &store.trail, "99");
    let pages = |tenant: &str, limit| {
        let mut request = v1::GetHistoryRequest {
            tenant: tenant.to_owned(),
            to_unix_ns: now.unix_ns + 2,
            limit,
            ..v1::GetHistoryRequest::default()
        };
        let mut out: Vec<String> = Vec::new();
        loop {
            let page = store.trail.past(&request).unwrap();
            let Some(first) = page.first() else { return out };
            assert!(page.len() <= limit as usize);
            request.before.clone_from(&first.cursor);
            let names = page.into_iter().map(|e| e.breach.unwrap().fingerprint);
            out.splice(0..0, names);
        }
    };
    let all: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
    for limit in [1, 3, 10, 29, 30, 31] {
        assert_eq!(pages("", limit), all, "{limit} at once");
    }
    let red: Vec<String> = all.iter().step_by(2).cloned().collect();
    assert_eq!(pages("red", 4), red);
    for before in ["x", "1", "1-", "-1", "1-2-3"] {
        let request = v1::GetHistoryRequest {
            before: before.to_owned(),
            ..v1::GetHistoryRequest::default()
        };
        let refused = store.trail.past(&request).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("before: {before:?}")), "{refused}");
    }
    end(store);
}

#[test]
fn a_clock_that_is_far_ahead_at_the_start_takes_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::new(&Policy::default(), "default", []);
    let clusters: Vec<_> = state.clusters().cloned().collect();
    // Sixty days ago, or the clock is wrong now: the policy keeps thirty.
    let then_ns = crate::clock::unix_ns() - 60 * 86_400_000_000_000;
    let (file, _) = File::open(dir.path()).unwrap();
    let process = file.start("test", then_ns).unwrap();
    let breach = v1::Breach {
        fingerprint: "then".into(),
        state: v1::BreachState::Firing.into(),
        firing_unix_ns: then_ns,
        ..v1::Breach::default()
    };
    let change = Change {
        breaches: vec![(then_ns, Arc::new(breach))],
        ..Change::default()
    };
    file.write(&change, process, then_ns).unwrap();
    drop(file);
    // What the first start writes is of its own clock: the second must not believe it for that.
    for name in ["a", "b"] {
        let store = Store::open(dir.path(), &clusters).unwrap();
        fires(&state, &store.trail, name);
        assert_eq!(store.trail.figures().pruned, 0);
        assert_eq!(told(&store.trail)[0], "then");
        end(store);
    }
    // Once the clock was believed.
    let (file, _) = File::open(dir.path()).unwrap();
    file.believe(then_ns + 59 * 86_400_000_000_000 + 3_600_000_000_000)
        .unwrap();
    drop(file);
    let store = Store::open(dir.path(), &clusters).unwrap();
    assert!(fires(&state, &store.trail, "c").pruned >= 2);
    end(store);
}

#[test]
fn a_file_that_is_taken_away_or_replaced_is_noticed_and_one_that_is_put_back_too() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kept) = (dir.path().join("trail.redb"), dir.path().join("kept"));
    let state = State::new(&Policy::default(), "default", []);
    let clusters: Vec<_> = state.clusters().cloned().collect();
    let store = Store::open(dir.path(), &clusters).unwrap();
    assert!(fires(&state, &store.trail, "a").durable);
    std::fs::rename(&path, &kept).unwrap();
    assert!(!fires(&state, &store.trail, "b").durable, "nothing is there");
    std::fs::copy(&kept, &path).unwrap();
    assert!(!fires(&state, &store.trail, "c").durable, "a copy is there");
    assert_eq!(told(&store.trail), ["a", "b", "c"], "answers go on");
    std::fs::rename(&kept, &path).unwrap();
    assert!(fires(&state, &store.trail, "d").durable, "it is back");
    end(store);

    let store = Store::open(dir.path(), &clusters).unwrap();
    assert_eq!(told(&store.trail), ["a", "b", "c", "d"], "all of it was written");
    std::fs::remove_file(&path).unwrap();
    assert!(!fires(&state, &store.trail, "e").durable);
    end(store);
    let store = Store::open(dir.path(), &clusters).unwrap();
    assert!(told(&store.trail).is_empty() && store.trail.figures().durable);
    end(store);
}

#[test]
fn a_file_that_begins_anew_while_the_process_lives_has_the_process_in_it() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now_ns = crate::clock::unix_ns();
    let fired = |file: &File, process, name: &str| {
        let breach = v1::Breach {
            fingerprint: name.into(),
            state: v1::BreachState::Firing.into(),
            firing_unix_ns: now_ns,
            ..v1::Breach::default()
        };
        let change = Change {
            breaches: vec![(now_ns, Arc::new(breach))],
            ..Change::default()
        };
        file.write(&change, process, now_ns).unwrap();
    };
    let (file, _) = File::open(old.path()).unwrap();
    let mut process = file.start("test", now_ns).unwrap();
    for n in 0..9 {
        fired(&file, process, &n.to_string());
    }
    process = file.start("test", now_ns).unwrap();
    let same = file.go_on(process, now_ns).unwrap();
    assert_eq!(same.start_sequence, process.start_sequence);
    let (file, _) = File::open(new.path()).unwrap();
    process = file.go_on(process, now_ns).unwrap();
    assert_eq!((process.start_sequence, file.head().unwrap().0), (1, 1));
    fired(&file, process, "unseen");
    // Two later processes did not see it any more: its end is unknown.
    file.start("test", now_ns).unwrap();
    file.start("test", now_ns).unwrap();
    let mut ends = Vec::new();
    let read = file.read().unwrap();
    read.episodes((u64::MAX, u64::MAX), |episode| {
        ends.push(episode.end_unknown);
        true
    })
    .unwrap();
    assert_eq!(ends, [append::END_UNKNOWN]);
}
