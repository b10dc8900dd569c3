//! What a scenario asks for: breaches and figures.

use anyhow::Result;
use partywall_workload::Work;
use toml::Spanned;

use super::{Checker, Expect, Measure, ScenarioPod, What, raw};

/// Breach kinds that design and format name.
const BREACHES: [&str; 12] = [
    "NoisyNeighbour",
    "NodeOvercommitted",
    "SystemNoise",
    "QuotaNear",
    "QuotaExceeded",
    "MemorySqueeze",
    "CrossTenantOom",
    "LimitRangeExceeded",
    "FlatNetwork",
    "FenceLeak",
    "Probe",
    "CredentialReach",
];

impl Checker<'_> {
    pub(super) fn breach<'b>(&self, breach: &'b Spanned<String>) -> Result<&'b str> {
        let name = breach.get_ref().as_str();
        if BREACHES.contains(&name) {
            return Ok(name);
        }
        let known = BREACHES.join(", ");
        self.refuse(
            breach,
            "breach",
            &format!("`{name}` is no kind of breach; there are {known}"),
        )
    }

    pub(super) fn expectations(&self, raw: Vec<raw::Expect>) -> Result<Vec<Expect>> {
        let mut expect = Vec::new();
        for entry in raw {
            let breach = self.breach(&entry.breach)?.to_owned();
            if !(entry.within_s.is_finite() && entry.within_s > 0.0) {
                return self.refuse(&entry.breach, "within_s", "must be more than zero");
            }
            if let Some(least) = entry.not_before_s
                && !(least > 0.0 && least < entry.within_s)
            {
                let why = format!("`{least}` is not between zero and within_s");
                return self.refuse(&entry.breach, "not_before_s", &why);
            }
            if entry.times == Some(0) {
                return self.refuse(
                    &entry.breach,
                    "times",
                    "must be at least one: [[refuse]] is for none",
                );
            }
            let raw::Expect {
                tenant,
                against,
                within_s,
                not_before_s,
                resolved,
                times,
                ..
            } = entry;
            expect.push(Expect {
                breach,
                tenant,
                against,
                within_s,
                not_before_s,
                resolved,
                times,
            });
        }
        Ok(expect)
    }

    pub(super) fn measures(&self, raw: Vec<raw::Measure>, pods: &[ScenarioPod]) -> Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for entry in raw {
            let what = *entry.what.get_ref();
            let mut named = pods
                .iter()
                .filter(|pod| pod.full_name() == *entry.pod.get_ref())
                .peekable();
            if named.peek().is_none() {
                let why = format!("`{}` is no pod of this scenario", entry.pod.get_ref());
                return self.refuse(&entry.pod, "pod", &why);
            }
            if what == What::MiscountedPackets && !sends_datagrams_alone(named) {
                let why =
                    "its work of the network is not udp, udp-serve or icmp alone: no other counts packets";
                return self.refuse(&entry.pod, "pod", why);
            }
            if entry.min.is_none() && entry.max.is_none() {
                return self.refuse(&entry.what, "min, max", "one of them is needed");
            }
            if let Some(by) = &entry.by {
                match what {
                    What::FlowBytes | What::FlowPackets | What::FlowConnections => {
                        if !pods.iter().any(|pod| pod.full_name() == *by) {
                            let why = format!("`{by}` is no pod of this scenario");
                            return self.refuse(&entry.what, "by", &why);
                        }
                    }
                    What::StolenCores => {}
                    What::StallSeconds if ["limit", "node"].contains(&by.as_str()) => {}
                    What::StallSeconds => {
                        let why = format!("`{by}` is neither `limit` nor `node`");
                        return self.refuse(&entry.what, "by", &why);
                    }
                    _ => {
                        let why = format!("is no key of measure {}", what.name());
                        return self.refuse(&entry.what, "by", &why);
                    }
                }
            }
            let raw::Measure {
                pod, by, min, max, ..
            } = entry;
            measures.push(Measure {
                what,
                pod: pod.into_inner(),
                by,
                min,
                max,
            });
        }
        Ok(measures)
    }
}

/// Whether the work of these pods itself counts every packet that it sends and receives, and there is some.
fn sends_datagrams_alone<'a>(pods: impl Iterator<Item = &'a ScenarioPod>) -> bool {
    let mut works = pods
        .flat_map(|pod| &pod.work)
        .map(|timed| timed.work)
        .filter(Work::is_of_network)
        .peekable();
    works.peek().is_some()
        && works.all(|work| matches!(work, Work::Udp { .. } | Work::UdpServe { .. } | Work::Icmp { .. }))
}
