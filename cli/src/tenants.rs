//! `partywall tenants`.

use serde::Serialize;

use crate::args::Common;
use crate::client::Client;
use crate::exit::Outcome;
use crate::model::Tenant;
use crate::output::{Paint, print, print_json};
use crate::show;

#[derive(Debug, Serialize)]
struct Document<'a> {
    judged_unix_seconds: f64,
    window_seconds: f64,
    tenants: &'a [Tenant],
}

pub(crate) async fn run(common: &Common) -> Outcome {
    let snapshot = Client::connect(&common.aggregator).await?.snapshot(false).await?;
    if common.json {
        return Ok(print_json(&Document {
            judged_unix_seconds: snapshot.judged_unix_seconds,
            window_seconds: snapshot.window_seconds,
            tenants: &snapshot.tenants,
        })?);
    }
    Ok(print(
        &show::tenants::table(&snapshot, 0, "").to_text(Paint::for_stdout()),
    )?)
}
