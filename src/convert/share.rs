//! Copying without reading and writing: sharing of blocks with the source, and copying within the kernel.
//!
//! Data that is stored unchanged in the target, in whole blocks of the file system, can be shared instead of written.
//! It is read nevertheless to find zeroes, so that the target has the same tables. Chunks are long, and only a small
//! part of each is in memory for that. A cluster that is shared as a whole is only read up to its first byte that
//! isn't zero.
//!
//! Only the file system knows if blocks can be shared. If it refuses the first range because it can't share any
//! blocks of the two files, no more are tried. Blocks that aren't shared are copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::buffer::Buffer;
use super::chunks::Chunk;
use super::place::Placement;
use super::reading::{read_chunk, reading};
use super::runs::{lengths, push, within};
use super::settings::{Reflink, Settings};
use super::tally::Tally;
use super::zero::is_zero;
use crate::error::{Error, Result};
use crate::formats::{Image, NewImage, Plain, PlainPlace, Run, SharedSpace, WritableImage};
use crate::storage::{SHARED_UNIT, Storage};
use crate::units::{GuestOffset, HostOffset};

/// The length in bytes that is shared at once: so long that the search for zeroes is the main cost.
const SHARED_AT_ONCE: usize = 16 << 20;
/// The length in bytes that is shared at once if reads wait, so that many are in flight.
const SHARED_AT_ONCE_WHILE_WIDE: usize = 4 << 20;
/// The length in bytes of the start of a cluster that is read first in the search for data.
const FIRST_LOOK: usize = 4096;
/// The number of refusals without any success after which no more ranges are tried.
const MOST_REFUSALS: u32 = 4;
/// The value of the number of refusals once blocks have been shared.
const WORKS: u32 = u32::MAX;

/// The recipient of the data.
#[derive(Clone, Copy)]
enum Destination<'a> {
    /// The file of a new image, in which room is reserved.
    File(&'a dyn Storage),
    /// An image that exists, which finds room itself.
    Image(&'a dyn WritableImage, SharedSpace),
}

/// The sharing of blocks of a source with a target; see the module's documentation.
pub(super) struct BlockSharing<'a> {
    source: &'a dyn Image,
    target: &'a dyn NewImage,
    to: Destination<'a>,
    reflink: Reflink,
    copy_offload: bool,
    /// True if data is searched for zeroes.
    finds_zeroes: bool,
    /// True if zeroes needn't be written.
    skips_zeroes: bool,
    /// The unit in bytes that is stored as a whole unless it is all zeroes, if it is much more than [`FIRST_LOOK`].
    unit: Option<usize>,
    /// The number of times that sharing was refused, or [`WORKS`].
    refusals: AtomicU32,
    /// True if blocks may be shared, as far as is known without an attempt.
    asked: AtomicBool,
    /// True if the last chunk had something to share.
    found: AtomicBool,
    tally: Arc<Tally>,
}

impl<'a> BlockSharing<'a> {
    /// Returns `None` if nothing can be shared, or if sharing isn't wanted.
    ///
    /// # Errors
    /// Returns an error with [`Reflink::Always`] if the target can't share blocks.
    pub(super) fn new(
        source: &'a dyn Image,
        target: &'a dyn NewImage,
        settings: Settings,
        tally: Arc<Tally>,
    ) -> Result<Option<Self>> {
        let may_share = settings.reflink != Reflink::Never && target.may_share();
        let file = target.plain_storage().filter(|_| !target.compresses());
        let file = file.filter(|_| may_share || settings.copy_offload);
        let image = target
            .image_in_use()
            .filter(|_| settings.reflink == Reflink::Auto);
        let to = match (file, image) {
            (Some(file), _) => Destination::File(file),
            (None, Some((image, space))) => Destination::Image(image, space),
            (None, None) if settings.reflink == Reflink::Always => {
                return Err(Error::unsupported(
                    "blocks can't be shared with a target that is encrypted, compressed, \
                     preallocated or written over by its format",
                ));
            }
            (None, None) => return Ok(None),
        };
        let is_file = matches!(to, Destination::File(_));
        let copy_offload = settings.copy_offload && is_file;
        Ok(Some(Self {
            source,
            target,
            to,
            reflink: settings.reflink,
            copy_offload,
            finds_zeroes: !copy_offload && !settings.shares_unread && settings.sparse.is_some(),
            skips_zeroes: target.starts_as_zeroes() && settings.sparse.is_some(),
            unit: Some(target.table_unit()).filter(|unit| {
                let sparse = settings.sparse.is_some_and(|sparse| sparse.get() <= *unit);
                sparse && (target.backed().is_none() || !is_file) && *unit >= 4 * FIRST_LOOK
            }),
            refusals: AtomicU32::new(if may_share { 0 } else { MOST_REFUSALS }),
            asked: AtomicBool::new(false),
            found: AtomicBool::new(false),
            tally,
        }))
    }

