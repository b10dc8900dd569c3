//! What was typed → what it means.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use partywall_aggregator_core::identity::{is_namespace_name, is_object_name};

use crate::auth::Expected;
use crate::limits::STREAM_LIFE;
use crate::link::tls;
use crate::sinks::push::{PushArgs, PushConfig};

use crate::identify::api::Target;

/// Fewest and most series that one tenant may publish. Below, its own gauges and histogram do not fit; above, one tenant can fill a Prometheus.
pub const SERIES_PER_TENANT: (usize, usize) = (50, 100_000);
/// Fewest and most tenants published by name.
pub const TENANTS: (usize, usize) = (1, 100_000);

const EXAMPLES: &str = "\
Start here:
  kubectl get -A -o yaml > cluster/all.yaml namespaces,pods,resourcequotas,limitranges
  kubectl get -A -o yaml > cluster/net.yaml \\
    nodes,services,endpointslices.discovery.k8s.io,networkpolicies.networking.k8s.io
  partywall-aggregator --insecure-plaintext --cluster-from cluster
  curl -s http://127.0.0.1:7442/metrics | grep ^partywall_tenant

  partywall-aggregator policy-default > policy.yaml      every threshold, with unit, default and reason
  partywall-aggregator policy-check policy.yaml          says what is wrong, with line, key and value
  partywall-aggregator --insecure-plaintext --cluster-from cluster --policy policy.yaml

  partywall-aggregator --grpc-listen [::]:7441 --tls-cert tls.crt --tls-key tls.key --tls-client-ca ca.crt

  partywall-aggregator --insecure-plaintext --kube-api in-cluster     the same objects from the API, watched
  partywall-aggregator --insecure-plaintext --kube-api ~/.kube/config#admin@prod

  partywall-aggregator --insecure-plaintext --cluster-from cluster --alertmanager http://alertmanager:9093

Agents report to --grpc-listen, clients (`partywall top`) ask there; Prometheus scrapes --http-listen. Files are read again when they
change; one that is broken keeps what it said before. It stops on SIGTERM or SIGINT.";

/// Takes reports from node agents, names the tenants in them, and says which of them broke what.
#[derive(Clone, Debug, Parser)]
#[command(name = "partywall-aggregator", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// What the aggregator shall do.
#[derive(Clone, Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one is made, and taken apart at once")]
pub enum Command {
    /// Take reports and judge until told to stop (what happens without a command)
    Run(RunArgs),
    /// Read a policy file and say what is wrong with it
    PolicyCheck {
        /// The policy file
        file: PathBuf,
    },
    /// Print the default policy: a documented file to begin with
    PolicyDefault,
}

#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Address for agents and clients (gRPC); port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7441")]
    pub grpc_listen: String,
    /// Address of the page, /metrics, /healthz and /readyz; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7442")]
    pub http_listen: String,
    /// Answer on --http-listen only where it is asked for by this name, by an address or as localhost; may be given several times [default: by any name]
    #[arg(long, value_name = "NAME")]
    pub http_host: Vec<String>,
    /// Certificate of this aggregator for agents and clients, PEM, with what lies between it and its authority
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities whose certificates agents and clients must have, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Listen for agents and clients without TLS: whoever reaches the port may read, and may report as any node
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// Each agent must show a service account's token that is bound to this audience; the API of its cluster reviews it
    #[arg(long, value_name = "AUDIENCE")]
    pub agent_tokens: Option<String>,
    /// Whose token it must be
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub agent_service_account: Option<String>,
    /// Name of the cluster that is meant where a source or an agent names none
    #[arg(
        long,
        value_name = "NAME",
        env = "PARTYWALL_CLUSTER",
        default_value = "default"
    )]
    pub cluster: String,
    /// Directory of Kubernetes YAML or JSON (namespaces, pods, quotas, services, endpoint slices, nodes, policies; lists too), as `kubectl get -o yaml` writes it; once for each cluster
    #[arg(long, value_name = "[CLUSTER=]DIR")]
    pub cluster_from: Vec<String>,
    /// Watch the API of the cluster that this runs in, or of a kubeconfig's, instead; once for each cluster
    #[arg(long, value_name = "[CLUSTER=]in-cluster|KUBECONFIG[#CONTEXT]")]
    pub kube_api: Vec<String>,
    /// Directory in which totals survive the process; one aggregator's alone [default: none, totals begin anew]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Policy file: thresholds, tenants, path rules [default: built in, see `policy-default`]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Prometheus series that one tenant may publish by name; the rest is summed in `~other`
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_series_per_tenant: usize,
    /// Tenants that are published by name; the rest is summed in `~other`
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub max_tenants: usize,
    #[command(flatten)]
    pub push: PushArgs,
    /// Do not show the page on --http-listen: metrics and probes alone
    #[arg(long)]
    pub no_page: bool,
    /// How log lines are written to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Args {
    /// What to do; `run` when no command was given.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.run))
    }
}

