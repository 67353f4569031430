//! The rebase of an overlay: its disk stays the same over another backing file.
//!
//! Only unallocated parts of the overlay can change. Of these some are known to be the same without reading: both
//! chains are zero there, or have the data in an image that they share. The parts that differ are written into the
//! overlay, in whole units of its allocation. Data shares blocks with the old backing file if the file system can do
//! that. Zeroes become zero clusters if the image's version has them.
//!
//! The overlay names the old backing file until the caller changes that. So the disk reads as before, even if the
//! rebase is interrupted.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::Buffer;
use super::chunks::{BLOCK_SIZE, Chunk, Chunks, Wanted};
use super::parallel_read::{ReadStep, parallel_read_chunks};
use super::reached::Reached;
use super::settings::Observer;
use super::share::whole_blocks;
use super::window::{SHORTEST_WAIT, Watch};
use super::zero::is_zero;
use crate::error::{Error, Result};
use crate::formats::{Chain, Extent, ExtentKind, Image, PlainPlace, SharedSpace, WritableImage};
use crate::units::{GuestOffset, HostOffset};

/// The length of the start of a unit that is read first, in bytes.
const FIRST_LOOK: usize = 4096;

/// The overlay of a rebase, and its backing chains.
pub struct Rebase<'a> {
    /// The overlay.
    pub overlay: &'a dyn WritableImage,
    /// Its current backing chain, or `None` if it has none.
    pub old: Option<Arc<Chain>>,
    /// Its new backing chain, or `None` if it will have none.
    pub new: Option<Arc<Chain>>,
    /// The number of base images that both chains share.
    pub common: usize,
    /// True if data for whole clusters is compressed.
    pub compressed: bool,
}

/// Writes the parts that would differ over the new backing file into the overlay. Doesn't flush the overlay.
///
/// # Errors
/// Returns the first error of reading or writing.
pub fn rebase(rebase: &Rebase<'_>, workers: NonZeroUsize, observer: &dyn Observer) -> Result<()> {
    let size = rebase.overlay.size();
    let block = BLOCK_SIZE.max(rebase.overlay.allocation_unit());
    let chunks = Chunks::new(size, block, Wanted::Data, false);
    let changing = ChangingParts(rebase);
    let filling = RebasePass {
        rebase,
        observer,
        reached: Reached::default(),
        looks_first: AtomicBool::new(false),
    };
    parallel_read_chunks(&changing, chunks, block, workers, &filling)
}

impl Rebase<'_> {
    /// Returns the unit of the overlay's allocation, in bytes.
    fn unit(&self) -> usize {
        self.overlay.zero_unit().max(1)
    }
}

/// An extent of a backing chain.
struct BelowExtent {
    length: u64,
    /// True if it is known to read as zeroes.
    is_zero: bool,
    /// True if it is in one of the base images that both chains share.
    is_common: bool,
}

/// Returns the extent of a backing chain at `offset`. Beyond its end there are zeroes.
fn extent_below(
    chain: Option<&Chain>,
    common: usize,
    offset: GuestOffset,
    limit: u64,
) -> Result<BelowExtent> {
    let stored = chain.map_or(0, |chain| chain.size().saturating_sub(offset.0));
    let (Some(chain), true) = (chain, stored > 0) else {
        return Ok(BelowExtent {
            length: limit,
            is_zero: true,
            is_common: false,
        });
    };
    let extent = chain.extent_at(offset, limit.min(stored))?;
    Ok(BelowExtent {
        length: extent.length,
        is_zero: !extent.kind.is_data(),
        is_common: extent.depth + common >= chain.depth(),
    })
}

/// Returns true if a part reads as zeroes in a chain, and nothing needs to be read to know that.
fn is_zero_below(chain: Option<&Chain>, offset: GuestOffset, length: usize) -> Result<bool> {
    let below = extent_below(chain, 0, offset, length as u64)?;
    Ok(below.is_zero && below.length >= length as u64)
}

/// Returns true if a chain doesn't read as `old` at `guest`. `new` is a buffer of the same length, of which the start
/// is read first.
fn differs_below(
    chain: Option<&Chain>,
    guest: GuestOffset,
    old: &[u8],
    new: &mut [u8],
) -> Result<bool> {
    let look = FIRST_LOOK.min(new.len());
    let (first, rest) = new.split_at_mut(look);
    read_below(chain, guest, first)?;
    if !old.starts_with(first) {
        return Ok(true);
    }
    read_below(chain, GuestOffset(guest.0 + look as u64), rest)?;
    Ok(!old.ends_with(rest))
}

