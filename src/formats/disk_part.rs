//! A part of a disk, presented as a disk.
//!
//! `dd` counts in blocks of any size, so that a part may start and end at any byte, whereas disks are read in
//! sectors. A part that starts at a sector boundary is read like the disk itself. For any other part, each of its
//! sectors takes two sectors of the disk. Bytes between the part's end and the end of its last sector read as zeroes.

use std::sync::Arc;

use super::{Extent, ExtentKind, Image, Plain, PlainPlace, check_range};
use crate::error::{Error, Result};
use crate::units::{GuestOffset, SECTOR_LEN, SECTOR_SIZE};

/// A part of a disk.
pub struct DiskPart {
    image: Arc<dyn Image>,
    /// The offset of its first byte on the disk.
    start: u64,
    /// Its length in bytes.
    length: u64,
}

impl DiskPart {
    /// Returns the part of `length` bytes from byte `start` on.
    ///
    /// # Errors
    /// Returns an error if the part goes beyond the disk's end.
    pub fn new(image: Arc<dyn Image>, start: u64, length: u64) -> Result<Self> {
        let end = start.checked_add(length);
        if end.is_none_or(|end| end > image.size()) {
            return Err(Error::invalid("the part is beyond the disk's end"));
        }
        Ok(Self {
            image,
            start,
            length,
        })
    }

    /// Returns the number of bytes in sectors of the part that are also sectors of the disk.
    fn shared_sectors(&self) -> u64 {
        match self.start.is_multiple_of(SECTOR_SIZE) {
            true => self.length / SECTOR_SIZE * SECTOR_SIZE,
            false => 0,
        }
    }

    /// Reads from the disk, starting at any byte.
    fn read_bytes(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let within = usize::try_from(at % SECTOR_SIZE).unwrap_or(0);
        let (before, rest) = match within {
            0 => buf.split_at_mut(0),
            within => buf.split_at_mut((SECTOR_LEN - within).min(buf.len())),
        };
        self.read_in_sector(at, before)?;
        let at = at.saturating_add(before.len() as u64);
        let (sectors, after) = rest.split_at_mut(rest.len() / SECTOR_LEN * SECTOR_LEN);
        if !sectors.is_empty() {
            self.image.read_at(GuestOffset(at), sectors)?;
        }
        self.read_in_sector(at.saturating_add(sectors.len() as u64), after)
    }

    /// Reads bytes that lie in one sector of the disk.
    fn read_in_sector(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let mut sector = [0; SECTOR_LEN];
        let within = usize::try_from(at % SECTOR_SIZE).unwrap_or(0);
        let start = GuestOffset(at / SECTOR_SIZE * SECTOR_SIZE);
        self.image.read_at(start, &mut sector)?;
        let bytes = sector
            .get(within..)
            .and_then(|bytes| bytes.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or_else(|| Error::invalid("bytes beyond a sector"))?);
        Ok(())
    }
}

impl Image for DiskPart {
    fn size(&self) -> u64 {
        self.length.next_multiple_of(SECTOR_SIZE)
    }

