//! What was typed → what it means.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Fewest and most series that one tenant may publish. Below, its own gauges and histogram do not fit; above, one tenant can fill a Prometheus.
pub const SERIES_PER_TENANT: (usize, usize) = (50, 100_000);
/// Fewest and most tenants published by name.
pub const TENANTS: (usize, usize) = (1, 100_000);

const EXAMPLES: &str = "\
Start here:
  kubectl get -A -o yaml > cluster/all.yaml namespaces,pods,resourcequotas,limitranges
  kubectl get -A -o yaml > cluster/net.yaml \\
    nodes,services,endpointslices.discovery.k8s.io,networkpolicies.networking.k8s.io
  partywall-aggregator --cluster-from cluster
  curl -s http://127.0.0.1:7442/metrics | grep ^partywall_tenant

  partywall-aggregator policy-default > policy.yaml      every threshold, with unit, default and reason
  partywall-aggregator policy-check policy.yaml          says what is wrong, with line, key and value
  partywall-aggregator --cluster-from cluster --policy policy.yaml

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
    /// Address of /metrics, /healthz and /readyz; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7442")]
    pub http_listen: String,
    /// Directory of Kubernetes YAML or JSON (namespaces, pods, quotas, services, endpoint slices, nodes, policies; lists too), as `kubectl get -o yaml` writes it
    #[arg(long, value_name = "DIR")]
    pub cluster_from: Option<PathBuf>,
    /// Policy file: thresholds, tenants, path rules [default: built in, see `policy-default`]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Prometheus series that one tenant may publish by name; the rest is summed in `~other`
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_series_per_tenant: usize,
    /// Tenants that are published by name; the rest is summed in `~other`
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub max_tenants: usize,
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
    /// Directory of Kubernetes objects. `None`: no pod has a name; tenants come from path rules alone.
    pub cluster_from: Option<PathBuf>,
    /// `None`: the built-in policy.
    pub policy: Option<PathBuf>,
    pub max_series_per_tenant: usize,
    pub max_tenants: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7441)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7442)),
            cluster_from: None,
            policy: None,
            max_series_per_tenant: 200,
            max_tenants: 1_000,
        }
    }
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
    fn new(flag: &'static str, value: impl fmt::Display, problem: impl fmt::Display) -> Self {
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
            cluster_from: args.cluster_from,
            policy: args.policy,
            max_series_per_tenant: args.max_series_per_tenant,
            max_tenants: args.max_tenants,
        };
        config.check()?;
        Ok(config)
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
        if let Some(dir) = self.cluster_from.as_ref().filter(|d| !d.is_dir()) {
            return Err(ConfigError::new(
                "--cluster-from",
                dir.display(),
                "is no directory that can be read",
            ));
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
        assert_eq!(parse(&[]), Ok(Config::default()));
        assert_eq!(parse(&["run"]), Ok(Config::default()));
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
                &["--cluster-from", "/nonexistent"],
                &["--cluster-from", "/nonexistent"],
            ),
            (&["--nodes", "3"], &["--nodes"]),
        ] {
            let error = parse(args).expect_err("must be refused");
            for needle in needles {
                assert!(error.contains(needle), "{error} lacks {needle}");
            }
        }
    }
}
