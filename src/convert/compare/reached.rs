//! How far all workers together have come.
//!
//! Chunks are done in any order, but who compares wants to be told up to where the disks are the same: a
//! chunk that is done counts when all before it are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Reached(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of the first chunk that isn't done.
    next: u64,
    /// The ends of the chunks behind it that are.
    ahead: BTreeMap<u64, u64>,
}

impl Reached {
    /// The chunk of this number, which ends at `end`, is done. Calls `tell` with the end of the last one
    /// that has none before it that isn't, if that is news; one call after the other.
    pub(super) fn done(&self, number: u64, end: u64, tell: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { next, ahead } = &mut *state;
        ahead.insert(number, end);
        let mut reached = None;
        while let Some(end) = ahead.remove(next) {
            *next += 1;
            reached = Some(end);
        }
        if let Some(end) = reached {
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
            let mut told = None;
            reached.done(number, end, |end| told = Some(end));
            told
        };
        assert_eq!(done(1, 20), None);
        assert_eq!(done(2, 30), None);
        assert_eq!(done(0, 10), Some(30));
        assert_eq!(done(4, 50), None);
        assert_eq!(done(3, 40), Some(50));
        assert_eq!(done(5, 60), Some(60));
    }
}
