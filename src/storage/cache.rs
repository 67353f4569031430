//! QEMU's cache modes: the use of the page cache, and the time by which data must be on stable storage.

/// The way in which a file is read or written. The names are those of `-t` and `-T`, and `auto` is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Past the page cache (`O_DIRECT`), flushed at the end.
    None,
    /// Through the page cache, flushed at the end.
    Writeback,
    /// Through the page cache, every write on stable storage before it counts as done.
    Writethrough,
    /// Past the page cache, every write on stable storage before it counts as done.
    Directsync,
    /// Past the page cache where the file system can, and through it elsewhere; flushed at the end.
    Auto,
    /// Through the page cache, never flushed: a power cut may lose what a finished command wrote.
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

    /// The mode of that name.
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