/// Reads from a backing chain. Beyond its end there are zeroes.
fn read_below(chain: Option<&Chain>, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
    let stored = chain.map_or(0, |chain| chain.size().saturating_sub(offset.0));
    let stored = usize::try_from(stored).unwrap_or(usize::MAX);
    let (data, beyond) = buf.split_at_mut(stored.min(buf.len()));
    beyond.fill(0);
    match chain {
        Some(chain) if !data.is_empty() => chain.read_at(offset, data),
        _ => Ok(()),
    }
}

/// The overlay's disk as an image whose data is only the parts that may differ over the new backing file. They are
/// whole units, except at the end of the disk.
struct ChangingParts<'a>(&'a Rebase<'a>);

impl Image for ChangingParts<'_> {
    fn size(&self) -> u64 {
        self.0.overlay.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let Self(rebase) = self;
        let extent = |length, kind| Extent {
            start: offset,
            length,
            kind,
            depth: 0,
        };
        let (same, changing) = (
            ExtentKind::Zero { kept: None },
            ExtentKind::Data(HostOffset(0)),
        );
        let own = rebase.overlay.extent_at(offset, limit)?;
        if !matches!(own.kind, ExtentKind::Unallocated { .. }) {
            return Ok(extent(own.length, same));
        }
        let below = |chain: &Option<Arc<Chain>>| {
            extent_below(chain.as_deref(), rebase.common, offset, own.length)
        };
        let (old, new) = (below(&rebase.old)?, below(&rebase.new)?);
        let length = own.length.min(old.length).min(new.length);
        let end = offset.0.saturating_add(length);
        let unit = rebase.unit() as u64;
        let is_same = (old.is_zero && new.is_zero) || (old.is_common && new.is_common);
        let whole_end = match end >= self.size() {
            true => end,
            false => end / unit * unit,
        };
        if is_same && whole_end > offset.0 {
            return Ok(extent(whole_end - offset.0, same));
        }
        let end = end.checked_next_multiple_of(unit).unwrap_or(end);
        let length = end.saturating_sub(offset.0).min(own.length);
        Ok(extent(length, changing))
    }

    fn memory_to_read(&self) -> usize {
        let chains = [&self.0.old, &self.0.new];
        let memory = chains.map(|chain| chain.as_ref().map_or(0, |chain| chain.memory_to_read()));
        memory.into_iter().sum::<usize>() + 2 * self.0.overlay.allocation_unit()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        read_below(self.0.old.as_deref(), offset, buf)
    }
}

/// The work on these parts.
struct RebasePass<'a> {
    rebase: &'a Rebase<'a>,
    observer: &'a dyn Observer,
    reached: Reached,
    /// True if all units of the last run differed, so that the start of a unit probably tells of the next one.
    looks_first: AtomicBool,
}

impl ReadStep for RebasePass<'_> {
    fn step(&self, chunk: &Chunk, [old, new]: &mut [Buffer; 2], read: &dyn Fn()) -> Result<bool> {
        let old_chain = self.rebase.old.as_deref();
        for run in &chunk.data {
            let start = GuestOffset(chunk.guest.0 + run.start as u64);
            let (old, new) = (old.get(run.len()), new.get(run.len()));
            let failed = |which: &str, error: Error| {
                let what = format!("error while reading from {which} backing file at byte {start}");
                error.context(what)
            };
            let watch = Watch::start();
            read_below(old_chain, start, old).map_err(|error| failed("old", error))?;
            let answers_at_once = watch.times().wait < SHORTEST_WAIT;
            let differs = self.differing(start, old, new, answers_at_once);
            let differs = differs.map_err(|error| failed("new", error))?;
            self.fill(start, old, &differs)
                .map_err(|error| error.context("Error while writing to COW image"))?;
        }
        read();
        let size = self.rebase.overlay.size();
        let end = chunk.guest.0 + chunk.length as u64;
        self.reached.done(chunk.number, end, |end| {
            // The end of the disk is reported when the image names its new backing file.
            if end < size {
                self.observer.progress(end, size);
            }
        });
        Ok(true)
    }
}

