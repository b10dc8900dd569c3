//! `partywall up`: agent and aggregator for this host in one process.

use serde::Serialize;

use crate::args::{Common, Up};
use crate::exit::Outcome;
use crate::host;
use crate::logs;
use crate::output::{print, print_json_line};
use crate::signal;
use crate::stack::{Options, Stack};

/// Where to look: `partywall up --json`.
#[derive(Debug, Serialize)]
struct Addresses {
    aggregator: String,
    page: String,
    metrics: String,
    agent_metrics: String,
}

pub(crate) async fn run(common: &Common, args: Up) -> Outcome {
    host::allows("up", &[])?;
    logs::init("warn");
    let interrupted = signal::interrupted()?;
    let by_policy = args.policy.is_some();
    let start = Stack::start(Options {
        node: host::name(),
        grpc_listen: args.grpc_listen,
        http_listen: args.http_listen,
        agent_http_listen: args.agent_http_listen,
        cluster_from: args.cluster_from,
        policy: args.policy,
    });
    tokio::pin!(interrupted);
    let stack = tokio::select! {
        biased;
        () = &mut interrupted => return Ok(()),
        stack = start => stack?,
    };
    let addresses = Addresses {
        aggregator: format!("http://{}", stack.aggregator.grpc_addr),
        page: format!("http://{}/", stack.aggregator.http_addr),
        metrics: format!("http://{}/metrics", stack.aggregator.http_addr),
        agent_metrics: format!("http://{}/metrics", stack.agent.http_addr),
    };
    let told = if common.json {
        print_json_line(&addresses)
    } else {
        Ok(print(&words(&addresses, by_policy))?)
    };
    if told.is_ok() {
        interrupted.await;
    }
    stack.stop().await?;
    if told.is_ok() && !common.json {
        print("stopped; every eBPF program is detached\n")?;
    }
    Ok(told?)
}

fn words(addresses: &Addresses, by_policy: bool) -> String {
    let default = addresses.aggregator == "http://127.0.0.1:7441";
    let option = if default {
        String::new()
    } else {
        format!(" --aggregator {}", addresses.aggregator)
    };
    let tenants = if by_policy {
        ""
    } else {
        "\nno policy: everything that is no pod is the tenant `system`; `partywall up --help` shows how to name tenants"
    };
    format!(
        "watching this host; Ctrl-C ends it\n\n  page     {}\n  look     partywall top{option}\n  ask      partywall \
         breaches{option}\n  metrics  {}\n  agent    {}\n{tenants}\n",
        addresses.page, addresses.metrics, addresses.agent_metrics
    )
}
