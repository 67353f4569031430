//! The subcommand `map`: how the disk is stored, run by run.
//!
//! Runs are found one after the other, and handed out as soon as the next one differs. So an image with any
//! number of them takes no memory.

use std::ops::Range;
use std::path::Path;

use super::{Passwords, Purpose, sandbox};
use crate::error::Result;
use crate::formats::{Image as _, PlainPlace, Status};
use crate::nodes::{Disk, Node};
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The part of a disk to be mapped.
pub struct MapPlan<'a> {
    /// The image.
    pub source: Node<'a>,
    /// Its start in bytes.
    pub start: u64,
    /// Its length in bytes; without it, it reaches to the end.
    pub length: Option<u64>,
}

/// A run of the disk that is stored in one way and in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    /// Its start on the disk.
    pub start: GuestOffset,
    /// The way in which it is stored. Its length is 0 only where there was nothing to be mapped at all.
    pub status: Status,
    /// The file of its image that it has its offset in, by its place among them; `None` for the last one, which
    /// is the only one with data in most formats.
    pub file: Option<usize>,
}

impl MapRun {
    /// Adds the next run to this one and returns true, if both are stored in one way and in one piece.
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

/// The runs of a disk, in guest order.
pub struct Map {
    source: Disk,
    position: u64,
    end: u64,
    /// The first run that hasn't been handed out.
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
    // A range without a byte is reported as a run without one.
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
    /// Returns the file that a run with an offset is in, as it was named.
    pub fn file(&self, run: &MapRun) -> Option<&Path> {
        let layer = self.source.layers.get(run.status.depth)?;
        let file = match run.file {
            Some(index) => layer.files.get(index).map(AsRef::as_ref),
            None => layer.data_file(),
        };
        file.map(|file| Path::new(file.location()))
    }

    /// Finds the file that a run with an offset is in, where the image has several.
    fn find_file(&self, start: GuestOffset, status: &Status) -> Result<Option<usize>> {
        let layer = self.source.layers.get(status.depth);
        let Some(layer) = layer.filter(|layer| layer.files.len() > 2) else {
            return Ok(None);
        };
        let plain = self.source.image.plain_at(start, status.length)?;
        let PlainPlace::At(storage, _) = plain.place else {
            return Ok(None);
        };
        let mut files = layer.files.iter();
        Ok(files.position(|file| file.location() == storage.location()))
    }

    /// Returns the part of the disk that is mapped, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.position.min(self.end)..self.end
    }

    /// Returns the length in bytes of the file that the image's data is in.
    ///
    /// # Errors
    /// Returns the system's error.
    pub fn file_length(&self) -> Result<u64> {
        self.data_file().map_or(Ok(0), Storage::len)
    }

    /// Returns the holes of that file.
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

    fn data_file(&self) -> Option<&dyn Storage> {
        self.source.layers.first()?.data_file()
    }

    /// Returns true if the run that was handed out last is the last one.
    pub fn is_done(&self) -> bool {
        self.ahead.is_none()
    }

    /// Asks how the disk is stored at the position, and moves the position behind that run.
    fn step(&mut self) -> Result<Option<MapRun>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let start = GuestOffset(self.position);
        let limit = self.end - self.position;
        let status = self.source.image.status_at(start, limit);
        let mut status = status.map_err(|error| {
            // Nothing follows an error.
            self.position = self.end;
            error.context("Could not read file metadata")
        })?;
        // The offset is one in the file, of which the image may be a part.
        let layer = self.source.layers.get(status.depth);
        let start_in_file = layer.map_or(0, |layer| layer.start);
        status.offset = status.offset.and_then(|host| host.after(start_in_file));
        self.position += status.length;
        let file = match status.offset {
            Some(_) => self.find_file(start, &status)?,
            None => None,
        };
        Ok(Some(MapRun {
            start,
            status,
            file,
        }))
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
