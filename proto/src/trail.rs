//! The trail's chain: each record has the hash of the one before, so that none can be taken out, changed or moved without all that follow being
//! made anew.
//!
//! **What it shows.** Between any two records that somebody has, or a record and a head noted earlier, nothing was removed, changed or put in between.
//! **What it does not.** The hash needs no key: whoever may write the disk can make the whole chain anew. Against that a head must be noted where they
//! cannot write. What is cut off at the end is seen in the same way alone.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::v1::{TrailBody, TrailRecord, trail_body::What};

pub type Hash = [u8; 32];

/// What the first record of a trail has for the hash of the one before.
pub const GENESIS: Hash = [0; 32];

/// The record that follows `previous` (sequence and hash; `None`: it is the first).
#[must_use]
pub fn link(previous: Option<(u64, Hash)>, body: Bytes) -> TrailRecord {
    let (last, previous_hash) = previous.unwrap_or((0, GENESIS));
    let sequence = last.saturating_add(1);
    TrailRecord {
        sequence,
        previous_hash: Bytes::copy_from_slice(&previous_hash),
        hash: Bytes::copy_from_slice(&hash(&previous_hash, sequence, &body)),
        body,
    }
}

/// What a record's hash must be.
#[must_use]
pub fn hash(previous: &Hash, sequence: u64, body: &[u8]) -> Hash {
    let mut sha = Sha256::new();
    sha.update(previous);
    sha.update(sequence.to_be_bytes());
    sha.update(body);
    sha.finalize().into()
}

/// Why a trail is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("record {sequence}: its {field} has {length} bytes, a SHA-256 has 32")]
    NoHash {
        sequence: u64,
        field: &'static str,
        length: usize,
    },
    #[error("records {} to {} are missing: {found} follows {after}", after + 1, found - 1)]
    Missing { after: u64, found: u64 },
    #[error("record {found} stands behind {after}: out of order, or there twice")]
    Disordered { after: u64, found: u64 },
    #[error("record {sequence} does not go on from the one before: its previous_hash is not that one's hash")]
    Unlinked { sequence: u64 },
    #[error("record {sequence} was changed: its hash is not that of what is in it")]
    Changed { sequence: u64 },
    #[error("record {sequence}: its body is no TrailBody")]
    Unreadable { sequence: u64 },
    #[error("record {sequence} says that records up to {up_to} were taken out, which were not written yet")]
    Pruned { sequence: u64, up_to: u64 },
    #[error(
        "the trail begins with record {first}, and none in it says that those before were taken out as retention asks"
    )]
    NoBeginning { first: u64 },
}

/// Recomputes the chain, record by record. Knows nothing of where they come from.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    head: Option<(u64, Hash)>,
    /// What the first record goes on from, where nothing has vouched for that yet.
    open: Option<(u64, Hash)>,
}

