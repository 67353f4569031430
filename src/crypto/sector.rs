//! Sectors, the unit in which disks are encrypted, and how they are numbered.

/// Bytes in a sector, the unit that is encrypted by itself.
pub const SECTOR_SIZE: usize = 512;

/// Bytes in an AES block.
pub(super) const BLOCK_SIZE: usize = 16;

/// AES blocks in a sector.
pub(super) const SECTOR_BLOCKS: usize = SECTOR_SIZE / BLOCK_SIZE;

/// The length of what a disk encrypts by itself: a sector, or a few of them in a row that count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorLength {
    sectors: usize,
}

impl SectorLength {
    /// That of one sector.
    pub const SHORTEST: Self = Self { sectors: 1 };

    /// Returns the length of so many bytes: 512, 1024, 2048 or 4096.
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        let sectors = [1, 2, 4, 8].into_iter();
        let mut lengths = sectors.map(|sectors| Self { sectors });
        lengths.find(|length| length.bytes() == bytes)
    }

    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        (self.sectors * SECTOR_SIZE) as u64
    }

    /// Returns the number of sectors of 512 bytes: 1, 2, 4 or 8.
    pub(super) fn sectors(self) -> usize {
        self.sectors
    }
}

/// One sector's bytes.
pub(super) type Sector = [u8; SECTOR_SIZE];

/// A run of whole sectors to be ciphered in place or from buffer to buffer.
///
/// Its two halves have the same length and are either the very same memory or
/// do not overlap at all. The safe constructors of [`InOutBuf`] guarantee that,
/// and the x86 kernels rely on it.
///
/// [`InOutBuf`]: aes::cipher::InOutBuf
pub(super) type SectorRun<'inp, 'out> = aes::cipher::InOutBuf<'inp, 'out, Sector>;

/// Makes the initialisation vector of a sector: its number, little-endian.
pub(super) fn iv(sector: u64) -> [u8; BLOCK_SIZE] {
    let mut iv = [0; BLOCK_SIZE];
    iv[..8].copy_from_slice(&sector.to_le_bytes());
    iv
}
