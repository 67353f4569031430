//! Header extensions: type, length and data after the header's fixed part, each padded to a multiple of 8 bytes. An
//! extension of type 0, or the end of the header cluster, ends the list.
//!
//! Unknown extensions are kept, since a writer must not remove extensions that it doesn't know.

use byteorder::{BigEndian, ReadBytesExt as _};

use crate::error::{Error, Result};

/// The end of the list.
pub const END: u32 = 0;
/// The name of the backing file's format.
pub const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The feature name table; see [`super::features`].
pub const FEATURE_NAMES: u32 = 0x6803_f857;
/// The place of the LUKS header ("Full disk encryption header pointer").
pub const CRYPTO: u32 = 0x0537_be77;
/// The place of the bitmap directory; see [`crate::formats::qcow2::bitmaps`].
pub const BITMAPS: u32 = 0x2385_2875;
/// The name of the external data file.
pub const DATA_FILE: u32 = 0x4441_5441;

/// A header extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its type. The constants of this module are the known types.
    pub kind: u32,
    /// Its data, without padding.
    pub data: Vec<u8>,
}

/// Parses the extensions in the bytes between the header's fixed part and the backing file's name or the end of the
/// cluster.
///
/// # Errors
/// Returns an error if an extension is longer than the rest of the bytes.
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Extension>> {
    let mut extensions = Vec::new();
    // A truncated type or length counts as zeroes, which end the list.
    while let (Ok(kind), Ok(length)) =
        (bytes.read_u32::<BigEndian>(), bytes.read_u32::<BigEndian>())
    {
        let too_large = || {
            Error::corrupt(format!(
                "Header extension too large (type {kind:#010x}, length {length})"
            ))
        };
        let length = usize::try_from(length).map_err(|_| too_large())?;
        let data = bytes.get(..length).ok_or_else(too_large)?.to_vec();
        if kind == END {
            break;
        }
        let padded = length.next_multiple_of(8).min(bytes.len());
        bytes = bytes.get(padded..).unwrap_or_default();
        extensions.push(Extension { kind, data });
    }
    Ok(extensions)
}

/// Appends an extension to a header, with the padding that the specification requires.
pub fn append(header: &mut Vec<u8>, kind: u32, data: &[u8]) {
    header.extend(kind.to_be_bytes());
    header.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    let end = header.len() + data.len().next_multiple_of(8);
    header.extend_from_slice(data);
    header.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_extensions_are_read_back() {
        let mut bytes = Vec::new();
        append(&mut bytes, BACKING_FORMAT, b"qcow2");
        append(&mut bytes, 0x1234_5678, b"12345678");
        append(&mut bytes, END, b"");
        assert_eq!(bytes.len(), 16 + 16 + 8);
        let extensions = parse(&bytes).unwrap();
        assert_eq!(extensions.len(), 2);
        assert_eq!(extensions[0].data, b"qcow2");
        assert_eq!(extensions[1].kind, 0x1234_5678);
    }

    #[test]
    fn an_extension_beyond_the_header_is_refused() {
        let bytes = [0x12, 0x34, 0x56, 0x78, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let message = parse(&bytes).unwrap_err().to_string();
        assert!(message.contains("Header extension too large"), "{message}");
    }

    #[test]
    fn a_cut_off_list_ends() {
        assert_eq!(parse(&[]).unwrap(), []);
        assert_eq!(parse(&[1, 2, 3]).unwrap(), []);
    }
}
