//! What the dashboards show. Every query is run against a real Prometheus by `cargo xtask test`, and must return something: what is rightly empty says 0.

use super::build::{
    ANY_IS_BAD, ANY_IS_WARM, Board, PLAIN, Panel, Unit, Variable, WAITS, WHOLE_IS_GOOD, Words, bars, figure,
    histogram, lines, matrix, states, table,
};

pub(super) fn all() -> Vec<(&'static str, Board)> {
    vec![
        ("overview.json", overview()),
        ("ledger.json", ledger()),
        ("tenant.json", tenant()),
        ("node.json", node()),
        ("fence.json", fence()),
        ("partywall.json", itself()),
    ]
}

fn cluster(all: bool) -> Variable {
    Variable {
        name: "cluster",
        label: "Cluster",
        query: "label_values(partywall_node_online_cpus, cluster)",
        all,
    }
}

fn tenants(all: bool) -> Variable {
    Variable {
        name: "tenant",
        label: "Tenant",
        query: "label_values(partywall_tenant_used_cores{cluster=~\"$cluster\"}, tenant)",
        all,
    }
}

fn nodes(all: bool) -> Variable {
    Variable {
        name: "node",
        label: "Node",
        query: "label_values(partywall_node_online_cpus{cluster=~\"$cluster\"}, node)",
        all,
    }
}

const STATES: Words = &[("0", "quiet", "green"), ("1", "firing", "red")];

/// Worst first: what stands further to the left wins where a pair has several.
const VERDICTS: Words = &[
    ("6", "leaked", "red"),
    ("5", "open", "orange"),
    ("4", "unknown", "text"),
    ("3", "blocked", "blue"),
    ("2", "allowed", "green"),
    ("1", "within", "transparent"),
];

/// What says 0 only where there is nothing: beside rows it would be one more.
fn or_none(query: &str, none: &str) -> String {
    format!("{query} or ({none} unless on() ({query}))")
}

/// What a counter grew by over `range`. A series that begins within it has all of its value from there: `increase()` does not know of its first
/// sample, and what happens once is that alone.
fn grown(counter: &str, range: &str) -> String {
    format!("(({counter} unless {counter} offset {range}) or increase({counter}[{range}]))")
}

/// Nodes that ought to report and do: what `cluster_node_zone:partywall_node_silent:bool` of the rules leaves, so that nothing here needs those rules.
/// A node that never reported, or is forgotten, has no age.
fn reporting(selector: &str, whether: &str) -> String {
    format!(
        "(count(max by (cluster, node) (partywall_node_expected{{{selector}}}) {whether} on (cluster, node) (partywall_node_report_age_seconds < 30)) or vector(0))"
    )
}

/// Rows of a matrix by cluster: tenants of several may have one name. Its columns are of the row's cluster, nothing passes from one to another.
fn by_cluster(query: &str, row: &str) -> String {
    format!("label_join({query}, \"{row}\", \"/\", \"cluster\", \"{row}\")")
}

fn breaches_now(selector: &str) -> Panel {
    states(
        "Breaches",
        "Each kind against each pair that fires in this time",
        STATES,
    )
    .line(
        "{{cluster}}: {{kind}}: {{tenant}} → {{against}}",
        &or_none(
            &format!(
                "clamp_max(sum by (cluster, kind, tenant, against) (partywall_breaches{{cluster=~\"$cluster\", state=\"firing\"{selector}}}), 1)"
            ),
            "label_replace(vector(0), \"kind\", \"none fires\", \"\", \"\")",
        ),
    )
}