    /// Reports a sector of the part as data unless all of it is zero.
    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let shared = self.shared_sectors();
        if offset.0 < shared {
            let at = GuestOffset(self.start + offset.0);
            let extent = self.image.extent_at(at, limit.min(shared - offset.0))?;
            return Ok(Extent {
                start: offset,
                ..extent
            });
        }
        let at = self.start + offset.0;
        let sector = GuestOffset(at / SECTOR_SIZE * SECTOR_SIZE);
        let limit = limit.min(self.size() - offset.0).max(1);
        let extent = self
            .image
            .extent_at(sector, limit.saturating_add(SECTOR_SIZE))?;
        let length = sector.0.saturating_add(extent.length).saturating_sub(at);
        let whole = length / SECTOR_SIZE * SECTOR_SIZE;
        let (length, kind) = match extent.kind.is_data() || whole == 0 {
            true => (
                length.max(1).next_multiple_of(SECTOR_SIZE),
                ExtentKind::Encoded,
            ),
            false => (whole, ExtentKind::Zero { kept: None }),
        };
        Ok(Extent {
            start: offset,
            length: length.min(limit),
            kind,
            depth: extent.depth,
        })
    }

    fn plain_at(&self, offset: GuestOffset, limit: u64) -> Result<Plain<'_>> {
        check_range(self.size(), offset, 1)?;
        let shared = self.shared_sectors();
        if offset.0 < shared {
            let at = GuestOffset(self.start + offset.0);
            return self.image.plain_at(at, limit.min(shared - offset.0));
        }
        let extent = self.extent_at(offset, limit)?;
        Ok(Plain {
            length: extent.length,
            place: match extent.kind.is_data() {
                true => PlainPlace::Nowhere,
                false => PlainPlace::Zeroes,
            },
        })
    }

    fn memory_to_read(&self) -> usize {
        self.image.memory_to_read()
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len())?;
        let left = self.length.saturating_sub(offset.0);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let (stored, beyond) = buf.split_at_mut(left.min(buf.len()));
        beyond.fill(0);
        self.read_bytes(self.start.saturating_add(offset.0), stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Concatenation;
    use crate::formats::ZeroImage;
    use crate::formats::raw::RawImage;
    use crate::storage::MemoryStorage;

    const ZEROES: u64 = 4096;
    const DATA: usize = 2048;

    /// Returns a disk of [`ZEROES`] bytes of zeroes, [`DATA`] bytes of data and again zeroes.
    fn disk() -> (Arc<dyn Image>, Vec<u8>) {
        let bytes: Vec<u8> = (1..=250).cycle().take(DATA).collect();
        let raw = RawImage::open(Arc::new(MemoryStorage::new(bytes.clone()))).unwrap();
        let zeroes = || Arc::new(ZeroImage { size: ZEROES }) as Arc<dyn Image>;
        let disk = Concatenation::new(vec![zeroes(), Arc::new(raw), zeroes()]).unwrap();
        let hole = vec![0; usize::try_from(ZEROES).unwrap()];
        (Arc::new(disk), [&hole[..], &bytes, &hole].concat())
    }

    /// Every part reads as the bytes of the disk. Its extents agree with them, and only whole sectors of zeroes are
    /// reported as zero.
    #[test]
    fn a_part_of_any_start_and_end_reads_as_the_disk() {
        let (disk, bytes) = disk();
        let mut zeroes = 0;
        for start in [0, 1, 511, 512, 1000, 4095, 4096, 4097, 6000, 10239] {
            for length in [0, 1, 511, 512, 513, 1000, 4096, 5000, 10240] {
                let (from, to) = (start, start + length);
                let part = DiskPart::new(Arc::clone(&disk), from as u64, length as u64);
                if to > bytes.len() {
                    assert!(part.is_err(), "{start} {length}");
                    continue;
                }
                let part = part.unwrap();
                let mut expected = bytes[from..to].to_vec();
                expected.resize(length.next_multiple_of(512), 0);
                assert_eq!(part.size(), expected.len() as u64);
                let mut read = vec![9; expected.len()];
                part.read_at(GuestOffset(0), &mut read).unwrap();
                assert!(read == expected, "{start} {length}");
                let mut at = 0;
                while at < expected.len() {
                    let offset = GuestOffset(at as u64);
                    let extent = part.extent_at(offset, u64::MAX).unwrap();
                    let end = at + usize::try_from(extent.length).unwrap();
                    assert!(extent.length > 0 && end.is_multiple_of(512));
                    let plain = part.plain_at(offset, 512).unwrap();
                    if !extent.kind.is_data() {
                        assert!(expected[at..end].iter().all(|byte| *byte == 0));
                        assert!(matches!(plain.place, PlainPlace::Zeroes));
                        zeroes += 1;
                    } else if let PlainPlace::At(storage, host) = plain.place {
                        let mut sector = [0; 512];
                        storage.read_exact_at(host.0, &mut sector, "it").unwrap();
                        assert!(sector == expected[at..at + 512], "{start} {length} {at}");
                    }
                    let mut sector = [9; 512];
                    part.read_at(offset, &mut sector).unwrap();
                    assert!(sector == expected[at..at + 512], "{start} {length} {at}");
                    at = end;
                }
                let end = GuestOffset(expected.len() as u64);
                assert!(part.extent_at(end, 1).is_err());
            }
        }
        assert!(zeroes > 10, "{zeroes}");
    }
}
