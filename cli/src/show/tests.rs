use super::*;
use crate::model::{LedgerCell, Snapshot};
use crate::output::Paint;
use crate::sample;

#[test]
fn what_is_no_number_sorts_last() {
    let mut values = [f64::NAN, 0.1, 3.0, f64::NEG_INFINITY, 0.2];
    values.sort_by(|left, right| most(*left, *right));
    assert_eq!(values[..3], [3.0, 0.2, 0.1]);
}

#[test]
fn filters_ignore_case_and_blanks_around() {
    assert!(admits("", &[]));
    assert!(admits(" WEB ", &["blue/web", "blue"]));
    assert!(!admits("web", &["red"]));
}

#[test]
fn the_ledger_orders_victims_first_and_classes_last() {
    let waiters = |sort, filter| {
        let matrix = ledger::Matrix::new(&sample::snapshot(), sort, filter);
        let labels = matrix.waiters.iter().map(ledger::Waiter::label);
        labels.collect::<Vec<_>>()
    };
    assert_eq!(waiters(0, ""), ["blue", "system", "red", "green"]);
    let matrix = ledger::Matrix::new(&sample::snapshot(), 0, "");
    assert_eq!(matrix.runners, ["red", "blue", "system", "<idle>", "<throttled>"]);
    assert_eq!(waiters(1, ""), ["blue", "green", "red", "system"]);
    assert_eq!(waiters(0, "gre"), ["green"]);
}

#[test]
fn runners_without_a_column_are_summed_not_dropped() {
    let cell = |runner: &str, cores| LedgerCell {
        cluster: "default".into(),
        waiter: "blue".into(),
        runner: runner.into(),
        cores,
    };
    let snapshot = Snapshot {
        ledger: vec![
            cell("a", 0.5),
            cell("b", 0.25),
            cell("c", 0.125),
            cell("d", 0.0625),
            cell("<idle>", 2.0),
        ],
        ..Snapshot::default()
    };
    let text = ledger::Matrix::new(&snapshot, 0, "")
        .table(2)
        .to_text(Paint::Never);
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next().expect("heading")[3..],
        ["a", "b", "~other", "<idle>"]
    );
    assert_eq!(
        lines.next().expect("row"),
        ["blue", "0.50", "0.25", "0.19", "2.00"]
    );
}

#[test]
fn no_runner_of_the_ledger_bears_a_part_of_its_name() {
    let names = ["team-payments-prod", "team-payments-test"];
    let snapshot = Snapshot {
        ledger: names
            .map(|runner| LedgerCell {
                cluster: "default".into(),
                waiter: "blue".into(),
                runner: runner.into(),
                cores: 0.5,
            })
            .into(),
        ..Snapshot::default()
    };
    let table = ledger::Matrix::new(&snapshot, 0, "").table(8);
    let titles: Vec<&str> = table.columns.iter().map(|column| &*column.title).collect();
    assert_eq!(titles[1..], names);
}

#[test]
fn holes_in_the_fence_come_first() {
    let verdicts = |sort, filter| {
        let rows = traffic::pairs(&sample::snapshot(), sort, filter).rows;
        rows.into_iter()
            .map(|row| row.cells[2].text.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(verdicts(0, ""), ["leaked", "open", "blocked", "within"]);
    assert_eq!(verdicts(1, ""), ["within", "open", "leaked", "blocked"]);
    assert_eq!(verdicts(0, "green"), ["leaked"]);
    assert_eq!(traffic::rest(&sample::snapshot(), "").rows.len(), 2);
    assert_eq!(traffic::rest(&sample::snapshot(), "unconfirmed").rows.len(), 1);
}

#[test]
fn nobody_steals_from_itself_and_system_is_no_neighbour() {
    assert!(ledger::is_stolen("blue", "red"));
    for (waiter, runner) in [
        ("blue", "blue"),
        ("blue", "system"),
        ("blue", "<idle>"),
        ("blue", "<unresolved>"),
    ] {
        assert!(!ledger::is_stolen(waiter, runner), "{waiter} {runner}");
    }
}

#[test]
fn a_change_is_one_line_with_its_moment() {
    let snapshot = sample::snapshot();
    assert_eq!(
        breaches::line(&snapshot.breaches[0], "", Paint::Never),
        "2026-07-30T11:50:59Z firing   NoisyNeighbour red against blue: red/batch took 0.31 cores of blue/web's \
         promised 0.50 on node-a for 14 s; blue/web ran 2.6x slower\n"
    );
    assert_eq!(
        breaches::line(&snapshot.breaches[1], "eu-1", Paint::Never),
        "2026-07-30T11:49:31Z resolved QuotaExceeded red in eu-1: red used 1.90 cores of its quota of 1.50\n"
    );
}

#[test]
fn an_inferred_cause_is_said_to_be_inferred() {
    let snapshot = sample::snapshot();
    let details = breaches::details(&snapshot.breaches[2], &snapshot);
    let of = |name: &str| {
        let found = details.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(of("confidence"), Some("85 %: the cause is inferred"));
    assert_eq!(of("over_request_bytes"), Some("812.0 MiB"));
    assert_eq!(of("growth_bytes_per_second"), Some("20.0 MiB/s"));
    assert_eq!(
        of("culprit"),
        Some("red/batch of red: 812.0 MiB above its request, growing by 20.0 MiB/s, 90 % of all that is")
    );
    let measured = breaches::details(&snapshot.breaches[0], &snapshot);
    assert!(!measured.iter().any(|(key, _)| key == "confidence"));
}

#[test]
fn the_header_says_what_is_wrong_with_our_sight() {
    let mut snapshot = sample::snapshot();
    snapshot.nodes[1].age_seconds = 65.0;
    let text = header::to_text(&header::lines(&snapshot), Paint::Never);
    for phrase in [
        "1 firing",
        "85 % covered on the worst node",
        "reports 1 min 5 s old on the worst node",
        "agents 0.01 cores, 40.0 MiB",
        "lost: ring full 6 events",
        "2 nodes lack steal_time (no paravirt clock)",
    ] {
        assert!(text.contains(phrase), "{phrase:?} is not in:\n{text}");
    }
}

#[test]
fn tenants_of_one_name_in_two_clusters_are_two() {
    let snapshot = sample::two_clusters();
    let table = tenants::table(&snapshot, 4, "red");
    let firing = table
        .columns
        .iter()
        .position(|column| column.title == "FIRING")
        .expect("a column");
    let rows: Vec<[&str; 3]> = table
        .rows
        .iter()
        .map(|row| [0, 1, firing].map(|at| row.cells[at].text.as_str()))
        .collect();
    // Each fired once: one's breach is not the other's.
    assert_eq!(rows, [["default", "red", "1"], ["eu-1", "red", "1"]]);
    let matrix = ledger::Matrix::new(&snapshot, 0, "blue");
    let cores: Vec<(String, f64)> = matrix
        .waiters
        .iter()
        .map(|waiter| (waiter.label(), matrix.cores(waiter, "red")))
        .collect();
    assert_eq!(
        cores,
        [("default/blue".to_owned(), 0.31), ("eu-1/blue".to_owned(), 0.11)]
    );
}
