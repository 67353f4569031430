//! QEMU's cache modes: the use of the page cache, and the point at which data must be on stable storage.

/// A cache mode for reading or writing a file. The names are those of `-t` and `-T`; `auto` is an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Bypasses the page cache (`O_DIRECT`), and flushes at the end.
    None,
    /// Uses the page cache, and flushes at the end.
    Writeback,
    /// Uses the page cache, and completes a write when it is on stable storage.
    Writethrough,
    /// Bypasses the page cache, and completes a write when it is on stable storage.
    Directsync,
    /// Bypasses the page cache if the file system can, and flushes at the end.
    Auto,
    /// Uses the page cache, and never flushes: a power cut may lose what a finished command wrote.
    Unsafe,
}

impl CacheMode {
    /// The names of all modes.
    pub const NAMES: [&str; 6] = [
        "none",
        "writeback",
        "writethrough",
        "directsync",
        "unsafe",
        "auto",
    ];

    /// Returns the mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "off" => Self::None,
            "writeback" => Self::Writeback,
            "writethrough" => Self::Writethrough,
            "directsync" => Self::Directsync,
            "unsafe" => Self::Unsafe,
            "auto" => Self::Auto,
            _ => return None,
        })
    }

    /// Returns true if the page cache is bypassed, or nothing is read or written.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Returns true if every write waits for stable storage.
    pub fn is_synchronous(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }

    /// Returns true if everything is on stable storage when the work is done.
    pub fn flushes(self) -> bool {
        self != Self::Unsafe
    }
}
