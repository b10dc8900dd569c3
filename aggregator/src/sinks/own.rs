//! What the aggregator says of itself: what it took, refused and lost, its links, and its view of each cluster's API.

use partywall_aggregator_core::breach::BreachKind;

use super::out::Out;
use super::prometheus::{Moment, seconds};
use crate::identify::api::Status;
use crate::link::tls;
use crate::metrics::Counts;
use crate::state::{Cluster, State};

/// What the aggregator itself says, all clusters together.
pub(super) fn write(out: &mut Out<'_>, state: &State) {
    let counts = state.metrics.counts();
    let outcomes = [
        ("accepted", counts.accepted),
        ("duplicate", counts.duplicates),
        ("refused", counts.refused.values().sum()),
    ];
    out.counters(
        "aggregator_reports",
        "Reports taken, by what became of them",
        outcomes.into_iter().map(|(o, n)| ([("outcome", o)], n)),
    );
    let refused = counts
        .refused
        .iter()
        .map(|(reason, n)| ([("reason", *reason)], *n));
    out.counters(
        "aggregator_reports_refused",
        "Reports refused as a whole, by reason",
        refused,
    );
    out.counter("aggregator_samples", "CPU samples counted", counts.samples);
    out.counter(
        "aggregator_streams",
        "Streams that agents opened",
        counts.streams_opened,
    );
    out.counter(
        "aggregator_judgements",
        "Times that everything was judged",
        counts.judgements,
    );
    let fired = BreachKind::ALL.map(|k| ([("kind", k.as_str())], counts.fired.get(&k).copied().unwrap_or(0)));
    out.counters(
        "breaches_fired",
        "Breaches that began to fire, by kind",
        fired.into_iter(),
    );
    links(out, &counts, &state.tls.get());
    let policy = state.policy.get();
    out.counter(
        "policy_reload_failures",
        "Times that a changed policy file was found broken",
        policy.failures,
    );
    out.gauge(
        "policy_last_success_timestamp_seconds",
        "When the policy in force was read",
        seconds(policy.loaded_unix_ns),
    );
    if policy.followed {
        out.gauge(
            "policy_in_force",
            "1: the policy file on the disk is the one in force. 0: it was refused, the one before stays",
            u64::from(policy.error.is_none()),
        );
    }
}

/// What it says of connections, tokens and certificates.
fn links(out: &mut Out<'_>, counts: &Counts, tls: &tls::Status) {
    out.gauge(
        "aggregator_connections",
        "Connections of agents and clients that are open",
        counts.connections as u64,
    );
    let refused = counts.connections_refused.iter();
    out.counters(
        "aggregator_connections_refused",
        "Connections turned away or ended, by reason",
        refused.map(|(reason, n)| ([("reason", reason.as_str())], *n)),
    );
    out.counter(
        "aggregator_accept_failures",
        "Times that no connection could be accepted: no file descriptor, no memory",
        counts.accept_failures,
    );
    let refused = counts.streams_refused.iter();
    out.counters(
        "aggregator_streams_refused",
        "Streams and questions turned away or ended, by reason",
        refused.map(|(reason, n)| ([("reason", reason.as_str())], *n)),
    );
    let reviews = counts.token_reviews.iter();
    out.counters(
        "aggregator_token_reviews",
        "Tokens looked at, by what came of it",
        reviews.map(|(outcome, n)| ([("outcome", *outcome)], *n)),
    );
    out.counter(
        "aggregator_reports_delayed",
        "Reports after which their node had to wait, because it sends faster than it may",
        counts.delays,
    );
    out.counter(
        "aggregator_reports_delay_seconds",
        "Time that nodes had to wait, because they send faster than they may",
        counts.delayed.as_secs_f64(),
    );
    let expiry = [("tls-cert", tls.own), ("tls-client-ca", tls.client_ca)];
    out.gauges(
        "aggregator_certificate_expiry_timestamp_seconds",
        "Until when the certificates in force are good, by the flag that names their file; of several the first to expire",
        expiry.into_iter().filter_map(|(file, v)| Some(([("file", file)], v?.to as f64))),
    );
    if tls.own.is_some() {
        out.counter(
            "aggregator_certificate_loads",
            "Times that changed certificate files were taken over",
            tls.loads,
        );
        out.counter(
            "aggregator_certificate_load_failures",
            "Times that changed certificate files were found broken: those before stay in force",
            tls.failures,
        );
    }
}

