//! Changes of the header of an existing image: its backing file, its version, its data file.
//!
//! The backing file's name and format are at different places of the header cluster, and their lengths shift what
//! follows. A power cut may tear a write at any sector boundary, and must leave the old or the new header. So
//! everything is switched by one write of the first sector, which has the fields, the offset of the name, and the
//! first extensions.
//!
//! The new header can be written directly if everything that changes after its first sector is in bytes that the old
//! header doesn't use. Otherwise an equivalent intermediate header is written first that leaves these bytes unused.
//! Its extensions are in the first sector, or after an extension that makes a reader skip the bytes. It may lack the
//! feature names. Clusters of 1 and 2 KiB may have no space for it if both names are long; the image stays unchanged
//! then.

use std::ops::Range;

use super::Header;
use super::extensions::{self, Extension};
use super::features;
use super::fields::{MAX_BACKING_NAME, V2_LENGTH, V3_LENGTH};
use super::fixed::MAX_BACKING_FORMAT;
use super::{Version, until_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::units::SECTOR_LEN;

/// The type of the extension that makes a reader skip unused bytes.
const SKIP: u32 = 0x736b_6970;

/// The autoclear features that stay valid if the backing file changes.
const KEPT: u64 = features::BITMAPS | features::DATA_FILE_RAW;

/// The names of a backing file for the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formats::qcow2) struct BackingNames<'a> {
    /// Its name, not empty.
    pub(in crate::formats::qcow2) file: &'a [u8],
    /// The name of its format, if it is to be stored.
    pub(in crate::formats::qcow2) format: Option<&'a [u8]>,
}

/// The contents of a header.
#[derive(Debug, Clone)]
pub(in crate::formats::qcow2) struct HeaderContents {
    /// The fixed fields, before the extensions.
    fixed: Vec<u8>,
    extensions: Vec<Extension>,
    /// The name of the backing file, or empty without one.
    backing: Vec<u8>,
}

impl HeaderContents {
    /// Sets or removes the backing file. The extension with its format keeps its position, or comes first.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if a name is too long.
    pub(in crate::formats::qcow2) fn set_backing(
        &mut self,
        backing: Option<BackingNames<'_>>,
    ) -> Result<()> {
        let name = backing.map_or(&[][..], |names| names.file);
        let format = backing.and_then(|names| names.format).unwrap_or_default();
        if name.len() > MAX_BACKING_NAME as usize || format.len() > MAX_BACKING_FORMAT {
            return Err(Error::invalid("Invalid argument"));
        }
        self.backing = name.to_vec();
        self.set_extension(extensions::BACKING_FORMAT, until_zero(format), 0);
        Ok(())
    }

    /// Sets the name of the external data file.
    pub(in crate::formats::qcow2) fn set_data_file(&mut self, name: &[u8]) {
        let end = self.extensions.len();
        self.set_extension(extensions::DATA_FILE, name, end);
    }

    /// Converts the header from version 2 to version 3, without features. Adds the feature name table if
    /// `with_names`.
    pub(in crate::formats::qcow2) fn upgrade(&mut self, with_names: bool) {
        self.fixed.resize(V3_LENGTH as usize, 0);
        set(&mut self.fixed, 4, &3u32.to_be_bytes());
        // Refcounts in version 2 have 16 bits.
        set(&mut self.fixed, 96, &4u32.to_be_bytes());
        set(&mut self.fixed, 100, &V3_LENGTH.to_be_bytes());
        if with_names {
            let end = self.extensions.len();
            self.set_extension(extensions::FEATURE_NAMES, &features::name_table(), end);
        }
    }

    /// Converts the header from version 3 to version 2. It must not have any features left.
    pub(in crate::formats::qcow2) fn downgrade(&mut self) {
        self.fixed.truncate(V2_LENGTH as usize);
        set(&mut self.fixed, 4, &2u32.to_be_bytes());
        self.set_extension(extensions::FEATURE_NAMES, &[], 0);
    }

    /// Sets the data of an extension, at its present position or else at `place` in the list. Removes it if `data` is
    /// empty.
    fn set_extension(&mut self, kind: u32, data: &[u8], place: usize) {
        let there = self.extensions.iter().position(|one| one.kind == kind);
        self.extensions.retain(|one| one.kind != kind);
        if !data.is_empty() {
            let place = there.unwrap_or(place).min(self.extensions.len());
            let data = data.to_vec();
            self.extensions.insert(place, Extension { kind, data });
        }
    }
}

/// The new header of an image, and the intermediate headers.
pub(in crate::formats::qcow2) struct HeaderRewrite {
    steps: Vec<HeaderBytes>,
    /// The present bytes of the header cluster.
    cluster: Vec<u8>,
}

