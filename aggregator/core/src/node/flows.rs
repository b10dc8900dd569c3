//! What one agent run says of flows: which it announced, and how far their counters are.
//!
//! Only what must be known to believe the next report is here. What a flow means, and whose traffic it is, is [`crate::traffic`]'s; it is told by
//! way of [`News`], which is taken over right after a report was counted.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::ingest::Context;
use super::slot::Kind;
use crate::clocks::Offset;
use crate::limits::{MAX_FLOWS_PER_NODE, MAX_INCREMENT_NS, MAX_INTERVAL_NS};
use crate::losses::Losses;
use crate::report::{Flow, Refusal, Report, Traffic};
use crate::trail::cover::Heard;
use crate::trail::{reason, slot_of};

/// What the agent's coverage calls the programs that count flows.
const FEATURE: &str = "flows";
/// What an agent's losses of flows are counted in.
const FLOW_UNITS: [&str; 2] = ["flows", "places"];

/// Flows of the current agent run.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// Apart from the tree, whose nodes are half empty where indices are handed out in order.
    known: BTreeMap<u32, Box<Known>>,
    /// By entity.
    folded: BTreeMap<u32, Traffic>,
    pub(crate) news: Vec<News>,
    /// The aggregator's monotonic clock when the run was first known to report flows.
    pub(crate) since_ns: Option<u64>,
    offset: Offset,
    /// When the last report was captured: on the aggregator's monotonic clock, by the node's wall clock.
    pub(crate) at_ns: u64,
    pub(crate) captured_unix_ns: u64,
    /// `at_ns` of the report before: what grew, grew since. 0: there was none.
    pub(crate) since_report_ns: u64,
    /// Between the last two reports; 0 before there are two.
    pub(crate) interval_ns: u64,
    /// Places of a run that ended.
    pub(crate) orphans: Vec<u32>,
    mark: u64,
    /// Flows announced up to this sequence may have been counted before the aggregator's restart.
    anew_until: u64,
    /// Of the last report and the one before, on the aggregator's wall clock. `None`: it was set since.
    dated: Option<(u64, u64)>,
    /// What the last report was to the trail; taken over with the news.
    pub(crate) heard: Option<Heard>,
    /// What the agent itself lost of flows.
    lost: u64,
    /// Flows were referred to that are not known here: what is announced next may have been counted before.
    missed: bool,
}

#[derive(Debug)]
struct Known {
    flow: Flow,
    owner: Kind,
    last: Traffic,
    /// `last` holds a value.
    counted: bool,
    /// The first value is a baseline.
    old: bool,
    /// Its place in [`crate::traffic`].
    place: Option<u32>,
    mark: u64,
}

/// What a report changed.
#[derive(Debug)]
pub(crate) enum News {
    Begun(u32),
    Grew {
        index: u32,
        now: Traffic,
        /// The first value known, where it is a baseline.
        base: Option<Traffic>,
        /// The value before.
        before: Traffic,
    },
    Ended(u32),
    Folded {
        owner: Kind,
        grown: Traffic,
    },
}

/// References that a report makes to what was never announced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missing {
    pub(super) flows: u64,
    pub(super) entities: u64,
}

fn refuse<T>(reason: &'static str, field: String, problem: String) -> Result<T, Refusal> {
    Err(Refusal {
        reason,
        field,
        problem,
    })
}

impl Flows {
    /// The slots, in one of which happened what the last report tells. `None`: it cannot be told in which.
    pub(crate) fn moment(&self) -> Option<(u64, u64)> {
        let (since_ns, told_ns) = self.dated?;
        // At the very end of a slot is in it.
        let last = slot_of(told_ns.saturating_sub(1));
        Some((slot_of(since_ns).min(last), last))
    }

    pub(crate) fn place(&self, index: u32) -> Option<u32> {
        self.known.get(&index)?.place
    }

    pub(crate) fn set_place(&mut self, index: u32, place: u32) {
        if let Some(known) = self.known.get_mut(&index) {
            known.place = Some(place);
        }
    }

    /// Whose it is.
    pub(crate) fn owner(&self, index: u32) -> Option<&Kind> {
        self.known.get(&index).map(|k| &k.owner)
    }

    /// What it was announced as, and whose it is.
    pub(crate) fn announced(&self, index: u32) -> Option<(Flow, Kind)> {
        self.known.get(&index).map(|k| (k.flow, k.owner.clone()))
    }

