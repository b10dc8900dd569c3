//! Sets of slots of an hour, and spans: several slots in one of which something moved.

use super::HOUR_SLOTS;

const WORDS: usize = 6;

/// A set of the slots of one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots([u64; WORDS]);

impl Slots {
    pub const NONE: Self = Self([0; WORDS]);

    /// Those from `first` up to before `end`.
    #[must_use]
    pub fn range(first: u64, end: u64) -> Self {
        let mut out = Self::NONE;
        for at in first..end.min(HOUR_SLOTS) {
            out.set(at);
        }
        out
    }

    #[must_use]
    pub fn all() -> Self {
        Self::range(0, HOUR_SLOTS)
    }

    /// Returns whether it was not in there.
    pub fn set(&mut self, at: u64) -> bool {
        let Some(word) = self.0.get_mut((at / 64) as usize).filter(|_| at < HOUR_SLOTS) else {
            return false;
        };
        let before = *word;
        *word |= 1 << (at % 64);
        *word != before
    }

    /// Returns whether it was in there.
    pub fn clear(&mut self, at: u64) -> bool {
        let Some(word) = self.0.get_mut((at / 64) as usize) else {
            return false;
        };
        let before = *word;
        *word &= !(1 << (at % 64));
        *word != before
    }

    pub fn has(&self, at: u64) -> bool {
        self.0
            .get((at / 64) as usize)
            .is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn with(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = Self::NONE;
        for ((out, a), b) in out.0.iter_mut().zip(self.0).zip(other.0) {
            *out = of(a, b);
        }
        out
    }

    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.with(other, |a, b| a | b)
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.with(other, |a, b| a & b)
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.with(other, |a, b| a & !b)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// (first, behind the last) of each run.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for at in (0..HOUR_SLOTS).filter(|at| self.has(*at)) {
            match out.last_mut() {
                Some((_, end)) if *end == at => *end += 1,
                _ => out.push((at, at + 1)),
            }
        }
        out
    }

    /// Pairs of (slots skipped, slots set).
    pub fn encode(&self) -> Vec<u32> {
        let mut out = Vec::new();
        let mut at = 0;
        for (first, end) in self.runs() {
            // Both below 360.
            out.extend([(first - at) as u32, (end - first) as u32]);
            at = end;
        }
        out
    }

    /// `None`: no such set.
    pub fn decode(pairs: &[u32]) -> Option<Self> {
        let (mut out, mut at) = (Self::NONE, 0u64);
        if !pairs.len().is_multiple_of(2) {
            return None;
        }
        for pair in pairs.chunks_exact(2) {
            let first = at + u64::from(pair[0]);
            at = first + u64::from(pair[1]);
            if at > HOUR_SLOTS {
                return None;
            }
            out = out.or(Self::range(first, at));
        }
        Some(out)
    }
}

/// In one of `length` slots from `first` on, counted from the hour's first; it may end in a later hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub first: u32,
    pub length: u32,
}

/// Pairs of (slots behind the first of the one before, length).
pub fn encode_spans<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Vec<u32> {
    let mut before = 0;
    let one = |span: &Span| {
        let pair = [span.first - before, span.length];
        before = span.first;
        pair
    };
    spans.into_iter().flat_map(one).collect()
}

/// `None`: no such spans.
pub fn decode_spans(pairs: &[u32]) -> Option<Vec<Span>> {
    if !pairs.len().is_multiple_of(2) {
        return None;
    }
    let mut first = 0u32;
    let mut out = Vec::with_capacity(pairs.len() / 2);
    for pair in pairs.chunks_exact(2) {
        first = first
            .checked_add(pair[0])
            .filter(|f| u64::from(*f) < HOUR_SLOTS)?;
        if pair[1] < 2 || u64::from(pair[1]) > HOUR_SLOTS {
            return None;
        }
        out.push(Span {
            first,
            length: pair[1],
        });
    }
    Some(out)
}

/// When something grew that was not judged yet: each in one of the slots from a first to a last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moments(Vec<(u64, u64)>);

/// Between two judgements an agent that works off its queue tells of a minute at the most: six slots and the five edges between them.
const MOMENTS: usize = 64;

impl From<Option<(u64, u64)>> for Moments {
    fn from(moment: Option<(u64, u64)>) -> Self {
        Self(moment.into_iter().collect())
    }
}

impl Moments {
    pub(crate) fn push(&mut self, (first, last): (u64, u64)) {
        if self.0.contains(&(first, last)) {
            return;
        }
        let full = self.0.len() >= MOMENTS;
        match self.0.last_mut() {
            // No more precisely than that.
            Some(end) if full => *end = (end.0.min(first), end.1.max(last)),
            _ => self.0.push((first, last)),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|moment| self.push(*moment));
    }

    pub(crate) fn take(&mut self) -> Self {
        Self(std::mem::take(&mut self.0))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u64, u64)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_survives_the_disk(of in btree_set(0..HOUR_SLOTS, 0..40)) {
            let mut slots = Slots::NONE;
            for at in &of {
                prop_assert!(slots.set(*at) && !slots.set(*at));
            }
            prop_assert_eq!(Slots::decode(&slots.encode()), Some(slots));
            prop_assert_eq!(slots.count(), of.len() as u64);
            prop_assert_eq!(slots.minus(slots), Slots::NONE);
            prop_assert_eq!(Slots::all().minus(slots).or(slots), Slots::all());
            for at in &of {
                prop_assert!(slots.clear(*at) && !slots.has(*at));
            }
            prop_assert!(slots.is_empty());
        }

        #[test]
        fn spans_survive_the_disk(of in btree_set((0..360u32, 2..60u32), 0..20)) {
            let spans: Vec<Span> = of.iter().map(|(first, length)| Span { first: *first, length: *length }).collect();
            prop_assert_eq!(decode_spans(&encode_spans(&spans)), Some(spans));
        }

        #[test]
        fn nothing_read_panics(pairs in vec(any::<u32>(), 0..8)) {
            let _ = Slots::decode(&pairs);
            let _ = decode_spans(&pairs);
        }

        #[test]
        fn too_many_moments_are_told_less_precisely_and_never_lost(of in vec((0..900u64, 0..3u64), 0..200)) {
            let mut moments = Moments::default();
            for (first, more) in &of {
                moments.push((*first, first + more));
            }
            for (first, more) in &of {
                prop_assert!(moments.iter().any(|(a, b)| a <= first && first + more <= *b));
            }
        }
    }
}
