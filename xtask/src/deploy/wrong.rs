//! Values that make no sense: helm has to refuse each, and to name it.

/// What is set, as `--set` takes it, and what the message must contain.
pub(crate) const WRONG: [(&str, &[&str]); 71] = [
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
    ("agent.serviceAccount.nam=x", &["/agent/serviceAccount", "nam"]),
    (
        "agent.seLinuxOptions.typ=spc_t",
        &["/agent/seLinuxOptions", "typ"],
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
    ("networkPolicy.dnsPorts[0]=dns", &["/networkPolicy/dnsPorts/0"]),
    ("agent.seLinuxOptions=spc_t", &["/agent/seLinuxOptions"]),
    // Out of range, or of the wrong form.
    ("fullnameOverride=Partywall", &["/fullnameOverride", "Partywall"]),
    ("nameOverride=party_wall", &["/nameOverride", "party_wall"]),
    ("tls.mode=plain", &["/tls/mode", "insecure"]),
    ("tls.generated.days=0", &["/tls/generated/days"]),
    (
        "agentTokens.expirationSeconds=599",
        &["/agentTokens/expirationSeconds", "600"],
    ),
    ("agentTokens.audience=", &["/agentTokens/audience"]),
    ("agent.interval=1h", &["/agent/interval", "1h"]),
    ("agent.queueBytes=16MB", &["/agent/queueBytes", "16MB"]),
    ("agent.interval=50ms", &["agent.interval", "50ms", "100ms"]),
    ("agent.interval=1.5m", &["agent.interval", "1.5m", "60s"]),
    ("agent.queueBytes=63KiB", &["agent.queueBytes", "63KiB", "64KiB"]),
    (
        "agent.queueBytes=2GiB,agent.resources.limits.memory=4Gi",
        &["agent.queueBytes", "2GiB", "1GiB"],
    ),
    (
        "agent.spool.bytes=31MiB",
        &["agent.spool.bytes", "31MiB", "32MiB"],
    ),
    ("agent.cgroupRoot=cgroup", &["/agent/cgroupRoot", "cgroup"]),
    ("agent.cgroupRoot=/", &["/agent/cgroupRoot"]),
    (
        "agent.spool.hostPath=var/lib/partywall",
        &["/agent/spool/hostPath", "var/lib/partywall"],
    ),
    ("agent.spool.hostPath=/", &["/agent/spool/hostPath"]),
    (
        "agent.spool.hostPath=/var/lib/../../etc",
        &["/agent/spool/hostPath", "/var/lib/../../etc"],
    ),
    (
        "agent.serviceAccount.name=Agents",
        &["/agent/serviceAccount/name", "Agents"],
    ),
    (
        "agent.seLinuxOptions.type=spc t",
        &["/agent/seLinuxOptions/type", "spc t"],
    ),
    (
        "agent.terminationGracePeriodSeconds=15",
        &["/agent/terminationGracePeriodSeconds", "20"],
    ),
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
    (
        "aggregator.alertmanagers[0]=am:9093",
        &["/aggregator/alertmanagers/0", "am:9093"],
    ),
    (
        "aggregator.alertmanagers[0]=http://u:p@am:9093",
        &["/aggregator/alertmanagers/0"],
    ),
    (
        "aggregator.webhooks[0].uri=http://hook",
        &["/aggregator/webhooks/0", "uri"],
    ),
    (
        "aggregator.webhooks[0].url=http://hook,aggregator.webhooks[0].secret=s",
        &["/aggregator/webhooks/0"],
    ),
    ("networkPolicy.dnsPorts[0]=0", &["/networkPolicy/dnsPorts/0"]),
    ("networkPolicy.alertPorts[0]=am", &["/networkPolicy/alertPorts/0"]),
    // Each well-formed, and together nonsense.
    (
        "aggregator.alertmanagers[0]=http://am:9093,aggregator.alertmanagerTokenSecret=t",
        &["aggregator.alertmanagers", "http://am:9093", "https"],
    ),
    // Every release would have that name.
    (
        "aggregator.alertmanagers[0]=http://am:9093",
        &["cluster.name", "default", "aggregator.alertmanagers"],
    ),
    (
        "aggregator.webhooks[0].secret=chat",
        &["cluster.name", "default", "aggregator.webhooks"],
    ),
    (
        "aggregator.enabled=false,tls.mode=provided",
        &["agent.aggregatorUrl"],
    ),
    (
        "agent.aggregatorUrl=http://a:7441",
        &["agent.aggregatorUrl", "http://a:7441", "insecure"],
    ),
    (
        "agent.aggregatorUrl=https://p.example.com:7441",
        &["agent.aggregatorUrl", "p.example.com", "tls.extraNames []"],
    ),
    (
        "agent.aggregatorUrl=https://a.b.example.com:7441,tls.mode=certManager,tls.extraNames[0]=*.example.com",
        &[
            "agent.aggregatorUrl",
            "a.b.example.com",
            "tls.extraNames",
            "*.example.com",
        ],
    ),
    (
        "agent.aggregatorUrl=https://10.0.0.8:7441,tls.extraNames[0]=10.0.0.9,tls.extraNames[1]=*.0.0.8",
        &["agent.aggregatorUrl", "10.0.0.8", "tls.extraNames", "10.0.0.9"],
    ),
    (
        "agent.serviceAccount.create=false",
        &["agent.serviceAccount.name", "agent.serviceAccount.create"],
    ),
    (
        "aggregator.serviceAccount.create=false",
        &[
            "aggregator.serviceAccount.name",
            "aggregator.serviceAccount.create",
        ],
    ),
    (
        "agent.serviceAccount.name=partywall-aggregator",
        &[
            "agent.serviceAccount.name",
            "aggregator.serviceAccount.name",
            "partywall-aggregator",
        ],
    ),
    (
        "aggregator.podLabels.app\\.kubernetes\\.io/name=x",
        &["aggregator.podLabels", "app.kubernetes.io/name"],
    ),
    (
        "agent.queueBytes=192MiB",
        &[
            "agent.queueBytes",
            "192MiB",
            "agent.resources.limits.memory",
            "192Mi",
        ],
    ),
    (
        "agent.spool.bytes=1GiB",
        &["agent.spool.sizeLimit", "384Mi", "1GiB"],
    ),
    (
        "aggregator.clusters[0].name=default,aggregator.clusters[0].secret=s",
        &["aggregator.clusters[0].name", "cluster.name"],
    ),
    (
        "aggregator.clusters[0].name=b,aggregator.clusters[0].secret=s,aggregator.clusters[1].name=b,aggregator.clusters[1].secret=t",
        &["aggregator.clusters[1].name", "aggregator.clusters[0].name"],
    ),
];
