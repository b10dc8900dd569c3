//! Ways to install the chart, and what has to come out of each.

use anyhow::{Result, ensure};

/// A way to install the chart.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Values, as YAML.
    pub(crate) values: &'static str,
    /// The file below deploy/manifests that is kept of it.
    pub(crate) kept: Option<&'static str>,
    /// What the objects must say.
    says: &'static [&'static str],
    /// What they must not.
    omits: &'static [&'static str],
}

impl Case {
    const fn new(name: &'static str, values: &'static str) -> Self {
        let (says, omits): (&[&str], &[&str]) = (&[], &[]);
        Self {
            name,
            values,
            kept: None,
            says,
            omits,
        }
    }

    const fn kept(self, file: &'static str) -> Self {
        Self {
            kept: Some(file),
            ..self
        }
    }

    const fn says(self, says: &'static [&'static str]) -> Self {
        Self { says, ..self }
    }

    const fn omits(self, omits: &'static [&'static str]) -> Self {
        Self { omits, ..self }
    }

    /// Whether these are the objects that were meant.
    pub(crate) fn judge(&self, objects: &str) -> Result<()> {
        for needle in self.says {
            ensure!(objects.contains(needle), "nothing says {needle:?}");
        }
        for needle in self.omits {
            ensure!(!objects.contains(needle), "something says {needle:?}");
        }
        Ok(())
    }
}

/// 253 characters, as many as a Kubernetes object's name may have.
macro_rules! longest {
    () => {
        concat!(
            "a23456789-123456789-123456789-123456789-123456789-123456789-123.",
            "b23456789-123456789-123456789-123456789-123456789-123456789-123.",
            "c23456789-123456789-123456789-123456789-123456789-123456789-123.",
            "d23456789-123456789-123456789-123456789-123456789-123456789-1"
        )
    };
}

