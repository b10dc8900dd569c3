//! The trail as objects that other tools read: `openreports.io/v1alpha1` Report, `wgpolicyk8s.io/v1alpha2` PolicyReport; one for each namespace.
//!
//! **Results.** *fail*: a pod of the namespace, or its tenant, broke the rule. *warn*: it was done to a pod of it, it is nobody's breach, or it came near.
//! *pass*: nothing of the kind fired, and the whole time was seen; of the fence's kinds alone, because only of them the trail keeps what was not seen.
//! *skip*: nothing of the kind fired, and not everything was seen, or nobody knows whether it was; the message says which.
//!
//! Both APIs have the same results and summary; only group, version and kind differ.

use std::collections::{BTreeMap, BTreeSet};

use partywall_aggregator_core::breach::BreachKind;
use partywall_aggregator_core::identity::is_namespace_name;
use partywall_aggregator_core::yaml::Yaml;

use super::model::{Audit, Entry};
use crate::model::{Breach, Tenant};
use crate::text::utc;

/// Results of one object: those that fired last. An object has to fit into 1.5 MiB, a result has some 700 bytes.
const MAX_RESULTS: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    OpenReports,
    PolicyReport,
}

impl Api {
    const fn head(self) -> [&'static str; 2] {
        match self {
            Self::OpenReports => ["openreports.io/v1alpha1", "Report"],
            Self::PolicyReport => ["wgpolicyk8s.io/v1alpha2", "PolicyReport"],
        }
    }
}

pub(super) struct Reports {
    /// By namespace.
    pub objects: Vec<(String, String)>,
    /// Breaches that are of no namespace.
    pub placeless: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Pass,
    Fail,
    Warn,
    Skip,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Warn, Self::Skip];

    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Skip => "skip",
        }
    }
}

struct Found {
    outcome: Outcome,
    rule: &'static str,
    message: String,
    at_unix_seconds: f64,
    /// Pods of the namespace.
    pods: BTreeSet<String>,
    properties: Vec<(&'static str, String)>,
}

/// What was asked about.
pub(super) struct Span {
    pub from: String,
    pub to: String,
    pub to_unix_seconds: f64,
}

/// `audits`: by tenant, of every pair that it is in.
pub(super) fn reports(
    tenants: &[Tenant],
    entries: &[Entry],
    audits: &BTreeMap<String, Audit>,
    span: &Span,
    api: Api,
) -> Reports {
    let known = tenants
        .iter()
        .flat_map(|t| t.namespaces.iter().map(|n| (n.as_str(), t.name.as_str())));
    let owners: BTreeMap<&str, &str> = known.collect();
    let mut by_namespace: BTreeMap<String, Vec<Found>> = owners
        .keys()
        .map(|namespace| ((*namespace).to_owned(), Vec::new()))
        .collect();
    let mut placeless = 0;
    for entry in entries {
        let found = of_entry(entry, &owners);
        placeless += usize::from(found.is_empty());
        for (namespace, found) in found {
            by_namespace.entry(namespace).or_default().push(found);
        }
    }
    let object = |(namespace, mut found): (String, Vec<Found>)| {
        let fired: BTreeSet<&str> = found.iter().map(|f| f.rule).collect();
        let tenant = owners.get(namespace.as_str()).copied().unwrap_or_default();
        let unseen = audits.get(tenant).map(|audit| unseen(audit, tenant));
        let quiet = BreachKind::ALL
            .into_iter()
            .filter(|kind| !fired.contains(kind.as_str()));
        let quiet: Vec<Found> = quiet.map(|kind| silence(kind, span, unseen.as_ref())).collect();
        found.sort_by(|a, b| b.at_unix_seconds.total_cmp(&a.at_unix_seconds));
        let left_out = found.len().saturating_sub(MAX_RESULTS);
        found.truncate(MAX_RESULTS);
        found.extend(quiet);
        let text = document(&namespace, &found, left_out, span, api);
        (namespace, text)
    };
    let is_name = |(namespace, _): &(String, Vec<Found>)| is_namespace_name(namespace);
    Reports {
        objects: by_namespace.into_iter().filter(is_name).map(object).collect(),
        placeless,
    }
}

/// Namespace and pod of "namespace/name", and what stands behind it.
fn pod_of(text: &str) -> Option<(String, String)> {
    let (namespace, rest) = text.split_once('/')?;
    let name = rest.split([' ', '/']).next()?;
    let is_pod = is_namespace_name(namespace) && partywall_aggregator_core::identity::is_object_name(name);
    is_pod.then(|| (namespace.to_owned(), name.to_owned()))
}

fn kind_of(breach: &Breach) -> Option<BreachKind> {
    BreachKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == breach.kind)
}

