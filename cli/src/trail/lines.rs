//! The chain as JSON lines: each record as it was hashed, beside what it tells. The hash is over `body` alone; whoever verifies a file holds what
//! is told against it.

use anyhow::{Context, anyhow, ensure};
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::flows::verdict;
use crate::model::{Breach, seconds};
use crate::text::{clean, utc};

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub sequence: u64,
    /// Lower-case hexadecimal digits, as the next two.
    pub previous_hash: String,
    pub hash: String,
    /// An encoded `partywall.v1.TrailBody`.
    pub body: String,
    pub at: String,
    /// What the body says, for readers.
    pub tells: Value,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    pairs
        .map(|pair| u8::from_str_radix(pair.filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?, 16).ok())
        .collect()
}

impl Line {
    pub(super) fn new(record: &v1::TrailRecord, body: &v1::TrailBody) -> anyhow::Result<Self> {
        Ok(Self {
            sequence: record.sequence,
            previous_hash: hex(&record.previous_hash),
            hash: hex(&record.hash),
            body: hex(&record.body),
            at: utc(seconds(body.at_unix_ns)),
            tells: tells(body)?,
        })
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("no record of an export")
    }

    /// As it was on the disk.
    pub(super) fn record(&self) -> anyhow::Result<v1::TrailRecord> {
        let bytes = |field: &str, text: &str| {
            unhex(text).ok_or_else(|| anyhow!("record {}: {field} is not hexadecimal", self.sequence))
        };
        Ok(v1::TrailRecord {
            sequence: self.sequence,
            previous_hash: bytes("previous_hash", &self.previous_hash)?.into(),
            hash: bytes("hash", &self.hash)?.into(),
            body: bytes("body", &self.body)?.into(),
        })
    }

    /// What stands beside the body is what the body says.
    pub(super) fn check(&self, body: &v1::TrailBody) -> anyhow::Result<()> {
        // Through the same reader as what stands there: it may round a figure.
        let says: Value = serde_json::from_str(&tells(body)?.to_string())?;
        ensure!(
            self.at == utc(seconds(body.at_unix_ns)) && self.tells == says,
            "record {}: what it tells is not what its body says",
            self.sequence
        );
        Ok(())
    }
}

fn tells(body: &v1::TrailBody) -> anyhow::Result<Value> {
    Ok(match &body.what {
        Some(What::Breach(breach)) => json!({"breach": serde_json::to_value(Breach::from(breach.clone()))?}),
        Some(What::Hour(hour)) => {
            let crossings = hour.crossings.iter().map(|c| {
                json!({
                    "from": clean(&c.from), "to": clean(&c.to), "verdict": verdict(c.verdict), "delivered": c.delivered,
                    "bytes": c.bytes, "packets": c.packets, "connections": c.connections, "slots": c.slots,
                })
            });
            let coverage = hour.coverage.iter().map(|c| {
                json!({"tenant": clean(&c.tenant), "reason": clean(&c.reason), "node": clean(&c.node), "slots": c.slots})
            });
            json!({"hour": {
                "cluster": clean(&hour.cluster),
                "begins": utc(hour.hour_unix_s as f64),
                "crossings": crossings.collect::<Vec<Value>>(),
                "not_seen": coverage.collect::<Vec<Value>>(),
            }})
        }
        Some(What::Start(start)) => json!({"start": {"version": clean(&start.version)}}),
        Some(What::Pruned(pruned)) => json!({"pruned": {
            "up_to_sequence": pruned.up_to_sequence, "hash": hex(&pruned.hash), "reason": clean(&pruned.reason),
        }}),
        None => json!({}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_there_and_back() {
        assert_eq!(unhex(&hex(&[0, 10, 255])), Some(vec![0, 10, 255]));
        for broken in ["0", "0g", "+1", "é"] {
            assert_eq!(unhex(broken), None, "{broken}");
        }
    }
}
