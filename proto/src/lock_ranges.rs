//! The bytes of one file that one owner has locked, split and merged as fcntl(2) has it. The master's table is
//! made of these, and a mount keeps its own to declare them again.
//!
//! What must hold: ranges are in order, do not overlap, and neighbours of one mode are one range.

/// How bytes are locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockMode {
    /// Others may share.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// A locked range, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// How.
    pub mode: LockMode,
}

impl LockRange {
    /// Do the two have a byte in common?
    pub fn overlaps(&self, other: &LockRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Can two owners not have both?
    pub fn conflicts(&self, other: &LockRange) -> bool {
        self.overlaps(other) && (self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive)
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LockRanges(Vec<LockRange>);

impl LockRanges {
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &LockRange> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range that is in the way of another owner's `wanted`.
    pub fn conflict(&self, wanted: &LockRange) -> Option<&LockRange> {
        self.0.iter().find(|held| held.conflicts(wanted))
    }

    /// Is any byte from `start` to `end` locked exclusively?
    pub fn is_exclusive(&self, start: u64, end: u64) -> bool {
        self.conflict(&LockRange { start, end, mode: LockMode::Shared }).is_some()
    }

    /// Locks `start` to `end`, both included, whatever they were; `None` unlocks them.
    pub fn set(&mut self, start: u64, end: u64, mode: Option<LockMode>) {
        let mut all = Vec::with_capacity(self.0.len() + 2);
        for held in &self.0 {
            if held.end < start || held.start > end {
                all.push(*held);
                continue;
            }
            if held.start < start {
                all.push(LockRange { end: start - 1, ..*held });
            }
            if held.end > end {
                all.push(LockRange { start: end + 1, ..*held });
            }
        }
        all.extend(mode.map(|mode| LockRange { start, end, mode }));
        all.sort_by_key(|range| range.start);
        self.0.clear();
        for range in all {
            match self.0.last_mut() {
                Some(last) if last.mode == range.mode && last.end.checked_add(1) == Some(range.start) => {
                    last.end = range.end;
                }
                _ => self.0.push(range),
            }
        }
    }

    /// Makes what is exclusive from `start` to `end` shared.
    pub fn weaken(&mut self, start: u64, end: u64) {
        let wanted = LockRange { start, end, mode: LockMode::Shared };
        let strong: Vec<LockRange> = self.0.iter().filter(|held| held.conflicts(&wanted)).copied().collect();
        for range in strong {
            self.set(range.start.max(start), range.end.min(end), Some(LockMode::Shared));
        }
    }

    /// Does what the module says must hold?
    pub fn is_tidy(&self) -> bool {
        self.0.iter().all(|range| range.start <= range.end)
            && self.0.windows(2).all(|pair| {
                pair[0].end < pair[1].start
                    && (pair[0].mode != pair[1].mode || pair[0].end + 1 < pair[1].start)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_and_merge() {
        let mut ranges = LockRanges::default();
        ranges.set(0, u64::MAX, Some(LockMode::Shared));
        ranges.set(10, 19, Some(LockMode::Exclusive));
        let told: Vec<_> = ranges.iter().map(|r| (r.start, r.end, r.mode == LockMode::Exclusive)).collect();
        assert_eq!(told, [(0, 9, false), (10, 19, true), (20, u64::MAX, false)]);
        ranges.weaken(12, 100);
        let told: Vec<_> = ranges.iter().map(|r| (r.start, r.end, r.mode == LockMode::Exclusive)).collect();
        assert_eq!(told, [(0, 9, false), (10, 11, true), (12, u64::MAX, false)]);
        ranges.set(5, 11, None);
        assert!(!ranges.is_exclusive(0, u64::MAX) && ranges.len() == 2 && ranges.is_tidy());
        ranges.set(5, 11, Some(LockMode::Shared));
        assert_eq!(ranges.len(), 1);
        ranges.set(0, u64::MAX, None);
        assert!(ranges.is_empty());
    }
}
