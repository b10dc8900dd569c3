//! What is told of the demo, and whether it proved its case. No clock, no I/O: snapshots in, words out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reach::{self, Reach};
use super::scene::{BLUE, GREEN, PORT, RED, Role};
use crate::model::{AgentCost, Breach, LedgerCell, Pod, Snapshot, State};
use crate::output::{Paint, Tone};
use crate::show::breaches::tone;
use crate::text::{bytes, cores, cores_or_dot, percent, times};

const NOISY_NEIGHBOUR: &str = "NoisyNeighbour";
/// Who is named where no tenant is at fault.
const SYSTEM: &str = "system";

/// The whole demo as one document: `partywall demo --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub proved: bool,
    /// Empty where proved.
    pub why_not: Vec<String>,
    pub noisy_seconds: u32,
    /// From the start of red's work until the breach fired.
    pub seconds_to_firing: Option<f64>,
    /// From the end of red's work until the breach was resolved.
    pub seconds_to_resolved: Option<f64>,
    /// Every breach that was seen, as it was last.
    pub breaches: Vec<Breach>,
    /// By tenant pair, over the last window in which red worked.
    pub ledger: Vec<LedgerCell>,
    /// The second act.
    pub flat_network: reach::Told,
    pub agent: Option<AgentCost>,
    /// What could not be removed. Empty: every trace is gone.
    pub left_behind: Vec<String>,
}

/// Everything seen so far.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// By fingerprint and beginning: one that was resolved may come again under its fingerprint.
    breaches: BTreeMap<(String, u64), Breach>,
    /// At the end of red's work.
    peak: Option<Snapshot>,
    last: Option<Snapshot>,
    pub red_started_unix_seconds: Option<f64>,
    pub red_stopped_unix_seconds: Option<f64>,
    pub reach: Reach,
}

impl Witness {
    /// Takes note, and tells the breaches that changed. What is pending is a suspicion, told only where it is what the demo is about.
    pub(crate) fn observe(&mut self, snapshot: Snapshot) -> Vec<Breach> {
        let mut changed = Vec::new();
        for breach in snapshot.breaches.iter().filter(|breach| ours(breach)) {
            // Times are positive, so their bits are in their order.
            let key = (breach.fingerprint.clone(), breach.since_unix_seconds.to_bits());
            let known = self.breaches.insert(key, breach.clone());
            let told = breach.state != State::Pending || breach.kind == NOISY_NEIGHBOUR;
            if told && known.is_none_or(|known| known.state != breach.state) {
                changed.push(breach.clone());
            }
        }
        if self.red_started_unix_seconds.is_some() && self.red_stopped_unix_seconds.is_none() {
            self.peak = Some(snapshot.clone());
        }
        self.last = Some(snapshot);
        changed
    }

    /// Red's breach against blue, once it fired.
    fn proof(&self) -> Option<&Breach> {
        self.breaches
            .values()
            .find(|breach| is_case(breach, BLUE.tenant) && breach.firing_unix_seconds.is_some())
    }

    pub(crate) fn fired(&self) -> bool {
        self.proof().is_some()
    }

    /// Red was named for its connection to blue.
    pub(crate) fn reached(&self) -> Option<&Breach> {
        self.breaches.values().find(|breach| self.reach.explains(breach))
    }

    /// What red did that made it, and when.
    pub(crate) fn cause(&self, breach: &Breach) -> Option<(&'static str, f64)> {
        if breach.tenant != RED.tenant {
            None
        } else if reach::is_of(breach) {
            Some(("connected", self.reach.began_unix_seconds?))
        } else {
            Some(("started", self.red_started_unix_seconds?))
        }
    }

    /// Nothing by red is pending or firing any more.
    pub(crate) fn is_over(&self) -> bool {
        let listed = self.last.iter().flat_map(|last| &last.breaches);
        listed
            .filter(|breach| breach.tenant == RED.tenant)
            .all(|breach| breach.state == State::Resolved)
    }

