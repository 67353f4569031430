//! The subcommand `map`: the extents of a disk.
//!
//! Extents are looked up one after the other, joined, and returned as soon as the next one differs. So the memory
//! doesn't depend on their number.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Passwords, Purpose, sandbox};
use crate::error::Result;
use crate::formats::{FileUse, Image as _, PlainPlace, Status};
use crate::nodes::{Disk, Node};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The parameters of `map`.
pub struct MapPlan<'a> {
    /// The image.
    pub source: Node<'a>,
    /// The start of the mapped part in bytes.
    pub start: u64,
    /// Its length in bytes, or `None` if it reaches to the end of the disk.
    pub length: Option<u64>,
}

/// A contiguous extent of the disk with one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    /// Its start on the disk.
    pub start: GuestOffset,
    /// Its status. Its length is 0 only if the mapped part is empty.
    pub status: Status,
    /// The index of the file of its image that its offset is in. `None` stands for the last file, which is the only
    /// one with data in most formats.
    pub file: Option<usize>,
}

impl MapRun {
    /// Joins the next extent to this one if both are contiguous and have the same status. Returns true if it did.
    fn join(&mut self, next: &Self) -> bool {
        let length = self.status.length;
        let expected = Status {
            length: next.status.length,
            offset: self.status.offset.and_then(|host| host.after(length)),
            ..self.status
        };
        let joined = next.status == expected && next.file == self.file;
        if joined {
            self.status.length += next.status.length;
        }
        joined
    }
}

/// The extents of a disk, in guest order.
pub struct Map {
    source: Disk,
    position: u64,
    end: u64,
    /// The first extent that hasn't been returned.
    ahead: Option<MapRun>,
}

/// Opens the image.
///
/// # Errors
/// Returns the errors of [`Node::open`].
pub fn open(plan: &MapPlan<'_>, passwords: &dyn Passwords) -> Result<Map> {
    let source = plan.source.open(Purpose::Read, passwords)?;
    sandbox::all_is_open(&plan.source);
    let end = match plan.length {
        Some(length) => plan.start.saturating_add(length).min(source.image.size()),
        None => source.image.size(),
    };
    let mut map = Map {
        source,
        position: plan.start,
        end,
        ahead: None,
    };
    // An empty range is reported as an empty extent.
    if map.position >= map.end {
        map.ahead = Some(MapRun {
            start: GuestOffset(map.position),
            status: Status::default(),
            file: None,
        });
    }
    Ok(map)
}

impl Map {
    /// Returns the path of the file that an extent with an offset is in, as it was named.
    pub fn file(&self, run: &MapRun) -> Option<&Path> {
        let layer = self.source.layers.get(run.status.depth)?;
        let file = match run.file {
            Some(index) => layer.files.get(index).map(AsRef::as_ref),
            None => layer.data_file(),
        };
        file.map(|file| Path::new(file.location()))
    }

    /// Returns the index of the file that an extent with an offset is in, if the image has several.
    fn find_file(&self, start: GuestOffset, status: &Status) -> Result<Option<usize>> {
        let layer = self.source.layers.get(status.depth);
        let Some(layer) = layer.filter(|layer| layer.files.len() > 2) else {
            return Ok(None);
        };
        let plain = self.source.image.plain_at(start, status.length)?;
        let PlainPlace::At(storage, _) = plain.place else {
            return Ok(None);
        };
        // The last file may have several parts of the disk.
        let (last, files) = match layer.files.split_last() {
            Some((last, files)) => (last, files),
            None => return Ok(None),
        };
        let is_here = |file: &Arc<dyn Storage>| file.location() == storage.location();
        Ok(match is_here(last) {
            true => None,
            false => files.iter().position(is_here),
        })
    }

