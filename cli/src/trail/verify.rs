//! `partywall audit verify`: the whole chain, recomputed here. Nothing that the aggregator says of itself is believed.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};

use anyhow::{Context, anyhow};
use futures::StreamExt;
use partywall_proto::trail::{Hash, Verifier};
use partywall_proto::v1::trail_body::What;
use partywall_proto::v1::{TrailBody, TrailRecord};
use serde::Serialize;

use super::lines::{Line, hex, unhex};
use crate::args::{AuditVerify, Common};
use crate::client::Client;
use crate::exit::{Code, Failure, Outcome};
use crate::model::seconds;
use crate::output::{print, print_json};
use crate::text::{count, utc};

/// The longest line of an export: a record of 4 MiB, its body in hexadecimal digits and in words.
const MAX_LINE: u64 = 32 << 20;

/// A head as it is noted elsewhere: `SEQUENCE:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    sequence: u64,
    hash: Hash,
}

impl std::str::FromStr for Head {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let parts = typed.split_once(':');
        let head = parts.and_then(|(sequence, hash)| {
            Some(Self {
                sequence: sequence.parse().ok().filter(|n| *n > 0)?,
                hash: unhex(hash)?.try_into().ok()?,
            })
        });
        head.ok_or_else(|| "no head of a chain; write SEQUENCE:HASH with 64 hexadecimal digits, as `partywall audit verify` prints it".to_owned())
    }
}

#[derive(Debug, Default, Serialize)]
struct Verified {
    records: u64,
    first_sequence: u64,
    /// `SEQUENCE:HASH`
    head: String,
    first_at: String,
    last_at: String,
    breaches: u64,
    hours: u64,
    starts: u64,
    /// Records that were taken out as retention or the size bound asks; up to which, and why.
    pruned: Vec<String>,
    /// The head that was noted earlier is in it.
    head_found: Option<bool>,
}

/// Takes records, and counts what is in them.
struct Reading {
    verifier: Verifier,
    noted: Option<Head>,
    out: Verified,
}

impl Reading {
    fn new(noted: Option<Head>) -> Self {
        Self {
            verifier: Verifier::default(),
            noted,
            out: Verified {
                head_found: noted.map(|_| false),
                ..Verified::default()
            },
        }
    }

    fn take(&mut self, record: &TrailRecord) -> Result<TrailBody, Failure> {
        let body = self
            .verifier
            .take(record)
            .map_err(|broken| self.broken(&broken.to_string()))?;
        let out = &mut self.out;
        let at = utc(seconds(body.at_unix_ns));
        if out.records == 0 {
            out.first_sequence = record.sequence;
            out.first_at.clone_from(&at);
        }
        out.records += 1;
        out.last_at = at;
        match &body.what {
            Some(What::Breach(_)) => out.breaches += 1,
            Some(What::Hour(_)) => out.hours += 1,
            Some(What::Start(_)) => out.starts += 1,
            Some(What::Pruned(pruned)) => {
                let reason = crate::text::clean(&pruned.reason);
                out.pruned
                    .push(format!("up to {} ({reason})", pruned.up_to_sequence));
            }
            None => {}
        }
        if let Some(noted) = self.noted.filter(|noted| noted.sequence == record.sequence) {
            if record.hash[..] != noted.hash {
                let other = format!(
                    "record {} has another hash than was noted: what was noted is not in this chain",
                    noted.sequence
                );
                return Err(self.broken(&other));
            }
            self.out.head_found = Some(true);
        }
        Ok(body)
    }

    fn broken(&self, why: &str) -> Failure {
        let good = match self.verifier.head() {
            Some((sequence, hash)) => format!("the chain is whole up to {sequence}:{}", hex(&hash)),
            None => "no record was good".to_owned(),
        };
        Failure::new(Code::Failed, anyhow!("the trail is broken: {why}; {good}"))
    }