    /// Why the case is not proved; empty where it is.
    pub(crate) fn why_not(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.proof() {
            None => reasons.push(format!("no {NOISY_NEIGHBOUR} by red against blue fired")),
            Some(proof) if self.resolved(proof).is_none() => {
                reasons.push(format!(
                    "{NOISY_NEIGHBOUR} by red against blue was not resolved after red stopped"
                ));
            }
            Some(_) => {}
        }
        for breach in self.breaches.values() {
            // What else runs on a busy host may make blue and green wait, too: that is said as the system's, and names nobody.
            let truth = is_case(breach, BLUE.tenant)
                || is_case(breach, GREEN.tenant)
                || self.reach.explains(breach)
                || breach.tenant == SYSTEM;
            if !truth && breach.firing_unix_seconds.is_some() {
                reasons.push(format!(
                    "{} by {} fired, too: {}",
                    breach.kind, breach.tenant, breach.summary
                ));
            }
        }
        reasons
    }

    fn resolved(&self, proof: &Breach) -> Option<f64> {
        let stopped = self.red_stopped_unix_seconds?;
        proof
            .resolved_unix_seconds
            .map(|resolved| resolved - stopped)
            .filter(|seconds| *seconds >= 0.0)
    }

    /// `ended_by`: the error that ended it before its end.
    pub(crate) fn document(
        &self,
        noisy_seconds: u32,
        ended_by: Option<String>,
        left_behind: Vec<String>,
    ) -> Document {
        let proof = self.proof();
        let mut why_not = self.why_not();
        why_not.extend(self.reach.why_not(self.reached()));
        why_not.extend(ended_by);
        why_not.extend(left_behind.iter().map(|trace| format!("left behind: {trace}")));
        Document {
            proved: why_not.is_empty(),
            why_not,
            noisy_seconds,
            seconds_to_firing: proof.and_then(|proof| {
                Some(rounded(
                    proof.firing_unix_seconds? - self.red_started_unix_seconds?,
                ))
            }),
            seconds_to_resolved: proof.and_then(|proof| self.resolved(proof)).map(rounded),
            breaches: self.breaches.values().cloned().collect(),
            ledger: self
                .peak
                .as_ref()
                .map_or_else(Vec::new, |peak| peak.ledger.clone()),
            flat_network: self.reach.told(self.reached()),
            agent: self.cost().cloned(),
            left_behind,
        }
    }

    fn cost(&self) -> Option<&AgentCost> {
        self.last.as_ref()?.nodes.first()?.agent.as_ref()
    }

    /// What was proved, a paragraph for each act.
    pub(crate) fn proved(&self, document: &Document) -> String {
        let Some(peak) = &self.peak else {
            return String::new();
        };
        let blue = pod(peak, &BLUE);
        let red = pod(peak, &RED);
        let by_red = ledger(peak, BLUE.tenant, RED.tenant);
        format!(
            "Proved: while blue ran {} of its promised {} cores, it stood in the queue for {} cores more, and {} of \
             that wait is entered in the ledger against red, which ran {} cores on a promise of {}; red was named \
             {:.1} s after it started.\nGreen shared the same CPU all the time and was not named, and neither was \
             anybody else: the wait is measured at each context switch, against whoever ran, and nothing is guessed.\n\
             Proved, too: {} reached {} on port {PORT} with nothing in the way, and was named {:.1} s after it \
             connected. The policy above would close that; it is a suggestion, and nothing applied it.",
            cores(blue.used_cores),
            cores(blue.entitled_cores),
            cores(blue.wait_cores),
            percent(by_red / blue.wait_cores),
            cores(red.used_cores),
            cores(red.entitled_cores),
            document.seconds_to_firing.unwrap_or(f64::NAN),
            RED.label(),
            BLUE.label(),
            self.reached()
                .and_then(|breach| self.reach.seconds_to_firing(breach))
                .unwrap_or(f64::NAN),
        )
    }

    pub(crate) fn price(&self) -> String {
        let Some(cost) = self.cost() else {
            return "Cost: the agent did not say.".to_owned();
        };
        let switch = cost
            .programs
            .iter()
            .find(|program| program.name.contains("switch"));
        let per_switch = match switch.and_then(|program| Some((program.ns_per_run?, program.runs))) {
            Some((nanoseconds, runs)) => format!("{nanoseconds:.0} ns per context switch ({runs} of them)"),
            None => "time per context switch unknown (kernel.bpf_stats_enabled is 0)".to_owned(),
        };
        format!(
            "Cost: {} cores, {per_switch}, {} of memory ({}: agent, aggregator and this demo in one process), {} of \
             eBPF maps.",
            cores(cost.used_cores),
            bytes(cost.memory_bytes),
            cost.memory_source,
            bytes(cost.map_bytes),
        )
    }
}