impl HeaderRewrite {
    /// Plans the headers through which the header in `storage` gets its new contents.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if there is no space, or the error of `change`. Returns the system's error.
    pub(in crate::formats::qcow2) fn plan(
        storage: &dyn Storage,
        header: &Header,
        change: impl FnOnce(&mut HeaderContents) -> Result<()>,
    ) -> Result<Self> {
        let mut cluster = vec![0; header.geometry().cluster_len()];
        storage.read_padded_at(0, &mut cluster, storage.len()?)?;
        let old = OldHeader::new(header, &cluster)?;
        let mut contents = old.contents.clone();
        change(&mut contents)?;
        let new = HeaderBytes::of(&contents, &[], PartPlace::Canonical)?;
        if new.end() > cluster.len() {
            return Err(no_space());
        }
        let steps = steps(&old, &new, [&contents, &old.contents], &cluster)?;
        Ok(Self { steps, cluster })
    }

    /// Writes the headers in order. Ends with a flush.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in crate::formats::qcow2) fn write(
        self,
        storage: &dyn Storage,
        flush: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut file = HeaderCluster {
            storage,
            bytes: self.cluster,
            flush,
        };
        for step in &self.steps {
            file.become_like(step)?;
        }
        let end = self.steps.last().map_or(0, HeaderBytes::end);
        file.wipe_behind(end)
    }
}

/// Returns the error for a header cluster that is too small.
fn no_space() -> Error {
    Error::new(ErrorKind::Invalid, "No space left in the file header")
}

/// Returns the headers to be written in order, of which the last is `new`. `meanings` are the contents that an
/// intermediate header may have.
fn steps(
    old: &OldHeader,
    new: &HeaderBytes,
    meanings: [&HeaderContents; 2],
    cluster: &[u8],
) -> Result<Vec<HeaderBytes>> {
    if new.can_follow(&old.live, cluster) {
        return Ok(vec![new.clone()]);
    }
    let free = old.end().max(new.end()).next_multiple_of(8);
    let names = &[extensions::FEATURE_NAMES];
    for meaning in meanings {
        for (without, place) in [
            (&names[..], PartPlace::Canonical),
            (names, PartPlace::NameAt(free)),
            (&[], PartPlace::SkipTo(free)),
            (names, PartPlace::SkipTo(free)),
        ] {
            let between = HeaderBytes::of(meaning, without, place)?;
            if between.end() > cluster.len() || !between.can_follow(&old.live, cluster) {
                continue;
            }
            let mut after = cluster.to_vec();
            between.apply(&mut after);
            if new.can_follow(&between.live, &after) {
                return Ok(vec![between, new.clone()]);
            }
        }
    }
    Err(no_space())
}

/// The placement of a header's parts in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartPlace {
    /// Each part directly follows the one before.
    Canonical,
    /// The backing file's name starts at this byte of the cluster.
    NameAt(usize),
    /// The extensions start at this byte of the cluster, and the name follows them.
    SkipTo(usize),
}

/// The present header of the file.
struct OldHeader {
    contents: HeaderContents,
    /// The ranges of bytes that a reader uses.
    live: Vec<Range<usize>>,
}

impl OldHeader {
    /// Splits the header in `cluster`, from which `header` was read, into its parts.
    fn new(header: &Header, cluster: &[u8]) -> Result<Self> {
        let damaged = || Error::corrupt("qcow2 header exceeds cluster size");
        let field = |at: usize, bytes: usize| {
            let bytes = cluster.get(at..at + bytes).unwrap_or_default();
            let value = bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
            usize::try_from(value).map_err(|_| damaged())
        };
        let length = match header.version() {
            Version::V2 => V2_LENGTH as usize,
            Version::V3 => field(100, 4)?,
        };
        let mut fixed = cluster.get(..length).ok_or_else(damaged)?.to_vec();
        if header.version() == Version::V3 {
            set(&mut fixed, 88, &(header.autoclear() & KEPT).to_be_bytes());
        }
        let (name, name_length) = (field(8, 8)?, field(16, 4)?);
        let stored = header.extensions().iter();
        let stored = stored.map(|one| 8 + one.data.len().next_multiple_of(8));
        // The end mark is one of the bytes that are read.
        let mut end = (length + stored.sum::<usize>() + 8).min(cluster.len());
        let mut live = Vec::new();
        if name > 0 {
            end = end.min(name).max(length);
            live.push(name..name.saturating_add(name_length).min(cluster.len()));
        }
        live.push(0..end);
        Ok(Self {
            contents: HeaderContents {
                fixed,
                extensions: header.extensions().to_vec(),
                backing: header.backing_file().unwrap_or_default().to_vec(),
            },
            live,
        })
    }