    /// Passes an extent to `each`, in pieces if `qemu-img` doesn't tell where its data is: encrypted data, and data in
    /// formats that are only read. The pieces have the offsets of the stored bytes.
    ///
    /// # Errors
    /// Returns an error as [`Image::extent_at`](crate::formats::Image::extent_at) does.
    pub fn pieces(&self, run: &MapRun, each: &mut dyn FnMut(&MapRun)) -> Result<()> {
        let status = &run.status;
        if !status.data || status.zero || status.compressed || status.offset.is_some() {
            each(run);
            return Ok(());
        }
        let mut piece: Option<MapRun> = None;
        let mut start = run.start;
        let end = run.start.0.saturating_add(status.length);
        while start.0 < end {
            let extent = self.source.image.extent_at(start, end - start.0)?;
            let next = self.run(start, Status::of(&extent, true))?;
            start = GuestOffset(start.0 + extent.length);
            if !piece.as_mut().is_some_and(|piece| piece.join(&next))
                && let Some(piece) = piece.replace(next)
            {
                each(&piece);
            }
        }
        if let Some(piece) = piece {
            each(&piece);
        }
        Ok(())
    }

    /// Returns the part of the disk that is mapped, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.position.min(self.end)..self.end
    }

    /// Returns the length in bytes of the file with the image's data.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn file_length(&self) -> Result<u64> {
        self.data_file().map_or(Ok(0), Storage::len)
    }

    /// Returns the holes of that file, in bytes.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn holes(&self) -> Result<Vec<Range<u64>>> {
        let mut holes = Vec::new();
        let Some(file) = self.data_file() else {
            return Ok(holes);
        };
        let end = file.len()?;
        let mut at = 0;
        while at < end {
            let data = file.next_data(at)?.unwrap_or(end..end);
            if data.start > at {
                holes.push(at..data.start.min(end));
            }
            at = data.end.max(at + 1);
        }
        Ok(holes)
    }

    /// Passes the byte ranges of that file that have a use to `each`. Returns false if its format doesn't tell.
    ///
    /// # Errors
    /// Returns the errors of [`ImageFile::parts_of`].
    ///
    /// [`ImageFile::parts_of`]: crate::formats::ImageFile::parts_of
    pub fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        match self.source.layers.first() {
            Some(layer) => {
                let start = layer.start;
                let mut shifted = |part: Range<u64>| {
                    each(part.start.saturating_add(start)..part.end.saturating_add(start));
                };
                layer.image.parts_of(used_for, &mut shifted)
            }
            None => Ok(false),
        }
    }

    fn data_file(&self) -> Option<&dyn Storage> {
        self.source.layers.first()?.data_file()
    }

    /// Returns true if all extents have been returned.
    pub fn is_done(&self) -> bool {
        self.ahead.is_none()
    }

    /// Looks up the extent at the position, and advances the position to its end.
    fn step(&mut self) -> Result<Option<MapRun>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let start = GuestOffset(self.position);
        let limit = self.end - self.position;
        let status = self.source.image.status_at(start, limit);
        let status = status.map_err(|error| {
            // Iteration ends after an error.
            self.position = self.end;
            error.context("Could not read file metadata")
        })?;
        self.position += status.length;
        self.run(start, status).map(Some)
    }

    /// Returns the extent with a status of the image.
    fn run(&self, start: GuestOffset, status: Status) -> Result<MapRun> {
        // The offset is reported in the file, of which the image may be a part.
        let layer = self.source.layers.get(status.depth);
        let start_in_file = layer.map_or(0, |layer| layer.start);
        let status = Status {
            offset: status.offset.and_then(|host| host.after(start_in_file)),
            ..status
        };
        let file = match status.offset {
            Some(_) => self.find_file(start, &status)?,
            None => None,
        };
        Ok(MapRun {
            start,
            status,
            file,
        })
    }

    fn joined(&mut self) -> Result<Option<MapRun>> {
        let first = match self.ahead.take() {
            Some(run) => Some(run),
            None => self.step()?,
        };
        let Some(mut run) = first else {
            return Ok(None);
        };
        while let Some(next) = self.step()? {
            if !run.join(&next) {
                self.ahead = Some(next);
                break;
            }
        }
        Ok(Some(run))
    }
}

impl Iterator for Map {
    type Item = Result<MapRun>;

    fn next(&mut self) -> Option<Self::Item> {
        self.joined().transpose()
    }
}