    /// Its place is gone; a later word of it is one of something never announced.
    pub(crate) fn forget(&mut self, index: u32) {
        self.known.remove(&index);
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.known.values().filter_map(|k| k.place)
    }

    /// After a restart: what the agent tells again is not from this moment on.
    pub(super) fn begin_anew(&mut self, last_sequence: u64) {
        self.missed = true;
        self.anew_until = last_sequence.saturating_add(super::ingest::CATCH_UP_REPORTS);
    }

    fn is_full(&self) -> bool {
        self.known.len() >= MAX_FLOWS_PER_NODE
    }

    /// Announcements against what the indices mean already, and counters against the last ones.
    pub(super) fn check(&mut self, report: &Report) -> Result<(), Refusal> {
        let mut here: BTreeMap<u32, &Flow> = BTreeMap::new();
        for (i, flow) in report.flows.iter().enumerate() {
            let before = self.known.get(&flow.index).map(|k| &k.flow);
            if before
                .or(here.insert(flow.index, flow))
                .is_some_and(|before| before != flow)
            {
                let problem = format!("{} was announced as something else in this agent run", flow.index);
                return refuse("flow_reused", format!("flows[{i}].index"), problem);
            }
        }
        self.mark += 1;
        for (i, sample) in report.flow_samples.iter().enumerate() {
            let Some(known) = self.known.get_mut(&sample.flow) else {
                continue;
            };
            if std::mem::replace(&mut known.mark, self.mark) == self.mark {
                let problem = format!("{} is listed twice", sample.flow);
                return refuse("listed_twice", format!("flow_samples[{i}].flow"), problem);
            }
            let last = known.counted.then_some(&known.last);
            grows(&sample.traffic, last, || format!("flow_samples[{i}].traffic"))?;
        }
        let mut listed = BTreeSet::new();
        for (i, folded) in report.folded.iter().enumerate() {
            if !listed.insert(folded.entity) {
                let problem = format!("{} is listed twice", folded.entity);
                return refuse("listed_twice", format!("folded[{i}].entity"), problem);
            }
            let last = self.folded.get(&folded.entity);
            grows(&folded.traffic, last, || format!("folded[{i}].traffic"))?;
        }
        Ok(())
    }
}