    fn end(&self) -> usize {
        self.live.iter().map(|range| range.end).max().unwrap_or(0)
    }
}

/// An encoded header.
#[derive(Debug, Clone)]
struct HeaderBytes {
    /// The bytes from the start of the cluster on.
    bytes: Vec<u8>,
    /// The ranges of bytes that a reader uses.
    live: Vec<Range<usize>>,
}

impl HeaderBytes {
    /// Encodes a header without the extensions of some types.
    fn of(contents: &HeaderContents, without: &[u32], place: PartPlace) -> Result<Self> {
        let mut area = Vec::new();
        let kept = contents.extensions.iter();
        for extension in kept.filter(|one| one.kind != SKIP && !without.contains(&one.kind)) {
            extensions::append(&mut area, extension.kind, &extension.data);
        }
        extensions::append(&mut area, extensions::END, &[]);
        let mut bytes = contents.fixed.clone();
        let mut live = Vec::new();
        if let PartPlace::SkipTo(start) = place {
            let skipped = start.saturating_sub(bytes.len() + 8).next_multiple_of(8);
            let length = u32::try_from(skipped).map_err(|_| no_space())?;
            bytes.extend(SKIP.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            live.push(0..bytes.len());
            bytes.resize(bytes.len() + skipped, 0);
        }
        let start = if live.is_empty() { 0 } else { bytes.len() };
        bytes.extend(area);
        live.push(start..bytes.len());
        let name = &contents.backing;
        if let (PartPlace::NameAt(at), false) = (place, name.is_empty()) {
            bytes.resize(at.max(bytes.len()), 0);
        }
        let at = if name.is_empty() { 0 } else { bytes.len() };
        if !name.is_empty() {
            bytes.extend(name);
            live.push(at..bytes.len());
        }
        set(&mut bytes, 8, &(at as u64).to_be_bytes());
        let length = u32::try_from(name.len()).map_err(|_| no_space())?;
        set(&mut bytes, 16, &length.to_be_bytes());
        Ok(Self { bytes, live })
    }

    fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the used ranges after the first sector.
    fn behind(&self) -> impl Iterator<Item = Range<usize>> {
        let ranges = self.live.iter();
        ranges
            .map(|range| range.start.max(SECTOR_LEN)..range.end)
            .filter(|range| !range.is_empty())
    }

    /// Returns true if no byte that changes in `cluster` after the first sector is in `live`, the ranges that a
    /// reader uses now.
    fn can_follow(&self, live: &[Range<usize>], cluster: &[u8]) -> bool {
        let counts = |at: &usize| live.iter().any(|range| range.contains(at));
        let differs = |at: &usize| self.bytes.get(*at) != cluster.get(*at);
        self.behind()
            .all(|range| !range.into_iter().any(|at| counts(&at) && differs(&at)))
    }

    /// Writes this header into `cluster`.
    fn apply(&self, cluster: &mut [u8]) {
        let first = 0..SECTOR_LEN.min(cluster.len());
        for range in self.behind().chain([first]) {
            for (at, byte) in range
                .clone()
                .zip(cluster.get_mut(range).unwrap_or_default())
            {
                *byte = self.bytes.get(at).copied().unwrap_or(0);
            }
        }
    }
}

/// The header cluster of a file.
struct HeaderCluster<'a> {
    storage: &'a dyn Storage,
    /// Its contents.
    bytes: Vec<u8>,
    flush: &'a dyn Fn() -> Result<()>,
}

impl HeaderCluster<'_> {
    /// Writes a header that [can follow](HeaderBytes::can_follow) the present one.
    fn become_like(&mut self, layout: &HeaderBytes) -> Result<()> {
        layout.apply(&mut self.bytes);
        let mut is_written = false;
        for range in layout.behind() {
            let bytes = self.bytes.get(range.clone()).unwrap_or_default();
            self.storage.write_at(range.start as u64, bytes)?;
            is_written = true;
        }
        if is_written {
            (self.flush)()?;
        }
        let first = self.bytes.get(..SECTOR_LEN).unwrap_or_default();
        self.storage.write_at(0, first)?;
        (self.flush)()
    }

    /// Zeroes the bytes after the header, which ends at `end`, that earlier headers left there.
    fn wipe_behind(&mut self, end: usize) -> Result<()> {
        let end = end.max(SECTOR_LEN).min(self.bytes.len());
        let rest = self.bytes.get(end..).unwrap_or_default();
        match rest.iter().rposition(|byte| *byte != 0) {
            None => Ok(()),
            Some(last) => {
                self.storage.write_at(end as u64, &vec![0; last + 1])?;
                (self.flush)()
            }
        }
    }
}

/// Sets a field of a header.
fn set(header: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = header.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests;