    /// Returns true if sharing of blocks may succeed.
    fn is_possible(&self) -> bool {
        let refusals = self.refusals.load(Ordering::Relaxed);
        refusals < MOST_REFUSALS || refusals == WORKS || self.reflink == Reflink::Always
    }

    /// Returns the least length that a chunk should have, in bytes. It is 0 if there was nothing to share, since data
    /// that [`copy`](Self::copy) copies is read twice.
    pub(super) fn length(&self, wide: bool) -> usize {
        if !self.found.load(Ordering::Relaxed) {
            return 0;
        }
        match self.refusals.load(Ordering::Relaxed) {
            WORKS if wide => SHARED_AT_ONCE_WHILE_WIDE,
            WORKS => SHARED_AT_ONCE,
            _ => 0,
        }
    }

    /// Returns true if [`copy`](Self::copy) should copy a chunk, because some of it may be shared or copied within
    /// the kernel. So should it copy a chunk longer than `longest`, for which other copies would need a buffer of its
    /// length.
    ///
    /// # Errors
    /// Returns an error if the source's metadata can't be read.
    pub(super) fn concerns(&self, chunk: &Chunk, longest: usize) -> Result<bool> {
        let found = self.may_share_of(chunk)?;
        self.found.store(found, Ordering::Relaxed);
        Ok(found || chunk.length > longest)
    }

    /// Returns true if some of a chunk may be shared or copied within the kernel.
    fn may_share_of(&self, chunk: &Chunk) -> Result<bool> {
        if !self.copy_offload && !self.is_possible() {
            return Ok(false);
        }
        if self.reflink == Reflink::Always {
            return Ok(true);
        }
        for run in &chunk.data {
            let mut start = run.start;
            while start < run.end {
                let plain = self.plain(chunk, start..run.end)?;
                if let PlainPlace::At(from, _) = plain.place
                    && self.may_share_from(from)
                {
                    return Ok(true);
                }
                start = start.saturating_add(usize::try_from(plain.length).unwrap_or(usize::MAX));
            }
        }
        Ok(false)
    }

    /// Returns true if data in `from` may be shared, or copied within the kernel. A refusal would mean that the data
    /// was read in vain, so the file system is tested once before anything is read.
    fn may_share_from(&self, from: &dyn Storage) -> bool {
        if self.copy_offload || self.asked.load(Ordering::Relaxed) {
            return true;
        }
        let may_share = match self.to {
            Destination::File(file) => file.may_share_with(from),
            Destination::Image(image, _) => image.may_share_with(from),
        };
        self.asked.store(may_share, Ordering::Relaxed);
        may_share
    }

    /// Copies a chunk of which some may be shared, with a buffer for `request` bytes. `wide` says that requests wait,
    /// so that few long ones are better than many short ones.
    ///
    /// # Errors
    /// Returns the first error of reading or writing. With [`Reflink::Always`], returns an error if some data can't
    /// be shared.
    pub(super) fn copy(
        &self,
        chunk: &Chunk,
        placement: &Placement<'_>,
        buffer: &mut Buffer,
        (request, wide): (usize, bool),
    ) -> Result<()> {
        let length = chunk.length.next_multiple_of(self.target.allocation_unit());
        let runs = match self.unit.filter(|_| !wide) {
            _ if !self.finds_zeroes => chunk.data.clone(),
            Some(unit) => self.stored_units(chunk, length, unit, buffer)?,
            None => self.stored(chunk, length, placement, buffer, request)?,
        };
        let Some(reservation) = placement.reserve(chunk, length, &runs)? else {
            return Ok(());
        };
        self.tally.stored.add(lengths(&runs));
        for (run, host) in &reservation.pieces {
            // Beyond the end of the disk there is only the rest of a cluster, which isn't copied.
            let run_end = run.end.min(chunk.length);
            let mut start = run.start;
            while start < run_end {
                let plain = self.plain(chunk, start..run_end)?;
                let end = start.saturating_add(usize::try_from(plain.length).unwrap_or(usize::MAX));
                let part = start..end.min(run_end);
                let to = host.0 + (start - run.start) as u64;
                self.copy_part(chunk, &part, plain, to, buffer, request)?;
                start = part.end;
            }
        }
        self.target.write_metadata(&reservation)
    }