impl Node {
    /// Takes over a checked report's flows. `old`: what is announced now may have counted before this aggregator knew of it.
    pub(super) fn count_flows(
        &mut self,
        report: &Report,
        cx: &Context,
        old: bool,
        losses: &mut Losses,
    ) -> Missing {
        let mut flows = std::mem::take(&mut self.flows);
        let sent_boot_ns = report
            .captured_boot_ns
            .saturating_add(report.waited_ns.unwrap_or(0));
        flows.offset.learn(cx.received_ns, sent_boot_ns);
        let at_ns = flows.offset.mono_ns(report.captured_boot_ns);
        flows.captured_unix_ns = report.captured_unix_ns;
        flows.since_report_ns = flows.at_ns;
        flows.at_ns = u64::try_from(at_ns.max(0)).unwrap_or(u64::MAX);
        if self.last_sequence > 0 {
            let interval_ns = report.captured_boot_ns.saturating_sub(self.last_boot_ns);
            flows.interval_ns = interval_ns.min(MAX_INTERVAL_NS);
        }
        let told_unix_ns = match report.waited_ns {
            Some(_) => cx.wall.at(at_ns, report.captured_unix_ns),
            None => report.captured_unix_ns,
        };
        let since_ns = match self.last_sequence {
            // A run's first report tells of what was since its start.
            0 => report
                .captured_unix_ns
                .saturating_sub(report.run.agent_start_unix_ns)
                .min(MAX_INTERVAL_NS),
            _ => report.captured_boot_ns.saturating_sub(self.last_boot_ns),
        };
        let since_unix_ns = told_unix_ns.saturating_sub(since_ns);
        let is_dated = cx.wall.stood(at_ns - i128::from(since_ns));
        flows.dated = is_dated.then_some((since_unix_ns, told_unix_ns));
        let feature = |f: &crate::report::Feature| f.name == FEATURE && f.present;
        let sees = report.coverage.features.iter().any(feature);
        let lost: u64 = report
            .coverage
            .losses
            .iter()
            .filter(|loss| FLOW_UNITS.contains(&loss.unit.as_str()))
            .fold(0, |sum, loss| sum.saturating_add(loss.count));
        let grown = lost.saturating_sub(std::mem::replace(&mut flows.lost, lost));
        if !report.flows.is_empty() || report.coverage.features.iter().any(feature) {
            flows.since_ns.get_or_insert(cx.received_ns);
        }
        let mut missing = Missing::default();
        let old = old || flows.missed || report.sequence <= flows.anew_until;
        flows.missed &= report.flows.is_empty();
        for flow in &report.flows {
            if flows.known.contains_key(&flow.index) {
                continue;
            }
            if flows.is_full() {
                losses.add("window", "flow_cap", "flows", 1);
                continue;
            }
            let Some(owner) = self.kind_of(flow.entity, &mut missing) else {
                continue;
            };
            flows.known.insert(
                flow.index,
                Box::new(Known {
                    flow: *flow,
                    owner,
                    last: Traffic::default(),
                    counted: !old,
                    old,
                    place: None,
                    mark: 0,
                }),
            );
            flows.news.push(News::Begun(flow.index));
        }
        for sample in &report.flow_samples {
            let Some(known) = flows.known.get_mut(&sample.flow) else {
                missing.flows += u64::from(!flows.is_full());
                losses.add("ingest", "unknown_flow", "samples", 1);
                continue;
            };
            let base = (known.old && !known.counted).then_some(sample.traffic);
            if known.last != sample.traffic || base.is_some() {
                flows.news.push(News::Grew {
                    index: sample.flow,
                    now: sample.traffic,
                    base,
                    before: known.last,
                });
            }
            known.last = sample.traffic;
            known.counted = true;
        }
        for folded in &report.folded {
            let Some(owner) = self.kind_of(folded.entity, &mut missing) else {
                continue;
            };
            let last = flows.folded.insert(folded.entity, folded.traffic);
            let grown = match last {
                Some(last) => folded.traffic.less(&last),
                None if old => Traffic::default(),
                None => folded.traffic,
            };
            if grown != Traffic::default() {
                flows.news.push(News::Folded { owner, grown });
            }
        }
        for index in &report.flows_ended {
            if flows.known.contains_key(index) {
                flows.news.push(News::Ended(*index));
            }
        }
        flows
            .folded
            .retain(|entity, _| self.index.find(*entity, &mut 0).is_some());
        flows.missed |= missing.flows > 0;
        let follows = self.last_sequence > 0 && report.sequence == self.last_sequence + 1;
        let lacks = if old || !is_dated {
            // What is announced now may have counted before it was known here; what was read before a clock was set may have been at any time.
            Some(reason::AGGREGATOR_AWAY)
        } else if !sees || grown > 0 || missing.flows + missing.entities > 0 || flows.is_full() {
            Some(reason::FLOWS_NOT_SEEN)
        } else {
            (!follows).then_some(reason::AGENT_SILENT)
        };
        flows.heard = Some(Heard {
            from_ns: since_unix_ns,
            to_ns: told_unix_ns,
            lacks,
        });
        self.flows = flows;
        missing
    }

    /// Whose an entity's traffic is: a container's is its pod's. `None`: it was never announced, or found no room.
    fn kind_of(&self, entity: u32, missing: &mut Missing) -> Option<Kind> {
        if self.index.find(entity, &mut 0).is_none() {
            missing.entities += 1;
            return None;
        }
        let slot = self.slot_of_entity(entity)?;
        self.slot(slot).map(|s| s.kind.clone())
    }
}

/// No counter goes back, none jumps by more than is possible.
fn grows(now: &Traffic, last: Option<&Traffic>, field: impl Fn() -> String) -> Result<(), Refusal> {
    let Some(last) = last else { return Ok(()) };
    for (i, (now, last)) in now.values().into_iter().zip(last.values()).enumerate() {
        let name = || format!("{}.{}", field(), Traffic::FIELDS[i]);
        if now < last {
            return refuse("counter_backwards", name(), format!("{now} after {last}"));
        }
        if now - last > MAX_INCREMENT_NS {
            let problem = format!("{now} after {last}: more than 2^60 at once");
            return refuse("implausible", name(), problem);
        }
    }
    Ok(())
}