/// A running aggregator's settings. [`Config::check`] says whether they make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Port 0: any free one.
    pub grpc_listen: SocketAddr,
    /// Port 0: any free one.
    pub http_listen: SocketAddr,
    /// Names that the HTTP port is asked for by, beside addresses and localhost. Empty: any.
    pub http_hosts: Vec<String>,
    /// `None`: plain text, and only if `insecure_plaintext` says so.
    pub tls: Option<tls::Files>,
    pub insecure_plaintext: bool,
    /// How long streams last, more or less, where certificates or tokens say whose they are. No flag: nobody is better off with another one.
    pub stream_life: Duration,
    /// Whose tokens agents must have; `None`: they need none.
    pub agent_tokens: Option<Expected>,
    /// The cluster that is meant where none is named.
    pub cluster: String,
    /// Directories of Kubernetes objects. A cluster without one: no pod has a name; tenants come from path rules alone.
    pub cluster_from: Vec<NamedSource<PathBuf>>,
    /// APIs to watch.
    pub kube_api: Vec<NamedSource<Target>>,
    /// `None`: totals begin anew with the process.
    pub state_dir: Option<PathBuf>,
    /// `None`: the built-in policy.
    pub policy: Option<PathBuf>,
    pub max_series_per_tenant: usize,
    pub max_tenants: usize,
    /// Whom else breaches are told.
    pub push: PushConfig,
    /// Whether the HTTP port shows the page.
    pub page: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7441)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7442)),
            http_hosts: Vec::new(),
            tls: None,
            insecure_plaintext: false,
            stream_life: STREAM_LIFE,
            agent_tokens: None,
            cluster: "default".to_owned(),
            cluster_from: Vec::new(),
            kube_api: Vec::new(),
            state_dir: None,
            policy: None,
            max_series_per_tenant: 200,
            max_tenants: 1_000,
            push: PushConfig::default(),
            page: true,
        }
    }
}

/// Where the objects of a cluster come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSource<T> {
    /// `None`: the aggregator's own.
    pub cluster: Option<String>,
    pub source: T,
}

/// Splits `[CLUSTER=]SOURCE`. What stands before a `=` and can be no cluster's name (a path) is a part of the source.
fn named<T>(
    flag: &'static str,
    typed: &[String],
    source: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<NamedSource<T>>, ConfigError> {
    let one = |text: &String| {
        let (cluster, rest) = match text.split_once('=') {
            Some((name, rest)) if is_object_name(name) => (Some(name.to_owned()), rest),
            _ => (None, text.as_str()),
        };
        if rest.is_empty() {
            return Err(ConfigError::new(flag, text, "names no source"));
        }
        let source = source(rest).map_err(|problem| ConfigError::new(flag, text, problem))?;
        Ok(NamedSource { cluster, source })
    };
    typed.iter().map(one).collect()
}

/// What is wrong with a setting: the flag, the value that was given, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?}: {problem}")]
pub struct ConfigError {
    pub flag: &'static str,
    pub value: String,
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(flag: &'static str, value: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self {
            flag,
            value: value.to_string(),
            problem: problem.to_string(),
        }
    }
}

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let address = |flag, text: &str, example| {
            let problem = format!("is no address and port, such as {example} or [::]:{example}");
            let problem = problem.replace("[::]:127.0.0.1:", "[::]:");
            text.parse::<SocketAddr>()
                .map_err(|_| ConfigError::new(flag, text, problem))
        };
        let config = Self {
            grpc_listen: address("--grpc-listen", &args.grpc_listen, "127.0.0.1:7441")?,
            http_listen: address("--http-listen", &args.http_listen, "127.0.0.1:7442")?,
            http_hosts: args.http_host.clone(),
            tls: tls_files(&args)?,
            insecure_plaintext: args.insecure_plaintext,
            stream_life: STREAM_LIFE,
            agent_tokens: agent_tokens(&args)?,
            cluster: args.cluster,
            cluster_from: named("--cluster-from", &args.cluster_from, |dir| Ok(dir.into()))?,
            kube_api: named("--kube-api", &args.kube_api, str::parse)?,
            state_dir: args.state_dir,
            policy: args.policy,
            max_series_per_tenant: args.max_series_per_tenant,
            max_tenants: args.max_tenants,
            push: args.push.try_into()?,
            page: !args.no_page,
        };
        config.check()?;
        Ok(config)
    }
}

