//! `partywall headroom`: use against capacity by node pool and zone, and whether a zone may be lost.

mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::args::{Common, HeadroomArgs};
use crate::client::Client;
use crate::exit::Outcome;
use crate::output::{Paint, Tone, print, print_json};
use crate::show::with_clusters;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{self, bytes, cores, percent, seconds, wrapped};
pub(crate) use model::Headroom;
use model::{Fit, Pool, Room};

pub(crate) async fn run(common: &Common, args: &HeadroomArgs) -> Outcome {
    let mut client = Client::connect(common, &args.of).await?;
    let headroom = client.headroom().await?;
    if common.json {
        return Ok(print_json(&headroom)?);
    }
    Ok(print(&tell(&headroom, Paint::for_stdout(), text::columns()))?)
}

/// Of a bar: what pods may have.
const BAR: usize = 20;

fn tell(headroom: &Headroom, paint: Paint, columns: usize) -> String {
    if headroom.pools.is_empty() {
        return "no node is known: no Node object, and no agent has reported\n".to_owned();
    }
    let clusters: BTreeSet<&str> = headroom.pools.iter().map(|pool| pool.cluster.as_str()).collect();
    let several = clusters.len() > 1;
    let over = match headroom.over_seconds {
        s if s > 0.0 => format!("the highest minute of the last {}", seconds(s)),
        _ => "what is used now: no minute is over yet".to_owned(),
    };
    let mark = percent(headroom.mark);
    let mut out = wrapped(
        &format!("Use is that of pods, {over}; of what pods may have (allocatable). The mark is at {mark}."),
        "",
        "",
        columns,
    );
    out.push('\n');
    out += &table(headroom, several).to_text(paint);
    let doubts = headroom.pools.iter().flat_map(|pool| {
        let of = named(pool, several);
        pool.doubts.iter().map(move |doubt| format!("{of}: {doubt}"))
    });
    for doubt in doubts {
        out += &paint.tint(Tone::Warn, wrapped(&doubt, "  ! ", "    ", columns).trim_end());
        out.push('\n');
    }
    if headroom.zones.is_empty() {
        return out + "\nno Node object names a zone: what the loss of one would mean is not known\n";
    }
    out += &format!("\n{}\n", paint.tint(Tone::Strong, "If a zone were lost"));
    for zone in &headroom.zones {
        let of = match several {
            true => format!(" ({})", zone.cluster),
            false => String::new(),
        };
        let (word, tone) = match zone.by_use.fits {
            _ if zone.pods == 0 => ("fits", Tone::Good),
            Some(true) => ("fits", Tone::Good),
            Some(false) => ("does not fit", Tone::Bad),
            None => ("not known", Tone::Warn),
        };
        out += &format!(
            "  {}{of}: {}\n",
            paint.tint(Tone::Strong, &zone.zone),
            paint.tint(tone, word)
        );
        out += &wrapped(&zone.summary, "    ", "    ", columns);
        for (by, fit) in [("by use", &zone.by_use), ("by requests", &zone.by_requests)] {
            out += &wrapped(&fit_words(by, fit), "    ", "      ", columns);
        }
        let tenants: Vec<String> = zone
            .tenants
            .iter()
            .map(|t| format!("{} ({} of {} pods)", t.tenant, t.pods_left_over, t.pods))
            .collect();
        if !tenants.is_empty() {
            out += &wrapped(
                &format!("no room for: {}", tenants.join(", ")),
                "    ",
                "      ",
                columns,
            );
        }
    }
    out += &wrapped(
        "Taints are held against tolerations. Node selectors, affinities, volumes and disruption budgets are not looked at: a pod that they bind to the zone is lost with it.",
        "  ",
        "  ",
        columns,
    );
    out
}

