//! Values that make no sense: helm has to refuse each, and to name it.

/// What is set, as `--set` takes it, and what the message must contain.
pub(crate) const WRONG: [(&str, &[&str]); 35] = [
    // Misspelt, at every level.
    ("agnet.enabled=true", &["agnet"]),
    ("agent.intervall=1s", &["/agent", "intervall"]),
    ("agent.spool.byte=1GiB", &["/agent/spool", "byte"]),
    (
        "aggregator.persistence.sise=1Gi",
        &["/aggregator/persistence", "sise"],
    ),
    ("tls.certManager.issuer=x", &["/tls/certManager", "issuer"]),
    (
        "agent.tolerations[0].operater=Exists",
        &["/agent/tolerations/0", "operater"],
    ),
    ("agent.resources.limit.memory=1Gi", &["/agent/resources", "limit"]),
    (
        "networkPolicy.metricsFrom[0].namespaces=x",
        &["/networkPolicy/metricsFrom/0", "namespaces"],
    ),
    (
        "monitoring.dashboards.enable=true",
        &["/monitoring/dashboards", "enable"],
    ),
    // Of the wrong kind.
    ("aggregator.page=yes", &["/aggregator/page"]),
    ("agent.enabled=maybe", &["/agent/enabled"]),
    ("agent.interval=5", &["/agent/interval"]),
    ("agent.tolerations=all", &["/agent/tolerations"]),
    ("agent.podLabels.a=1", &["/agent/podLabels/a"]),
    (
        "networkPolicy.apiServerPorts[0]=https",
        &["/networkPolicy/apiServerPorts/0"],
    ),
    // Out of range, or of the wrong form.
    ("tls.mode=plain", &["/tls/mode", "insecure"]),
    ("tls.generated.days=0", &["/tls/generated/days"]),
    (
        "agentTokens.expirationSeconds=599",
        &["/agentTokens/expirationSeconds", "600"],
    ),
    ("agentTokens.audience=", &["/agentTokens/audience"]),
    ("agent.interval=1h", &["/agent/interval", "1h"]),
    ("agent.queueBytes=16MB", &["/agent/queueBytes", "16MB"]),
    ("agent.cgroupRoot=cgroup", &["/agent/cgroupRoot", "cgroup"]),
    ("agent.maxUnavailable=0", &["/agent/maxUnavailable"]),
    ("agent.maxUnavailable=0%", &["/agent/maxUnavailable"]),
    (
        "agent.aggregatorUrl=aggregator:7441",
        &["/agent/aggregatorUrl", "aggregator:7441"],
    ),
    (
        "agent.listenAddress=localhost",
        &["/agent/listenAddress", "localhost"],
    ),
    ("cluster.name=Prod", &["/cluster/name", "Prod"]),
    ("image.digest=sha256:0", &["/image/digest"]),
    (
        "aggregator.maxSeriesPerTenant=49",
        &["/aggregator/maxSeriesPerTenant", "50"],
    ),
    (
        "networkPolicy.agentCidrs[0]=10.0.0.1",
        &["/networkPolicy/agentCidrs/0", "10.0.0.1"],
    ),
    (
        "aggregator.clusters[0].name=b",
        &["/aggregator/clusters/0", "secret"],
    ),
    // Each well-formed, and together nonsense.
    (
        "aggregator.enabled=false,tls.mode=provided",
        &["agent.aggregatorUrl"],
    ),
    (
        "agent.aggregatorUrl=http://a:7441",
        &["agent.aggregatorUrl", "http://a:7441", "insecure"],
    ),
    (
        "agent.spool.bytes=1GiB",
        &["agent.spool.sizeLimit", "384Mi", "1GiB"],
    ),
    (
        "aggregator.clusters[0].name=default,aggregator.clusters[0].secret=s",
        &["aggregator.clusters[0].name", "cluster.name"],
    ),
];