/// All three or none.
fn tls_files(args: &RunArgs) -> Result<Option<tls::Files>, ConfigError> {
    let flags = [
        ("--tls-cert", &args.tls_cert),
        ("--tls-key", &args.tls_key),
        ("--tls-client-ca", &args.tls_client_ca),
    ];
    match (&args.tls_cert, &args.tls_key, &args.tls_client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => Ok(Some(tls::Files {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
        })),
        (None, None, None) => Ok(None),
        _ => {
            let missing = flags
                .iter()
                .filter(|(_, file)| file.is_none())
                .map(|(flag, _)| *flag);
            let problem = format!("needs {} beside it", missing.collect::<Vec<_>>().join(" and "));
            let given = flags
                .iter()
                .find_map(|(flag, file)| Some((*flag, (*file).clone()?)));
            let (flag, file) = given.unwrap_or_default();
            Err(ConfigError::new(flag, file.display(), problem))
        }
    }
}

fn agent_tokens(args: &RunArgs) -> Result<Option<Expected>, ConfigError> {
    match (&args.agent_tokens, &args.agent_service_account) {
        (None, None) => Ok(None),
        (Some(audience), None) => {
            let problem = "needs --agent-service-account NAMESPACE/NAME beside it: whose token it must be";
            Err(ConfigError::new("--agent-tokens", audience, problem))
        }
        (None, Some(account)) => {
            let problem = "needs --agent-tokens AUDIENCE beside it";
            Err(ConfigError::new("--agent-service-account", account, problem))
        }
        (Some(audience), Some(account)) => {
            if audience.is_empty() {
                return Err(ConfigError::new("--agent-tokens", audience, "is empty"));
            }
            let parts = account.split_once('/');
            let parts =
                parts.filter(|(namespace, name)| is_namespace_name(namespace) && is_object_name(name));
            let Some((namespace, name)) = parts else {
                let problem = "is no service account, such as partywall/partywall-agent";
                return Err(ConfigError::new("--agent-service-account", account, problem));
            };
            Ok(Some(Expected {
                audience: audience.clone(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }))
        }
    }
}

impl Config {
    /// # Errors
    ///
    /// Names the first flag whose value makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |flag, value: usize, (min, max): (usize, usize)| {
            let problem = format!("must lie between {min} and {max}");
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::new(flag, value, problem))
            }
        };
        within(
            "--max-series-per-tenant",
            self.max_series_per_tenant,
            SERIES_PER_TENANT,
        )?;
        within("--max-tenants", self.max_tenants, TENANTS)?;
        if !is_object_name(&self.cluster) {
            let problem =
                "is no cluster name: only a-z, 0-9, '-' and '.', beginning and ending with a letter or digit";
            return Err(ConfigError::new("--cluster", &self.cluster, problem));
        }
        if let Some(host) = self.http_hosts.iter().find(|host| !is_object_name(host)) {
            let problem = "is no name of a host, such as partywall.example.com, without a port";
            return Err(ConfigError::new("--http-host", host, problem));
        }
        if let Some(dir) = self.state_dir.as_deref().filter(|dir| !dir.is_dir()) {
            let problem = "is no directory that can be read";
            return Err(ConfigError::new("--state-dir", dir.display(), problem));
        }
        if let Some(source) = self.cluster_from.iter().find(|source| !source.source.is_dir()) {
            let problem = "is no directory that can be read";
            return Err(ConfigError::new(
                "--cluster-from",
                source.source.display(),
                problem,
            ));
        }
        if let Some(expected) = self.agent_tokens.as_ref().filter(|_| self.kube_api.is_empty()) {
            let problem = "needs --kube-api: an API reviews the tokens of its cluster";
            return Err(ConfigError::new("--agent-tokens", &expected.audience, problem));
        }
        let files = self.cluster_from.iter().map(|s| ("--cluster-from", &s.cluster));
        let apis = self.kube_api.iter().map(|s| ("--kube-api", &s.cluster));
        let mut told = BTreeSet::new();
        for (flag, cluster) in files.chain(apis) {
            let cluster = cluster.as_ref().unwrap_or(&self.cluster);
            if !told.insert(cluster) {
                let problem = "has a source already: one tells of it, files or an API";
                return Err(ConfigError::new(flag, cluster, problem));
            }
        }
        match (&self.tls, self.insecure_plaintext) {
            (None, false) => {
                let problem = "would take reports and answer in plain text: give --tls-cert, --tls-key and --tls-client-ca, or say \
                               --insecure-plaintext";
                return Err(ConfigError::new("--grpc-listen", self.grpc_listen, problem));
            }
            (Some(files), true) => {
                let problem = "cannot be used with --insecure-plaintext: it is one or the other";
                return Err(ConfigError::new("--tls-cert", files.cert.display(), problem));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args =
            Args::try_parse_from(["partywall-aggregator"].iter().chain(args)).map_err(|e| e.to_string())?;
        let Command::Run(run) = args.into_command() else {
            return Err("another command".into());
        };
        Config::try_from(run).map_err(|e| e.to_string())
    }

    #[test]
    fn no_arguments_are_the_defaults() {
        let plaintext = Config {
            insecure_plaintext: true,
            ..Config::default()
        };
        assert_eq!(parse(&["--insecure-plaintext"]), Ok(plaintext.clone()));
        assert_eq!(parse(&["run", "--insecure-plaintext"]), Ok(plaintext));
    }

    #[test]
    fn nothing_is_taken_in_plain_text_that_was_not_said() {
        let error = parse(&[]).expect_err("must be refused");
        for needle in [
            "--tls-cert",
            "--tls-key",
            "--tls-client-ca",
            "--insecure-plaintext",
        ] {
            assert!(error.contains(needle), "{error} lacks {needle}");
        }
        let files = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"];
        let config = parse(&files).unwrap();
        assert_eq!(config.tls.map(|f| f.client_ca), Some("a".into()));
    }

    #[test]
    fn a_cluster_may_be_named_before_its_source() {
        let read = |text: &str| named("--kube-api", &[text.to_owned()], |rest| Ok(rest.to_owned()));
        for (text, name, rest) in [
            ("in-cluster", None, "in-cluster"),
            ("east=in-cluster", Some("east"), "in-cluster"),
            (
                "east.example=/etc/kube/config#admin",
                Some("east.example"),
                "/etc/kube/config#admin",
            ),
            ("/var/a=b/config", None, "/var/a=b/config"),
            ("./a=b", None, "./a=b"),
        ] {
            let source = NamedSource {
                cluster: name.map(str::to_owned),
                source: rest.to_owned(),
            };
            assert_eq!(read(text), Ok(vec![source]));
        }
        assert!(read("east=").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn errors_name_flag_and_value() {
        for (args, needles) in [
            (
                &["--grpc-listen", "7441"][..],
                &["--grpc-listen", "7441", "127.0.0.1:7441", "[::]:7441"][..],
            ),
            (
                &["--http-listen", "host:1"],
                &["--http-listen", "host:1", "[::]:7442"],
            ),
            (
                &["--max-series-per-tenant", "3"],
                &["--max-series-per-tenant", "\"3\"", "50"],
            ),
            (&["--max-tenants", "0"], &["--max-tenants", "\"0\""]),
            (
                &["--http-host", "a.example:80"],
                &["--http-host", "\"a.example:80\"", "without a port"],
            ),
            (
                &["--cluster-from", "/nonexistent"],
                &["--cluster-from", "/nonexistent"],
            ),
            (
                &["--kube-api", "#admin"],
                &["--kube-api", "\"#admin\"", "in-cluster"],
            ),
            (
                &["--kube-api", "east="],
                &["--kube-api", "\"east=\"", "names no source"],
            ),
            (
                &["--kube-api", "in-cluster", "--cluster-from", "/tmp"],
                &["--kube-api", "default", "has a source already"],
            ),
            (&["--state-dir", "/nonexistent"], &["--state-dir", "/nonexistent"]),
            (&["--nodes", "3"], &["--nodes"]),
            (
                &["--tls-cert", "c"],
                &["--tls-cert", "\"c\"", "--tls-key and --tls-client-ca"],
            ),
            (
                &["--tls-cert", "c", "--tls-client-ca", "a"],
                &["--tls-cert", "needs --tls-key"],
            ),
            (
                &[
                    "--insecure-plaintext",
                    "--tls-cert",
                    "c",
                    "--tls-key",
                    "k",
                    "--tls-client-ca",
                    "a",
                ],
                &["--tls-cert", "--insecure-plaintext"],
            ),
            (
                &["--agent-tokens", "partywall"],
                &["--agent-tokens", "\"partywall\"", "--agent-service-account"],
            ),
            (
                &["--agent-service-account", "a/b"],
                &["--agent-service-account", "\"a/b\"", "--agent-tokens"],
            ),
            (
                &["--agent-tokens", "partywall", "--agent-service-account", "agent"],
                &[
                    "--agent-service-account",
                    "\"agent\"",
                    "partywall/partywall-agent",
                ],
            ),
            (
                &["--agent-tokens", "", "--agent-service-account", "a/b"],
                &["--agent-tokens", "\"\""],
            ),
        ] {
            let error = parse(args).expect_err("must be refused");
            for needle in needles {
                assert!(error.contains(needle), "{error} lacks {needle}");
            }
        }
    }
}
