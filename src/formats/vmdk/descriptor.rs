//! The descriptor: a text with the disk's extents, its parent, and the content ids (CID) of both.
//!
//! It is parsed line by line. Each line starts with a key, in upper or lower case, and may have blanks where they are
//! harmless. QEMU searches for its keys anywhere in the text instead, and skips lines that it doesn't know. So a disk
//! loses its read-only and its zero extents there. Here an image is refused if an extent isn't supported.

use std::ops::Range;

use crate::error::{Error, Result, printable};

/// The `parentCID` of an image without a parent.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;
/// The length of the longest descriptor in bytes, which is QEMU's limit as well.
pub(super) const LONGEST: u64 = (1 << 20) - 1;
/// The length of the shortest descriptor that QEMU accepts, in bytes.
const SHORTEST: u64 = 4;
/// The largest number of extents, each of which is an open file.
pub(super) const MOST_EXTENTS: usize = 4096;
/// The longest name of an extent or of the parent, in bytes.
const LONGEST_NAME: usize = 1023;

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskDescriptor {
    /// The content id.
    pub(super) cid: u32,
    /// The content id that the parent must have.
    pub(super) parent_cid: u32,
    /// The create type, such as `monolithicSparse`.
    pub(super) create_type: String,
    /// The parent's name.
    pub(super) parent: Option<Vec<u8>>,
    /// The extents in guest order.
    pub(super) extents: Vec<ExtentLine>,
}

/// An extent line of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: ExtentAccess,
    /// The length of the extent in sectors of 512 bytes.
    pub(super) sectors: u64,
    pub(super) kind: ExtentType,
    /// The name of the extent's file, or empty for a zero extent.
    pub(super) name: Vec<u8>,
    /// The offset of the extent in its file, in sectors of 512 bytes.
    pub(super) offset: u64,
}

/// The access of a machine to an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentAccess {
    ReadWrite,
    ReadOnly,
    None,
}

/// The type of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentType {
    /// Contiguous bytes of the disk.
    Flat,
    /// The same, on ESX.
    Vmfs,
    /// Grains that are mapped by grain tables.
    Sparse,
    /// The same in the format of ESX (COWD).
    VmfsSparse,
    /// The same in the later format of ESX (SEsparse).
    SeSparse,
    /// Zeroes without a file.
    Zero,
}

impl ExtentType {
    /// Returns the type's name in a descriptor.
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
    /// Parses the text of a descriptor, up to its first NUL.
    ///
    /// # Errors
    /// Returns an error if a key is missing, if a line is invalid, or if there are too many extents.
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

    /// Returns the length of all extents in sectors, or `None` on overflow.
    pub(super) fn sectors(&self) -> Option<u64> {
        let mut extents = self.extents.iter();
        extents.try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors))
    }

    /// Refuses create types whose extents aren't supported. Must be called for a separate descriptor file; an
    /// embedded descriptor may have any create type.
    ///
    /// # Errors
    /// Returns an error, in QEMU's words, if the create type isn't supported, or if there are no extents.
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
        // A disk of 0 bytes has one empty extent.
        let empty = self.extents.iter().filter(|extent| extent.sectors == 0);
        if self.extents.is_empty() || (empty.count() > 0 && self.extents.len() > 1) {
            return Err(invalid());
        }
        Ok(())
    }
}

/// The values that have been parsed so far.
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
        // Without the parent, its parts of the disk would read as zeroes.
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

/// Returns the access at the start of an extent line, and the rest of the line.
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
    // A key may have the same name.
    (!rest.starts_with(b"=")).then_some((access, rest))
}

/// Parses the rest of an extent line.
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
        // A number there is an offset, which such an extent can't have.
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

/// Splits off the first word of a line and the blanks after it. Returns `None` if there is no word.
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

/// Returns the value after an equals sign, without blanks and quotation marks.
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

/// Returns the range of the digits of the key `CID` or `parentCID` in a descriptor's text, in bytes.
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

/// Returns QEMU's error for an invalid descriptor.
pub(super) fn invalid() -> Error {
    Error::corrupt("invalid VMDK image descriptor")
}

/// Returns true for the start of a separate descriptor file. It has comments and blank lines, followed by a line
/// `version=1`, `2` or `3`.
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
