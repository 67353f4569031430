//! Sectors, the unit in which disks are encrypted, and their initialisation vectors.

/// The length of a sector in bytes.
pub const SECTOR_SIZE: usize = 512;

/// The length of an AES block in bytes.
pub(super) const BLOCK_SIZE: usize = 16;

/// The number of AES blocks in a sector.
pub(super) const SECTOR_BLOCKS: usize = SECTOR_SIZE / BLOCK_SIZE;

/// The length of a disk's encryption unit: a sector of 512 bytes, or several adjacent ones with one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorLength {
    sectors: usize,
}

impl SectorLength {
    /// The length of one sector of 512 bytes.
    pub const SHORTEST: Self = Self { sectors: 1 };

    /// Returns the length of `bytes` bytes: 512, 1024, 2048 or 4096. Returns `None` for others.
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

/// The bytes of a sector.
pub(super) type Sector = [u8; SECTOR_SIZE];

/// A run of whole sectors to be encrypted or decrypted, in place or from buffer to buffer.
///
/// Its two halves have the same length, and are either the same memory or disjoint. The safe constructors of
/// [`InOutBuf`] guarantee that, and the x86 kernels rely on it.
///
/// [`InOutBuf`]: aes::cipher::InOutBuf
pub(super) type SectorRun<'inp, 'out> = aes::cipher::InOutBuf<'inp, 'out, Sector>;

/// Returns the initialisation vector of a sector: its little-endian number.
pub(super) fn iv(sector: u64) -> [u8; BLOCK_SIZE] {
    let mut iv = [0; BLOCK_SIZE];
    iv[..8].copy_from_slice(&sector.to_le_bytes());
    iv
}
