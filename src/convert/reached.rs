//! The offset up to which all workers together have finished.
//!
//! Chunks are finished in any order, but progress is the end of the last chunk before which all are finished.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The chunks that are finished; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<ReachedState>);

#[derive(Debug, Default)]
struct ReachedState {
    /// The number of the first chunk that isn't finished.
    next: u64,
    /// The ends of the finished chunks after it, by their numbers.
    ahead: BTreeMap<u64, u64>,
}

impl Reached {
    /// Records that the chunk of this number, which ends at `end`, is finished. Calls `tell` with the end of each
    /// chunk up to which all are finished now. Calls of `tell` never overlap.
    pub(super) fn done(&self, number: u64, end: u64, mut tell: impl FnMut(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ReachedState { next, ahead } = &mut *state;
        ahead.insert(number, end);
        while let Some(end) = ahead.remove(next) {
            *next += 1;
            tell(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_has_nothing_missing_before_it() {
        let reached = Reached::default();
        let done = |number, end| {
            let mut told = Vec::new();
            reached.done(number, end, |end| told.push(end));
            told
        };
        assert!(done(1, 20).is_empty());
        assert!(done(2, 30).is_empty());
        assert_eq!(done(0, 10), [10, 20, 30]);
        assert!(done(4, 50).is_empty());
        assert_eq!(done(3, 40), [40, 50]);
        assert_eq!(done(5, 60), [60]);
    }
}