/// What the aggregator says of one cluster.
pub(super) fn of_cluster(out: &mut Out<'_>, cluster: &Cluster, moment: &Moment) {
    out.gauge(
        "aggregator_flow_records",
        "Records of flows held: two of one that both ends tell of",
        moment.flow_records as u64,
    );
    let losses = moment.losses.iter().map(|(key, n)| {
        (
            [("stage", key.stage), ("reason", key.reason), ("unit", key.unit)],
            n,
        )
    });
    out.counters(
        "aggregator_losses",
        "What the aggregator could not store, name or believe, by stage and reason",
        losses,
    );

    let cluster = cluster.source.get();
    let objects = [
        ("namespace", cluster.namespaces),
        ("pod", cluster.pods),
        ("quota", cluster.quotas),
        ("limit_range", cluster.limit_ranges),
        ("network_policy", cluster.network_policies),
        ("foreign_policy", cluster.foreign_policies),
        ("node", cluster.nodes),
        ("service", cluster.services),
        ("endpoint_slice", cluster.endpoint_slices),
        ("capsule_tenant", cluster.capsule_tenants.unwrap_or(0)),
    ];
    out.gauges(
        "aggregator_cluster_objects",
        "Cluster objects in use, by kind",
        objects.into_iter().map(|(kind, n)| ([("kind", kind)], n as u64)),
    );
    out.gauge(
        "aggregator_cluster_objects_ignored",
        "Cluster objects of kinds that are not read",
        cluster.ignored,
    );
    out.gauge(
        "aggregator_cluster_objects_duplicate",
        "Cluster objects that an earlier file has too",
        cluster.duplicates,
    );
    out.gauge(
        "aggregator_cluster_files",
        "Cluster files read",
        cluster.files as u64,
    );
    out.gauge(
        "aggregator_cluster_files_broken",
        "Cluster files that are broken now: what they said before still counts",
        cluster.broken.len() as u64,
    );
    out.counter(
        "aggregator_cluster_load_failures",
        "Times that a cluster file was found broken",
        cluster.failures,
    );
    out.counter(
        "aggregator_cluster_loads",
        "Times that changed cluster data was taken over",
        cluster.loads,
    );
    out.gauge(
        "aggregator_cluster_quotas_unjudged",
        "ResourceQuotas that are not judged, because their scopes cannot be told of a pod",
        cluster.unjudged_quotas.len() as u64,
    );
    if let Some(api) = &cluster.api {
        write_api(out, api);
    }
}

/// What an API's watches say of themselves.
fn write_api(out: &mut Out<'_>, api: &Status) {
    out.gauge(
        "aggregator_cluster_api_synced",
        "Whether every resource was listed once: before, no pod has a name",
        u64::from(api.is_synced()),
    );
    let watched = || api.resources.iter();
    let ages = watched().filter_map(|r| Some(([("resource", r.name)], r.age()?.as_secs_f64())));
    out.gauges(
        "aggregator_cluster_api_age_seconds",
        "Since the API server was last heard of a resource: an answer, an event or a bookmark",
        ages,
    );
    out.gauges(
        "aggregator_cluster_api_up",
        "Whether the last attempt to list or watch a resource went well",
        watched().map(|r| ([("resource", r.name)], u64::from(r.is_up()))),
    );
    let errors = watched().flat_map(|r| {
        r.errors
            .iter()
            .map(|(kind, n)| ([("resource", r.name), ("kind", *kind)], *n))
    });
    out.counters(
        "aggregator_cluster_api_errors",
        "Lists and watches that failed, by resource and kind",
        errors,
    );
    out.counters(
        "aggregator_cluster_api_relists",
        "Times that a resource was listed anew because the server no longer knew the version to go on from",
        watched().map(|r| ([("resource", r.name)], r.relists)),
    );
    out.counters(
        "aggregator_cluster_api_watches",
        "Watches opened",
        watched().map(|r| ([("resource", r.name)], r.watches)),
    );
    out.gauges(
        "aggregator_cluster_api_objects_malformed",
        "Objects that make no sense now: what they said before still counts",
        watched().map(|r| ([("resource", r.name)], r.malformed as u64)),
    );
    out.gauge(
        "aggregator_cluster_api_publish_seconds",
        "What it took to hand the cluster to the judge, the last time",
        api.publish.as_secs_f64(),
    );
}
