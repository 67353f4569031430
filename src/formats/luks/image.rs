//! The encrypted disk in a LUKS file, contiguous after the header.
//!
//! Every sector is stored, so all of the disk is data. A hole in the file doesn't read as zeroes: it was never
//! written, and decrypts to noise. So zeroes are written like any other data, and nothing is freed.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::formats::encryption::{Cipher, missing_option};
use crate::formats::image::check_range;
use crate::formats::in_place::InPlaceStorage;
use crate::formats::{Extent, ExtentKind, Image, WritableImage};
use crate::storage::Storage;
use crate::units::{GuestOffset, HostOffset};

/// The number of bytes that are encrypted and written at once.
const AT_ONCE: usize = 256 << 10;

/// The unit in which the disk is written, in bytes: the block size of most file systems.
pub(super) const UNIT: usize = 4096;

/// An encrypted disk that starts at byte `payload` of its file.
#[derive(Debug)]
pub(super) struct LuksImage {
    pub(super) file: Arc<dyn Storage>,
    pub(super) cipher: Cipher,
    /// The offset of the disk in the file, in bytes.
    pub(super) payload: u64,
    /// The size of the disk in bytes, a multiple of `unit`.
    pub(super) size: u64,
    /// The sector size of the encryption, in bytes.
    pub(super) unit: u64,
    /// The length of the file in bytes. It may end inside the disk's last sector.
    pub(super) length: u64,
}

impl LuksImage {
    fn host(&self, guest: GuestOffset) -> HostOffset {
        HostOffset(self.payload + guest.0)
    }

    /// Reads as [`read_at`](Image::read_at) does, from a file whose present length is `length`.
    fn read_to(&self, offset: GuestOffset, buf: &mut [u8], length: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let before = offset.0 % self.unit;
        let whole = (before + buf.len() as u64).next_multiple_of(self.unit);
        if before == 0 && whole == buf.len() as u64 {
            return self.read_sectors(offset, buf, length);
        }
        // Only parts of the sectors at both ends are requested.
        let mut sectors = vec![0; usize::try_from(whole).unwrap_or(usize::MAX)];
        self.read_sectors(GuestOffset(offset.0 - before), &mut sectors, length)?;
        let wanted = usize::try_from(before).unwrap_or(usize::MAX);
        let wanted = sectors.get(wanted..).unwrap_or_default();
        buf.copy_from_slice(wanted.get(..buf.len()).unwrap_or_default());
        Ok(())
    }

    /// Reads as [`read_to`](Self::read_to) does, whole sectors of the encryption.
    fn read_sectors(&self, offset: GuestOffset, buf: &mut [u8], length: u64) -> Result<()> {
        let host = self.host(offset);
        self.file.read_padded_at(host.0, buf, length)?;
        self.cipher.decrypt(offset, host, buf);
        Ok(())
    }
}

impl Image for LuksImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        Ok(Extent {
            start: offset,
            length: (self.size - offset.0).min(limit),
            kind: ExtentKind::Data(self.host(offset)),
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.read_to(offset, buf, self.length)
    }
}

/// The encrypted disk, open for writing.
#[derive(Debug)]
pub(super) struct WritableLuks {
    image: LuksImage,
    file: InPlaceStorage,
}

impl WritableLuks {
    /// Opens a disk for writing. `flushes` says if flushes reach stable storage.
    pub(super) fn new(image: LuksImage, flushes: bool) -> Self {
        Self {
            file: InPlaceStorage::new(Arc::clone(&image.file), flushes),
            image,
        }
    }
}

impl Image for WritableLuks {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.image.extent_at(offset, limit)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        // A write may have extended the file.
        let length = self.image.length.max(self.file.get().len()?);
        self.image.read_to(offset, buf, length)
    }
}

impl WritableImage for WritableLuks {
    fn write_at(&self, offset: GuestOffset, data: &[u8]) -> Result<()> {
        let file = self.file.usable()?;
        check_range(self.image.size, offset, data.len())?;
        let mut buffer = vec![0; data.len().min(AT_ONCE)];
        let mut guest = offset;
        for part in data.chunks(AT_ONCE) {
            let (secret, _) = buffer.split_at_mut(part.len());
            let host = self.image.host(guest);
            self.image.cipher.encrypt_to(guest, host, part, secret);
            file.write_at(host.0, secret)?;
            guest = GuestOffset(guest.0 + part.len() as u64);
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: GuestOffset, length: u64, _may_unmap: bool) -> Result<()> {
        let zeroes = vec![0; usize::try_from(length).unwrap_or(AT_ONCE).min(AT_ONCE)];
        let mut start = offset.0;
        let end = offset.0.saturating_add(length);
        while start < end {
            let part = (end - start).min(AT_ONCE as u64);
            let part = usize::try_from(part).unwrap_or(AT_ONCE);
            self.write_at(GuestOffset(start), zeroes.get(..part).unwrap_or(&zeroes))?;
            start += part as u64;
        }
        Ok(())
    }

    /// Keeps the contents, since a hole would reveal which sectors are unused.
    fn discard(&self, _offset: GuestOffset, _length: u64) -> Result<()> {
        self.file.usable().map(drop)
    }

    fn flush(&self) -> Result<()> {
        self.file.flush()
    }

    fn allocation_unit(&self) -> usize {
        UNIT
    }

    fn stores_zeroes(&self) -> bool {
        false
    }

    fn writes_serially(&self) -> bool {
        // Encrypting is part of the write here, and gains from several threads.
        false
    }

    fn close(&self) -> Result<()> {
        self.file.close()
    }
}

/// The name of the option for the secret.
pub(super) const KEY_SECRET: &str = "key-secret";

/// Returns the error for an image without a password.
pub(super) fn missing_secret() -> Error {
    missing_option(KEY_SECRET)
}