/// What it is to each namespace that it concerns.
fn of_entry(entry: &Entry, owners: &BTreeMap<&str, &str>) -> BTreeMap<String, Found> {
    let breach = &entry.breach;
    let mut out: BTreeMap<String, Found> = BTreeMap::new();
    let Some(kind) = kind_of(breach) else {
        return out;
    };
    let is_own = matches!(
        kind,
        BreachKind::Probe | BreachKind::CredentialReach | BreachKind::LimitRangeExceeded
    );
    // Nobody's breach, or not yet one.
    let is_mild = matches!(
        kind,
        BreachKind::NodeOvercommitted | BreachKind::SystemNoise | BreachKind::QuotaNear
    );
    // Namespace, pod, and whether it broke the rule or had it done to it.
    let mut notes: Vec<(String, Option<String>, bool)> = Vec::new();
    for culprit in breach.culprits.iter().filter(|c| c.tenant == breach.tenant) {
        if let Some((namespace, pod)) = pod_of(&culprit.pod) {
            notes.push((namespace, Some(pod), true));
        }
        // Of flows: "red/client -> blue/web 80/TCP (…)".
        if let Some((_, reached)) = culprit.pod.split_once(" -> ")
            && let Some((namespace, pod)) = pod_of(reached)
        {
            notes.push((namespace, Some(pod), false));
        }
    }
    // Of quotas the subject is what is bounded: "cpu of pods with …".
    let has_pod = !matches!(kind, BreachKind::QuotaNear | BreachKind::QuotaExceeded);
    if let Some((namespace, pod)) = pod_of(&breach.subject).filter(|_| has_pod) {
        notes.push((namespace, Some(pod), is_own));
    }
    if notes.is_empty() {
        for (namespace, tenant) in owners {
            if *tenant == breach.tenant {
                notes.push(((*namespace).to_owned(), None, true));
            }
        }
    }
    for (namespace, pod, broke) in notes {
        let outcome = if broke && !is_mild {
            Outcome::Fail
        } else {
            Outcome::Warn
        };
        let found = out
            .entry(namespace)
            .or_insert_with(|| found(entry, kind, outcome));
        // Who broke it and was harmed by it did break it.
        if outcome == Outcome::Fail {
            found.outcome = outcome;
        }
        found.pods.extend(pod);
    }
    out
}

fn found(entry: &Entry, kind: BreachKind, outcome: Outcome) -> Found {
    let breach = &entry.breach;
    let at_unix_seconds = breach.firing_unix_seconds.unwrap_or(breach.since_unix_seconds);
    let mut properties = vec![
        ("fingerprint", breach.fingerprint.clone()),
        ("cluster", breach.cluster.clone()),
        ("tenant", breach.tenant.clone()),
        ("against", breach.against.clone()),
        ("node", breach.node.clone()),
        ("fired", utc(at_unix_seconds)),
        (
            "resolved",
            breach.resolved_unix_seconds.map(utc).unwrap_or_default(),
        ),
        ("end_unknown", entry.end_unknown.clone()),
        ("covered", format!("{:.3}", breach.covered)),
        (
            "fired_sequence",
            entry.fired_sequence.map(|n| n.to_string()).unwrap_or_default(),
        ),
    ];
    properties.retain(|(_, value)| !value.is_empty());
    Found {
        outcome,
        rule: kind.as_str(),
        message: breach.summary.clone(),
        at_unix_seconds,
        pods: BTreeSet::new(),
        properties,
    }
}

/// Why not everything that concerns a tenant was seen.
fn unseen(audit: &Audit, tenant: &str) -> BTreeSet<String> {
    let concerns = |pair: &&super::model::Pair| {
        let anybody = pair.from.is_empty() && pair.to.is_empty();
        anybody || pair.from == tenant || pair.to == tenant
    };
    let gaps = audit.pairs.iter().filter(concerns).flat_map(|pair| &pair.gaps);
    gaps.map(|gap| gap.reason.replace('_', " ")).collect()
}

