//! What lasts: `partywall history` and `partywall audit`, its answers, its chain, and copies of it.

mod audit;
mod csv;
mod export;
mod history;
mod lines;
mod model;
mod reports;
#[cfg(test)]
mod tests;
mod verify;

use std::time::SystemTime;

use anyhow::anyhow;

use crate::args::{AuditArgs, AuditCommand, Common};
use crate::exit::{Code, Failure, Outcome};
use crate::when::When;
pub(crate) use audit::pair;
pub(crate) use history::run as history;
pub(crate) use model::{Audit, Entry, Past};
pub(crate) use verify::Head;

pub(crate) async fn audit(common: &Common, args: &AuditArgs) -> Outcome {
    match &args.command {
        None => audit::run(common, &args.ask).await,
        Some(AuditCommand::Verify(args)) => verify::run(common, args).await,
        Some(AuditCommand::Export(args)) => export::run(common, args).await,
    }
}

/// What was typed, as Unix time. `to` before `from` asks for nothing.
fn span(from: Option<When>, to: Option<When>) -> Result<(u64, u64), Failure> {
    let now = SystemTime::now();
    let from = from.map_or(0, |when| when.unix_ns(now));
    let to = to.unwrap_or(When::Now).unix_ns(now);
    if from < to {
        return Ok((from, to));
    }
    let shown = |ns: u64| crate::text::utc(crate::model::seconds(ns));
    Err(Failure::new(
        Code::Usage,
        anyhow!(
            "--from is {}, which is not before --to, {}",
            shown(from),
            shown(to)
        ),
    ))
}
