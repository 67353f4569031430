//! Whose turn it is, and the first error.
//!
//! Chunks are processed in any order, but room in the target is reserved in the order of their
//! numbers. [`Turn::take`] waits until all earlier chunks have reserved. Since chunks are handed out
//! in that order too, the worker with the lowest number never waits, and so nobody waits for ever;
//! an error wakes everybody.
//!
//! Only whose turn it is gets woken: with 16 workers on two processors, to wake all of them for each chunk
//! took a quarter of the time that compressing takes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// In how many groups workers wait. The numbers of those who wait lie close together, so with no more
/// workers than that each waits alone.
const GROUPS: usize = 64;

/// The order of the workers; see the module's text.
#[derive(Debug)]
pub(super) struct Turn {
    state: Mutex<State>,
    /// Those who wait, by the remainders of their numbers.
    changed: [Condvar; GROUPS],
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    error: Option<Error>,
    over: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: std::array::from_fn(|_| Condvar::new()),
        }
    }
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, number: u64) -> &Condvar {
        let [first, ..] = &self.changed;
        let group = usize::try_from(number % GROUPS as u64).unwrap_or(0);
        self.changed.get(group).unwrap_or(first)
    }

    /// Waits until `number` is next, runs `step`, and lets the following one go on. `None` when a
    /// worker failed.
    pub(super) fn take<T>(
        &self,
        number: u64,
        step: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        let mut state = self
            .group(number)
            .wait_while(self.lock(), |state| !state.over && state.next != number)
            .unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return None;
        }
        let result = step();
        state.next += 1;
        let next = state.next;
        drop(state);
        self.group(next).notify_all();
        Some(result)
    }

    /// Ends the job; the first error is kept.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.over = true;
        if state.error.is_none() {
            state.error = Some(error);
        }
        drop(state);
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// Whether a worker failed.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// The first error, if there was one; after that it is gone.
    pub(super) fn take_result(&self) -> Result<()> {
        match self.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
