//! The order in which chunks reserve space, and the first error.
//!
//! Chunks are processed in any order, but they reserve space in the target in the order of their numbers.
//! [`ChunkOrder::run`] waits until all earlier chunks have done so. Chunks are handed out in that order too, so the
//! worker with the lowest number never waits, and no worker waits forever. An error wakes all of them.
//!
//! Only the next worker is woken. Waking all of 16 workers for each chunk on two processors took a quarter as long as
//! compressing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// The number of groups in which workers wait. The numbers of waiting workers are close together, so each waits alone
/// if there are no more workers than groups.
const GROUPS: usize = 64;

/// The order of the workers; see the module's documentation.
#[derive(Debug)]
pub(super) struct ChunkOrder {
    state: Mutex<OrderState>,
    /// The condition variables of waiting workers, by their numbers modulo [`GROUPS`].
    changed: [Condvar; GROUPS],
}

#[derive(Debug, Default)]
struct OrderState {
    next: u64,
    error: Option<Error>,
    ended: bool,
}

impl Default for ChunkOrder {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: std::array::from_fn(|_| Condvar::new()),
        }
    }
}

impl ChunkOrder {
    fn lock(&self) -> MutexGuard<'_, OrderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, number: u64) -> &Condvar {
        let [first, ..] = &self.changed;
        let group = usize::try_from(number % GROUPS as u64).unwrap_or(0);
        self.changed.get(group).unwrap_or(first)
    }

    /// Waits until `number` is next, runs `step`, and wakes the worker with the following number. Returns `None` if a
    /// worker has failed.
    pub(super) fn run<T>(
        &self,
        number: u64,
        step: impl FnOnce() -> Result<T>,
    ) -> Option<Result<T>> {
        let mut state = self
            .group(number)
            .wait_while(self.lock(), |state| !state.ended && state.next != number)
            .unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return None;
        }
        let result = step();
        state.next += 1;
        let next = state.next;
        drop(state);
        self.group(next).notify_all();
        Some(result)
    }

    /// Ends the job with an error. The first error is kept.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.ended = true;
        if state.error.is_none() {
            state.error = Some(error);
        }
        drop(state);
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// Returns true if a worker has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().ended
    }

    /// Takes the first error, if there is one.
    pub(super) fn take_result(&self) -> Result<()> {
        match self.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
