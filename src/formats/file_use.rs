//! The uses of the bytes of an image's file beside the guest's data as it is, for pictures.

/// A use of bytes of an image's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUse {
    /// Metadata: headers and tables, those of snapshots and bitmaps included.
    Metadata,
    /// Compressed data of the disk.
    Compressed,
}