pub(crate) const CASES: [Case; 14] = [
    Case::new("defaults", "").says(&[
        "- --agent-service-account=partywall/partywall-agent\n",
        "serviceAccountName: partywall-agent\n",
        "serviceAccountName: partywall-aggregator\n",
    ]).omits(&["seLinuxOptions"]),
    Case::new("provided", "tls: {mode: provided}\n").kept("partywall.yaml"),
    Case::new("cert-manager", "tls: {mode: certManager}\n").kept("partywall-cert-manager.yaml"),
    // The agents' way is not the Service's own: its host is in the certificate.
    Case::new("own-issuer", "tls: {mode: certManager, certManager: {issuerName: corp, issuerKind: ClusterIssuer}, extraNames: [p.example.com, 10.0.0.9]}\nagent: {aggregatorUrl: \"https://P.example.com:443/\"}\n")
        .says(&["    - p.example.com\n", "- {protocol: TCP, port: 443}\n        - {protocol: TCP, port: 7441}\n"]),
    Case::new("by-wildcard", "tls: {extraNames: [\"*.example.com\"]}\nagent: {aggregatorUrl: \"https://p.example.com:7441\"}\n"),
    Case::new("by-address", "tls: {mode: certManager, extraNames: [\"fd00::9\"]}\nagent: {aggregatorUrl: \"https://[fd00::9]:7441\"}\n")
        .says(&["  ipAddresses:\n    - fd00::9\n"]),
    Case::new("insecure", "tls: {mode: insecure}\nagent: {spool: {enabled: false}, aggregatorUrl: \"http://p.example.com:7441\"}\nnetworkPolicy: {enabled: false}\n")
        .says(&["appProtocol: grpc\n"]),
    Case::new("persistent", "aggregator: {persistence: {enabled: true, storageClassName: gp3, size: 10Gi}, podDisruptionBudget: {maxUnavailable: 0}, priorityClassName: high, page: false}\n"),
    Case::new("monitored", "monitoring: {annotations: true, serviceMonitor: true, podMonitor: true, labels: {release: prometheus}, dashboards: {enabled: true, annotations: {grafana_folder: Partywall}}, prometheusRule: {enabled: true, alertLabels: {team: platform}}}\nnetworkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]}\n"),
    Case::new("alerting", "cluster: {name: prod-eu}\naggregator: {alertmanagers: [\"https://am-0.monitoring.svc:9093\", \"https://am-1.monitoring.svc:9093/am\"], alertmanagerTokenSecret: am-token, webhooks: [{url: \"https://hooks.example/a?b=c\"}, {secret: chat}], webhookTokenSecret: hook-token, pushCaSecret: corp-ca, externalUrl: \"https://partywall.example\", httpHosts: [partywall.example, partywall-aggregator.partywall.svc], runbookUrl: \"https://docs.example/runbook.md\"}\nnetworkPolicy: {alertTo: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}], alertPorts: [9093]}\nmonitoring: {prometheusRule: {enabled: true}}\n"),
    Case::new("hybrid", "agent: {lockdownFile: true, queueBytes: 64MiB, maxUnavailable: 1, spool: {bytes: 2GiB, sizeLimit: 3Gi}}\naggregator: {service: {type: LoadBalancer, annotations: {a: b}, loadBalancerSourceRanges: [10.80.0.0/16]}, policy: \"system_namespaces: [kube-system]\\n\", clusters: [{name: site-b.example, secret: site-b}]}\nnetworkPolicy: {agentCidrs: [10.80.0.0/16], apiServerCidrs: [10.0.0.0/24], grpcFrom: [{ipBlock: {cidr: 10.90.0.0/16}}]}\nimage: {repository: registry.example/partywall, digest: \"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\", pullSecrets: [registry]}\n"),
    Case::new("agents-only", "cluster: {name: site-b}\ntls: {mode: provided}\naggregator: {enabled: false}\nagent: {aggregatorUrl: \"https://partywall.example.com:7441\", podAnnotations: {a: b}, podLabels: {c: d}}\n"),
    // Accounts, labels and ports that the platform prescribes.
    Case::new("openshift", "agent: {serviceAccount: {create: false, name: node-agents}, seLinuxOptions: {type: spc_t, level: s0}, spool: {hostPath: /var/lib/partywall}}\naggregator: {serviceAccount: {create: false, name: readers}}\nnetworkPolicy: {dnsPorts: [53, 5353]}\n")
        .says(&[
            "- --agent-service-account=partywall/node-agents\n",
            "serviceAccountName: node-agents\n      # No token for the API: the agent never talks to it.\n      automountServiceAccountToken: false\n",
            "serviceAccountName: readers\n",
            "  - kind: ServiceAccount\n    name: readers\n",
            "            seLinuxOptions:\n              level: s0\n              type: spc_t\n",
            "            path: /var/lib/partywall\n            type: DirectoryOrCreate\n",
            "    - ports:\n        - {protocol: UDP, port: 53}\n        - {protocol: TCP, port: 53}\n        - {protocol: UDP, port: 5353}\n        - {protocol: TCP, port: 5353}\n",
        ])
        .omits(&["\nkind: ServiceAccount\n"]),
    // Names as long as they may be, or alike but for a dot.
    Case::new(
        "long-names",
        concat!(
            "fullnameOverride: a23456789-123456789-123456789-123456789x\ncluster: {name: prod-eu}\nagent: {serviceAccount: {name: ",
            longest!(),
            "}}\naggregator: {clusters: [{name: ",
            longest!(),
            ", secret: ",
            longest!(),
            "}, {name: a.b, secret: c}, {name: a-b, secret: d}], webhooks: [{secret: ",
            longest!(),
            "}]}\n"
        ),
    )
    .says(&[concat!(
        "- --kube-api=",
        longest!(),
        "=/etc/partywall/clusters/",
        longest!(),
        "/kubeconfig\n"
    )]),
];