fn fit_words(by: &str, fit: &Fit) -> String {
    let verdict = match fit.fits {
        Some(true) => "fits",
        Some(false) => "does not fit",
        None => "not known",
    };
    format!(
        "{by}: {verdict}, {}; {} cores and {} to move, {} cores and {} free up to the mark",
        fit.why,
        cores(fit.moved_cores),
        bytes(fit.moved_memory_bytes as u64),
        cores(fit.free_cores),
        bytes(fit.free_memory_bytes as u64)
    )
}

fn named(pool: &Pool, several: bool) -> String {
    let part = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    };
    let name = format!("{}/{}", part(&pool.zone), part(&pool.pool));
    match several {
        true => format!("{} {name}", pool.cluster),
        false => name,
    }
}

/// What it is called, how much there is, and how that is shown.
type Resource<'a> = (&'static str, &'a Room, fn(f64) -> String);

fn table(headroom: &Headroom, several: bool) -> Table {
    let mut rows = Vec::new();
    let mut clusters = Vec::new();
    for pool in &headroom.pools {
        let nodes = match pool.silent_nodes {
            0 => pool.nodes.to_string(),
            silent => format!("{} ({silent} silent)", pool.nodes),
        };
        let resources: [Resource<'_>; 2] = [
            ("cpu", &pool.cpu, cores),
            ("memory", &pool.memory, |n| bytes(n.max(0.0) as u64)),
        ];
        for (index, (name, room, show)) in resources.into_iter().enumerate() {
            let first = |text: &str| match (index, text) {
                (0, "") => "-".to_owned(),
                (0, text) => text.to_owned(),
                _ => String::new(),
            };
            let known = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), show);
            let share = |value: Option<f64>| {
                let share = value.zip(room.capacity).filter(|(_, capacity)| *capacity > 0.0);
                share.map(|(value, capacity)| value / capacity)
            };
            let most = share(room.used_most);
            rows.push(Row {
                cells: vec![
                    Cell::new(first(&pool.zone)),
                    Cell::new(first(&pool.pool)),
                    Cell::new(first(&nodes)),
                    Cell::new(name),
                    Cell::new(known(room.used_now)),
                    Cell::new(known(room.used_most)),
                    Cell::toned(
                        most.map_or_else(|| "?".to_owned(), percent),
                        tone(most, headroom.mark),
                    ),
                    Cell::toned(bar(most, headroom.mark), tone(most, headroom.mark)),
                    Cell::new(known(room.capacity)),
                    Cell::new(show(room.requested)),
                    Cell::new(share(Some(room.requested)).map_or_else(|| "?".to_owned(), percent)),
                ],
                note: None,
            });
            clusters.push(if index == 0 { pool.cluster.as_str() } else { "" });
        }
    }
    let table = Table {
        columns: vec![
            Column::name("ZONE", 0),
            Column::name("POOL", 0),
            Column::figure("NODES", "", 0),
            Column::name("OF", 0),
            Column::figure("NOW", "", 0),
            Column::figure("MOST", "", 0),
            Column::figure("SHARE", "", 0),
            Column::name("", 0),
            Column::figure("CAPACITY", "", 0),
            Column::figure("REQUESTED", "", 0),
            Column::figure("SHARE", "", 0),
        ],
        rows,
    };
    with_clusters(table, several, clusters)
}

fn tone(share: Option<f64>, mark: f64) -> Tone {
    match share {
        None => Tone::Warn,
        Some(share) if share > mark => Tone::Bad,
        Some(_) => Tone::Good,
    }
}

/// `[██████        |   ]`: the stroke is the mark.
fn bar(share: Option<f64>, mark: f64) -> String {
    let at = |share: f64| (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let stroke = at(mark).min(BAR - 1);
    // Above the mark it is seen to be above.
    let least = |share: f64| {
        if share > mark {
            stroke + 2
        } else {
            usize::from(share > 0.0)
        }
    };
    let full = share.map_or(0, |share| at(share).max(least(share)));
    let cell = |index: usize| match (index < full, index == stroke) {
        (_, true) => '|',
        (true, false) => '█',
        (false, false) => ' ',
    };
    let cells: String = (0..BAR).map(cell).collect();
    format!("[{cells}]")
}
