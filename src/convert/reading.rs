//! Reading of a chunk: its data, and zeroes between.

use super::chunks::Chunk;
use super::runs::zero_fill;
use crate::error::{Error, Result};
use crate::formats::Image;
use crate::units::GuestOffset;

/// Fills `buffer` with the chunk's data, and with zeroes where it has none.
pub(super) fn read_chunk(source: &dyn Image, chunk: &Chunk, buffer: &mut [u8]) -> Result<()> {
    read_runs(chunk, buffer, |guest, part| source.read_at(guest, part))
}

/// Does the same as [`read_chunk`], where `read` reads a run of data.
pub(super) fn read_runs(
    chunk: &Chunk,
    buffer: &mut [u8],
    mut read: impl FnMut(GuestOffset, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut end = 0;
    for run in &chunk.data {
        zero_fill(buffer, end..run.start);
        let guest = GuestOffset(chunk.guest.0 + run.start as u64);
        let part = buffer
            .get_mut(run.clone())
            .ok_or_else(|| Error::invalid("data beyond its chunk"))?;
        read(guest, part).map_err(|error| reading(guest, error))?;
        end = run.end;
    }
    zero_fill(buffer, end..buffer.len());
    Ok(())
}

/// Adds the offset of a failed read to its error.
pub(super) fn reading(guest: GuestOffset, error: Error) -> Error {
    error.context(format!("error while reading at byte {}", guest.0))
}
