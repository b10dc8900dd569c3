//! What a scenario asks for: breaches and figures.

use anyhow::Result;
use toml::Spanned;

use super::{Checker, Expect, Measure, ScenarioPod, What, raw};

/// Breach kinds that design and format name. The first group is judged today.
const JUDGED: [&str; 8] = [
    "NoisyNeighbour",
    "NodeOvercommitted",
    "SystemNoise",
    "QuotaNear",
    "QuotaExceeded",
    "MemorySqueeze",
    "CrossTenantOom",
    "LimitRangeExceeded",
];
const NOT_JUDGED_YET: [&str; 4] = ["FlatNetwork", "FenceLeak", "Probe", "CredentialReach"];

impl Checker<'_> {
    pub(super) fn breach<'b>(&self, breach: &'b Spanned<String>) -> Result<&'b str> {
        let name = breach.get_ref().as_str();
        if JUDGED.contains(&name) || NOT_JUDGED_YET.contains(&name) {
            return Ok(name);
        }
        let known = [JUDGED.as_slice(), NOT_JUDGED_YET.as_slice()].concat().join(", ");
        self.refuse(
            breach,
            "breach",
            &format!("`{name}` is no kind of breach; there are {known}"),
        )
    }

    pub(super) fn expectations(
        &self,
        raw: Vec<raw::Expect>,
        unsupported: &mut Vec<String>,
    ) -> Result<Vec<Expect>> {
        let mut expect = Vec::new();
        for entry in raw {
            let breach = self.breach(&entry.breach)?.to_owned();
            if NOT_JUDGED_YET.contains(&breach.as_str()) {
                unsupported.push(format!("breach {breach} is not judged yet"));
            }
            if !(entry.within_s.is_finite() && entry.within_s > 0.0) {
                return self.refuse(&entry.breach, "within_s", "must be more than zero");
            }
            let raw::Expect {
                tenant,
                against,
                within_s,
                resolved,
                ..
            } = entry;
            expect.push(Expect {
                breach,
                tenant,
                against,
                within_s,
                resolved,
            });
        }
        Ok(expect)
    }

    pub(super) fn measures(
        &self,
        raw: Vec<raw::Measure>,
        pods: &[ScenarioPod],
        unsupported: &mut Vec<String>,
    ) -> Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for entry in raw {
            let what = *entry.what.get_ref();
            if !pods.iter().any(|pod| pod.full_name() == *entry.pod.get_ref()) {
                let why = format!("`{}` is no pod of this scenario", entry.pod.get_ref());
                return self.refuse(&entry.pod, "pod", &why);
            }
            if entry.min.is_none() && entry.max.is_none() {
                return self.refuse(&entry.what, "min, max", "one of them is needed");
            }
            if what.is_of_flows() {
                unsupported.push(format!(
                    "measure {} is not supported yet by this harness",
                    what.name()
                ));
            } else if let Some(by) = &entry.by {
                match what {
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