impl Verifier {
    /// Goes on from a head that was noted earlier: the next record must be the one behind it.
    #[must_use]
    pub fn after(sequence: u64, hash: Hash) -> Self {
        Self {
            head: Some((sequence, hash)),
            open: None,
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// It does not follow from those before. It was not taken: the head is still the last good one.
    pub fn take(&mut self, record: &TrailRecord) -> Result<TrailBody, Broken> {
        let sequence = record.sequence;
        let previous = of(sequence, "previous_hash", &record.previous_hash)?;
        let own = of(sequence, "hash", &record.hash)?;
        match self.head {
            Some((after, _)) if sequence <= after => {
                return Err(Broken::Disordered {
                    after,
                    found: sequence,
                });
            }
            Some((after, _)) if sequence > after + 1 => {
                return Err(Broken::Missing {
                    after,
                    found: sequence,
                });
            }
            Some((_, head)) if head != previous => return Err(Broken::Unlinked { sequence }),
            None if sequence == 0 => return Err(Broken::Disordered { after: 0, found: 0 }),
            None if sequence == 1 && previous != GENESIS => return Err(Broken::Unlinked { sequence }),
            _ => {}
        }
        if hash(&previous, sequence, &record.body) != own {
            return Err(Broken::Changed { sequence });
        }
        let body = TrailBody::decode(record.body.clone()).map_err(|_| Broken::Unreadable { sequence })?;
        let mut open = match self.head {
            None => (sequence > 1).then_some((sequence - 1, previous)),
            Some(_) => self.open,
        };
        if let Some(What::Pruned(pruned)) = &body.what {
            let up_to = pruned.up_to_sequence;
            if up_to >= sequence {
                return Err(Broken::Pruned { sequence, up_to });
            }
            let hash = of(sequence, "pruned.hash", &pruned.hash)?;
            open = open.filter(|open| *open != (up_to, hash));
        }
        self.open = open;
        self.head = Some((sequence, own));
        Ok(body)
    }

    /// Sequence and hash of the last record taken.
    pub fn head(&self) -> Option<(u64, Hash)> {
        self.head
    }

    /// Once all records were taken.
    ///
    /// # Errors
    /// The first is not the first that was ever written, and no [`crate::v1::TrailPruned`] says why.
    pub fn finish(&self) -> Result<(), Broken> {
        match self.open {
            Some((before, _)) => Err(Broken::NoBeginning { first: before + 1 }),
            None => Ok(()),
        }
    }
}

fn of(sequence: u64, field: &'static str, bytes: &[u8]) -> Result<Hash, Broken> {
    bytes.try_into().map_err(|_| Broken::NoHash {
        sequence,
        field,
        length: bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1::{TrailPruned, TrailStart};

    fn body(at_unix_ns: u64, what: What) -> Bytes {
        let what = Some(what);
        TrailBody { at_unix_ns, what }.encode_to_vec().into()
    }

    fn start(n: u64) -> Bytes {
        let version = n.to_string();
        body(n, What::Start(TrailStart { version }))
    }

    fn chain(n: u64) -> Vec<TrailRecord> {
        let mut out: Vec<TrailRecord> = Vec::new();
        for i in 0..n {
            out.push(link(head_of(&out), start(i)));
        }
        out
    }

    fn head_of(records: &[TrailRecord]) -> Option<(u64, Hash)> {
        let last = records.last()?;
        Some((last.sequence, last.hash.as_ref().try_into().unwrap()))
    }

    fn verify(records: &[TrailRecord]) -> Result<Option<(u64, Hash)>, Broken> {
        let mut verifier = Verifier::default();
        for record in records {
            verifier.take(record)?;
        }
        verifier.finish()?;
        Ok(verifier.head())
    }

    #[test]
    fn a_chain_is_the_same_everywhere() {
        // Locked: a trail written by this version must verify under every later one.
        let record = link(Some((6, [7; 32])), Bytes::from_static(b"\x08\x01"));
        let hex: String = record.hash.iter().map(|b| format!("{b:02x}")).collect();
        let mut sha = Sha256::new();
        sha.update([7; 32]);
        sha.update([0, 0, 0, 0, 0, 0, 0, 7]);
        sha.update([8, 1]);
        assert_eq!(record.hash.as_ref(), sha.finalize().as_slice(), "{hex}");
        assert_eq!(
            (record.sequence, record.previous_hash.as_ref()),
            (7, [7u8; 32].as_slice())
        );
    }

    #[test]
    fn what_retention_took_out_is_vouched_for() {
        let mut records = chain(5);
        let pruned = TrailPruned {
            up_to_sequence: 3,
            hash: records[2].hash.clone(),
            reason: "age".into(),
        };
        records.push(link(head_of(&records), body(9, What::Pruned(pruned))));
        records.push(link(head_of(&records), start(10)));
        verify(&records).unwrap();
        verify(&records[3..]).unwrap();
        // One more than was said.
        assert_eq!(verify(&records[4..]), Err(Broken::NoBeginning { first: 5 }));
        // The anchor itself cut off.
        assert_eq!(verify(&records[3..5]), Err(Broken::NoBeginning { first: 4 }));
        // With another hash.
        let mut wrong = Verifier::default();
        let forged = TrailPruned {
            up_to_sequence: 3,
            hash: Bytes::copy_from_slice(&[1; 32]),
            reason: "age".into(),
        };
        let fourth = &records[3];
        wrong.take(fourth).unwrap();
        let next = link(head_of(&records[..4]), body(9, What::Pruned(forged)));
        wrong.take(&next).unwrap();
        assert_eq!(wrong.finish(), Err(Broken::NoBeginning { first: 4 }));
    }

    #[test]
    fn a_noted_head_shows_what_was_cut_off_or_made_anew() {
        let records = chain(8);
        let noted = head_of(&records[..5]).unwrap();
        let mut on = Verifier::after(noted.0, noted.1);
        on.take(&records[5]).unwrap();
        on.finish().unwrap();
        let mut anew: Vec<TrailRecord> = Vec::new();
        for i in 0..8 {
            anew.push(link(head_of(&anew), start(i + 100)));
        }
        verify(&anew).unwrap();
        let mut on = Verifier::after(noted.0, noted.1);
        assert_eq!(on.take(&anew[5]), Err(Broken::Unlinked { sequence: 6 }));
        assert_eq!(
            Verifier::after(noted.0, noted.1).take(&records[7]),
            Err(Broken::Missing { after: 5, found: 8 })
        );
    }

    proptest! {
        #[test]
        fn no_record_is_taken_out_moved_or_changed_unseen(n in 2..40u64, at in 0..40usize, to in 0..40usize, bit in 0..2_048usize, how in 0..4) {
            let mut records = chain(n);
            verify(&records).unwrap();
            let (at, to) = (at % records.len(), to % records.len());
            let whole = records.clone();
            match how {
                0 => {
                    records.remove(at);
                    // What is missing at the end shows against a head alone.
                    prop_assume!(at + 1 < whole.len());
                }
                1 => records.swap(at, to),
                2 => {
                    let mut bytes = records[at].encode_to_vec();
                    let i = bit / 8 % bytes.len();
                    bytes[i] ^= 1 << (bit % 8);
                    let Ok(changed) = TrailRecord::decode(bytes.as_slice()) else { return Ok(()) };
                    records[at] = changed;
                }
                _ => {
                    let twin = records[at].clone();
                    records.insert(to, twin);
                }
            }
            prop_assume!(records != whole);
            prop_assert!(verify(&records).is_err());
        }
    }
}
