use super::*;

use crate::demo::reach::tests as second_act;

const T0: f64 = 1_785_412_000.0;

fn breach(kind: &str, tenant: &str, against: &str, state: State) -> Breach {
    Breach {
        fingerprint: format!("{kind}/{tenant}/{against}"),
        kind: kind.into(),
        tenant: tenant.into(),
        against: against.into(),
        state,
        summary: format!("{tenant} took from {against}"),
        since_unix_seconds: T0 + 6.0,
        firing_unix_seconds: (state != State::Pending).then_some(T0 + 8.25),
        resolved_unix_seconds: (state == State::Resolved).then_some(T0 + 29.5),
        ..Breach::default()
    }
}

fn seen(breaches: &[Breach]) -> Snapshot {
    let pod = |tenant: &str, name: &str, used, entitled, wait| Pod {
        tenant: tenant.into(),
        namespace: tenant.into(),
        name: name.into(),
        used_cores: used,
        entitled_cores: entitled,
        wait_cores: wait,
        slowdown: Some(2.5),
        ..Pod::default()
    };
    Snapshot {
        pods: vec![
            pod("blue", "web", 0.15, 0.5, 0.32),
            pod("green", "api", 0.05, 0.25, 0.0),
            pod("red", "batch", 0.8, 0.1, 0.0),
        ],
        ledger: vec![LedgerCell {
            cluster: "default".into(),
            waiter: "blue".into(),
            runner: "red".into(),
            cores: 0.31,
        }],
        breaches: breaches.to_vec(),
        ..Snapshot::default()
    }
}

/// A demo in which these breaches were seen, one snapshot each.
fn witness(breaches: &[&[Breach]]) -> Witness {
    let mut witness = Witness {
        red_started_unix_seconds: Some(T0 + 4.0),
        reach: second_act::reach(),
        ..Witness::default()
    };
    for breaches in breaches {
        witness.observe(seen(breaches));
    }
    witness.red_stopped_unix_seconds = Some(T0 + 16.0);
    witness
}

fn case(state: State) -> Breach {
    breach("NoisyNeighbour", "red", "blue", state)
}

#[test]
fn red_named_and_nobody_else_is_proof() {
    let witness = witness(&[
        &[case(State::Pending)],
        &[case(State::Firing)],
        &[case(State::Resolved), second_act::breach()],
    ]);
    let document = witness.document(12, None, vec![]);
    assert!(document.proved, "{:?}", document.why_not);
    assert_eq!(document.seconds_to_firing, Some(4.25));
    assert_eq!(document.seconds_to_resolved, Some(13.5));
    let words = witness.proved(&document);
    for phrase in [
        "0.15 of its promised 0.50",
        "97 % of that wait",
        "0.80 cores on a promise of 0.10",
        "4.2 s",
        "red/batch reached blue/web on port 8080",
        "2.0 s after it connected",
        "nothing applied it",
    ] {
        assert!(words.contains(phrase), "{phrase:?} is not in {words:?}");
    }
}

#[test]
fn red_against_green_and_noise_of_the_host_are_true_too() {
    let also = [
        breach("NoisyNeighbour", "red", "green", State::Resolved),
        breach("SystemNoise", "system", "blue", State::Firing),
        breach("NodeOvercommitted", "system", "green", State::Firing),
    ];
    let witness = witness(&[&[
        case(State::Resolved),
        also[0].clone(),
        also[1].clone(),
        also[2].clone(),
    ]]);
    assert_eq!(witness.why_not(), Vec::<String>::new());
    assert!(witness.is_over());
}

#[test]
fn each_way_to_fail_is_told() {
    let reason = |breaches: &[Breach]| witness(&[breaches]).why_not().join("; ");
    assert!(reason(&[]).contains("no NoisyNeighbour by red against blue fired"));
    assert!(reason(&[case(State::Pending)]).contains("no NoisyNeighbour by red against blue fired"));
    assert!(reason(&[case(State::Firing)]).contains("was not resolved"));
    for (kind, tenant, against) in [
        ("NoisyNeighbour", "green", "blue"),
        ("NoisyNeighbour", "blue", "green"),
        ("QuotaExceeded", "green", ""),
    ] {
        let other = breach(kind, tenant, against, State::Firing);
        let text = reason(&[case(State::Resolved), other.clone()]);
        assert!(text.contains(&format!("{kind} by {tenant} fired")), "{text}");
        let pending = Breach {
            state: State::Pending,
            firing_unix_seconds: None,
            ..other
        };
        assert_eq!(
            reason(&[case(State::Resolved), pending]),
            "",
            "pending names nobody"
        );
    }
    let whole = witness(&[&[case(State::Resolved), second_act::breach()]]);
    let document = whole.document(12, None, vec!["/sys/fs/cgroup/x".into()]);
    assert!(!document.proved && document.why_not[0].contains("/sys/fs/cgroup/x"));
    let half = witness(&[&[case(State::Resolved)]]).document(12, None, vec![]);
    assert_eq!(half.why_not, ["no FlatNetwork by red against blue fired"]);
}

#[test]
fn a_connection_that_nobody_made_accuses_falsely() {
    let early = Breach {
        firing_unix_seconds: Some(T0 + 2.0),
        ..second_act::breach()
    };
    let text = witness(&[&[case(State::Resolved), early]]).why_not().join("; ");
    assert!(text.contains("FlatNetwork by red fired, too"), "{text}");
}

#[test]
fn other_tenants_of_a_busy_host_are_their_own_affair() {
    let witness = witness(&[&[
        case(State::Resolved),
        breach("QuotaExceeded", "purple", "", State::Firing),
    ]]);
    assert_eq!(witness.why_not(), Vec::<String>::new());
    assert!(witness.is_over());
}

#[test]
fn only_changes_are_told() {
    let mut witness = Witness::default();
    let states = |changes: Vec<Breach>| changes.into_iter().map(|breach| breach.state).collect::<Vec<_>>();
    assert_eq!(
        states(witness.observe(seen(&[case(State::Pending)]))),
        [State::Pending]
    );
    assert!(!witness.is_over());
    assert_eq!(states(witness.observe(seen(&[case(State::Pending)]))), []);
    assert_eq!(
        states(witness.observe(seen(&[case(State::Firing)]))),
        [State::Firing]
    );
    assert!(witness.fired());
    assert_eq!(
        states(witness.observe(seen(&[case(State::Resolved)]))),
        [State::Resolved]
    );
    assert!(witness.is_over());
}

#[test]
fn one_that_comes_again_is_told_once() {
    let mut witness = Witness::default();
    let again = Breach {
        since_unix_seconds: T0 + 40.0,
        ..case(State::Firing)
    };
    let both = [again, case(State::Resolved)];
    assert_eq!(witness.observe(seen(&both)).len(), 2);
    assert_eq!(witness.observe(seen(&both)), Vec::new());
}

#[test]
fn lines_stand_below_their_headings() {
    let snapshot = seen(&[case(State::Firing)]);
    let line = figures(7, &snapshot, Paint::Never);
    let headings = headings();
    let names = headings.lines().nth(1).expect("a second line");
    for (word, figure) in [("ran", "0.15"), ("while red ran", "0.31"), ("slower", "2.5x")] {
        let ends = |text: &str, part: &str| text.find(part).map(|start| start + part.len());
        assert_eq!(ends(names, word), ends(&line, figure), "{word}\n{headings}{line}");
    }
    assert_eq!(
        change(9, &case(State::Firing), Some(("started", T0 + 4.0)), Paint::Never),
        "   9 s   FIRING NoisyNeighbour by red against blue, 4.2 s after red started\n         red took from blue\n"
    );
}
