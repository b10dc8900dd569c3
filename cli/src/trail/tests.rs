use std::collections::BTreeMap;

use partywall_proto::trail::{Hash, link};
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use serde_json::Value;

use super::lines::Line;
use super::model::{Audit, Entry};
use super::reports::{Api, Span, reports};
use super::verify::verify_lines;
use super::{audit, csv, history};
use crate::model::{Breach, Tenant};
use crate::output::Paint;
use crate::sample;

const SECOND: u64 = 1_000_000_000;

fn entries() -> Vec<Entry> {
    let mut breaches = sample::wire().breaches;
    // quota, resolved; noisy, whose end nobody saw; squeeze, which fires.
    breaches[2].state = v1::BreachState::Firing.into();
    breaches[2].firing_unix_ns = breaches[2].since_unix_ns;
    breaches[0].culprits[0].pod = "red/batch".into();
    let mut flat = v1::Breach {
        kind: v1::BreachKind::FlatNetwork.into(),
        subject: String::new(),
        node: String::new(),
        summary: "=HYPERLINK(\"http://evil\") of red reached blue/web of blue on 80/TCP".into(),
        ..breaches[0].clone()
    };
    flat.culprits[0].pod = "red/client -> blue/web 80/TCP (1 connection, 1.1 KiB)".into();
    breaches.push(flat);
    let wire = |(at, breach)| v1::HistoryEntry {
        breach: Some(breach),
        fired_sequence: at as u64 + 2,
        resolved_sequence: if at == 1 { 9 } else { 0 },
        end_unknown: if at == 0 {
            "the aggregator ended while it fired".into()
        } else {
            String::new()
        },
        cursor: format!("{}-{}", sample::JUDGED_UNIX_NS, at + 2),
    };
    breaches
        .into_iter()
        .enumerate()
        .map(|b| Entry::from(wire(b)))
        .collect()
}

fn answer() -> v1::AuditAnswer {
    let at = sample::JUDGED_UNIX_NS - 3_600 * SECOND;
    let gap = |reason: &str, node: &str| v1::Gap {
        from_unix_ns: at + 600 * SECOND,
        to_unix_ns: at + 660 * SECOND,
        reason: reason.into(),
        node: node.into(),
    };
    let pair = |from: &str, to: &str, reached: v1::Reached| v1::PairAnswer {
        cluster: "default".into(),
        from: from.into(),
        to: to.into(),
        reached: reached.into(),
        summary: format!("what is known of {from} and {to}"),
        covered: 1.0,
        ..v1::PairAnswer::default()
    };
    v1::AuditAnswer {
        from_unix_ns: at,
        to_unix_ns: sample::JUDGED_UNIX_NS,
        slot_ns: 10 * SECOND,
        pairs: vec![
            v1::PairAnswer {
                crossings: vec![v1::Crossing {
                    verdict: v1::Verdict::Open.into(),
                    delivered: true,
                    bytes: 74 << 10,
                    packets: 900,
                    connections: 12,
                    first_unix_ns: at + 60 * SECOND,
                    last_unix_ns: at + 90 * SECOND,
                }],
                ..pair("red", "blue", v1::Reached::Yes)
            },
            pair("green", "blue", v1::Reached::No),
            v1::PairAnswer {
                covered: 0.98,
                gaps: vec![gap("agent_silent", "node-b"), gap("aggregator_away", "")],
                ..pair("red", "green\u{1b}[2J", v1::Reached::Unknown)
            },
        ],
    }
}

#[test]
fn it_reads_as_recorded() {
    sample::golden("history.txt", &history::table(&entries()).to_text(Paint::Never));
    sample::golden("history.csv", &csv::history(&entries()).expect("a table"));
    let answered = Audit::from(answer());
    sample::golden("audit.txt", &audit::tell(&answered, None, Paint::Never, 100));
    sample::golden("audit.csv", &csv::audit(&answered).expect("a table"));
}