/// A rule that nothing broke. `unseen`: why not everything was seen; `None`: whose namespace it is nobody says.
fn silence(kind: BreachKind, span: &Span, unseen: Option<&BTreeSet<String>>) -> Found {
    let quiet = format!("nothing of the kind fired from {} to {}", span.from, span.to);
    // The trail's gaps are those in which a crossing would have been missed.
    let is_covered = matches!(kind, BreachKind::FlatNetwork | BreachKind::FenceLeak);
    let (outcome, message) = match unseen.filter(|_| is_covered) {
        Some(unseen) if unseen.is_empty() => {
            (Outcome::Pass, format!("{quiet}, and all of the time was seen"))
        }
        Some(unseen) => {
            let reasons: Vec<&str> = unseen.iter().map(String::as_str).collect();
            let why = format!("{quiet}, and not everything was seen: {}", reasons.join(", "));
            (Outcome::Skip, why)
        }
        None if is_covered => (
            Outcome::Skip,
            format!("{quiet}; whose namespace it is nobody says, so what was seen of it is not known"),
        ),
        None => (
            Outcome::Skip,
            format!("{quiet}; coverage of this kind is not kept"),
        ),
    };
    Found {
        outcome,
        rule: kind.as_str(),
        message,
        at_unix_seconds: span.to_unix_seconds,
        pods: BTreeSet::new(),
        properties: Vec::new(),
    }
}

fn category(rule: &str) -> &'static str {
    match rule {
        "NoisyNeighbour" | "NodeOvercommitted" | "SystemNoise" | "MemorySqueeze" | "CrossTenantOom" => {
            "Noise"
        }
        "QuotaNear" | "QuotaExceeded" | "LimitRangeExceeded" => "Quota",
        _ => "Fence",
    }
}

fn severity(rule: &str) -> &'static str {
    match rule {
        "FenceLeak" | "CredentialReach" | "CrossTenantOom" => "high",
        "QuotaNear" | "NodeOvercommitted" | "SystemNoise" => "info",
        "LimitRangeExceeded" => "low",
        _ => "medium",
    }
}

fn document(namespace: &str, results: &[Found], left_out: usize, span: &Span, api: Api) -> String {
    let count = |outcome| results.iter().filter(|f| f.outcome == outcome).count() as u64;
    let mut summary: Vec<(String, Yaml)> = Outcome::ALL
        .iter()
        .map(|outcome| (outcome.word().to_owned(), Yaml::Number(count(*outcome))))
        .collect();
    summary.push(("error".to_owned(), Yaml::Number(0)));
    let [version, kind] = api.head();
    let mut annotations = vec![
        ("partywall/from".to_owned(), Yaml::text(&span.from)),
        ("partywall/to".to_owned(), Yaml::text(&span.to)),
    ];
    if left_out > 0 {
        annotations.push(("partywall/left-out".to_owned(), Yaml::text(left_out.to_string())));
    }
    let labels = Yaml::map([("app.kubernetes.io/managed-by", Yaml::text("partywall"))]);
    let metadata = Yaml::map([
        ("name", Yaml::text("partywall")),
        ("namespace", Yaml::text(namespace)),
        ("labels", labels),
        ("annotations", Yaml::Map(annotations)),
    ]);
    let scope = Yaml::map([
        ("apiVersion", Yaml::text("v1")),
        ("kind", Yaml::text("Namespace")),
        ("name", Yaml::text(namespace)),
    ]);
    let results = results.iter().map(|found| result(namespace, found)).collect();
    Yaml::map([
        ("apiVersion", Yaml::text(version)),
        ("kind", Yaml::text(kind)),
        ("metadata", metadata),
        ("scope", scope),
        ("summary", Yaml::Map(summary)),
        ("results", Yaml::List(results)),
    ])
    .document()
}

fn result(namespace: &str, found: &Found) -> Yaml {
    let nanos = (found.at_unix_seconds.fract() * 1e9) as u64;
    let timestamp = Yaml::map([
        ("seconds", Yaml::Number(found.at_unix_seconds as u64)),
        ("nanos", Yaml::Number(nanos.min(999_999_999))),
    ]);
    let text = |text: &str| Yaml::text(text);
    let mut out = vec![
        ("source".to_owned(), text("partywall")),
        ("policy".to_owned(), text("partywall")),
        ("rule".to_owned(), text(found.rule)),
        ("category".to_owned(), text(category(found.rule))),
        ("severity".to_owned(), text(severity(found.rule))),
        ("result".to_owned(), text(found.outcome.word())),
        ("timestamp".to_owned(), timestamp),
        ("message".to_owned(), text(&found.message)),
    ];
    let pod = |name: &String| {
        Yaml::map([
            ("apiVersion", Yaml::text("v1")),
            ("kind", Yaml::text("Pod")),
            ("namespace", Yaml::text(namespace)),
            ("name", Yaml::text(name)),
        ])
    };
    if !found.pods.is_empty() {
        out.push((
            "resources".to_owned(),
            Yaml::List(found.pods.iter().map(pod).collect()),
        ));
    }
    if !found.properties.is_empty() {
        let properties = found
            .properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(value)));
        out.push(("properties".to_owned(), Yaml::Map(properties.collect())));
    }
    Yaml::Map(out)
}