/// The change of a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// Stores nothing: both backing chains read the same.
    Leave,
    /// Stores zeroes.
    Zeroes,
    /// Stores data.
    Data,
}

impl RebasePass<'_> {
    /// Returns true for each unit of a run at `start` that the new backing chain doesn't read as `old`. `new` is a
    /// buffer for it. If requests don't wait, the start of a unit is read first where that probably suffices.
    fn differing(
        &self,
        start: GuestOffset,
        old: &[u8],
        new: &mut [u8],
        answers_at_once: bool,
    ) -> Result<Vec<bool>> {
        let chain = self.rebase.new.as_deref();
        let unit = self.rebase.unit();
        if is_zero_below(chain, start, old.len())? {
            return Ok(old.chunks(unit).map(|old| !is_zero(old)).collect());
        }
        let looks_first = answers_at_once && unit >= 4 * FIRST_LOOK;
        let differs: Vec<bool> = if looks_first && self.looks_first.load(Ordering::Relaxed) {
            let units = old.chunks(unit).zip(new.chunks_mut(unit)).enumerate();
            let guest = |index: usize| GuestOffset(start.0 + (index * unit) as u64);
            let differs =
                units.map(|(index, (old, new))| differs_below(chain, guest(index), old, new));
            differs.collect::<Result<_>>()?
        } else {
            read_below(chain, start, new)?;
            let units = old.chunks(unit).zip(new.chunks(unit));
            units.map(|(old, new)| old != new).collect()
        };
        let all = differs.iter().all(|differs| *differs);
        self.looks_first.store(all, Ordering::Relaxed);
        Ok(differs)
    }

    /// Writes the units of a run at `start` that differ. The old backing chain reads as `old`.
    fn fill(&self, start: GuestOffset, old: &[u8], differs: &[bool]) -> Result<()> {
        let unit = self.rebase.unit();
        let stores_zeroes = self.rebase.overlay.stores_zeroes();
        let fills = old
            .chunks(unit)
            .zip(differs)
            .map(|(old, differs)| match differs {
                false => Fill::Leave,
                true if stores_zeroes && is_zero(old) => Fill::Zeroes,
                true => Fill::Data,
            });
        let mut parts: Vec<(Fill, Range<usize>)> = Vec::new();
        let mut at = 0;
        for fill in fills {
            let end = (at + unit).min(old.len());
            match parts.last_mut() {
                Some((last, part)) if *last == fill => part.end = end,
                _ => parts.push((fill, at..end)),
            }
            at = end;
        }
        for (fill, part) in parts {
            let offset = GuestOffset(start.0 + part.start as u64);
            let data = old.get(part).unwrap_or_default();
            self.write(offset, fill, data)?;
        }
        Ok(())
    }

    fn write(&self, offset: GuestOffset, fill: Fill, data: &[u8]) -> Result<()> {
        let overlay = self.rebase.overlay;
        match fill {
            Fill::Leave => Ok(()),
            Fill::Zeroes => overlay.write_zeroes(offset, data.len() as u64, true),
            Fill::Data if self.rebase.compressed => overlay.write_compressed(offset, data),
            Fill::Data => self.write_data(offset, data),
        }
    }

    /// Writes data of the old backing file, or shares blocks with it where it has the data as the guest sees it.
    fn write_data(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let overlay = self.rebase.overlay;
        let mut start = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let limit = rest.len() as u64;
            // Beyond its end there are zeroes.
            let old = self.rebase.old.as_ref().filter(|old| start.0 < old.size());
            let plain = old
                .map(|old| old.plain_at(start, limit.min(old.size() - start.0)))
                .transpose()?;
            let length = plain.map_or(limit, |plain| plain.length.min(limit));
            let (part, after) = rest.split_at(usize::try_from(length).unwrap_or(rest.len()));
            let shared = match plain.map(|plain| plain.place) {
                Some(PlainPlace::At(from, host)) if overlay.may_share_with(from) => {
                    let blocks = whole_blocks(from, host, start, length)?;
                    overlay.write_from(start, from, host.0, blocks, SharedSpace::New)?;
                    blocks
                }
                _ => 0,
            };
            let written = part
                .get(usize::try_from(shared).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            if !written.is_empty() {
                overlay.write_at(GuestOffset(start.0 + shared), written)?;
            }
            start = GuestOffset(start.0 + length);
            rest = after;
        }
        Ok(())
    }
}
