//! `partywall policy suggest`: NetworkPolicies that close what is open between tenants and keep what was seen in use.
//!
//! Nothing that is denied now is admitted by a suggestion: pods that a policy isolates already get none, because a further one could only add.

mod document;
mod draft;
mod fate;
mod groups;
mod plan;
mod scene;
mod tally;
#[cfg(test)]
mod tests;
mod wish;

use std::path::Path;

use serde_json::Value;

use super::{seen, usage, written};
use crate::args::{Common, PolicySuggest};
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use document::Document;
use plan::Plan;
use scene::Scene;

pub(crate) fn suggest(common: &Common, args: &PolicySuggest) -> Outcome {
    let flows = seen::read(common, &args.of, args.flows.as_deref())?;
    let scene = Scene::read(args, &flows.flows).map_err(usage)?;
    scene::check_asked(&scene, args).map_err(usage)?;
    let plan = Plan::new(&scene, &flows.flows, args);
    let document = Document::new(&plan, &flows);
    written(common, &document, || document.to_yaml())
}

/// What `suggest` would print, for a command that tells of more than that.
#[derive(Debug)]
pub(crate) struct Suggestion {
    pub yaml: String,
    /// The same as `--json` has it.
    pub document: Value,
}

/// From everything that an aggregator lists now, for the cluster in a directory.
pub(crate) async fn suggested(client: &mut Client, cluster_from: &Path) -> Result<Suggestion, Failure> {
    let args = PolicySuggest {
        cluster_from: Some(cluster_from.to_owned()),
        ..PolicySuggest::default()
    };
    let flows = seen::ask(client).await?;
    let scene = Scene::read(&args, &flows.flows)?;
    let plan = Plan::new(&scene, &flows.flows, &args);
    let document = Document::new(&plan, &flows);
    Ok(Suggestion {
        yaml: document.to_yaml(),
        document: serde_json::to_value(&document)?,
    })
}