fn overview() -> Board {
    Board {
        uid: "partywall-overview",
        title: "Partywall / Overview",
        about: "All tenants: what they use against what they were promised, who waits, what is broken",
        variables: vec![cluster(true), tenants(true)],
        rows: vec![
            (
                "",
                vec![
                    figure("Firing breaches", "Rules broken now, by a named tenant", Unit::Count, ANY_IS_BAD).line(
                        "firing",
                        "sum(partywall_breaches{cluster=~\"$cluster\", state=\"firing\"}) or vector(0)",
                    ),
                    figure("Waited for other tenants", "Cores that tenants' tasks waited for while others' ran", Unit::Cores, ANY_IS_WARM).line(
                        "stolen",
                        "sum(partywall_tenant_stolen_cores{cluster=~\"$cluster\", tenant=~\"$tenant\", tenant!=\"system\"})",
                    ),
                    figure("Holes in the fence in this time", "Pairs of tenants between which something was delivered in the dashboard's range of time though nothing admits it", Unit::Count, ANY_IS_BAD).now(
                        "pairs",
                        &format!(
                            "count(sum by (cluster, from, to) {} > 0) or vector(0)",
                            grown("partywall_traffic_bytes_total{cluster=~\"$cluster\", verdict=~\"open|leaked\"}", "$__range")
                        ),
                    ),
                    figure("Tenants", "With pods in the window", Unit::Count, PLAIN).line(
                        "tenants",
                        "count(partywall_tenant_pods{cluster=~\"$cluster\", tenant!=\"system\"} > 0) or vector(0)",
                    ),
                    figure("Nodes that report", "Share of the nodes that ought to whose last report is less than 30 s old", Unit::Share, WHOLE_IS_GOOD).line(
                        "reporting",
                        &format!(
                            "{} / count(max by (cluster, node) (partywall_node_expected{{cluster=~\"$cluster\"}}))",
                            reporting("cluster=~\"$cluster\"", "and")
                        ),
                    ),
                    figure("Seen", "Share of the window that reports cover, of the node that is seen least", Unit::Share, WHOLE_IS_GOOD)
                        .line("covered", "min(partywall_node_covered_ratio{cluster=~\"$cluster\"})"),
                ],
            ),
            (
                "Tenants",
                vec![
                    table(
                        "Tenants",
                        "Means over the policy's window; a quota that is absent is none",
                        &[("cluster", "Cluster"), ("tenant", "Tenant")],
                        &[
                            ("CPU", Unit::Cores, "sum by (cluster, tenant) (partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Promised", Unit::Cores, "sum by (cluster, tenant) (partywall_tenant_entitled_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Quota", Unit::Cores, "sum by (cluster, tenant) (partywall_tenant_quota_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Waits for others", Unit::Cores, "sum by (cluster, tenant) (partywall_tenant_stolen_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Makes wait", Unit::Cores, "sum by (cluster, tenant) (partywall_tenant_taken_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Memory", Unit::Bytes, "sum by (cluster, tenant) (partywall_tenant_memory_working_set_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Pods", Unit::Count, "sum by (cluster, tenant) (partywall_tenant_pods{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                            ("Breaches by it", Unit::Count, "sum by (cluster, tenant) (partywall_breaches{cluster=~\"$cluster\", tenant=~\"$tenant\", state=\"firing\"}) or sum by (cluster, tenant) (0 * partywall_tenant_pods{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                        ],
                    ),
                    lines("CPU in use", "Mean over the window", Unit::Cores)
                        .line("{{cluster}}/{{tenant}}", "sum by (cluster, tenant) (partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .stacked(),
                    lines("Waits for other tenants", "Cores that others had while this tenant's tasks waited", Unit::Cores)
                        .line("{{cluster}}/{{tenant}}", "sum by (cluster, tenant) (partywall_tenant_stolen_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    bars("Use of what was promised", "CPU in use, as a share of requests; tenants without requests are not here", Unit::Share, &[(None, "green"), (Some(1.0), "orange"), (Some(2.0), "red")]).now(
                        "{{cluster}}/{{tenant}}",
                        "topk(15, sum by (cluster, tenant) (partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"}) / (sum by (cluster, tenant) (partywall_tenant_entitled_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"}) > 0))",
                    ),
                    bars("Use of the quota", "CPU in use, as a share of the quota", Unit::Share, &[(None, "green"), (Some(0.8), "orange"), (Some(1.0), "red")]).now(
                        "{{cluster}}/{{tenant}}",
                        "topk(15, sum by (cluster, tenant) (partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"}) / sum by (cluster, tenant) (partywall_tenant_quota_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"}))",
                    ),
                    bars("Makes others wait", "Cores that it had while others' tasks waited for them", Unit::Cores, WAITS).now(
                        "{{cluster}}/{{tenant}}",
                        "topk(15, sum by (cluster, tenant) (partywall_tenant_taken_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"}))",
                    ),
                ],
            ),
            ("Breaches", vec![breaches_now("")]),
        ],
    }
}

fn ledger() -> Board {
    Board {
        uid: "partywall-ledger",
        title: "Partywall / Ledger",
        about: "Who waits for whom: while a task of one tenant waited for a CPU, who ran there",
        variables: vec![cluster(true), nodes(true), tenants(true)],
        rows: vec![(
            "",
            vec![
                matrix(
                    "Who waits for whom",
                    "A row's tenant waited while a column's, of the same cluster, ran: cores. In angle brackets: what is no tenant",
                    Unit::Cores,
                    WAITS,
                    ("waiter", "runner"),
                    &by_cluster(
                        "sum by (cluster, waiter, runner) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=~\"$node\", waiter=~\"$tenant\"}[$__rate_interval])) > 0.0005",
                        "waiter",
                    ),
                )
                .wide(24, 14),
                lines("Pairs that wait most", "The ten largest of different tenants", Unit::Cores).line(
                    "{{cluster}}: {{waiter}} waits for {{runner}}",
                    // A pair with itself is left out by comparing its labels: what stays has another runner.
                    "topk(10, sum by (cluster, waiter, runner) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=~\"$node\", waiter=~\"$tenant\", runner!~\"<.*\"}[$__rate_interval])) unless label_replace(sum by (cluster, waiter) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\"}[$__rate_interval])), \"runner\", \"$1\", \"waiter\", \"(.*)\"))",
                ),
                lines("Waits that are nobody's fault", "Idle CPUs, own limits, the hypervisor, what cannot be told", Unit::Cores)
                    .line(
                        "{{runner}}",
                        "sum by (runner) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=~\"$node\", waiter=~\"$tenant\", runner=~\"<.*\"}[$__rate_interval]))",
                    )
                    .stacked(),
                histogram(
                    "How long waits are",
                    "Waits of the chosen tenants by length",
                    Unit::Seconds,
                    "sum by (le) (rate(partywall_tenant_wait_seconds_bucket{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval]))",
                ),
                lines("One wait in a hundred is longer than", "The 99th percentile of one wait", Unit::Seconds)
                    .line(
                        "{{cluster}}/{{tenant}}",
                        "histogram_quantile(0.99, sum by (cluster, tenant, le) (rate(partywall_tenant_wait_seconds_bucket{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval])))",
                    )
                    .wide(12, 9),
            ],
        )],
    }
}

fn tenant() -> Board {
    Board {
        uid: "partywall-tenant",
        title: "Partywall / Tenant",
        about: "One tenant: use, promise and quota, who it waits for and who waits for it, what it reaches",
        variables: vec![cluster(false), tenants(false)],
        rows: vec![
            (
                "",
                vec![
                    figure("CPU in use", "Mean over the window", Unit::Cores, PLAIN).line("used", "sum(partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    figure("Promised", "Sum of its pods' requests", Unit::Cores, PLAIN).line("promised", "sum(partywall_tenant_entitled_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    figure("Waits for others", "Cores that others had while its tasks waited", Unit::Cores, ANY_IS_WARM).line("stolen", "sum(partywall_tenant_stolen_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    figure("Makes others wait", "Cores that it had while others' tasks waited", Unit::Cores, ANY_IS_WARM).line("taken", "sum(partywall_tenant_taken_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    figure("Breaches by it", "That fire", Unit::Count, ANY_IS_BAD).line("by it", "sum(partywall_breaches{cluster=~\"$cluster\", tenant=~\"$tenant\", state=\"firing\"}) or vector(0)"),
                    figure("Breaches against it", "That fire", Unit::Count, ANY_IS_BAD).line("against it", "sum(partywall_breaches{cluster=~\"$cluster\", against=~\"$tenant\", state=\"firing\"}) or vector(0)"),
                ],
            ),
            (
                "CPU",
                vec![
                    lines("CPU", "In use, promised, and what it may use in all", Unit::Cores)
                        .line("in use", "sum(partywall_tenant_used_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .line("promised", "sum(partywall_tenant_entitled_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .line("quota", "sum(partywall_tenant_quota_cores{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    lines("By node", "CPU time used", Unit::Cores)
                        .line("{{node}}", "sum by (node) (rate(partywall_tenant_cpu_seconds_total{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval]))")
                        .stacked(),
                    lines("It waits while these run", "Cores", Unit::Cores)
                        .line("{{runner}}", "sum by (runner) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", waiter=~\"$tenant\"}[$__rate_interval]))")
                        .stacked(),
                    lines("These wait while it runs", "Cores, itself included", Unit::Cores)
                        .line("{{waiter}}", &or_none("sum by (waiter) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", runner=~\"$tenant\"}[$__rate_interval]))", "vector(0)"))
                        .stacked(),
                    histogram(
                        "How long its waits are",
                        "By length",
                        Unit::Seconds,
                        "sum by (le) (rate(partywall_tenant_wait_seconds_bucket{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval]))",
                    ),
                    lines("One wait in a hundred is longer than", "The 99th percentile of one wait", Unit::Seconds)
                        .line("p99", "histogram_quantile(0.99, sum by (le) (rate(partywall_tenant_wait_seconds_bucket{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval])))")
                        .line("p50", "histogram_quantile(0.5, sum by (le) (rate(partywall_tenant_wait_seconds_bucket{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval])))")
                        .wide(12, 9),
                ],
            ),
            (
                "Memory",
                vec![
                    lines("Memory", "Working set, promise and quota", Unit::Bytes)
                        .line("working set", "sum(partywall_tenant_memory_working_set_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .line("with its cache", "sum(partywall_tenant_memory_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .line("promised", "sum(partywall_tenant_memory_requests_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"})")
                        .line("quota", "sum(partywall_tenant_quota_memory_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"})"),
                    lines("Stalled for memory", "Time its tasks spent reclaiming, by cause", Unit::Seconds)
                        .line("{{cause}}", "sum by (cause) (rate(partywall_pod_reclaim_stall_seconds_total{cluster=~\"$cluster\", tenant=~\"$tenant\"}[$__rate_interval]))"),
                    bars("Largest pods", "Memory, page cache included; the rest is ~other", Unit::Bytes, PLAIN)
                        .now("{{namespace}}/{{pod}}", "topk(15, sum by (namespace, pod) (partywall_pod_memory_bytes{cluster=~\"$cluster\", tenant=~\"$tenant\"}))")
                        .wide(12, 8),
                    lines("Tasks killed for want of memory", "By who asked for memory when there was none; one kill shows for a moment", Unit::Count)
                        .line(
                            "asked for by {{trigger}}",
                            &or_none(
                                &format!(
                                    "sum by (trigger) {}",
                                    grown("partywall_oom_kills_total{cluster=~\"$cluster\", victim=~\"$tenant\"}", "$__rate_interval")
                                ),
                                "vector(0)",
                            ),
                        ),
                ],
            ),
            (
                "Across the fence",
                vec![
                    lines("It opens to", "Bytes both ways, by verdict", Unit::BytesPerSecond)
                        .line("{{to}}: {{verdict}}", &or_none("sum by (to, verdict) (rate(partywall_traffic_bytes_total{cluster=~\"$cluster\", from=~\"$tenant\"}[$__rate_interval]))", "vector(0)")),
                    lines("These open to it", "Bytes both ways, by verdict", Unit::BytesPerSecond)
                        .line("{{from}}: {{verdict}}", &or_none("sum by (from, verdict) (rate(partywall_traffic_bytes_total{cluster=~\"$cluster\", to=~\"$tenant\"}[$__rate_interval]))", "vector(0)")),
                    breaches_now(", tenant=~\"$tenant\""),
                ],
            ),
        ],
    }
}

fn node() -> Board {
    Board {
        uid: "partywall-node",
        title: "Partywall / Node",
        about: "One node: who uses it, who waits there, how well it is seen and what that costs",
        variables: vec![cluster(false), nodes(false)],
        rows: vec![
            (
                "",
                vec![
                    figure("CPU in use", "Of the CPUs that are online", Unit::Share, &[(None, "green"), (Some(0.8), "orange"), (Some(0.95), "red")])
                        .line("used", "sum(partywall_node_used_cores{cluster=~\"$cluster\", node=~\"$node\"}) / sum(partywall_node_online_cpus{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Last report", "How long ago", Unit::Seconds, &[(None, "green"), (Some(5.0), "orange"), (Some(30.0), "red")])
                        .line("age", "max(partywall_node_report_age_seconds{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Seen", "Share of the window that its reports cover", Unit::Share, WHOLE_IS_GOOD)
                        .line("covered", "min(partywall_node_covered_ratio{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Features off", "See partywall-agent check on the node", Unit::Count, &[(None, "green"), (Some(1.0), "orange")])
                        .line("off", "count(partywall_node_feature{cluster=~\"$cluster\", node=~\"$node\"} == 0) or vector(0)"),
                    figure("Agent's CPU", "Of one core", Unit::Share, &[(None, "green"), (Some(0.02), "orange"), (Some(0.05), "red")])
                        .line("agent", "sum(partywall_node_agent_cores{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Agent's memory", "Its cgroup's, or resident", Unit::Bytes, &[(None, "green"), (Some(134_217_728.0), "orange")])
                        .line("agent", "sum(partywall_node_agent_memory_bytes{cluster=~\"$cluster\", node=~\"$node\"})"),
                ],
            ),
            (
                "Tenants on this node",
                vec![
                    figure(
                        "Not shown below",
                        "CPU of tenants on any node of the cluster that is published as node ~other: they are on more nodes, or beside more tenants, than they may have series                          (--max-series-per-tenant). Above 0 the panels below lack some of this node",
                        Unit::Cores,
                        ANY_IS_WARM,
                    )
                    .line(
                        "in ~other",
                        "sum(rate(partywall_tenant_cpu_seconds_total{cluster=~\"$cluster\", node=\"~other\"}[$__rate_interval])) or vector(0)",
                    )
                    .wide(12, 3),
                    figure(
                        "Waits not shown below",
                        "The same of waits",
                        Unit::Cores,
                        ANY_IS_WARM,
                    )
                    .line(
                        "in ~other",
                        "sum(rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=\"~other\"}[$__rate_interval])) or vector(0)",
                    )
                    .wide(12, 3),
                    lines("CPU by tenant", "CPU time used here", Unit::Cores)
                        .line("{{tenant}}", "sum by (tenant) (rate(partywall_tenant_cpu_seconds_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval]))")
                        .stacked(),
                    lines("Waits by tenant", "For whatever ran there", Unit::Cores)
                        .line("{{waiter}}", "sum by (waiter) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval]))")
                        .stacked(),
                    matrix(
                        "Who waits for whom here",
                        "A row's tenant waited while a column's ran: cores",
                        Unit::Cores,
                        WAITS,
                        ("waiter", "runner"),
                        "sum by (waiter, runner) (rate(partywall_ledger_wait_seconds_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval])) > 0.0005",
                    ),
                ],
            ),
            (
                "Coverage",
                vec![
                    states("Features", "What the node's agent has", &[("0", "off", "orange"), ("1", "on", "green")])
                        .line("{{feature}}", "max by (feature) (partywall_node_feature{cluster=~\"$cluster\", node=~\"$node\"})")
                        .wide(12, 9),
                    lines("Losses", "What could not be counted or was lost on the way", Unit::PerSecond)
                        .line("{{stage}}/{{reason}}", &or_none("sum by (stage, reason) (rate(partywall_node_losses_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval]))", "vector(0)"))
                        .wide(12, 9),
                    lines("Reports", "By what became of them", Unit::PerSecond)
                        .line("{{outcome}}", "sum by (outcome) (rate(partywall_node_reports_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval]))"),
                    lines("Kept of this node", "Pods, host cgroups and unknowns; pairs in the ledger", Unit::Count)
                        .line("entities", "sum(partywall_node_entities{cluster=~\"$cluster\", node=~\"$node\"})")
                        .line("pairs", "sum(partywall_node_ledger_pairs{cluster=~\"$cluster\", node=~\"$node\"})"),
                ],
            ),
        ],
    }
}

/// The worst verdict of each pair, as the number of its word.
fn worst_verdict() -> String {
    let one = |(number, verdict, _): &(&str, &str, &str)| {
        format!(
            "(sum by (cluster, from, to) (partywall_traffic_bytes_total{{cluster=~\"$cluster\", from=~\"$tenant\", verdict=\"{verdict}\"}}) > 0) * 0 + {number}"
        )
    };
    by_cluster(&VERDICTS.iter().map(one).collect::<Vec<_>>().join(" or "), "from")
}

fn fence() -> Board {
    let of = |verdict: &str| {
        format!(
            "partywall_traffic_bytes_total{{cluster=~\"$cluster\", from=~\"$tenant\", verdict=\"{verdict}\"}}"
        )
    };
    let bytes = |verdict: &str| {
        or_none(
            &format!(
                "sum by (cluster, from, to) {}",
                grown(&of(verdict), "$__rate_interval")
            ),
            "label_replace(label_replace(vector(0), \"from\", \"none\", \"\", \"\"), \"to\", \"none\", \"\", \"\")",
        )
    };
    let pairs = |title: &str, about: &str, verdict: &str, bad: bool| {
        figure(title, about, Unit::Count, if bad { ANY_IS_BAD } else { PLAIN }).now(
            verdict,
            &format!(
                "count(sum by (cluster, from, to) {} > 0) or vector(0)",
                grown(&of(verdict), "$__range")
            ),
        )
    };
    Board {
        uid: "partywall-fence",
        title: "Partywall / Fence",
        about: "Who reaches whom across tenants, and what the policies in force say of it",
        variables: vec![cluster(true), tenants(true)],
        rows: vec![
            (
                "",
                vec![
                    pairs("Leaked in this time", "Pairs: delivered in the dashboard's range of time, though policies in force deny it", "leaked", true),
                    pairs("Open in this time", "Pairs: delivered in the dashboard's range of time, and no NetworkPolicy isolates either end", "open", true),
                    pairs("Unknown in this time", "Pairs with traffic in the dashboard's range of time that cannot be judged", "unknown", false),
                    pairs("Blocked in this time", "Pairs: tried in the dashboard's range of time, not delivered", "blocked", false),
                    pairs("Allowed in this time", "Pairs with traffic in the dashboard's range of time that a NetworkPolicy or the policy file admits", "allowed", false),
                    figure("Cannot be named", "Traffic of which one end cannot be named", Unit::BytesPerSecond, PLAIN)
                        .line("unnamed", "sum(rate(partywall_traffic_unattributed_bytes_total{cluster=~\"$cluster\"}[$__rate_interval])) or vector(0)"),
                ],
            ),
            (
                "Cross-tenant map",
                vec![
                    matrix(
                        "Worst verdict of each pair since the aggregator's start",
                        "Opened by a row's tenant, to a column's, of the same cluster",
                        Unit::Count,
                        PLAIN,
                        ("from", "to"),
                        &worst_verdict(),
                    )
                    .words(VERDICTS)
                    .wide(24, 14),
                    lines("By verdict", "Traffic between tenants, both ways", Unit::BytesPerSecond)
                        .line("{{verdict}}", "sum by (verdict) (rate(partywall_traffic_bytes_total{cluster=~\"$cluster\", from=~\"$tenant\"}[$__rate_interval]))")
                        .stacked(),
                    lines("Connections by verdict", "TCP connections begun between tenants", Unit::PerSecond)
                        .line("{{verdict}}", "sum by (verdict) (rate(partywall_traffic_connections_total{cluster=~\"$cluster\", from=~\"$tenant\"}[$__rate_interval]))"),
                    lines("Open", "No NetworkPolicy isolates either end: bytes of each rate interval, a pair's first ones too", Unit::Bytes).line("{{cluster}}: {{from}} → {{to}}", &bytes("open")),
                    lines("Leaked", "Delivered, though policies in force deny it: bytes of each rate interval, a pair's first ones too", Unit::Bytes).line("{{cluster}}: {{from}} → {{to}}", &bytes("leaked")),
                ],
            ),
            (
                "Not in the map",
                vec![
                    lines("One end cannot be named", "By reason", Unit::BytesPerSecond)
                        .line("{{reason}}", &or_none("sum by (reason) (rate(partywall_traffic_unattributed_bytes_total{cluster=~\"$cluster\"}[$__rate_interval]))", "vector(0)")),
                    lines("No room to tell flows apart", "By the tenant whose sockets they are", Unit::BytesPerSecond)
                        .line("{{cluster}}/{{tenant}}", &or_none("sum by (cluster, tenant) (rate(partywall_traffic_folded_bytes_total{cluster=~\"$cluster\"}[$__rate_interval]))", "vector(0)")),
                    breaches_now(", kind=~\"FlatNetwork|FenceLeak|Probe|CredentialReach\""),
                ],
            ),
        ],
    }
}

fn itself() -> Board {
    Board {
        uid: "partywall-itself",
        title: "Partywall / Itself",
        about: "What Partywall costs, how well it sees, and what it lost",
        variables: vec![cluster(true), nodes(true)],
        rows: vec![
            (
                "",
                vec![
                    figure("Agents' CPU, mean", "Of one core", Unit::Share, &[(None, "green"), (Some(0.02), "orange"), (Some(0.05), "red")])
                        .line("mean", "avg(partywall_node_agent_cores{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Agents' memory, most", "Of one node", Unit::Bytes, &[(None, "green"), (Some(134_217_728.0), "orange")])
                        .line("most", "max(partywall_node_agent_memory_bytes{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Seen, least", "Share of the window, of the node that is seen least", Unit::Share, WHOLE_IS_GOOD)
                        .line("least", "min(partywall_node_covered_ratio{cluster=~\"$cluster\", node=~\"$node\"})"),
                    figure("Silent nodes", "They ought to report, and have not for 30 s, or never", Unit::Count, ANY_IS_BAD)
                        .line("silent", &reporting("cluster=~\"$cluster\", node=~\"$node\"", "unless")),
                    figure("Series", "In one scrape of the aggregator", Unit::Count, PLAIN).line("series", "sum(partywall_aggregator_series)"),
                    figure("Series folded", "Summed in ~other instead of being published", Unit::Count, &[(None, "green"), (Some(1.0), "orange")])
                        .line("folded", "sum(partywall_aggregator_series_folded)"),
                ],
            ),
            (
                "Agents",
                vec![
                    lines("Agents' CPU", "Of one core, the ten most", Unit::Share)
                        .line("{{cluster}}/{{node}}", "topk(10, partywall_node_agent_cores{cluster=~\"$cluster\", node=~\"$node\"})"),
                    lines("Agents' memory", "The ten most", Unit::Bytes)
                        .line("{{cluster}}/{{node}}", "topk(10, partywall_node_agent_memory_bytes{cluster=~\"$cluster\", node=~\"$node\"})"),
                    lines("Coverage", "Share of the window, the ten least", Unit::Share)
                        .line("{{cluster}}/{{node}}", "bottomk(10, partywall_node_covered_ratio{cluster=~\"$cluster\", node=~\"$node\"})"),
                    lines("Age of the last report", "The ten oldest", Unit::Seconds)
                        .line("{{cluster}}/{{node}}", "topk(10, partywall_node_report_age_seconds{cluster=~\"$cluster\", node=~\"$node\"})"),
                    lines("Losses at agents", "By place and reason", Unit::PerSecond)
                        .line("{{stage}}/{{reason}}", &or_none("sum by (stage, reason) (rate(partywall_node_losses_total{cluster=~\"$cluster\", node=~\"$node\"}[$__rate_interval]))", "vector(0)")),
                    table(
                        "Features that are off",
                        "Nodes on which a feature is off; empty rows of `none` where all are on",
                        &[("feature", "Feature")],
                        &[("Nodes", Unit::Count, &or_none("count by (feature) (partywall_node_feature{cluster=~\"$cluster\", node=~\"$node\"} == 0)", "label_replace(vector(0), \"feature\", \"none\", \"\", \"\")"))],
                    )
                    .wide(12, 8),
                ],
            ),
            (
                "Aggregator",
                vec![
                    lines("Judgements", "How long one takes", Unit::Seconds)
                        .line("p99", "histogram_quantile(0.99, sum by (le) (rate(partywall_aggregator_judge_seconds_bucket[$__rate_interval])))")
                        .line("mean", "sum(rate(partywall_aggregator_judge_seconds_sum[$__rate_interval])) / sum(rate(partywall_aggregator_judge_seconds_count[$__rate_interval]))"),
                    lines("Lateness of reports", "From an agent's reading to its counting", Unit::Seconds)
                        .line("p99", "histogram_quantile(0.99, sum by (le) (rate(partywall_aggregator_report_lag_seconds_bucket[$__rate_interval])))"),
                    lines("Reports", "Taken, by what became of them", Unit::PerSecond)
                        .line("{{outcome}}", "sum by (outcome) (rate(partywall_aggregator_reports_total[$__rate_interval]))"),
                    lines("Losses at the aggregator", "By place and reason", Unit::PerSecond)
                        .line("{{stage}}/{{reason}}", &or_none("sum by (stage, reason) (rate(partywall_aggregator_losses_total{cluster=~\"$cluster\"}[$__rate_interval]))", "vector(0)")),
                    lines("Refused", "Reports, streams and connections turned away", Unit::PerSecond)
                        .line("reports: {{reason}}", &or_none("sum by (reason) (rate(partywall_aggregator_reports_refused_total[$__rate_interval]))", "vector(0)"))
                        .line("streams: {{reason}}", &or_none("sum by (reason) (rate(partywall_aggregator_streams_refused_total[$__rate_interval]))", "vector(0)"))
                        .line("connections: {{reason}}", &or_none("sum by (reason) (rate(partywall_aggregator_connections_refused_total[$__rate_interval]))", "vector(0)")),
                    lines("Flows held", "Records: two of one that both ends tell of", Unit::Count)
                        .line("{{cluster}}", "sum by (cluster) (partywall_aggregator_flow_records{cluster=~\"$cluster\"})"),
                ],
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use serde_json::Value;

    use super::*;

    const NAMES: [&str; 8] = [
        "tenant", "waiter", "runner", "from", "to", "against", "victim", "trigger",
    ];

    #[test]
    fn tenants_of_one_name_in_several_clusters_are_told_apart() {
        let mut sums = 0;
        let mut matrices = 0;
        for (file, board) in all() {
            let several = board.variables.iter().any(|v| v.name == "cluster" && v.all);
            if !several {
                continue;
            }
            let board = board.json();
            let of = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
            for panel in of(&board, "panels") {
                let title = panel["title"].as_str().unwrap_or_default();
                let queries: Vec<String> = of(&panel, "targets")
                    .iter()
                    .map(|target| target["expr"].as_str().expect("a query").to_owned())
                    .collect();
                for part in queries.iter().flat_map(|query| query.split(" by (").skip(1)) {
                    let labels: Vec<&str> = part.split(')').next().expect("labels").split(", ").collect();
                    // What is no tenant is of no cluster either.
                    let no_tenant = labels == ["runner"] && part.contains("runner=~\"<.*\"");
                    if labels.iter().any(|label| NAMES.contains(label)) && !no_tenant {
                        assert!(labels.contains(&"cluster"), "{file}: {title}: {labels:?}");
                        sums += 1;
                    }
                }
                for change in of(&panel, "transformations") {
                    if change["id"] == "groupingToMatrix" {
                        let row = change["options"]["rowField"].as_str().expect("a label");
                        let joined = format!(", \"{row}\", \"/\", \"cluster\", \"{row}\")");
                        assert!(
                            queries.iter().all(|query| query.ends_with(&joined)),
                            "{file}: {title}"
                        );
                        matrices += 1;
                    }
                }
            }
        }
        assert!(sums > 10 && matrices == 2, "{sums} {matrices}");
    }

    /// Board, title, query.
    fn queries() -> Vec<(&'static str, String, String)> {
        let mut out = Vec::new();
        for (file, board) in all() {
            let board = board.json();
            for panel in board["panels"].as_array().expect("panels") {
                let title = panel["title"].as_str().unwrap_or_default();
                for target in panel["targets"].as_array().into_iter().flatten() {
                    let query = target["expr"].as_str().expect("a query");
                    out.push((file, title.to_owned(), query.to_owned()));
                }
            }
        }
        out
    }

    #[test]
    fn what_happens_once_is_seen_where_it_happens() {
        let mut seen = 0;
        for (file, title, query) in queries() {
            let once = [
                "partywall_oom_kills_total",
                "verdict=\"leaked\"",
                "verdict=~\"open|leaked\"",
            ];
            if once.iter().any(|once| query.contains(once)) && !title.contains("since the aggregator's start")
            {
                assert!(
                    query.contains(" unless ") && query.contains(" offset $__"),
                    "{file}: {title}: {query}"
                );
                assert!(
                    query.contains("increase(") && !query.contains("rate("),
                    "{file}: {title}: {query}"
                );
                seen += 1;
            }
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn a_node_that_never_reported_is_silent() {
        let silent = ["Nodes that report", "Silent nodes"];
        let mut seen = 0;
        for (file, title, query) in queries() {
            if silent.contains(&title.as_str()) {
                assert!(
                    query.contains("(partywall_node_expected{"),
                    "{file}: {title}: {query}"
                );
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn every_board_marks_where_a_breach_began_to_fire() {
        for (file, board) in all() {
            let query = board.json()["annotations"]["list"][0]["expr"].clone();
            let query = query.as_str().unwrap_or_default();
            assert!(
                query.contains("partywall_breaches{") && query.contains(" offset "),
                "{file}"
            );
        }
    }
}