#[test]
fn the_answer_is_that_of_the_worst_pair() {
    let word = |keep: &[usize]| {
        let mut wire = answer();
        let pairs = std::mem::take(&mut wire.pairs);
        wire.pairs = pairs
            .into_iter()
            .enumerate()
            .filter(|(i, _)| keep.contains(i))
            .map(|(_, p)| p)
            .collect();
        Audit::from(wire).answer.word()
    };
    assert_eq!(word(&[0, 1, 2]), "yes");
    assert_eq!(word(&[1, 2]), "unknown");
    assert_eq!(word(&[1]), "no");
    assert_eq!(word(&[]), "no");
}

#[test]
fn a_cell_is_no_formula() {
    for (text, wanted) in [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=x", "'\t=x"),
        ("red", "red"),
        ("", ""),
        ("a=b", "a=b"),
    ] {
        assert_eq!(csv::cell(text), wanted);
    }
    let text = csv::history(&entries()).expect("a table");
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<_> = reader.records().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 4);
    assert!(rows[3][10].starts_with("'=HYPERLINK"), "{:?}", rows[3]);
}

#[test]
fn a_pair_is_two_tenants() {
    assert_eq!(
        audit::pair("red, blue"),
        Ok(("red".to_owned(), "blue".to_owned()))
    );
    for typed in ["red", "red,", ",blue", "a,b,c", ""] {
        assert!(audit::pair(typed).is_err(), "{typed}");
    }
}

/// Start, breach, hour, prune.
fn chain() -> Vec<v1::TrailRecord> {
    let hour = v1::TrailHour {
        cluster: "default".into(),
        hour_unix_s: 1_785_409_200,
        crossings: vec![v1::TrailCrossing {
            from: "red".into(),
            to: "blue".into(),
            verdict: v1::Verdict::Open.into(),
            delivered: true,
            bytes: 100,
            packets: 2,
            connections: 1,
            slots: vec![3, 1],
            ..v1::TrailCrossing::default()
        }],
        ..v1::TrailHour::default()
    };
    let whats = [
        What::Start(v1::TrailStart {
            version: "0.1.0".into(),
        }),
        What::Breach(sample::wire().breaches.remove(0)),
        What::Hour(hour),
    ];
    let mut out: Vec<v1::TrailRecord> = Vec::new();
    for (at, what) in whats.into_iter().enumerate() {
        let body = v1::TrailBody {
            at_unix_ns: sample::JUDGED_UNIX_NS + at as u64 * SECOND,
            what: Some(what),
        };
        let head = out
            .last()
            .map(|last| (last.sequence, Hash::try_from(&last.hash[..]).expect("32 bytes")));
        out.push(link(head, body.encode_to_vec().into()));
    }
    out
}

fn lines(records: &[v1::TrailRecord]) -> Vec<String> {
    let line = |record: &v1::TrailRecord| {
        let body = v1::TrailBody::decode(record.body.clone()).expect("a body");
        serde_json::to_string(&Line::new(record, &body).expect("a line")).expect("JSON") + "\n"
    };
    records.iter().map(line).collect()
}

#[test]
fn an_export_verifies_and_shows_what_was_done_to_it() {
    let records = chain();
    let good = lines(&records);
    let told = verify_lines(&good.concat(), None).expect("a whole chain");
    assert!(told.starts_with("the chain is whole: 3 records"), "{told}");
    let head = told.lines().last().expect("the head").parse().expect("a head");
    let told = verify_lines(&good.concat(), Some(head)).expect("a whole chain");
    assert!(told.contains("the head that was noted is in it"), "{told}");

    let broken = |text: String, head, why: &str| {
        let error = verify_lines(&text, head).expect_err(why);
        assert!(error.contains(why), "{why:?} is not in {error}");
    };
    broken(good[..2].concat(), Some(head), "what came after was cut off");
    broken(
        [&good[0][..], &good[2][..]].concat(),
        None,
        "records 2 to 2 are missing",
    );
    broken(good[1..].concat(), None, "begins with record 2");
    broken([&good[1][..], &good[0][..]].concat(), None, "stands behind");
    broken(
        good.concat().replace("\"bytes\":100", "\"bytes\":99"),
        None,
        "not what its body says",
    );
    broken("{}\n".into(), None, "line 1");
    broken(
        good.concat().replace("\"sequence\":2", "\"sequence\":x"),
        None,
        "line 2",
    );
    // The body itself, with what it tells left alone.
    let mut changed: Line = Line::parse(good[1].trim()).expect("a line");
    changed.body.replace_range(0..2, "ff");
    let changed = serde_json::to_string(&changed).expect("JSON") + "\n";
    broken([&good[0][..], &changed[..]].concat(), None, "was changed");
    // A chain that was made anew verifies by itself, and not against what was noted.
    let mut anew = chain();
    let body = v1::TrailBody {
        at_unix_ns: 1,
        what: None,
    };
    anew.truncate(2);
    let before = (2, Hash::try_from(&anew[1].hash[..]).expect("32 bytes"));
    anew.push(link(Some(before), body.encode_to_vec().into()));
    let anew = lines(&anew).concat();
    verify_lines(&anew, None).expect("whole by itself");
    broken(anew, Some(head), "another hash than was noted");
}

