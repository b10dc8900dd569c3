//! `partywall breaches`: what holds now, or every change as it comes.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures::StreamExt;
use serde::Serialize;

use crate::args::{Breaches, Common};
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::model::{Breach, Cluster, Snapshot};
use crate::output::{Paint, print, print_json, print_json_line};
use crate::show;
use crate::signal;
use crate::text::clean;

#[derive(Debug, Serialize)]
struct Document<'a> {
    judged_unix_seconds: f64,
    window_seconds: f64,
    /// The share of the window that was seen on the node seen least: a silence counts for as much.
    covered: f64,
    breaches: &'a [Breach],
    clusters: &'a [Cluster],
}

pub(crate) async fn run(common: &Common, args: &Breaches) -> Outcome {
    let client = Client::connect(common, &args.of).await?;
    if args.watch {
        watch(client, common, args).await
    } else {
        list(client, common, args).await
    }
}

async fn list(mut client: Client, common: &Common, args: &Breaches) -> Outcome {
    let mut snapshot = client.snapshot(args.all).await?;
    if let Some(tenant) = &args.tenant {
        only(&mut snapshot, tenant)?;
    }
    if common.json {
        return Ok(print_json(&Document {
            judged_unix_seconds: snapshot.judged_unix_seconds,
            window_seconds: snapshot.window_seconds,
            covered: covered(&snapshot),
            breaches: &snapshot.breaches,
            clusters: &snapshot.clusters,
        })?);
    }
    let paint = Paint::for_stdout();
    if snapshot.breaches.is_empty() {
        // Silence carries its coverage: nothing was broken, as far as was seen.
        let whose = args
            .tenant
            .as_ref()
            .map_or_else(String::new, |tenant| format!(" that names {}", clean(tenant)));
        let sight = show::header::to_text(&show::header::lines(&snapshot), paint);
        return Ok(print(&format!("no breach{whose}\n{sight}"))?);
    }
    let listed = show::breaches::listed(&snapshot, 0, "");
    Ok(print(
        &show::breaches::table(&snapshot, &listed, true).to_text(paint),
    )?)
}

/// Keeps the breaches that name `tenant`. A tenant that nobody knows is a typing error, not a silence.
fn only(snapshot: &mut Snapshot, tenant: &str) -> Result<(), Failure> {
    snapshot.breaches.retain(|breach| breach.names(tenant));
    if snapshot.breaches.is_empty() && !snapshot.tenants.iter().any(|known| known.name == tenant) {
        let names: Vec<&str> = snapshot.tenants.iter().map(|known| known.name.as_str()).collect();
        let known = if names.is_empty() {
            "none yet".to_owned()
        } else {
            names.join(", ")
        };
        return Err(anyhow!("--tenant {:?}: no such tenant; known: {known}", clean(tenant)).into());
    }
    Ok(())
}

fn covered(snapshot: &Snapshot) -> f64 {
    snapshot
        .nodes
        .iter()
        .map(|node| node.covered)
        .reduce(f64::min)
        .unwrap_or(0.0)
}

/// A watch that ends sooner was not wanted: another one would end so, too.
const LEAST_WATCH: Duration = Duration::from_secs(60);

async fn watch(mut client: Client, common: &Common, args: &Breaches) -> Outcome {
    let paint = Paint::for_stdout();
    let tenant = args.tenant.as_deref().unwrap_or_default();
    let mut changes = Box::pin(client.watch(tenant).await?);
    let mut began = Instant::now();
    let interrupted = signal::interrupted()?;
    tokio::pin!(interrupted);
    loop {
        let change = tokio::select! {
            // Whoever watches ends it so: that is success.
            _ = &mut interrupted => return Ok(()),
            change = changes.next() => change,
        };
        match change {
            Some(Ok(breach)) if common.json => print_json_line(&breach)?,
            Some(Ok(breach)) => {
                let cluster = args.of.worth_naming(&breach.cluster);
                print(&show::breaches::line(&breach, cluster, paint))?;
            }
            Some(Err(failure)) => return Err(failure),
            // Where certificates are shown, aggregators end watches after a while, to look at them again. What lives is told once more.
            None if began.elapsed() >= LEAST_WATCH => {
                changes = tokio::select! {
                    _ = &mut interrupted => return Ok(()),
                    again = client.watch(tenant) => Box::pin(again?),
                };
                began = Instant::now();
            }
            None => {
                return Err(Failure::new(
                    crate::exit::Code::NoAggregator,
                    anyhow!("{} ended the watch", client.address()),
                ));
            }
        }
    }
}
