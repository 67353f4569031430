//! The stage that sees the chunks in guest order once they are read: it hashes them, and tells of places that
//! couldn't be read.
//!
//! A checksum has to see one chunk after the other, so it is taken by one worker at a time. While one worker
//! hashes, the others read, encrypt and write. That takes no more memory, and no longer than the slower of the
//! two. Copies that need no order have no such stage.
//!
//! Places that can't be read come in rows, sector by sector. They are joined while they are
//! neighbours, across chunks too, so that a broken gigabyte is one line and not two million.

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

/// The stage; see the module's text.
pub(super) struct SequentialStage<'a> {
    observer: &'a dyn Observer,
    order: ChunkOrder,
    state: Mutex<StageState>,
}

struct StageState {
    hasher: Option<Hasher>,
    /// The part that couldn't be read just before; the next chunk may go on with it.
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

    /// Waits until all chunks before the one with this number were here, and then hashes it and tells of its
    /// `unreadable` parts. All else was read into `data`. Returns `None` if a worker failed.
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
            // A part that ends before this chunk does can't grow any more.
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

    /// Lets go whoever waits for earlier chunks, since a worker failed.
    pub(super) fn stop(&self) {
        self.order.fail(Error::invalid("the job was stopped"));
    }

    /// Tells of the part that hasn't been told yet, since the job is over, done or not. Returns the checksum,
    /// where one was wanted, if all of the disk was copied; `size` is its length in bytes then.
    pub(super) fn finish(&self, size: Option<u64>) -> Option<Digest> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(state.unreadable.take());
        let hasher = state.hasher.take();
        Some(hasher?.finish(size?))
    }
}

/// Reads a part that can't be read whole in halves, down to a sector. Sectors that can't be read are filled with
/// zeroes, and added to `unreadable`.
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
