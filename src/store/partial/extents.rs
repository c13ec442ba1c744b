//! Which bytes of a blob are there: ranges in order that neither touch nor overlap.

use crate::registry::ByteRange;

/// A set of bytes, as few ranges as it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents {
    ranges: Vec<ByteRange>,
}

impl Extents {
    /// Adds a range; what it touches becomes one with it.
    pub fn insert(&mut self, added: ByteRange) {
        if added.first >= added.end {
            return;
        }
        let before = self.ranges.partition_point(|range| range.end < added.first);
        let after = self.ranges.partition_point(|range| range.first <= added.end);
        let touched = self.ranges.get(before..after).unwrap_or_default();
        let first = touched.first().map_or(added.first, |range| range.first.min(added.first));
        let end = touched.last().map_or(added.end, |range| range.end.max(added.end));
        self.ranges.splice(before..after, [ByteRange { first, end }]);
    }

    /// Takes a range out.
    pub fn remove(&mut self, removed: ByteRange) {
        if removed.first >= removed.end {
            return;
        }
        let kept = self.ranges.iter().flat_map(|range| {
            let left = ByteRange { first: range.first, end: range.end.min(removed.first) };
            let right = ByteRange { first: range.first.max(removed.end), end: range.end };
            [left, right].into_iter().filter(|part| part.first < part.end)
        });
        self.ranges = kept.collect();
    }

    /// How far the bytes go from a place on without a gap; the place itself if it is in one.
    pub fn end_from(&self, at: u64) -> u64 {
        self.around(at).map_or(at, |range| range.end)
    }

    /// Whether a byte is there.
    pub fn contains(&self, at: u64) -> bool {
        self.around(at).is_some()
    }

    /// Where the next bytes begin after a place that is in a gap; `None` if there are none.
    pub fn next_from(&self, at: u64) -> Option<u64> {
        let next = self.ranges.partition_point(|range| range.end <= at);
        self.ranges.get(next).map(|range| range.first.max(at))
    }

    /// The first gap at or behind a place, within the first `total` bytes.
    pub fn gap_from(&self, at: u64, total: u64) -> Option<ByteRange> {
        let first = self.end_from(at);
        let end = self.next_from(first).unwrap_or(total).min(total);
        (first < end).then_some(ByteRange { first, end })
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.length()).sum()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> {
        self.ranges.iter().copied()
    }

    fn around(&self, at: u64) -> Option<&ByteRange> {
        let candidate = self.ranges.partition_point(|range| range.end <= at);
        self.ranges.get(candidate).filter(|range| range.first <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(ranges: &[(u64, u64)]) -> Extents {
        let mut extents = Extents::default();
        ranges.iter().for_each(|&(first, end)| extents.insert(ByteRange { first, end }));
        extents
    }

    #[test]
    fn what_touches_becomes_one() {
        assert_eq!(of(&[(0, 5), (10, 15), (5, 10)]), of(&[(0, 15)]));
        assert_eq!(of(&[(10, 20), (0, 30)]), of(&[(0, 30)]));
        assert_eq!(of(&[(10, 20), (12, 15)]), of(&[(10, 20)]));
        assert_eq!(of(&[(3, 3)]), Extents::default());
    }

    #[test]
    fn gaps_are_found_from_anywhere() {
        let extents = of(&[(0, 5), (10, 15)]);
        assert_eq!(extents.gap_from(0, 20), Some(ByteRange { first: 5, end: 10 }));
        assert_eq!(extents.gap_from(7, 20), Some(ByteRange { first: 7, end: 10 }));
        assert_eq!(extents.gap_from(12, 20), Some(ByteRange { first: 15, end: 20 }));
        assert_eq!(extents.gap_from(12, 15), None);
        assert_eq!((extents.end_from(3), extents.end_from(5), extents.end_from(10)), (5, 5, 15));
        assert_eq!(
            (extents.next_from(5), extents.next_from(12), extents.next_from(15)),
            (Some(10), Some(12), None)
        );
    }

    proptest! {
        #[test]
        fn they_are_a_set_of_bytes(steps in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40)) {
            let (mut extents, mut bytes) = (Extents::default(), std::collections::BTreeSet::new());
            for (add, first, length) in steps {
                let range = ByteRange { first, end: first + length };
                if add { extents.insert(range); } else { extents.remove(range); }
                (first..first + length).for_each(|at| { if add { bytes.insert(at); } else { bytes.remove(&at); } });
            }
            prop_assert_eq!(extents.bytes(), bytes.len() as u64);
            for at in 0..140 {
                prop_assert_eq!(extents.contains(at), bytes.contains(&at));
                let gap = (at..140).find(|at| !bytes.contains(at));
                prop_assert_eq!(extents.gap_from(at, 140).map(|gap| gap.first), gap);
            }
            let ranges: Vec<_> = extents.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].first));
        }
    }
}