    /// Returns the parts of a chunk that are stored. Reads the chunk for that, part by part.
    fn stored(
        &self,
        chunk: &Chunk,
        length: usize,
        placement: &Placement<'_>,
        buffer: &mut Buffer,
        request: usize,
    ) -> Result<Vec<Run>> {
        let mut stored = Vec::new();
        for start in (0..length).step_by(request) {
            let part = start..(start + request).min(length);
            let chunk = chunk.part(&part);
            if chunk.data.is_empty() && chunk.left.is_empty() {
                continue;
            }
            let data = buffer.get(part.len());
            read_chunk(self.source, &chunk, data)?;
            let runs = placement.stored(&chunk, data).into_iter();
            stored.extend(runs.map(|run| run.start + start..run.end + start));
        }
        Ok(stored)
    }

    /// Does the same as [`stored`](Self::stored) in whole units, each of which is only read up to its first data.
    fn stored_units(
        &self,
        chunk: &Chunk,
        length: usize,
        unit: usize,
        buffer: &mut Buffer,
    ) -> Result<Vec<Run>> {
        let mut stored = Vec::new();
        for start in (0..length).step_by(unit) {
            let end = (start + unit).min(length);
            let parts = within(&chunk.data, &(start..end));
            if !self.holds_something(chunk, &parts, buffer)? {
                continue;
            }
            // An image in use may store other parts of the unit, which stay.
            // Space is reserved block by block, so runs may span blocks here.
            match self.to {
                Destination::File(_) => push(&mut stored, start..end),
                Destination::Image(..) => {
                    parts.into_iter().for_each(|part| push(&mut stored, part))
                }
            }
        }
        Ok(stored)
    }

