//! `partywall history`: each time that a breach fired.

use partywall_proto::v1;

use super::csv;
use super::model::{Entry, Past};
use crate::args::{Common, History};
use crate::client::Client;
use crate::exit::Outcome;
use crate::model::State;
use crate::output::{Paint, Tone, aside, print, print_json};
use crate::show::{breaches, with_clusters};
use crate::table::{Cell, Column, Row, Table};
use crate::text::{seconds, utc};

pub(crate) async fn run(common: &Common, args: &History) -> Outcome {
    let (from_unix_ns, to_unix_ns) = super::span(args.from, args.to)?;
    let mut client = Client::connect(common, &args.of).await?;
    let request = v1::GetHistoryRequest {
        from_unix_ns,
        to_unix_ns,
        tenant: args.tenant.clone().unwrap_or_default(),
        kinds: args.kind.iter().map(|kind| i32::from(*kind)).collect(),
        limit: args.limit,
        before: args.before.clone().unwrap_or_default(),
        ..v1::GetHistoryRequest::default()
    };
    let Past { entries, is_cut } = client.history(request).await?;
    if let Some(oldest) = entries.first().filter(|_| is_cut) {
        let n = entries.len();
        aside(&format!(
            "the newest {n}; there are older ones: --before {}",
            oldest.cursor
        ));
    }
    if common.json {
        return Ok(print_json(&entries)?);
    }
    if args.csv {
        return Ok(print(&csv::history(&entries)?)?);
    }
    if entries.is_empty() {
        return Ok(print(
            "nothing fired in that time, as far as the trail knows; `partywall audit` says how far that is\n",
        )?);
    }
    Ok(print(&table(&entries).to_text(Paint::for_stdout()))?)
}

pub(super) fn table(entries: &[Entry]) -> Table {
    let row = |entry: &Entry| {
        let breach = &entry.breach;
        let fired = breach.firing_unix_seconds.unwrap_or(breach.since_unix_seconds);
        let lasted = match (breach.resolved_unix_seconds, entry.end_unknown.as_str()) {
            (Some(resolved), _) => seconds((resolved - fired).max(0.0)),
            (None, "") => "fires still".to_owned(),
            (None, _) => "not known".to_owned(),
        };
        let or_dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        let why = match entry.end_unknown.as_str() {
            "" => String::new(),
            why => format!(" (its end is not known: {why})"),
        };
        let tone = match breach.state {
            State::Firing if entry.end_unknown.is_empty() => breaches::tone(State::Firing),
            _ => Tone::Plain,
        };
        Row {
            cells: vec![
                Cell::new(utc(fired)),
                Cell::toned(lasted, tone),
                Cell::toned(breach.kind.as_str(), Tone::Strong),
                Cell::new(breach.tenant.as_str()),
                Cell::new(or_dash(&breach.against)),
                Cell::new(or_dash(&breach.subject)),
                Cell::new(or_dash(&breach.node)),
                Cell::toned(breach.fingerprint.chars().take(8).collect::<String>(), Tone::Dim),
            ],
            note: Some(format!("{}{why}", breach.summary)),
        }
    };
    let table = Table {
        columns: vec![
            Column::name("FIRED", 0),
            Column::name("FOR", 0),
            Column::name("BREACH", 0),
            Column::name("TENANT", 0),
            Column::name("AGAINST", 0),
            Column::name("SUBJECT", 0),
            Column::name("NODE", 0),
            Column::name("ID", 0),
        ],
        rows: entries.iter().map(row).collect(),
    };
    let clusters = || entries.iter().map(|entry| entry.breach.cluster.as_str());
    let several = clusters().any(|cluster| Some(cluster) != clusters().next());
    with_clusters(table, several, clusters())
}
