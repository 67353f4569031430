//! The subcommand `resize`: a new size for the disk of an existing image.

use super::Passwords;
use crate::error::{Error, Result};
use crate::formats::{Format, Preallocation, Resize};
use crate::nodes::{Node, WritableFile, WriteAccess};

/// The largest disk of QEMU, in bytes: 2^63 − 1 GiB.
const MOST_BYTES: u64 = (1 << 63) - (1 << 30);

/// The wanted size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedSize {
    /// The size itself.
    Exactly(u64),
    /// The number of bytes to add to the current size.
    More(u64),
    /// The number of bytes to subtract from the current size.
    Less(u64),
}

/// The parameters of `resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeWish {
    /// The new size.
    pub size: WantedSize,
    /// The preallocation of the added space.
    pub preallocation: Preallocation,
    /// True if the disk may get smaller: `--shrink`.
    pub may_shrink: bool,
}

/// The outcome of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeOutcome {
    /// The disk has the wanted size.
    Resized,
    /// The disk would get smaller without `--shrink`, so nothing was changed.
    WouldShrink,
}

/// Resizes the disk of an image. `on_format` is called with the format that was given or probed.
///
/// # Errors
/// Returns an error if the image can't be opened for writing, if the size is invalid, or if the format refuses it.
/// Nothing was changed then. Returns an error if the image is damaged, or the system's error.
pub fn run(
    node: &Node<'_>,
    wish: &ResizeWish,
    passwords: &dyn Passwords,
    on_format: &mut dyn FnMut(Format),
) -> Result<ResizeOutcome> {
    let access = WriteAccess::to_change(node.policy.cache.flushes());
    let WritableFile {
        format,
        image,
        parts,
        ..
    } = node.open_to_write(&access, passwords)?;
    on_format(format);
    let now = image.size();
    let size = wish.size.of(now)?;
    if size <= now && wish.preallocation != Preallocation::Off {
        return Err(Error::invalid(
            "Preallocation can only be used for growing images",
        ));
    }
    if size < now && !wish.may_shrink {
        return Ok(ResizeOutcome::WouldShrink);
    }
    if size > MOST_BYTES {
        return Err(Error::invalid(format!(
            "offset({size}) exceeds maximum({MOST_BYTES})"
        )));
    }
    let resize = Resize {
        size,
        preallocation: wish.preallocation,
    };
    image.resize(parts, resize)?;
    Ok(ResizeOutcome::Resized)
}

impl WantedSize {
    /// Returns the new size of a disk that has `now` bytes. As in QEMU, the sum is a signed number of 64 bits that
    /// wraps around.
    ///
    /// # Errors
    /// Returns an error if the new size isn't above 0.
    fn of(self, now: u64) -> Result<u64> {
        let size = match self {
            Self::Exactly(size) => size,
            Self::More(bytes) => now.wrapping_add(bytes),
            Self::Less(bytes) => now.wrapping_sub(bytes),
        };
        if size.cast_signed() <= 0 {
            return Err(Error::invalid("New image size must be positive"));
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_relative_or_not_and_above_zero() {
        const MIB: u64 = 1 << 20;
        for (size, expected) in [
            (WantedSize::Exactly(5), Some(5)),
            (WantedSize::More(5), Some(MIB + 5)),
            (WantedSize::Less(5), Some(MIB - 5)),
            (WantedSize::Less(MIB), None),
            (WantedSize::Less(2 * MIB), None),
            (WantedSize::Exactly(0), None),
            (WantedSize::Exactly(1 << 63), None),
            (WantedSize::More(1 << 63), None),
            // 2^64 − 9 EiB is 7 EiB.
            (WantedSize::Less(9 << 60), Some((7 << 60) + MIB)),
        ] {
            assert_eq!(size.of(MIB).ok(), expected, "{size:?}");
        }
    }
}
