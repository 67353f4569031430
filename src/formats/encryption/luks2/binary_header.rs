//! The binary header, which exists in two copies, each followed by a copy of the JSON text.
//!
//! A writer changes one copy after the other, so that a power cut leaves at least one intact. A checksum identifies a
//! damaged one. If both are intact, the one with the higher sequence number is newer. The second copy directly
//! follows the first, whose length is one of nine. If the first is damaged, the second is searched for at each of
//! these lengths.

use std::io::Read as _;

use byteorder::{BigEndian, ReadBytesExt as _};

use crate::crypto::HashAlgorithm;
use crate::error::{Error, Result, printable};
use crate::storage::Storage;

/// The magic numbers of the two copies.
const FIRST_MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const SECOND_MAGIC: [u8; 6] = *b"SKUL\xba\xbe";

/// The length of the fields in bytes, including reserved ones.
const FIELDS_LENGTH: usize = 4096;

/// The smallest and the largest length of a header with its text, in bytes. Lengths are powers of two.
const LENGTHS: [u64; 2] = [16 << 10, 4 << 20];

/// The range of the checksum in the header, which counts as zeroes when the checksum is computed.
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// A header with a correct checksum.
#[derive(Debug, Clone)]
pub(super) struct Luks2Fields {
    /// The length of one copy with its text, in bytes.
    pub(super) length: u64,
    /// The sequence number, which every change increments.
    pub(super) sequence: u64,
    pub(super) label: String,
    pub(super) subsystem: String,
    pub(super) uuid: String,
    /// The JSON text.
    pub(super) text: Vec<u8>,
}

/// The valid header of the two.
#[derive(Debug, Clone)]
pub(super) struct BothHeaders {
    pub(super) newer: Luks2Fields,
    /// True if only one of the two copies is intact.
    pub(super) one_is_damaged: bool,
}

/// Reads both copies. Returns `None` if neither has the magic number and version 2.
///
/// # Errors
/// Returns the system's error. Returns an error if both copies are damaged.
pub(super) fn read(area: &dyn Storage) -> Result<Option<BothHeaders>> {
    let first = Luks2Fields::read(area, 0)?;
    let second = match &first {
        Some(Ok(first)) => Luks2Fields::read(area, first.length)?,
        _ => {
            let lengths = std::iter::successors(Some(LENGTHS[0]), |length| Some(length * 2));
            let mut found = None;
            for length in lengths.take_while(|length| *length <= LENGTHS[1]) {
                let read = Luks2Fields::read(area, length)?;
                let is_whole = matches!(read, Some(Ok(_)));
                found = read.or(found);
                if is_whole {
                    break;
                }
            }
            found
        }
    };
    let newer = match (first, second) {
        (None, None) => return Ok(None),
        (Some(Ok(first)), Some(Ok(second))) => {
            let is_second = second.sequence > first.sequence;
            return Ok(Some(BothHeaders {
                newer: if is_second { second } else { first },
                one_is_damaged: false,
            }));
        }
        (Some(Ok(whole)), _) | (_, Some(Ok(whole))) => whole,
        (Some(Err(first)), Some(Err(second))) => {
            return Err(Error::corrupt(format!(
                "{first} (and the second header: {second})"
            )));
        }
        (Some(Err(error)), None) | (None, Some(Err(error))) => return Err(error),
    };
    Ok(Some(BothHeaders {
        newer,
        one_is_damaged: true,
    }))
}

impl Luks2Fields {
    /// Reads and checks the header at byte `at`. Returns `None` if it doesn't have the magic number and version 2.
    /// Returns an inner error if it is damaged.
    ///
    /// # Errors
    /// Returns the system's error.
    fn read(area: &dyn Storage, at: u64) -> Result<Option<Result<Self>>> {
        let mut fields = [0; FIELDS_LENGTH];
        let read = area.read_at(at, &mut fields)?;
        let magic = if at == 0 { FIRST_MAGIC } else { SECOND_MAGIC };
        let start = fields.get(..read).unwrap_or_default();
        if !start.starts_with(&magic) || start.get(6..8) != Some(&[0, 2]) {
            return Ok(None);
        }
        if read < FIELDS_LENGTH {
            return Ok(Some(Err(cut_off())));
        }
        let length = match length(&fields, at) {
            Ok(length) => length,
            Err(error) => return Ok(Some(Err(error))),
        };
        let text_length = usize::try_from(length).unwrap_or(0);
        let mut text = vec![0; text_length.saturating_sub(FIELDS_LENGTH)];
        if area.read_at(at + FIELDS_LENGTH as u64, &mut text)? < text.len() {
            return Ok(Some(Err(cut_off())));
        }
        Ok(Some(Self::parse(fields, &text)))
    }

    /// Parses the fields and the text of a header with a valid length.
    fn parse(mut fields: [u8; FIELDS_LENGTH], text: &[u8]) -> Result<Self> {
        let mut rest = fields.get(8..).unwrap_or_default();
        let read = |rest: &mut &[u8]| -> std::io::Result<_> {
            let (length, sequence) = (rest.read_u64::<BigEndian>()?, rest.read_u64::<BigEndian>()?);
            let label = field::<48>(rest)?;
            let hash = field::<32>(rest)?;
            let _salt = array::<64>(rest)?;
            let uuid = field::<40>(rest)?;
            let subsystem = field::<48>(rest)?;
            Ok((length, sequence, label, hash, uuid, subsystem))
        };
        let (length, sequence, label, hash, uuid, subsystem) =
            read(&mut rest).map_err(|_| cut_off())?;
        let known = HashAlgorithm::from_name(&hash).ok_or_else(|| {
            Error::corrupt(format!(
                "LUKS2 header has a checksum by '{}', which isn't known",
                printable(&hash)
            ))
        })?;
        let checksum = fields.get(CHECKSUM).unwrap_or_default().to_vec();
        fields.get_mut(CHECKSUM).unwrap_or_default().fill(0);
        if !checksum.starts_with(&known.digest(&[&fields, text])) {
            return Err(Error::corrupt(
                "LUKS2 header is damaged: its checksum is wrong",
            ));
        }
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self {
            length,
            sequence,
            label,
            subsystem,
            uuid,
            text: text.to_vec(),
        })
    }
}

/// Returns the length in bytes of the header at byte `at`.
fn length(fields: &[u8; FIELDS_LENGTH], at: u64) -> Result<u64> {
    let number = |at: usize| {
        let bytes = fields.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u64::from_be_bytes)
    };
    let (length, offset) = (number(8), number(256));
    if !length.is_power_of_two() || !(LENGTHS[0]..=LENGTHS[1]).contains(&length) {
        return Err(Error::corrupt(format!(
            "LUKS2 header has an invalid length of {length} bytes"
        )));
    }
    if offset != at || at != 0 && at != length {
        return Err(Error::corrupt(format!(
            "LUKS2 header at {at} says that it is at {offset} and {length} bytes long"
        )));
    }
    Ok(length)
}

fn cut_off() -> Error {
    Error::corrupt("Unable to read LUKS2 header: it is cut off")
}

/// Reads a text up to its first zero byte.
fn field<const N: usize>(rest: &mut &[u8]) -> std::io::Result<String> {
    let bytes = array::<N>(rest)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn array<const N: usize>(rest: &mut &[u8]) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rest.read_exact(&mut bytes)?;
    Ok(bytes)
}
