//! Tables for spreadsheets. A cell that a spreadsheet would take for a formula begins with an apostrophe: names come from elsewhere, and a pod may be
//! called what it likes.

use std::borrow::Cow;

use super::model::{Audit, Entry};
use crate::text::utc;

/// What spreadsheets take for the beginning of a formula, or skip before one.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A text that is safe in a spreadsheet.
pub(super) fn cell(text: &str) -> Cow<'_, str> {
    if text.starts_with(FORMULA) {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Rows below a heading.
pub(super) struct Sheet(::csv::Writer<Vec<u8>>);

impl Sheet {
    pub(super) fn new(heading: &[&str]) -> anyhow::Result<Self> {
        let mut sheet = ::csv::Writer::from_writer(Vec::new());
        sheet.write_record(heading)?;
        Ok(Self(sheet))
    }

    pub(super) fn row<'a>(&mut self, cells: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
        let cells = cells.into_iter().map(cell);
        Ok(self.0.write_record(cells.map(Cow::into_owned))?)
    }

    pub(super) fn text(self) -> anyhow::Result<String> {
        let bytes = self.0.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(String::from_utf8(bytes)?)
    }
}

pub(super) fn history(entries: &[Entry]) -> anyhow::Result<String> {
    let mut sheet = Sheet::new(&[
        "fired",
        "resolved",
        "end_unknown",
        "state",
        "kind",
        "cluster",
        "tenant",
        "against",
        "node",
        "subject",
        "summary",
        "covered",
        "confidence",
        "fingerprint",
        "fired_sequence",
        "resolved_sequence",
    ])?;
    for entry in entries {
        let breach = &entry.breach;
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        sheet.row([
            breach.firing_unix_seconds.map(utc).unwrap_or_default().as_str(),
            breach.resolved_unix_seconds.map(utc).unwrap_or_default().as_str(),
            &entry.end_unknown,
            breach.state.name(),
            &breach.kind,
            &breach.cluster,
            &breach.tenant,
            &breach.against,
            &breach.node,
            &breach.subject,
            &breach.summary,
            &breach.covered.to_string(),
            &breach.confidence.map(|c| c.to_string()).unwrap_or_default(),
            &breach.fingerprint,
            &number(entry.fired_sequence),
            &number(entry.resolved_sequence),
        ])?;
    }
    sheet.text()
}

/// A row for each crossing and each gap; of a pair without either, one that says so.
pub(super) fn audit(audit: &Audit) -> anyhow::Result<String> {
    let mut sheet = Sheet::new(&[
        "cluster",
        "from_tenant",
        "to_tenant",
        "reached",
        "covered",
        "what",
        "verdict_or_reason",
        "delivered",
        "bytes",
        "packets",
        "connections",
        "first",
        "last",
        "node",
    ])?;
    for pair in &audit.pairs {
        let covered = pair.covered.to_string();
        let head = [
            pair.cluster.as_str(),
            &pair.from,
            &pair.to,
            pair.reached.word(),
            &covered,
        ];
        for crossing in &pair.crossings {
            let [bytes, packets, connections] =
                [crossing.bytes, crossing.packets, crossing.connections].map(|n| n.to_string());
            let delivered = crossing.delivered.to_string();
            let tail = [
                "crossing",
                &crossing.verdict,
                &delivered,
                &bytes,
                &packets,
                &connections,
                &crossing.first,
                &crossing.last,
                "",
            ];
            sheet.row(head.into_iter().chain(tail))?;
        }
        for gap in &pair.gaps {
            let tail = ["gap", &gap.reason, "", "", "", "", &gap.from, &gap.to, &gap.node];
            sheet.row(head.into_iter().chain(tail))?;
        }
        if pair.crossings.is_empty() && pair.gaps.is_empty() {
            let tail = ["nothing", "", "", "", "", "", &audit.from, &audit.to, ""];
            sheet.row(head.into_iter().chain(tail))?;
        }
    }
    sheet.text()
}