    /// Returns true if parts of a chunk have anything but zeroes.
    fn holds_something(&self, chunk: &Chunk, parts: &[Run], buffer: &mut Buffer) -> Result<bool> {
        for part in parts {
            let middle = (part.start + FIRST_LOOK).min(part.end);
            for part in [part.start..middle, middle..part.end] {
                let data = buffer.get(part.len());
                let guest = GuestOffset(chunk.guest.0 + part.start as u64);
                if part.is_empty() {
                    continue;
                }
                self.source
                    .read_at(guest, data)
                    .map_err(|error| reading(guest, error))?;
                if !is_zero(data) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Copies a part of the disk that is contiguous in the source to `to` in the target.
    fn copy_part(
        &self,
        chunk: &Chunk,
        part: &Run,
        plain: Plain<'_>,
        to: u64,
        buffer: &mut Buffer,
        request: usize,
    ) -> Result<()> {
        let file = match self.to {
            Destination::File(file) => file,
            Destination::Image(image, space) => {
                return self.write_part((image, space), chunk, part, plain, buffer, request);
            }
        };
        let mut copy = |part: &Run, to| {
            self.read_and_write(chunk, part, buffer, request, &mut |start, data| {
                file.write_at(to + (start - part.start) as u64, data)
            })
        };
        let mut copy_all = |part: &Run| {
            self.tally.written.add(part.len() as u64);
            copy(part, to)
        };
        let (from, host) = match plain.place {
            PlainPlace::At(from, host) => (from, host),
            PlainPlace::Zeroes if self.skips_zeroes => return Ok(()),
            PlainPlace::Zeroes => return copy_all(part),
            PlainPlace::Nowhere => {
                self.must_share(chunk, part, "it isn't stored as it is")?;
                return copy_all(part);
            }
        };
        let shared = self.share(file, chunk, part, (from, host), to)?;
        let rest = [part.start..shared.start, shared.end..part.end];
        for rest in rest.iter().filter(|rest| !rest.is_empty()) {
            self.must_share(chunk, rest, "it isn't whole blocks")?;
            let skipped = (rest.start - part.start) as u64;
            let length = rest.len() as u64;
            self.tally.written.add(length);
            let (to, from_offset) = (to + skipped, host.0 + skipped);
            if !self.copy_offload || !file.copy_from(to, from, from_offset, length)? {
                copy(rest, to)?;
            }
        }
        Ok(())
    }

    /// Writes a part of the disk that lies in one piece in the source into an image in use.
    fn write_part(
        &self,
        (image, space): (&dyn WritableImage, SharedSpace),
        chunk: &Chunk,
        part: &Run,
        plain: Plain<'_>,
        buffer: &mut Buffer,
        request: usize,
    ) -> Result<()> {
        let place = |start: usize| GuestOffset(chunk.guest.0 + start as u64);
        let mut rest = part.clone();
        match plain.place {
            PlainPlace::At(from, host) => {
                let blocks = whole_blocks(from, host, place(part.start), part.len() as u64)?;
                let shared = image.write_from(place(part.start), from, host.0, blocks, space)?;
                if shared > 0 {
                    self.refusals.store(WORKS, Ordering::Relaxed);
                }
                self.tally.shared.add(shared);
                self.tally.written.add(blocks - shared);
                let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
                rest.start = rest.start.saturating_add(blocks);
            }
            PlainPlace::Zeroes if self.skips_zeroes => return Ok(()),
            _ => {}
        }
        self.tally.written.add(rest.len() as u64);
        self.read_and_write(chunk, &rest, buffer, request, &mut |start, data| {
            image.write_at(place(start), data)
        })
    }

    /// Shares as much of a part of a chunk as can be shared, and returns that.
    fn share(
        &self,
        file: &dyn Storage,
        chunk: &Chunk,
        part: &Run,
        (from, host): (&dyn Storage, HostOffset),
        to: u64,
    ) -> Result<Run> {
        let nothing = part.start..part.start;
        let (first, last) = (to.next_multiple_of(SHARED_UNIT), to + part.len() as u64);
        let skipped = first - to;
        let from_offset = host.0 + skipped;
        // The last block of a file may be a partial one.
        let ends_source = from
            .len()
            .is_ok_and(|len| host.0 + part.len() as u64 == len);
        let last = if ends_source {
            last
        } else {
            last / SHARED_UNIT * SHARED_UNIT
        };
        if !self.is_possible() || first >= last || !from_offset.is_multiple_of(SHARED_UNIT) {
            return Ok(nothing);
        }
        let length = last - first;
        match file.share_from(first, from, from_offset, length) {
            Ok(()) => {
                self.refusals.store(WORKS, Ordering::Relaxed);
                self.tally.shared.add(length);
                let start = part.start + usize::try_from(skipped).unwrap_or(usize::MAX);
                Ok(start..start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)))
            }
            Err(refused) if self.reflink == Reflink::Always => {
                Err(refused.why.context(sharing(chunk, part)))
            }
            Err(refused) => {
                let more = if refused.ever { MOST_REFUSALS } else { 1 };
                let counted = |refusals: u32| match refusals {
                    WORKS => None,
                    refusals => Some(refusals.saturating_add(more).min(MOST_REFUSALS)),
                };
                let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
                let _ = self.refusals.fetch_update(set, read, counted);
                Ok(nothing)
            }
        }
    }

    /// Returns an error instead of copying with [`Reflink::Always`].
    fn must_share(&self, chunk: &Chunk, part: &Run, why: &str) -> Result<()> {
        if self.reflink == Reflink::Always {
            return Err(Error::unsupported(why).context(sharing(chunk, part)));
        }
        Ok(())
    }

    /// Has a part written, piece by piece, each with its place in the chunk.
    fn read_and_write(
        &self,
        chunk: &Chunk,
        part: &Run,
        buffer: &mut Buffer,
        request: usize,
        write: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for start in part.clone().step_by(request) {
            let length = request.min(part.end - start);
            let data = buffer.get(length);
            let guest = GuestOffset(chunk.guest.0 + start as u64);
            self.source
                .read_at(guest, data)
                .map_err(|error| reading(guest, error))?;
            write(start, data)?;
        }
        Ok(())
    }

    /// Returns the host range of a part of a chunk in the source, if it is stored unchanged.
    fn plain(&self, chunk: &Chunk, part: Run) -> Result<Plain<'_>> {
        let guest = GuestOffset(chunk.guest.0 + part.start as u64);
        self.source
            .plain_at(guest, part.len() as u64)
            .map_err(|error| reading(guest, error))
    }
}

/// Returns the number of bytes of a run of data, `length` bytes of `from` at `host`, that are whole blocks of the file
/// and of the disk. There are none if the run doesn't start with one.
///
/// # Errors
/// Returns the system's error if the length of `from` can't be had.
pub(super) fn whole_blocks(
    from: &dyn Storage,
    host: HostOffset,
    guest: GuestOffset,
    length: u64,
) -> Result<u64> {
    if !host.0.is_multiple_of(SHARED_UNIT) || !guest.0.is_multiple_of(SHARED_UNIT) {
        return Ok(0);
    }
    let stored = from.len()?.saturating_sub(host.0).min(length);
    Ok(stored / SHARED_UNIT * SHARED_UNIT)
}

fn sharing(chunk: &Chunk, part: &Run) -> String {
    let guest = chunk.guest.0 + part.start as u64;
    format!("error while sharing blocks at byte {guest}")
}
