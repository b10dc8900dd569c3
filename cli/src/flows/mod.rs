//! `partywall flows`: who reaches whom, and what the fence says of it.

mod model;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use partywall_proto::v1;

use crate::args::{Common, FlowArgs, VerdictArg};
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::output::{Paint, aside, print, print_json, print_json_line};
use crate::signal;
#[cfg(test)]
pub(crate) use model::Traffic;
pub(crate) use model::{End, Flow, Flows, verdict};
pub(crate) use table::{rate, tone};

/// How often `--watch` asks again.
const AGAIN: Duration = Duration::from_secs(1);

const VERDICTS: [v1::Verdict; 6] = [
    v1::Verdict::Allowed,
    v1::Verdict::Open,
    v1::Verdict::Leaked,
    v1::Verdict::Blocked,
    v1::Verdict::Unknown,
    v1::Verdict::Within,
];

pub(crate) async fn run(common: &Common, args: &FlowArgs) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
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
    let mut left_out = 0;
    loop {
        let flows = tokio::select! {
            // Whoever watches ends it so: that is success.
            _ = &mut interrupted => return Ok(()),
            flows = all(&mut client, &request) => flows?,
        };
        for flow in known.news(&flows.flows) {
            if common.json {
                print_json_line(flow)?;
            } else {
                let cluster = args.of.worth_naming(&flow.cluster);
                print(&table::line(flow, cluster, flows.judged_unix_seconds, paint))?;
            }
        }
        if flows.left_out > left_out {
            left_out = flows.left_out;
            aside(&format!(
                "not told: {left_out} more with fewer bytes; narrow it by --from, --to or --verdict"
            ));
            if common.json {
                // So that whoever reads the stream later knows it, too.
                print_json_line(&Flows {
                    flows: Vec::new(),
                    ..flows
                })?;
            }
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            () = tokio::time::sleep(AGAIN) => (),
        }
    }
}

/// Everything that the aggregator lists. It lists so many flows and no more; where they are not all, those of each verdict are asked for alone.
pub(crate) async fn all(client: &mut Client, request: &v1::GetFlowsRequest) -> Result<Flows, Failure> {
    let list = client.flows(request.clone()).await?;
    if list.left_out == 0 || request.verdicts.len() == 1 {
        return Ok(list);
    }
    let asked: BTreeSet<i32> = if request.verdicts.is_empty() {
        VERDICTS.map(i32::from).into()
    } else {
        request.verdicts.iter().copied().collect()
    };
    let mut all = Flows {
        flows: Vec::new(),
        left_out: 0,
        ..list
    };
    for verdict in asked {
        let of_verdict = v1::GetFlowsRequest {
            verdicts: vec![verdict],
            ..request.clone()
        };
        let list = client.flows(of_verdict).await?;
        all.flows.extend(list.flows);
        all.left_out = all.left_out.saturating_add(list.left_out);
    }
    Ok(all)
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
        ..v1::GetFlowsRequest::default()
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
