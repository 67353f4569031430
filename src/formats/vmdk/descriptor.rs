//! The descriptor: a text that names the disk's extents, its parent, and the ids of their contents.
//!
//! It is read line by line, a key at the start of each, in any case and with blanks wherever they are harmless.
//! QEMU looks for its words anywhere in the text instead, and passes over lines that it doesn't know: a disk
//! loses its read-only and its zero extents that way. Here each extent counts or the image is refused.

use std::ops::Range;

use crate::error::{Error, Result, printable};

/// The parent's id of an image that has no parent.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;
/// The longest text of a descriptor in bytes; QEMU reads no more either.
pub(super) const LONGEST: u64 = (1 << 20) - 1;
/// The shortest text that QEMU looks at, in bytes.
const SHORTEST: u64 = 4;
/// The most extents, of which each is an open file.
pub(super) const MOST_EXTENTS: usize = 4096;
/// The longest name in bytes, of an extent and of a parent.
const LONGEST_NAME: usize = 1023;

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskDescriptor {
    /// The id of the contents.
    pub(super) cid: u32,
    /// The id that the parent's contents must have.
    pub(super) parent_cid: u32,
    /// The kind of image, such as `monolithicSparse`.
    pub(super) create_type: String,
    /// The parent's name.
    pub(super) parent: Option<Vec<u8>>,
    /// The extents, in the order of the disk.
    pub(super) extents: Vec<ExtentLine>,
}

/// A line of a descriptor that is an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: ExtentAccess,
    /// The length in sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentType,
    /// The file's name; empty for an extent without a file.
    pub(super) name: Vec<u8>,
    /// The start of the extent in its file, in sectors.
    pub(super) offset: u64,
}

/// The use that a machine may make of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentAccess {
    ReadWrite,
    ReadOnly,
    None,
}

/// The way in which an extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentType {
    /// The bytes of the disk one after the other.
    Flat,
    /// The same, as ESX calls it.
    Vmfs,
    /// Grains, found by tables.
    Sparse,
    /// The same in the form of ESX.
    VmfsSparse,
    /// The same in the later form of ESX.
    SeSparse,
    /// Nothing but zeroes, and no file.
    Zero,
}

impl ExtentType {
    /// Returns the word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Vmfs => "VMFS",
            Self::Sparse => "SPARSE",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
            Self::Zero => "ZERO",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Flat,
            Self::Vmfs,
            Self::Sparse,
            Self::VmfsSparse,
            Self::SeSparse,
            Self::Zero,
        ];
        let mut all = all.into_iter();
        all.find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

impl DiskDescriptor {
    /// Reads a descriptor's text, which ends at its first NUL.
    ///
    /// # Errors
    /// Returns an error if a key is missing, if a line makes no sense, or if there are too many extents.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        if (text.len() as u64) < SHORTEST {
            return Err(Error::corrupt("File is too small, not a valid image"));
        }
        let end = text.iter().position(|byte| *byte == 0);
        let text = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
        let mut found = Found::default();
        for line in text.split(|byte| *byte == b'\n') {
            found.read(line.trim_ascii())?;
        }
        found.finish()
    }

    /// Returns the length of all extents, in sectors.
    pub(super) fn sectors(&self) -> Option<u64> {
        let mut extents = self.extents.iter();
        extents.try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors))
    }

    /// Refuses kinds of image that have no extents which are known here. It is for a descriptor that is a file
    /// of its own; an embedded one may say anything.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, for such a kind, or if there are no extents.
    pub(super) fn check_separate(&self) -> Result<()> {
        let known = [
            "monolithicFlat",
            "vmfs",
            "vmfsSparse",
            "seSparse",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
        ];
        let is_known = |known: &&str| known.eq_ignore_ascii_case(&self.create_type);
        if !known.iter().any(is_known) {
            return Err(Error::unsupported(format!(
                "Unsupported image type '{}'",
                printable(&self.create_type)
            )));
        }
        // A disk without a sector has one extent that is empty.
        let empty = self.extents.iter().filter(|extent| extent.sectors == 0);
        if self.extents.is_empty() || (empty.count() > 0 && self.extents.len() > 1) {
            return Err(invalid());
        }
        Ok(())
    }
}

/// The parts of a descriptor as far as lines were read.
#[derive(Default)]
struct Found {
    cid: Option<u32>,
    parent_cid: Option<u32>,
    create_type: Option<String>,
    parent: Option<Vec<u8>>,
    extents: Vec<ExtentLine>,
}

