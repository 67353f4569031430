//! The insertion of a header extension into the header of an existing image.
//!
//! An end mark ends the list of extensions, and the backing file's name may follow it. A new extension replaces the
//! end mark. The header is valid after every step, so that a power cut may come at any time. First the name is copied
//! out of the way, and the header is made to refer to the copy. Then everything after the sector of the end mark is
//! written, and at last that sector, which makes the extension part of the list.

use super::Header;
use super::extensions;
use super::fields;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// An extension of a header that is present or can be inserted.
#[derive(Debug)]
pub(in crate::formats::qcow2) struct ExtensionSlot {
    place: ExtensionPlace,
}

#[derive(Debug)]
enum ExtensionPlace {
    /// It is present: the offset of its data in the cluster and their length, in bytes.
    There { at: u64, length: u64 },
    /// It can be inserted at `at`, after the backing file's name has been moved.
    Here {
        at: u64,
        name: Option<(Vec<u8>, u64)>,
    },
}

impl ExtensionSlot {
    /// Finds an extension with `length` bytes of data in a version 3 header, or the space for it.
    ///
    /// # Errors
    /// Returns an error if there is no space, or if the header can't be read.
    pub(in crate::formats::qcow2) fn find(
        storage: &dyn Storage,
        header: &Header,
        kind: u32,
        length: usize,
    ) -> Result<Self> {
        let mut cluster = vec![0; header.geometry().cluster_len()];
        storage.read_padded_at(0, &mut cluster, storage.len()?)?;
        let field = |at: usize, bytes: usize| {
            let bytes = cluster.get(at..at + bytes).unwrap_or_default();
            bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let name_offset = field(8, 8);
        let name_end = name_offset + field(16, 4);
        let mut at = field(100, 4);
        for extension in header.extensions() {
            if extension.kind == kind && extension.data.len() == length {
                return Ok(Self {
                    place: ExtensionPlace::There {
                        at: at + 8,
                        length: length as u64,
                    },
                });
            }
            at += 8 + extension.data.len().next_multiple_of(8) as u64;
        }
        let end = at + 8 + length.next_multiple_of(8) as u64 + 8;
        let size = header.geometry().cluster_size();
        let no_space = || {
            let message = "Failed to update bitmap extension: No space left on device";
            Error::new(ErrorKind::Invalid, message)
        };
        let name = match header.backing_file() {
            Some(name) if name_offset < end => {
                let to = end.max(name_end);
                if to + name.len() as u64 > size {
                    return Err(no_space());
                }
                Some((name.to_vec(), to))
            }
            _ => None,
        };
        if end > size {
            return Err(no_space());
        }
        Ok(Self {
            place: ExtensionPlace::Here { at, name },
        })
    }

    /// Returns true if the extension is present and its data is within one sector.
    pub(in crate::formats::qcow2) fn is_in_one_sector(&self) -> bool {
        match self.place {
            ExtensionPlace::There { at, length } => {
                at / SECTOR_SIZE == (at + length.max(1) - 1) / SECTOR_SIZE
            }
            ExtensionPlace::Here { .. } => false,
        }
    }

    /// Removes the extension, which must be the last, by writing the end mark. Returns `false` if it isn't present.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in crate::formats::qcow2) fn end_here(&self, storage: &dyn Storage) -> Result<bool> {
        let ExtensionPlace::There { at, length } = self.place else {
            return Ok(false);
        };
        // A type and length of zero, in 8 bytes of one sector, are the end mark.
        let zeroes = vec![0; 8 + usize::try_from(length).unwrap_or(0)];
        storage.write_at(at - 8, &zeroes)?;
        Ok(true)
    }

