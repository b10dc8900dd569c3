//! Agent and aggregator in this process: started in order, stopped in the other.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;
use partywall_agent::config::{Args, Command, Config};
use partywall_aggregator::config::NamedSource;

/// What differs between `up` and `demo`.
pub(crate) struct Options {
    pub node: String,
    pub grpc_listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub agent_http_listen: SocketAddr,
    pub cluster_from: Option<PathBuf>,
    pub policy: Option<PathBuf>,
}

pub(crate) struct Stack {
    pub aggregator: partywall_aggregator::Running,
    pub agent: partywall_agent::Running,
}

impl Stack {
    /// The aggregator first: the agent's first report finds it.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let aggregator = partywall_aggregator::start(partywall_aggregator::config::Config {
            grpc_listen: options.grpc_listen,
            http_listen: options.http_listen,
            // No web page that is looked at on this machine may read what only this machine is told.
            http_hosts: options
                .http_listen
                .ip()
                .is_loopback()
                .then(|| "localhost".to_owned())
                .into_iter()
                .collect(),
            cluster_from: options
                .cluster_from
                .map(|source| NamedSource {
                    cluster: None,
                    source,
                })
                .into_iter()
                .collect(),
            policy: options.policy,
            // Within one machine, and one process.
            insecure_plaintext: true,
            ..partywall_aggregator::config::Config::default()
        })
        .await
        .context("starting the aggregator")?;
        let agent = start_agent(options.node, options.agent_http_listen, aggregator.grpc_addr).await;
        match agent {
            Ok(agent) => Ok(Self { aggregator, agent }),
            Err(error) => {
                aggregator.stop().await.context("stopping the aggregator")?;
                Err(error)
            }
        }
    }

    /// The agent first: the aggregator takes its last reports.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let agent = self.agent.stop().await.context("stopping the agent");
        self.aggregator.stop().await.context("stopping the aggregator")?;
        agent
    }
}

async fn start_agent(
    node: String,
    http_listen: SocketAddr,
    aggregator: SocketAddr,
) -> anyhow::Result<partywall_agent::Running> {
    // Through the agent's own command line, so that its defaults have one home.
    let arguments = [
        "partywall-agent".to_owned(),
        format!("--node={node}"),
        format!("--aggregator=http://{aggregator}"),
        "--insecure-plaintext".to_owned(),
        format!("--http-listen={http_listen}"),
    ];
    let Command::Run(run) = Args::try_parse_from(arguments)?.into_command() else {
        bail!("the agent's command line does not mean `run`");
    };
    partywall_agent::start(Config::try_from(run)?)
        .await
        .context("starting the agent")
}
