//! `partywall audit`: did one tenant reach another between two times: yes, no, or unknown.

use anyhow::anyhow;
use partywall_proto::v1;

use super::csv;
use super::model::{Audit, Pair, Reached};
use crate::args::{AuditAsk, Common};
use crate::client::Client;
use crate::exit::{Code, Failure, Outcome, reader_left};
use crate::output::{Paint, Tone, print, print_json, print_json_line};
use crate::text::{self, bytes, count, percent, seconds, wrapped};

/// Gaps told one by one of each pair.
const GAPS: usize = 20;

pub(super) async fn run(common: &Common, args: &AuditAsk) -> Outcome {
    // The answer is the exit code too; a sentence on stderr would say it twice.
    match ask(common, args).await.map_err(Failure::without_answer)? {
        Reached::No => Ok(()),
        Reached::Yes => Err(Failure::new(Code::Failed, anyhow!(""))),
        Reached::Unknown => Err(Failure::new(Code::Unknown, anyhow!(""))),
    }
}

async fn ask(common: &Common, args: &AuditAsk) -> Result<Reached, Failure> {
    let (from_unix_ns, to_unix_ns) = super::span(args.from, args.to)?;
    let mut client = Client::connect(common, &args.of).await?;
    let (from_tenant, to_tenant) = args.pair.clone().unwrap_or_default();
    let request = v1::AuditRequest {
        from_unix_ns,
        to_unix_ns,
        from_tenant,
        to_tenant,
        tenant: args.tenant.clone().unwrap_or_default(),
        ..v1::AuditRequest::default()
    };
    let audit = client.audit(request).await?;
    let shown = show(&audit, common, args);
    // Who reads no further is answered all the same.
    match shown {
        Err(error) if !reader_left(&error) => Err(error.into()),
        _ => Ok(audit.answer),
    }
}

fn show(audit: &Audit, common: &Common, args: &AuditAsk) -> anyhow::Result<()> {
    if common.json {
        print_json(audit)?;
    } else if args.csv {
        print(&csv::audit(audit)?)?;
    } else if args.json_lines {
        audit.pairs.iter().try_for_each(print_json_line)?;
    } else {
        let tenant = args.tenant.as_deref();
        print(&tell(audit, tenant, Paint::for_stdout(), text::columns()))?;
    }
    Ok(())
}

/// Two tenants, the one that opened first.
pub(crate) fn pair(typed: &str) -> Result<(String, String), String> {
    match typed.split_once(',').map(|(from, to)| (from.trim(), to.trim())) {
        Some((from, to)) if !from.is_empty() && !to.is_empty() && !to.contains(',') => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err("no two tenants; write FROM,TO: who opened, and who was reached".to_owned()),
    }
}

/// `tenant`: that was asked about alone.
pub(super) fn tell(audit: &Audit, tenant: Option<&str>, paint: Paint, columns: usize) -> String {
    let answer = paint.tint(tone(audit.answer), audit.answer.word());
    let mut out = format!(
        "{answer}: from {} to {}, in slots of {}\n",
        audit.from,
        audit.to,
        seconds(audit.slot_seconds)
    );
    if audit.pairs.is_empty() {
        let whom = match tenant {
            Some(tenant) => format!("{tenant} and any other tenant"),
            None => "any two tenants".to_owned(),
        };
        out += &format!("nothing crossed between {whom}, and all of the time was seen\n");
    }
    for pair in &audit.pairs {
        out.push('\n');
        out += &one(pair, tenant, paint, columns);
    }
    out
}

fn tone(reached: Reached) -> Tone {
    match reached {
        Reached::Yes => Tone::Bad,
        Reached::No => Tone::Good,
        Reached::Unknown => Tone::Warn,
    }
}

fn one(pair: &Pair, tenant: Option<&str>, paint: Paint, columns: usize) -> String {
    let who = match (pair.from.as_str(), pair.to.as_str(), tenant) {
        ("", "", Some(tenant)) => format!("all other pairs of {tenant}"),
        ("", "", None) => "all other pairs".to_owned(),
        (from, to, _) => format!("{from} to {to}"),
    };
    let of = match pair.cluster.as_str() {
        "" | "default" => String::new(),
        cluster => format!(" in {cluster}"),
    };
    let word = paint.tint(tone(pair.reached), pair.reached.word());
    let mut out = format!("{}{of}: {word}\n", paint.tint(Tone::Strong, &who));
    out += &wrapped(&pair.summary, "  ", "  ", columns);
    out += &format!("  {} of the time was seen\n", percent(pair.covered));
    for crossing in &pair.crossings {
        let arrived = if crossing.delivered {
            "delivered"
        } else {
            "not delivered"
        };
        let line = format!(
            "{}, {arrived}: {}, {}, first {}, last {}",
            crossing.verdict,
            count(
                usize::try_from(crossing.connections).unwrap_or(usize::MAX),
                "connection",
                "connections"
            ),
            bytes(crossing.bytes),
            crossing.first,
            crossing.last
        );
        out += &wrapped(&line, "  - ", "    ", columns);
    }
    for gap in pair.gaps.iter().take(GAPS) {
        let node = match gap.node.as_str() {
            "" => String::new(),
            node => format!(" on {node}"),
        };
        let line = format!(
            "gap of {} from {} to {}: {}{node}",
            seconds(gap.to_unix_seconds - gap.from_unix_seconds),
            gap.from,
            gap.to,
            gap.reason.replace('_', " ")
        );
        out += &wrapped(&line, "  ? ", "    ", columns);
    }
    if let Some(more @ 1..) = pair.gaps.len().checked_sub(GAPS) {
        out += &format!(
            "  ? and {}; --json lists them\n",
            count(more, "more gap", "more gaps")
        );
    }
    out
}
