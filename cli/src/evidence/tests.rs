use partywall_proto::v1;

use super::model::Evidence;
use super::prose::{Prose, yaml};
use crate::output::Paint;
use crate::sample;

fn wire() -> v1::BreachExplanation {
    let mut breach = sample::wire().breaches.remove(0);
    let second = 1_000_000_000;
    let moment = |before: u64, what: &str| v1::Moment {
        at_unix_ns: sample::JUDGED_UNIX_NS - before * second,
        what: what.into(),
    };
    let slice = |runner: &str, cores: f64| v1::LedgerSlice {
        runner: runner.into(),
        cores,
        share: cores / 0.34,
    };
    breach.covered = 0.85;
    v1::BreachExplanation {
        timeline: vec![
            moment(14, "the condition began to hold"),
            moment(12, "it fired, having held for 2 s"),
            moment(0, &format!("it holds still: {}", breach.summary)),
        ],
        ledger: vec![slice("red", 0.31), slice("<self>", 0.02), slice("system", 0.01)],
        parties: vec![
            v1::PartyFacts {
                role: "culprit".into(),
                tenant: "red".into(),
                node: "node-a".into(),
                used_cores: Some(1.9),
                entitled_cores: Some(0.1),
                quota_cores: Some(1.5),
                ..v1::PartyFacts::default()
            },
            v1::PartyFacts {
                role: "victim".into(),
                tenant: "blue".into(),
                pod: "blue/web".into(),
                node: "node-a".into(),
                used_cores: Some(0.2),
                entitled_cores: Some(0.5),
                memory_bytes: Some(40 << 20),
                entitled_memory_bytes: Some(64 << 20),
                ..v1::PartyFacts::default()
            },
        ],
        rules: vec![
            v1::RuleFact {
                rule: "noisy_neighbour.min_stolen_cores".into(),
                asks: "at least 0.01 cores were taken from the victim".into(),
                found: "0.31 cores".into(),
            },
            v1::RuleFact {
                rule: "noisy_neighbour.over_entitlement_ratio".into(),
                asks: "red used more than 1.02 times what it was promised on node-a".into(),
                found: "1.9 cores of 0.1 cores".into(),
            },
        ],
        remedies: vec![
            v1::Remedy {
                kind: "request".into(),
                by: "red".into(),
                what: "Deployment red/batch asks for the CPU that it uses: 1.9 cores instead of 0.1 cores".into(),
                why: "what red uses was then promised to it, and the scheduler puts its pods where so much is free, or says that there is no such place".into(),
                yaml: "# part of Deployment red/batch, to be merged into it\napiVersion: apps/v1\nkind: Deployment\n".into(),
            },
            v1::Remedy {
                kind: "network_policy".into(),
                by: "platform".into(),
                what: "the network plugin enforces\u{1b}[2J NetworkPolicy".into(),
                why: "nothing else does".into(),
                yaml: String::new(),
            },
        ],
        doubts: vec!["85 % of the window was seen: what happened in the rest is not in these figures".into()],
        breach: Some(breach),
    }
}

#[test]
fn it_reads_as_recorded() {
    let evidence = Evidence::from(wire());
    sample::golden("explain.txt", &Prose::new(Paint::Never, 100).tell(&evidence, ""));
    sample::golden(
        "explain-narrow.txt",
        &Prose::new(Paint::Never, 60).tell(&evidence, "eu-1"),
    );
    sample::golden("explain.yaml", &yaml(&evidence));
    let json = serde_json::to_string_pretty(&evidence).expect("JSON");
    sample::golden("explain.json", &(json + "\n"));
}

#[test]
fn it_is_safe_to_print() {
    let evidence = Evidence::from(wire());
    let text = Prose::new(Paint::Never, 100).tell(&evidence, "") + &yaml(&evidence);
    assert!(text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'));
}

#[test]
fn lines_keep_to_the_terminal_where_words_allow() {
    let evidence = Evidence::from(wire());
    let text = Prose::new(Paint::Never, 60).tell(&evidence, "");
    let wide: Vec<&str> = text
        .lines()
        .filter(|line| crate::text::width(line) > 60)
        .collect();
    // Tables and headings are not broken.
    assert!(
        wide.iter().all(|line| !line.starts_with("  ")
            || ["culprit", "victim", "ROLE"]
                .iter()
                .any(|cell| line.contains(cell))),
        "{wide:#?}"
    );
}