impl Found {
    fn read(&mut self, line: &[u8]) -> Result<()> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        if let Some((access, rest)) = access(line) {
            if self.extents.len() == MOST_EXTENTS {
                return Err(Error::unsupported(format!(
                    "the image has more than {MOST_EXTENTS} extents"
                )));
            }
            let extent = extent(access, rest).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                Error::corrupt(format!("Invalid extent line: {}", printable(&line)))
            })?;
            self.extents.push(extent);
            return Ok(());
        }
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
            return Ok(());
        };
        let (key, value) = line.split_at(equals);
        let (key, value) = (key.trim_ascii(), unquoted(value));
        let is = |name: &str| key.eq_ignore_ascii_case(name.as_bytes());
        if is("version") && !matches!(value, b"1" | b"2" | b"3") {
            return Err(Error::unsupported(format!(
                "Unsupported VMDK version {}",
                printable(&String::from_utf8_lossy(value))
            )));
        } else if is("CID") {
            self.cid.get_or_insert(hex(value)?);
        } else if is("parentCID") {
            self.parent_cid.get_or_insert(hex(value)?);
        } else if is("createType") {
            let value = String::from_utf8_lossy(value).into_owned();
            self.create_type.get_or_insert(value);
        } else if is("parentFileNameHint") {
            if value.is_empty() || value.len() > LONGEST_NAME {
                return Err(invalid());
            }
            self.parent.get_or_insert(value.to_vec());
        }
        Ok(())
    }

    fn finish(self) -> Result<DiskDescriptor> {
        let parent_cid = self.parent_cid.unwrap_or(NO_PARENT);
        // Without the parent, what is its would read as zeroes.
        if parent_cid != NO_PARENT && self.parent.is_none() {
            return Err(Error::corrupt(
                "invalid VMDK image descriptor: the image has a parent, and doesn't say its name",
            ));
        }
        Ok(DiskDescriptor {
            cid: self.cid.ok_or_else(invalid)?,
            parent_cid,
            create_type: self.create_type.ok_or_else(invalid)?,
            parent: self.parent,
            extents: self.extents,
        })
    }
}

/// Returns the access that a line of an extent starts with, and the rest of the line.
fn access(line: &[u8]) -> Option<(ExtentAccess, &[u8])> {
    let (word, rest) = word(line)?;
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let access = if is("RW") {
        ExtentAccess::ReadWrite
    } else if is("RDONLY") {
        ExtentAccess::ReadOnly
    } else if is("NOACCESS") {
        ExtentAccess::None
    } else {
        return None;
    };
    // A key may have such a name as well.
    (!rest.starts_with(b"=")).then_some((access, rest))
}

/// Reads the rest of an extent's line.
fn extent(access: ExtentAccess, rest: &[u8]) -> Option<ExtentLine> {
    let (sectors, rest) = word(rest)?;
    let (kind, rest) = word(rest)?;
    let sectors = number(sectors)?;
    let kind = ExtentType::from_name(std::str::from_utf8(kind).ok()?)?;
    if kind == ExtentType::Zero {
        return Some(ExtentLine {
            access,
            sectors,
            kind,
            name: Vec::new(),
            offset: 0,
        });
    }
    let rest = rest.strip_prefix(b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let (name, rest) = rest.split_at_checked(end)?;
    let is_name = !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(&b'\r');
    let offset = word(rest.get(1..)?.trim_ascii()).map(|(word, _)| word);
    let offset = match (kind, offset) {
        (ExtentType::Flat, offset) => number(offset?)?,
        (_, None) => 0,
        // A number there is an offset that such an extent doesn't have.
        (_, Some(word)) if number(word).is_some_and(|offset| offset > 0) => return None,
        _ => 0,
    };
    is_name.then(|| ExtentLine {
        access,
        sectors,
        kind,
        name: name.to_vec(),
        offset,
    })
}

/// Splits the first word from a line, and the blanks behind it. Returns `None` where there is no word.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at_checked(end.unwrap_or(line.len()))?;
    (!word.is_empty()).then(|| (word, rest.trim_ascii_start()))
}

fn number(word: &[u8]) -> Option<u64> {
    let word = std::str::from_utf8(word).ok()?;
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| is_plain)
}

/// Returns a value without the sign in front of it, blanks and quotation marks.
fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let Some(inner) = value.strip_prefix(b"\"") else {
        return value;
    };
    let end = inner.iter().position(|byte| *byte == b'"');
    inner.get(..end.unwrap_or(inner.len())).unwrap_or_default()
}

fn hex(value: &[u8]) -> Result<u32> {
    let value = std::str::from_utf8(value).map_err(|_| invalid())?;
    u32::from_str_radix(value, 16).map_err(|_| invalid())
}

/// Returns the place of the digits of an id in a descriptor's text, in bytes: that of the key `CID` or `parentCID`.
pub(super) fn place_of_id(text: &[u8], name: &str) -> Option<Range<usize>> {
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let equals = line.iter().position(|byte| *byte == b'=');
        let (key, value) = line.split_at(equals.unwrap_or(line.len()));
        if key.trim_ascii().eq_ignore_ascii_case(name.as_bytes()) {
            let from = value.iter().position(u8::is_ascii_hexdigit)?;
            let digits = value
                .iter()
                .skip(from)
                .take_while(|byte| byte.is_ascii_hexdigit());
            let from = start + key.len() + from;
            return Some(from..from + digits.count());
        }
        start += line.len();
    }
    None
}

/// Returns the error for a text that is no descriptor, in QEMU's words.
pub(super) fn invalid() -> Error {
    Error::corrupt("invalid VMDK image descriptor")
}

/// Returns true for the start of a descriptor that is a file of its own. It has comments and blank lines, then
/// `version=1`, `2` or `3`, ended by a line end.
pub(super) fn is_descriptor(start: &[u8]) -> bool {
    let mut lines = start.split_inclusive(|byte| *byte == b'\n');
    let first = lines.find(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        !line.starts_with(b"#") && (line.is_empty() || !line.iter().all(|byte| *byte == b' '))
    });
    let version = first.and_then(|line| line.strip_suffix(b"\n"));
    let version = version.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    matches!(version, Some(b"version=1" | b"version=2" | b"version=3"))
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