    fn finish(mut self) -> Result<Verified, Failure> {
        self.verifier
            .finish()
            .map_err(|broken| self.broken(&broken.to_string()))?;
        let head = self.verifier.head();
        if let Some(noted) = self.noted.filter(|_| self.out.head_found == Some(false)) {
            let why = match head {
                Some((sequence, _)) if sequence < noted.sequence => format!(
                    "it ends at {sequence}, and {} was noted: what came after was cut off",
                    noted.sequence
                ),
                Some(_) if self.out.first_sequence > noted.sequence => {
                    // Taken out as retention asks, and the chain says so: nothing can be said of it any more.
                    let old = format!(
                        "the head that was noted, {}, is older than what is kept: it cannot be held against the chain",
                        noted.sequence
                    );
                    return Err(Failure::new(Code::Unknown, anyhow!(old)));
                }
                _ => "the head that was noted is not in it".to_owned(),
            };
            return Err(self.broken(&why));
        }
        let Some((sequence, hash)) = head else {
            let none = anyhow!("there is no record to verify: every trail begins with one");
            return Err(Failure::new(Code::Missing, none));
        };
        self.out.head = format!("{sequence}:{}", hex(&hash));
        Ok(self.out)
    }
}

pub(super) async fn run(common: &Common, args: &AuditVerify) -> Outcome {
    let mut reading = Reading::new(args.head);
    let verified = match &args.file {
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::new(Code::Usage, error));
            let verified = file.and_then(|file| {
                read(BufReader::new(file), &mut reading)?;
                reading.finish()
            });
            verified.map_err(|failure| {
                let place = format!("--file {}", path.display());
                Failure::new(failure.code, failure.error.context(place))
            })?
        }
        None => {
            let of = crate::args::Of::default();
            let mut client = Client::connect(common, &of)
                .await
                .map_err(Failure::without_answer)?;
            let records = client.read_trail().await.map_err(Failure::without_answer)?;
            let mut records = Box::pin(records);
            while let Some(record) = records.next().await {
                reading.take(&record.map_err(Failure::without_answer)?)?;
            }
            reading.finish()?
        }
    };
    let shown: anyhow::Result<()> = match common.json {
        true => print_json(&verified),
        false => print(&tell(&verified)).map_err(Into::into),
    };
    shown.map_err(|error| Failure::from(error).without_answer())
}

fn read(mut lines: impl BufRead, reading: &mut Reading) -> Result<(), Failure> {
    let mut text = String::new();
    for number in 1u64.. {
        text.clear();
        let mut limited = std::io::Read::take(&mut lines, MAX_LINE);
        let length = limited.read_line(&mut text).map_err(|error| {
            // Bytes that are no text were changed. Any other error says nothing of the chain.
            let code = match error.kind() {
                ErrorKind::InvalidData => Code::Failed,
                _ => Code::Usage,
            };
            Failure::new(code, anyhow::Error::new(error).context(format!("line {number}")))
        })?;
        if length == 0 {
            return Ok(());
        }
        let line = Line::parse(text.trim_end()).with_context(|| format!("line {number}"))?;
        let record = line.record().with_context(|| format!("line {number}"))?;
        let body = reading.take(&record)?;
        line.check(&body).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

fn tell(verified: &Verified) -> String {
    let counted = |n: u64, one: &str, many: &str| count(usize::try_from(n).unwrap_or(usize::MAX), one, many);
    let mut out = format!(
        "the chain is whole: {} from {} to {} ({}, {}, {})\n",
        counted(verified.records, "record", "records"),
        verified.first_at,
        verified.last_at,
        counted(
            verified.breaches,
            "breach fired or resolved",
            "breaches fired or resolved"
        ),
        counted(verified.hours, "hour of crossings", "hours of crossings"),
        counted(verified.starts, "start", "starts"),
    );
    for pruned in &verified.pruned {
        out += &format!("taken out, and said so: records {pruned}\n");
    }
    out += match verified.head_found {
        Some(_) => {
            "the head that was noted is in it: nothing up to there was removed or changed since
"
        }
        None => {
            "no head was given (--head): a chain that was made anew as a whole would look the same
"
        }
    };
    out + &format!(
        "note this where the aggregator cannot write:\n{}\n",
        verified.head
    )
}

#[cfg(test)]
pub(super) fn verify_lines(text: &str, head: Option<Head>) -> Result<String, String> {
    let mut reading = Reading::new(head);
    read(text.as_bytes(), &mut reading).map_err(|failure| failure.to_string())?;
    let verified = reading.finish().map_err(|failure| failure.to_string())?;
    Ok(tell(&verified))
}
