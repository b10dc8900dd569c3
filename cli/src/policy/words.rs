//! An answer as a person reads it.

use partywall_aggregator_core::fence::{Direction, Explanation, Says, Stand, Trace};

use super::answer::{Answer, Party, Side};
use crate::output::{Paint, Tone};
use crate::text::clean;

pub(super) fn text(answer: &Answer, explanation: &Explanation) -> String {
    let mut lines = vec![headline(answer)];
    let decision = &explanation.decision;
    for (direction, party, side, stand, traces) in [
        (
            Direction::Egress,
            &answer.from,
            &answer.egress,
            &decision.egress,
            &explanation.egress,
        ),
        (
            Direction::Ingress,
            &answer.to,
            &answer.ingress,
            &decision.ingress,
            &explanation.ingress,
        ),
    ] {
        lines.push(format!(
            "{} of {}: {}",
            direction.as_str(),
            party.name,
            side.reason
        ));
        lines.extend(details(direction, side, stand, traces));
    }
    lines.extend(answer.notes.iter().map(|note| format!("note: {note}")));
    let mut text = lines
        .iter()
        .map(|line| clean(line))
        .collect::<Vec<_>>()
        .join("\n");
    // The one word that is looked for; nothing else in the line may bear colour.
    text = text.replacen(
        answer.verdict,
        &Paint::for_stdout().tint(tone(answer.verdict), answer.verdict),
        1,
    );
    text.push('\n');
    text
}

fn headline(answer: &Answer) -> String {
    let port = answer.port.map_or_else(
        || answer.protocol.clone(),
        |port| format!("{port}/{}", answer.protocol),
    );
    let why = match answer.verdict {
        "open" => ": no policy bears upon either end, the network lets it through",
        _ => "",
    };
    format!(
        "{}: {} to {}, {port}{why}",
        answer.verdict,
        party(&answer.from),
        party(&answer.to)
    )
}

fn party(party: &Party) -> String {
    match &party.tenant {
        Some(tenant) => format!("{} (tenant {tenant})", party.name),
        None => format!("{} (outside)", party.name),
    }
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "allowed" => Tone::Good,
        "denied" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn details(direction: Direction, side: &Side, stand: &Stand, traces: &[Trace]) -> Vec<String> {
    match (stand, &side.by) {
        (Stand::Admits(_), Some(by)) => {
            let peer = by.peer.zip(by.peer_is.as_ref());
            let peer = peer.map(|(i, is)| format!("  {}[{i}]: {is}", direction.peers_field()));
            let port = by.port.zip(by.port_is.as_ref());
            let port = port.map(|(i, is)| format!("  ports[{i}]: {is}"));
            peer.into_iter().chain(port).collect()
        }
        _ => traces.iter().map(|trace| refused(direction, trace)).collect(),
    }
}

fn refused(direction: Direction, trace: &Trace) -> String {
    let direction = direction.as_str();
    let says = match &trace.says {
        Says::Admits(admission) => format!("admits by {admission}"),
        Says::Unknown(doubt) => doubt.to_string(),
        Says::NoRules => format!("has no {direction} rules: it admits nothing"),
        Says::Misses(misses) => {
            let each = misses
                .iter()
                .map(|miss| format!("{direction}[{}] {miss}", miss.rule));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    format!("  {}: {says}", trace.policy)
}