#[test]
fn nothing_is_no_whole_chain() {
    let error = verify_lines("", None).expect_err("nothing");
    assert!(error.contains("no record to verify"), "{error}");
    let told = verify_lines(&lines(&chain()).concat(), None).expect("a whole chain");
    let head = told.lines().last().expect("the head").parse().expect("a head");
    let error = verify_lines("", Some(head)).expect_err("nothing");
    assert!(
        error.contains("the head that was noted is not in it; no record was good"),
        "{error}"
    );
}

#[test]
fn heads_are_checked_as_typed() {
    for typed in [
        "",
        "1",
        "x:00",
        "1:00",
        "0:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert!(typed.parse::<super::Head>().is_err(), "{typed}");
    }
}

fn tenants() -> Vec<Tenant> {
    let tenant = |name: &str, namespaces: &[&str]| Tenant {
        name: name.into(),
        namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
        ..Tenant::default()
    };
    vec![
        tenant("blue", &["blue"]),
        tenant("green", &["green", "green-test"]),
        tenant("red", &["red"]),
        tenant("yellow", &["yellow"]),
    ]
}

/// Of a published CRD: `openAPIV3Schema` of results and summary, as far as it restricts. Both APIs have the same.
fn check(object: &Value) {
    let text = |value: &Value, key: &str| {
        value[key]
            .as_str()
            .unwrap_or_else(|| panic!("{key} in {value:#}"))
            .to_owned()
    };
    let known = |value: &Value, keys: &[&str]| {
        for key in value.as_object().expect("a map").keys() {
            assert!(keys.contains(&key.as_str()), "{key} is in no schema");
        }
    };
    known(
        object,
        &["apiVersion", "kind", "metadata", "scope", "summary", "results"],
    );
    known(&object["scope"], &["apiVersion", "kind", "name"]);
    assert_eq!(object["scope"]["name"], object["metadata"]["namespace"]);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for result in object["results"].as_array().expect("a list") {
        known(
            result,
            &[
                "source",
                "policy",
                "rule",
                "category",
                "severity",
                "result",
                "timestamp",
                "message",
                "resources",
                "properties",
            ],
        );
        assert!(["critical", "high", "low", "medium", "info"].contains(&&*text(result, "severity")));
        assert!(["pass", "fail", "warn", "error", "skip"].contains(&&*text(result, "result")));
        assert!(
            !text(result, "policy").is_empty()
                && !text(result, "rule").is_empty()
                && !text(result, "message").is_empty()
        );
        known(&result["timestamp"], &["seconds", "nanos"]);
        assert!(result["timestamp"]["seconds"].is_i64() || result["timestamp"]["seconds"].is_u64());
        assert!(
            result["timestamp"]["nanos"]
                .as_u64()
                .is_some_and(|n| n < 1_000_000_000)
        );
        for resource in result["resources"].as_array().into_iter().flatten() {
            known(resource, &["apiVersion", "kind", "namespace", "name"]);
        }
        for value in result["properties"]
            .as_object()
            .into_iter()
            .flat_map(|p| p.values())
        {
            assert!(value.is_string(), "properties are texts: {value}");
        }
        *counts.entry(text(result, "result")).or_default() += 1;
    }
    known(&object["summary"], &["pass", "fail", "warn", "error", "skip"]);
    for word in ["pass", "fail", "warn", "error", "skip"] {
        assert_eq!(
            object["summary"][word].as_u64(),
            Some(counts.get(word).copied().unwrap_or(0)),
            "{word}"
        );
    }
}

