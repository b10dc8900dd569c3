//! What reviews said, by the hash of cluster and token: nothing here can be presented to anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use partywall_aggregator_core::limits::MAX_NODES;
use tokio::time::Instant;

use super::review::Verdict;

/// A good token is not reviewed again for this long: a node whose link flaps. Streams last longer, so that each ordinary one is reviewed anew.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// For so long after its last review it is let in where the API gives no answer: two lives of a stream. A token that was revoked meanwhile is good for
/// as long.
const STALE_FOR: Duration = Duration::from_secs(30 * 60);
/// A wrong token is wrong for this long. Short: a token may be used before every API server knows the key that signed it.
const BAD_FOR: Duration = Duration::from_secs(10);
/// Two tokens of each node, and those that are wrong.
const MAX_GOOD: usize = 2 * MAX_NODES;
const MAX_BAD: usize = 4_096;

pub(super) type Key = [u8; 32];

#[derive(Debug, Default)]
pub(super) struct Cache {
    good: BTreeMap<Key, (Verdict, Instant)>,
    bad: BTreeMap<Key, (Verdict, Instant)>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Fresh(Verdict),
    /// Good where no newer word is to be had.
    Stale(Verdict),
    Nothing,
}

impl Cache {
    pub(super) fn find(&self, key: &Key, now: Instant) -> Found {
        if let Some((verdict, at)) = self.bad.get(key)
            && now.saturating_duration_since(*at) < BAD_FOR
        {
            return Found::Fresh(verdict.clone());
        }
        match self.good.get(key) {
            Some((verdict, at)) => match now.saturating_duration_since(*at) {
                age if age < GOOD_FOR => Found::Fresh(verdict.clone()),
                age if age < STALE_FOR => Found::Stale(verdict.clone()),
                _ => Found::Nothing,
            },
            None => Found::Nothing,
        }
    }

    pub(super) fn keep(&mut self, key: Key, verdict: Verdict, now: Instant) -> Verdict {
        let (map, other, most, life) = match verdict {
            Verdict::Of(_) => (&mut self.good, &mut self.bad, MAX_GOOD, STALE_FOR),
            Verdict::Refused { .. } => (&mut self.bad, &mut self.good, MAX_BAD, BAD_FOR),
        };
        other.remove(&key);
        if map.len() >= most && !map.contains_key(&key) {
            map.retain(|_, (_, at)| now.saturating_duration_since(*at) < life);
            // Wrong ones never push out a good one: each has room of its own.
            if map.len() >= most
                && let Some(oldest) = map.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key)
            {
                map.remove(&oldest);
            }
        }
        map.insert(key, (verdict.clone(), now));
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::review::Holder;
    use super::*;
    use crate::metrics::StreamRefusal;

    fn key(n: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    }

    #[test]
    fn a_good_token_outlives_its_review_and_wrong_ones_take_no_room_of_good_ones() {
        let began = Instant::now();
        let good = Verdict::Of(Holder::Node("a".into()));
        let bad = Verdict::Refused {
            refusal: StreamRefusal::BadToken,
            problem: "x".into(),
        };
        let mut cache = Cache::default();
        assert_eq!(cache.find(&key(0), began), Found::Nothing);
        cache.keep(key(0), good.clone(), began);
        for n in 1..=MAX_BAD + 10 {
            cache.keep(key(n), bad.clone(), began);
        }
        assert_eq!(cache.bad.len(), MAX_BAD);
        assert_eq!(cache.find(&key(0), began), Found::Fresh(good.clone()));
        assert_eq!(cache.find(&key(0), began + GOOD_FOR), Found::Stale(good.clone()));
        assert_eq!(cache.find(&key(0), began + STALE_FOR), Found::Nothing);
        assert_eq!(cache.find(&key(MAX_BAD + 10), began), Found::Fresh(bad.clone()));
        assert_eq!(cache.find(&key(MAX_BAD + 10), began + BAD_FOR), Found::Nothing);
        // Revoked: what was good is forgotten.
        cache.keep(key(0), bad, began);
        assert_eq!(cache.find(&key(0), began + BAD_FOR), Found::Nothing);
    }
}
