//! The stage of a copy that gets the chunks in guest order after they are read. It hashes them, and reports the parts
//! that couldn't be read.
//!
//! A checksum needs one chunk after the other, so only one worker hashes at a time, while the others read, encrypt
//! and write. That needs no more memory, and takes no longer than the slower of the two. A copy that needs neither
//! has no such stage.
//!
//! Adjacent sectors that can't be read are joined, also across chunks, so that a broken gigabyte is reported in one
//! line and not in two million.

use std::sync::{Mutex, PoisonError};

use super::Observer;
use super::digest::{Algorithm, Digest, Hasher};
use super::ordering::ChunkOrder;
use crate::error::Error;
use crate::formats::Image;
use crate::units::{GuestOffset, SECTOR_SIZE};

/// A part of the disk that could not be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    start: u64,
    end: u64,
    /// The error of reading its first sector.
    error: Error,
}

/// The sequential stage; see the module's documentation.
pub(super) struct SequentialStage<'a> {
    observer: &'a dyn Observer,
    order: ChunkOrder,
    state: Mutex<StageState>,
}

struct StageState {
    hasher: Option<Hasher>,
    /// The last part that couldn't be read. The next chunk may continue it.
    unreadable: Option<Unreadable>,
}

impl<'a> SequentialStage<'a> {
    pub(super) fn new(algorithm: Option<Algorithm>, observer: &'a dyn Observer) -> Self {
        Self {
            observer,
            order: ChunkOrder::default(),
            state: Mutex::new(StageState {
                hasher: algorithm.map(Hasher::new),
                unreadable: None,
            }),
        }
    }

    /// Waits until all chunks before `number` have passed the stage. Then hashes `data`, and reports the `unreadable`
    /// parts. Returns `None` if a worker has failed.
    pub(super) fn take(
        &self,
        number: u64,
        guest: GuestOffset,
        data: &[u8],
        unreadable: Vec<Unreadable>,
    ) -> Option<()> {
        let step = || {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(hasher) = &mut state.hasher {
                hasher.update(guest, data);
            }
            for part in unreadable {
                match &mut state.unreadable {
                    Some(before) if before.end == part.start => before.end = part.end,
                    before => self.tell(before.replace(part)),
                }
            }
            // A part that ends before the end of this chunk can't continue.
            let end = guest.0 + data.len() as u64;
            if state.unreadable.as_ref().is_some_and(|part| part.end < end) {
                self.tell(state.unreadable.take());
            }
            Ok(())
        };
        self.order.run(number, step).map(|_| ())
    }

    fn tell(&self, part: Option<Unreadable>) {
        if let Some(part) = part {
            let length = part.end - part.start;
            self.observer
                .salvaged(GuestOffset(part.start), length, &part.error);
        }
    }

    /// Wakes the workers that wait for earlier chunks, since a worker has failed.
    pub(super) fn stop(&self) {
        self.order.fail(Error::invalid("the job was stopped"));
    }

    /// Reports the last part that couldn't be read, since the job has ended. Returns the checksum, if one was wanted,
    /// of a disk of `size` bytes that was copied completely.
    pub(super) fn finish(&self, size: Option<u64>) -> Option<Digest> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(state.unreadable.take());
        let hasher = state.hasher.take();
        Some(hasher?.finish(size?))
    }
}

/// Reads a part that can't be read as a whole in halves, down to a sector. Fills sectors that can't be read with
/// zeroes, and adds them to `unreadable`.
pub(super) fn salvage(
    source: &dyn Image,
    guest: GuestOffset,
    part: &mut [u8],
    unreadable: &mut Vec<Unreadable>,
) {
    let sectors = part.len() as u64 / SECTOR_SIZE;
    let half = usize::try_from(sectors / 2 * SECTOR_SIZE).unwrap_or(0);
    let (first, second) = part.split_at_mut(half);
    let middle = GuestOffset(guest.0 + half as u64);
    for (guest, part) in [(guest, first), (middle, second)] {
        if part.is_empty() {
            continue;
        }
        match source.read_at(guest, part) {
            Ok(()) => {}
            Err(error) if half == 0 => {
                part.fill(0);
                let end = guest.0 + part.len() as u64;
                match unreadable.last_mut() {
                    Some(last) if last.end == guest.0 => last.end = end,
                    _ => unreadable.push(Unreadable {
                        start: guest.0,
                        end,
                        error,
                    }),
                }
            }
            Err(_) => salvage(source, guest, part, unreadable),
        }
    }
}
