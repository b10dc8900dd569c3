//! The evidence in sections, wrapped to the terminal. YAML is never wrapped.

use super::model::{Evidence, Party};
use crate::model::State;
use crate::output::{Paint, Tone};
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, cores, percent, wrapped};

/// Of the widest part of a wait.
const BAR: usize = 24;

pub(super) struct Prose {
    paint: Paint,
    columns: usize,
}

impl Prose {
    pub(super) fn new(paint: Paint, columns: usize) -> Self {
        Self { paint, columns }
    }

    /// `cluster`: empty where it says nothing.
    pub(super) fn tell(&self, evidence: &Evidence, cluster: &str) -> String {
        let mut out = self.head(evidence, cluster);
        self.section(&mut out, "What happened", &self.timeline(evidence));
        let waited: f64 = evidence.ledger.iter().map(|slice| slice.cores).sum();
        let title = format!(
            "Who ran while {} waited ({} cores of waiting)",
            evidence.breach.subject,
            cores(waited)
        );
        self.section(&mut out, &title, &self.ledger(evidence));
        self.section(
            &mut out,
            "Who is concerned: what they use, were promised, and may use",
            &self.parties(evidence),
        );
        self.section(&mut out, "Why it is a breach", &self.rules(evidence));
        let title = "What would have to change (any one of these; nothing is applied)";
        self.section(&mut out, title, &self.remedies(evidence));
        let doubts = evidence
            .doubts
            .iter()
            .map(|doubt| wrapped(doubt, "  - ", "    ", self.columns));
        self.section(&mut out, "What is not known", &doubts.collect::<String>());
        out
    }

    fn head(&self, evidence: &Evidence, cluster: &str) -> String {
        let breach = &evidence.breach;
        let tone = match breach.state {
            State::Firing => Tone::Bad,
            State::Pending => Tone::Warn,
            _ => Tone::Dim,
        };
        let against = match breach.against.as_str() {
            "" => String::new(),
            against => format!(" against {against}"),
        };
        let of = match cluster {
            "" => String::new(),
            cluster => format!(" of cluster {cluster}"),
        };
        format!(
            "{} {} {}: {}{against}{of}\n\n{}",
            self.paint.tint(tone, breach.state.name()),
            self.paint.tint(Tone::Strong, &breach.kind),
            breach.fingerprint,
            breach.tenant,
            wrapped(&breach.summary, "  ", "  ", self.columns)
        )
    }

    /// Nothing where there is nothing to say.
    fn section(&self, out: &mut String, title: &str, content: &str) {
        if !content.is_empty() {
            out.push_str(&format!("\n{}\n{content}", self.paint.tint(Tone::Strong, title)));
        }
    }

    fn timeline(&self, evidence: &Evidence) -> String {
        let line = |moment: &super::model::Moment| {
            let head = format!("  {}  ", moment.at);
            wrapped(
                &moment.what,
                &head,
                &" ".repeat(head.chars().count()),
                self.columns,
            )
        };
        evidence.timeline.iter().map(line).collect()
    }

    fn ledger(&self, evidence: &Evidence) -> String {
        let most = evidence.ledger.iter().map(|s| s.cores).fold(0.0, f64::max);
        let wide = evidence.ledger.iter().map(|s| s.runner.chars().count()).max();
        let wide = wide.unwrap_or(0);
        let line = |slice: &super::model::Slice| {
            let length = if most > 0.0 {
                (slice.cores / most * BAR as f64).ceil() as usize
            } else {
                0
            };
            let blanks = " ".repeat(wide.saturating_sub(slice.runner.chars().count()));
            let stolen = crate::show::ledger::is_stolen(&evidence.breach.against, &slice.runner);
            let tone = if stolen { Tone::Bad } else { Tone::Dim };
            format!(
                "  {}{blanks}  {:>6}  {:>5}  {}\n",
                slice.runner,
                cores(slice.cores),
                percent(slice.share),
                self.paint.tint(tone, &"█".repeat(length.min(BAR)))
            )
        };
        evidence.ledger.iter().map(line).collect()
    }

    fn parties(&self, evidence: &Evidence) -> String {
        if evidence.parties.is_empty() {
            return String::new();
        }
        let row = |party: &Party| {
            let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), cores);
            let sized = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), bytes);
            let who = match party.pod.as_str() {
                "" => party.tenant.clone(),
                pod => pod.to_owned(),
            };
            Row {
                cells: vec![
                    Cell::new(party.role.as_str()),
                    Cell::toned(who, Tone::Strong),
                    Cell::new(known(party.used_cores)),
                    Cell::new(known(party.entitled_cores)),
                    Cell::new(known(party.limit_cores.or(party.quota_cores))),
                    Cell::new(sized(party.memory_bytes)),
                    Cell::new(sized(party.entitled_memory_bytes)),
                    Cell::new(sized(party.limit_memory_bytes.or(party.quota_memory_bytes))),
                    Cell::toned(party.node.as_str(), Tone::Dim),
                ],
                note: None,
            }
        };
        let table = Table {
            columns: vec![
                Column::name("ROLE", 0),
                Column::name("TENANT OR POD", 0),
                Column::figure("CPU", "cores", 0),
                Column::figure("PROMISED", "", 0),
                Column::figure("AT MOST", "", 0),
                Column::figure("MEMORY", "", 0),
                Column::figure("PROMISED", "", 0),
                Column::figure("AT MOST", "", 0),
                Column::name("NODE", 0),
            ],
            rows: evidence.parties.iter().map(row).collect(),
        };
        indented(&table.to_text(self.paint), "  ")
    }

    fn rules(&self, evidence: &Evidence) -> String {
        let line = |rule: &super::model::Rule| {
            let head = format!("  {}\n", self.paint.tint(Tone::Strong, &rule.rule));
            let asks = wrapped(&rule.asks, "    asks:   ", "            ", self.columns);
            let found = wrapped(&rule.found, "    found:  ", "            ", self.columns);
            format!("{head}{asks}{found}")
        };
        evidence.rules.iter().map(line).collect()
    }

    fn remedies(&self, evidence: &Evidence) -> String {
        let mut out = String::new();
        for (index, remedy) in evidence.remedies.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            let head = format!("  {}. ", index + 1);
            let what = format!(
                "{} ({}): {}",
                remedy.by,
                remedy.kind.replace('_', " "),
                remedy.what
            );
            out += &wrapped(&what, &head, "     ", self.columns);
            out += &wrapped(&remedy.why, "     ", "     ", self.columns);
            if !remedy.yaml.is_empty() {
                out.push('\n');
                out += &indented(&self.paint.tint(Tone::Dim, remedy.yaml.trim_end()), "     ");
            }
        }
        out
    }
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// The remedies' YAML alone, each after a comment that says what it is: one stream of documents.
pub(super) fn yaml(evidence: &Evidence) -> String {
    let mut out = String::new();
    for (index, remedy) in evidence.remedies.iter().enumerate() {
        if index > 0 {
            out.push_str("---\n");
        }
        let head = format!("# {} of {}: ", index + 1, evidence.remedies.len());
        out += &format!("{head}{} ({}): {}\n", remedy.by, remedy.kind, remedy.what);
        if remedy.yaml.is_empty() {
            out.push_str("# no object does it\n");
        }
        out += &remedy.yaml;
    }
    if out.is_empty() {
        out.push_str("# nothing is known that would change it\n");
    }
    out
}
