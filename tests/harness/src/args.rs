//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Runs the real agent and aggregator against real work and compares what they say with what is true.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Where partywall-agent and partywall-aggregator are [default: beside this program]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Keep the daemons' logs here
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) keep_logs: Option<PathBuf>,
    /// Write the result as one JSON document
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run scenario files: every expected breach found in time, none false, every measure within bounds
    Scenarios {
        #[arg(long, default_value = "tests/scenarios")]
        dir: PathBuf,
        /// Only scenarios whose name contains this; may be repeated
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// The aggregator learns of the cluster from an API server, not from files
        #[arg(long)]
        api: bool,
        /// A scenario that this machine cannot run is a failure
        #[arg(long)]
        require_all: bool,
        /// Only name the scenarios that this machine cannot run, each with the reason
        #[arg(long, conflicts_with = "require_all")]
        lacking: bool,
    },
    /// Compare the ledger with the kernel's own figures: 2, 3 and 8 spinners on one CPU, and 200 cgroups taking turns
    Ledger {
        /// Length of each case
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Make and remove cgroups: the agent stays flat, mixes none up, keeps none
    Churn {
        #[arg(long, default_value_t = 10_000)]
        cgroups: usize,
        /// Spread over this time [default: 10]
        #[arg(long)]
        minutes: Option<f64>,
        /// The same in seconds
        #[arg(long, conflicts_with = "minutes")]
        seconds: Option<f64>,
    },
    /// Compare counts of traffic with what was sent: 1, 1,000 and 50,000 flows, and a few beside a neighbour that opens all it can
    Traffic {
        /// Length of each case
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Start the image with runc as the rendered manifests say: it loads its programs and names a culprit, with three capabilities
    Image {
        /// OCI layout with one image, as `cargo xtask image` makes it
        #[arg(long, value_name = "DIR")]
        image: PathBuf,
        /// What `helm template` writes
        #[arg(long, value_name = "FILE")]
        manifests: PathBuf,
        /// Default seccomp profile of a container engine
        #[arg(long, value_name = "FILE")]
        seccomp: PathBuf,
    },
    /// From noise to an alert in real Alertmanagers, while a real Prometheus scrapes: how long it takes, and that no alert comes twice
    Alerts {
        /// Runs that are measured
        #[arg(long, default_value_t = 20)]
        times: usize,
        /// Directory with prometheus-alertmanager, amtool, prometheus and promtool
        #[arg(long, value_name = "DIR", default_value = "/usr/bin")]
        servers: PathBuf,
        /// Rule file that Prometheus judges by; may be repeated
        #[arg(long, required = true, value_name = "FILE")]
        rules: Vec<PathBuf>,
        /// Keep the webhook's bodies there, one in a line
        #[arg(long, value_name = "FILE")]
        bodies: Option<PathBuf>,
    },
    /// Look at the page in Chromium, and run every query of the dashboards in Prometheus
    Page {
        /// The scene and the browser's script
        #[arg(long, default_value = "tests/page")]
        dir: PathBuf,
        /// Grafana's dashboards
        #[arg(long, default_value = "deploy/grafana/dashboards")]
        dashboards: PathBuf,
        /// Where node_modules/playwright-core is
        #[arg(long, value_name = "DIR")]
        playwright: PathBuf,
        #[arg(long, default_value = "/usr/bin/chromium")]
        chromium: PathBuf,
        /// Where pictures of the page go
        #[arg(long, value_name = "DIR")]
        pictures: PathBuf,
    },
    /// Kill the agent without warning: the kernel keeps nothing of it
    Kill {
        #[arg(long, default_value_t = 20)]
        times: u32,
    },
    /// Ask "did A reach B between T1 and T2" of a run with known traffic and known outages: every answer must be the oracle's
    Audit {
        #[arg(long, default_value_t = 100)]
        questions: usize,
        /// Of the traffic and the questions
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// One node with a real agent and pods that really connect, in place of three that exist in reports alone
        #[arg(long)]
        real: bool,
    },
    /// Kill the aggregator without warning while it writes its trail: what was read from it once is there ever after
    TrailKill {
        #[arg(long, default_value_t = 100)]
        times: u32,
        /// Of the moments at which it is killed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Kill the aggregator and agents without warning under load: no total is lost, nothing counts twice
    Restarts {
        /// Times that the aggregator is killed; agents are as often
        #[arg(long, default_value_t = 100)]
        times: u32,
        /// Of the moments at which they are killed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}
