//! `partywall explain BREACH`: the whole evidence of one breach, as a person would tell it.

mod model;
mod prose;
#[cfg(test)]
mod tests;

use crate::args::{Common, Explain};
use crate::client::Client;
use crate::exit::Outcome;
use crate::output::{Paint, print, print_json};
use crate::text;
pub(crate) use model::Evidence;

pub(crate) async fn run(common: &Common, args: &Explain) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
    let evidence = client.explain_breach(&args.breach).await?;
    if common.json {
        return Ok(print_json(&evidence)?);
    }
    if args.yaml_only {
        return Ok(print(&prose::yaml(&evidence))?);
    }
    let cluster = args.of.worth_naming(&evidence.breach.cluster);
    let prose = prose::Prose::new(Paint::for_stdout(), text::columns());
    Ok(print(&prose.tell(&evidence, cluster))?)
}
