//! `partywall flows`: who reaches whom, and what the fence says of it.

mod model;
mod table;

use std::time::Duration;

use partywall_proto::v1;

use crate::args::{Common, FlowArgs, VerdictArg};
use crate::client::Client;
use crate::exit::Outcome;
use crate::output::{Paint, print, print_json, print_json_line};
use crate::signal;
#[cfg(test)]
pub(crate) use model::Traffic;
pub(crate) use model::{End, Flow, Flows, verdict};
pub(crate) use table::{rate, tone};

/// How often `--watch` asks again.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(common: &Common, args: &FlowArgs) -> Outcome {
    let mut client = Client::connect(&common.aggregator).await?;
    let request = request(args);
    if !args.watch {
        let flows = client.flows(request).await?;
        if common.json {
            return Ok(print_json(&flows)?);
        }
        return Ok(print(&text(&flows, Paint::for_stdout()))?);
    }
    let paint = Paint::for_stdout();
    let interrupted = signal::interrupted()?;
    tokio::pin!(interrupted);
    let mut known = table::Known::default();
    loop {
        let flows = client.flows(request.clone()).await?;
        for flow in known.news(&flows.flows) {
            if common.json {
                print_json_line(flow)?;
            } else {
                print(&table::line(flow, flows.judged_unix_seconds, paint))?;
            }
        }
        tokio::select! {
            // Whoever watches ends it so: that is success.
            _ = &mut interrupted => return Ok(()),
            () = tokio::time::sleep(AGAIN) => (),
        }
    }
}

pub(crate) fn request(args: &FlowArgs) -> v1::GetFlowsRequest {
    let verdict = |verdict: &VerdictArg| match verdict {
        VerdictArg::Allowed => v1::Verdict::Allowed,
        VerdictArg::Open => v1::Verdict::Open,
        VerdictArg::Leaked => v1::Verdict::Leaked,
        VerdictArg::Blocked => v1::Verdict::Blocked,
        VerdictArg::Unknown => v1::Verdict::Unknown,
        VerdictArg::Within => v1::Verdict::Within,
    };
    v1::GetFlowsRequest {
        cross_tenant: args.cross_tenant,
        from: args.from.clone().unwrap_or_default(),
        to: args.to.clone().unwrap_or_default(),
        verdicts: args.verdict.iter().map(|typed| verdict(typed).into()).collect(),
    }
}

fn text(flows: &Flows, paint: Paint) -> String {
    if flows.flows.is_empty() {
        return "no such flow seen\n".to_owned();
    }
    let mut text = table::table(&flows.flows).to_text(paint);
    if flows.left_out > 0 {
        text.push_str(&format!(
            "and {} more with fewer bytes: narrow it by --from, --to or --verdict\n",
            flows.left_out
        ));
    }
    text
}