    /// Stores the extension's data. A program that reads the header meanwhile must not rely on the data. Ends with a
    /// flush.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(in crate::formats::qcow2) fn fill(
        &self,
        storage: &dyn Storage,
        kind: u32,
        data: &[u8],
        flush: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let (at, name) = match &self.place {
            ExtensionPlace::There { at, .. } => {
                storage.write_at(*at, data)?;
                return flush();
            }
            ExtensionPlace::Here { at, name } => (*at, name),
        };
        if let Some((name, to)) = name {
            storage.write_at(*to, name)?;
            flush()?;
            fields::set_backing_name_offset(storage, *to)?;
            flush()?;
        }
        let mut bytes = Vec::new();
        extensions::append(&mut bytes, kind, data);
        extensions::append(&mut bytes, extensions::END, &[]);
        let sector_end = at / SECTOR_SIZE * SECTOR_SIZE + SECTOR_SIZE;
        let first = usize::try_from(sector_end - at).unwrap_or(bytes.len());
        let (first, behind) = bytes.split_at(first.min(bytes.len()));
        if !behind.is_empty() {
            storage.write_at(sector_end, behind)?;
            flush()?;
        }
        storage.write_at(at, first)?;
        flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Change, MemoryStorage};

    const KIND: u32 = 0x6d6f_6f21;

    /// Returns a header with `filler` bytes in an unknown extension, followed by a backing file's name.
    fn header(filler: usize, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[20..24].copy_from_slice(&10u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1u64 << 15).to_be_bytes());
        bytes[36..40].copy_from_slice(&1u32.to_be_bytes());
        bytes[48..56].copy_from_slice(&1024u64.to_be_bytes());
        bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
        bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
        bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
        bytes.truncate(104);
        extensions::append(&mut bytes, 0x1234_5678, &vec![1; filler]);
        extensions::append(&mut bytes, extensions::END, &[]);
        if !name.is_empty() {
            let start = bytes.len() as u64;
            bytes[8..16].copy_from_slice(&start.to_be_bytes());
            bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
            bytes.extend(name);
        }
        bytes.resize(2048, 0);
        bytes
    }

    #[test]
    fn the_header_is_valid_at_every_step() {
        // The end mark is at every position around a sector boundary. The name fits in front of the new extension's
        // end or not.
        for filler in 320..460 {
            for name in [&b""[..], b"b", &[b'n'; 200]] {
                let before = header(filler, name);
                let storage = MemoryStorage::new(before.clone()).recording();
                let old = Header::read(&storage).unwrap();
                let slot = match ExtensionSlot::find(&storage, &old, KIND, 24) {
                    Ok(slot) => slot,
                    Err(error) => {
                        let long = filler > 352 && name.len() == 200;
                        assert!(long, "{filler} {}: {error}", name.len());
                        continue;
                    }
                };
                slot.fill(&storage, KIND, &[7; 24], &|| storage.flush())
                    .unwrap();
                let mut bytes = before;
                for change in storage.take_record() {
                    // Writes are torn at sector boundaries.
                    if let Change::Write(offset, data) = &change {
                        assert_eq!(offset / 512, (offset + data.len() as u64 - 1) / 512);
                    }
                    change.apply(&mut bytes);
                    let header = Header::read(&MemoryStorage::new(bytes.clone())).unwrap();
                    assert_eq!(header.backing_file().unwrap_or_default(), name);
                    assert_eq!(header.extension(0x1234_5678).unwrap().len(), filler);
                    let data = header.extension(KIND);
                    assert!(data.is_none_or(|data| data == [7; 24]), "{filler}");
                }
                let new = Header::read(&storage).unwrap();
                assert_eq!(new.extension(KIND), Some(&[7; 24][..]));
                let found = ExtensionSlot::find(&storage, &new, KIND, 24).unwrap();
                let ExtensionPlace::There { at, .. } = found.place else {
                    panic!("it isn't found");
                };
                assert_eq!(found.is_in_one_sector(), at % 512 <= 512 - 24);
                assert_eq!(
                    storage.contents()[usize::try_from(at).unwrap()..][..24],
                    [7; 24]
                );
                assert!(found.end_here(&storage).unwrap());
                let without = Header::read(&storage).unwrap();
                assert_eq!(without.extensions(), old.extensions());
                assert_eq!(without.backing_file(), new.backing_file());
            }
        }
    }
}