/// Milliseconds are all that wall-clock times are good for.
pub(crate) fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// One that concerns a tenant of the demo: on a busy host there may be others.
fn ours(breach: &Breach) -> bool {
    [&BLUE, &GREEN, &RED].iter().any(|role| breach.names(role.tenant))
}

/// What the demo is there to show.
fn is_case(breach: &Breach, against: &str) -> bool {
    breach.kind == NOISY_NEIGHBOUR && breach.tenant == RED.tenant && breach.against == against
}

fn pod(snapshot: &Snapshot, role: &Role) -> Pod {
    let found = snapshot
        .pods
        .iter()
        .find(|pod| pod.namespace == role.tenant && pod.name == role.pod);
    found.cloned().unwrap_or_default()
}

fn ledger(snapshot: &Snapshot, waiter: &str, runner: &str) -> f64 {
    let cells = snapshot
        .ledger
        .iter()
        .filter(|cell| cell.waiter == waiter && cell.runner == runner);
    cells.map(|cell| cell.cores).sum::<f64>() + 0.0
}

/// Whether all three are known by name: before that, nothing can be said of them.
pub(crate) fn knows_the_cast(snapshot: &Snapshot) -> bool {
    [&BLUE, &GREEN]
        .iter()
        .all(|role| pod(snapshot, role).used_cores > 0.0)
}

/// Above the [`figures`].
pub(crate) fn headings() -> String {
    let tenants = columns("", "blue", "", "", "", "green", "", "red");
    let names = columns(
        "time",
        "ran",
        "waited",
        "while red ran",
        "slower",
        "ran",
        "waited",
        "ran",
    );
    format!("{tenants}\n{names}   (cores over the last 10 s)\n")
}

/// One second as one line.
pub(crate) fn figures(second: u64, snapshot: &Snapshot, paint: Paint) -> String {
    let (blue, green, red) = (pod(snapshot, &BLUE), pod(snapshot, &GREEN), pod(snapshot, &RED));
    let by_red = ledger(snapshot, BLUE.tenant, RED.tenant);
    let line = columns(
        &format!("{second} s"),
        &cores(blue.used_cores),
        &cores_or_dot(blue.wait_cores),
        &cores_or_dot(by_red),
        &blue.slowdown.map_or_else(|| "-".to_owned(), times),
        &cores(green.used_cores),
        &cores_or_dot(green.wait_cores),
        &cores_or_dot(red.used_cores),
    );
    let hot = if by_red >= 0.01 { Tone::Warn } else { Tone::Plain };
    format!("{}\n", paint.tint(hot, &line))
}

#[allow(
    clippy::too_many_arguments,
    reason = "one for each column, named where they are given"
)]
fn columns(
    time: &str,
    ran: &str,
    waited: &str,
    by_red: &str,
    slower: &str,
    green: &str,
    green_waited: &str,
    red: &str,
) -> String {
    format!("{time:>6}{ran:>8}{waited:>8}{by_red:>15}{slower:>8}{green:>9}{green_waited:>8}{red:>9}")
}

/// One change of one breach; `cause`: what red did that made it, and when.
pub(crate) fn change(second: u64, breach: &Breach, cause: Option<(&str, f64)>, paint: Paint) -> String {
    let state = paint.tint(tone(breach.state), &breach.state.name().to_uppercase());
    let against = if breach.against.is_empty() {
        String::new()
    } else {
        format!(" against {}", breach.against)
    };
    let mut line = format!(
        "  {second:>2} s   {state} {} by {}{against}",
        breach.kind, breach.tenant
    );
    if breach.state == State::Firing {
        if let (Some(firing), Some((did, at))) = (breach.firing_unix_seconds, cause) {
            line.push_str(&format!(", {:.1} s after red {did}", firing - at));
        }
        line.push_str(&format!("\n         {}", breach.summary));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests;
