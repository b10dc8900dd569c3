//! `partywall tenants`.

use serde::Serialize;

use crate::args::{Common, Tenants};
use crate::client::Client;
use crate::exit::Outcome;
use crate::model::{Cluster, Tenant};
use crate::output::{Paint, print, print_json};
use crate::show;

#[derive(Debug, Serialize)]
struct Document<'a> {
    judged_unix_seconds: f64,
    window_seconds: f64,
    tenants: &'a [Tenant],
    clusters: &'a [Cluster],
}

pub(crate) async fn run(common: &Common, args: &Tenants) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
    let paint = Paint::for_stdout();
    if let Some(namespace) = &args.explain {
        let explanation = client.explain(namespace).await?;
        if common.json {
            return Ok(print_json(&explanation)?);
        }
        return Ok(print(&explanation.to_text(paint))?);
    }
    let snapshot = client.snapshot(false).await?;
    if common.json {
        return Ok(print_json(&Document {
            judged_unix_seconds: snapshot.judged_unix_seconds,
            window_seconds: snapshot.window_seconds,
            tenants: &snapshot.tenants,
            clusters: &snapshot.clusters,
        })?);
    }
    let table = show::tenants::table(&snapshot, 0, "").to_text(paint);
    // Figures that are old look like any others.
    let doubts = show::header::to_text(&show::doubts::lines(&snapshot), paint);
    Ok(print(&format!("{table}{doubts}"))?)
}
