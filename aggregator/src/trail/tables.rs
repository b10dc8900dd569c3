//! The tables: a redb database of their own, because what else is kept is written anew all the time, and this stays.

use partywall_proto::trail::Hash;
use partywall_proto::v1;
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::format::VERSION;
use crate::database::{Kind, META};

/// In [`META`]: what all records of the chain take, as [`cost`] has it.
pub(super) const KEPT_BYTES: &str = "kept_bytes";
/// In [`META`]: the sequence of the last process's first record.
pub(super) const START: &str = "start";
/// In [`META`]: the time that retention reckoned from last.
pub(super) const BELIEVED_NS: &str = "believed_ns";
/// Sequence → an encoded `TrailRecord`.
pub(super) const CHAIN: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("chain");
/// (cluster, hour since 1970, sequence of a record of it).
pub(super) const HOURS: TableDefinition<'_, (&str, u64, u64), ()> = TableDefinition::new("hours");
/// (cluster, hour, row) → an encoded part of an hour of which more is awaited.
pub(super) const OPEN: TableDefinition<'_, (&str, u64, &[u8]), &[u8]> = TableDefinition::new("open");
/// (when it fired, sequence) → an encoded `Episode`.
pub(super) const EPISODES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("episodes");
/// Fingerprint of what fires → its episode.
pub(super) const LIVE: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("live");

pub(super) const KIND: Kind = Kind {
    name: "trail.redb",
    version: VERSION,
    // Of all that is read.
    cache_bytes: 16 * 1024 * 1024,
    // A month of records would keep the start waiting. Their own hashes tell what was changed.
    checked: false,
    alone: "write one trail",
    tables: |txn| {
        txn.open_table(CHAIN)?;
        txn.open_table(HOURS)?;
        txn.open_table(OPEN)?;
        txn.open_table(EPISODES)?;
        txn.open_table(LIVE)?;
        Ok(())
    },
    // What pruning left empty goes back to the disk.
    compact_above: |db| Ok(4 * kept_bytes(db)?.max(16 * 1024 * 1024)),
};

/// How much of the file a record takes: small ones share pages of 4 KiB that are two thirds full, large ones have pages of their own, a power of two.
pub(super) fn cost(length: usize) -> u64 {
    let length = length as u64;
    if length > 2_048 {
        (length + 64).next_power_of_two()
    } else {
        (length + 32) * 3 / 2
    }
}

pub(super) fn head(db: &Database) -> Result<Option<(u64, Hash)>, redb::Error> {
    let txn = db.begin_read()?;
    let chain = txn.open_table(CHAIN)?;
    let Some((sequence, bytes)) = chain.last()? else {
        return Ok(None);
    };
    let record = v1::TrailRecord::decode(bytes.value()).map_err(unreadable)?;
    let hash = record.hash.as_ref().try_into();
    Ok(Some((sequence.value(), hash.map_err(unreadable)?)))
}

pub(super) fn kept_bytes(db: &Database) -> Result<u64, redb::Error> {
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    Ok(meta.get(KEPT_BYTES)?.map_or(0, |v| v.value()))
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}