#[test]
fn one_object_for_each_namespace_with_counts_that_add_up() {
    // As the aggregator answers of each tenant alone.
    let audits: BTreeMap<String, Audit> = tenants()
        .into_iter()
        .map(|tenant| {
            let mut wire = answer();
            wire.pairs
                .retain(|p| p.from == tenant.name || p.to == tenant.name);
            (tenant.name, Audit::from(wire))
        })
        .collect();
    let whole = Audit::from(answer());
    let span = Span {
        from: whole.from,
        to: whole.to,
        to_unix_seconds: whole.to_unix_seconds,
    };
    for (api, version, kind) in [
        (Api::OpenReports, "openreports.io/v1alpha1", "Report"),
        (Api::PolicyReport, "wgpolicyk8s.io/v1alpha2", "PolicyReport"),
    ] {
        let made = reports(&tenants(), &entries(), &audits, &span, api);
        let names: Vec<&str> = made
            .objects
            .iter()
            .map(|(namespace, _)| namespace.as_str())
            .collect();
        assert_eq!(names, ["blue", "green", "green-test", "red", "yellow"]);
        let objects: Vec<Value> = made
            .objects
            .iter()
            .map(|(_, text)| serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e} in\n{text}")))
            .collect();
        for object in &objects {
            assert_eq!(
                (&object["apiVersion"], &object["kind"]),
                (&version.into(), &kind.into())
            );
            check(object);
        }
        let of = |namespace: usize, rule: &str| {
            let results = objects[namespace]["results"].as_array().expect("a list");
            let found = results.iter().find(|r| r["rule"] == rule);
            found.map(|r| r["result"].as_str().expect("a word").to_owned())
        };
        assert_eq!(
            of(0, "NoisyNeighbour").as_deref(),
            Some("warn"),
            "blue was harmed"
        );
        assert_eq!(of(3, "NoisyNeighbour").as_deref(), Some("fail"), "red broke it");
        assert_eq!(of(3, "QuotaExceeded").as_deref(), Some("fail"));
        assert_eq!(of(0, "FlatNetwork").as_deref(), Some("warn"));
        assert_eq!(of(0, "FenceLeak").as_deref(), Some("pass"));
        assert_eq!(
            of(3, "FenceLeak").as_deref(),
            Some("skip"),
            "a node that red may have used was silent"
        );
        assert_eq!(of(4, "FlatNetwork").as_deref(), Some("pass"));
        assert_eq!(
            of(4, "NoisyNeighbour").as_deref(),
            Some("skip"),
            "of noise no coverage is kept"
        );
        assert_eq!(made.placeless, 0);
        if api == Api::OpenReports {
            sample::golden("openreports-red.yaml", &made.objects[3].1);
        }
    }
}

#[test]
fn what_a_quota_bounds_is_no_pod() {
    let breach = |subject: &str, kind: &str| Entry {
        breach: Breach {
            kind: kind.into(),
            tenant: "red".into(),
            subject: subject.into(),
            ..Breach::default()
        },
        ..Entry::default()
    };
    let span = Span {
        from: String::new(),
        to: String::new(),
        to_unix_seconds: 1.0,
    };
    for (subject, kind) in [
        ("cpu of pods with PriorityClass in (high)", "QuotaExceeded"),
        ("memory of pods with PriorityClass in (a/b)", "QuotaNear"),
    ] {
        let made = reports(
            &tenants(),
            &[breach(subject, kind)],
            &BTreeMap::new(),
            &span,
            Api::OpenReports,
        );
        let names: Vec<&str> = made.objects.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            names,
            ["blue", "green", "green-test", "red", "yellow"],
            "{subject}"
        );
        assert!(!made.objects[3].1.contains("kind: Pod"), "{}", made.objects[3].1);
        assert!(made.objects[3].1.contains(&format!("rule: {kind}")));
    }
}
