use super::*;
use crate::flows::{End, Traffic};
use crate::model::State;

const T0: f64 = 1_785_412_000.0;

pub(crate) fn breach() -> Breach {
    Breach {
        fingerprint: FLAT_NETWORK.into(),
        kind: FLAT_NETWORK.into(),
        tenant: "red".into(),
        against: "blue".into(),
        state: State::Firing,
        summary: "red/batch of red reached blue/web of blue on 8080/TCP: 1 connection, 80.0 KiB".into(),
        since_unix_seconds: T0 + 42.0,
        firing_unix_seconds: Some(T0 + 42.0),
        ..Breach::default()
    }
}

fn end(namespace: &str, pod: &str, address: &str) -> End {
    End {
        tenant: namespace.into(),
        namespace: namespace.into(),
        pod: pod.into(),
        address: address.into(),
        ..End::default()
    }
}

pub(crate) fn reach() -> Reach {
    Reach {
        began_unix_seconds: Some(T0 + 40.0),
        flow: Some(Flow {
            from: end("red", "batch", "10.244.0.4"),
            to: end("blue", "web", "10.244.0.2"),
            protocol: "TCP".into(),
            port: 8080,
            verdict: "open".into(),
            seen_by: "both".into(),
            delivered: true,
            traffic: Traffic {
                sent_bytes: 81_920,
                received_bytes: 40_960,
                opened: 1,
                established: 1,
                ..Traffic::default()
            },
            ..Flow::default()
        }),
        suggestion: Some(Suggestion {
            yaml: "---\nkind: NetworkPolicy\n".into(),
            document: serde_json::json!({
                "flows": [{"from": "red/batch", "to": "blue/web", "fate": "closed"}],
            }),
        }),
    }
}

#[test]
fn a_connection_named_in_time_and_a_policy_that_closes_it_are_proof() {
    let (reach, breach) = (reach(), breach());
    assert!(reach.explains(&breach));
    assert_eq!(reach.why_not(Some(&breach)), Vec::<String>::new());
    let told = serde_json::to_value(reach.told(Some(&breach))).expect("JSON");
    assert_eq!(told["seconds_to_firing"], 2.0);
    assert_eq!(told["flow"]["to"]["pod"], "web");
    assert_eq!(told["suggestion"]["flows"][0]["fate"], "closed");
}

#[test]
fn each_way_to_fail_is_told() {
    let late = Breach {
        firing_unix_seconds: Some(T0 + 46.5),
        ..breach()
    };
    let silent = Breach {
        summary: "red reached blue".into(),
        ..breach()
    };
    let mut blocked = reach();
    blocked.flow = blocked.flow.map(|flow| Flow {
        verdict: "blocked".into(),
        ..flow
    });
    let mut open = reach();
    open.suggestion = Some(Suggestion {
        yaml: String::new(),
        document: serde_json::json!({
            "flows": [{"from": "red/batch", "to": "blue/web", "fate": "still_open"}],
        }),
    });
    for (reach, breach, wanted) in [
        (Reach::default(), None, "never told to connect"),
        (reach(), None, "no FlatNetwork by red against blue fired"),
        (reach(), Some(late), "6.5 s after red connected"),
        (reach(), Some(silent), "does not say blue/web"),
        (blocked, Some(breach()), "no open flow"),
        (open, Some(breach()), "no policy was suggested"),
    ] {
        let text = reach.why_not(breach.as_ref()).join("; ");
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_breach_from_before_is_not_of_this_connection() {
    let early = Breach {
        firing_unix_seconds: Some(T0 + 3.0),
        ..breach()
    };
    assert!(!reach().explains(&early));
    assert!(!Reach::default().explains(&breach()));
}

#[test]
fn the_flow_is_told_with_both_ends_and_its_bytes() {
    let text = reach().flow.as_ref().map(flow).unwrap_or_default();
    assert_eq!(
        text,
        "         red/batch 10.244.0.4 -> blue/web 10.244.0.2, port 8080/TCP: 1 connection, 80.0 KiB sent, 40.0 KiB \
         received; seen at both ends\n"
    );
}
