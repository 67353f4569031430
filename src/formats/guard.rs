//! The protection of the first sector of a disk whose raw format was only probed.
//!
//! If the format of such an image isn't given, it is probed again the next time. A guest could write another format's
//! header to the first sector, and that header could name a backing file on the host to be read. Like QEMU, this
//! storage refuses such a write.

use std::sync::Arc;

use super::list::{self, Format};
use crate::error::{Error, Result};
use crate::storage::{Filter, NotShared, Storage};
use crate::units::SECTOR_SIZE;

/// A storage that refuses writes after which its first sector no longer probes as raw.
#[derive(Debug)]
pub struct GuardedStart(pub Arc<dyn Storage>);

impl Filter for GuardedStart {
    fn inner(&self) -> &dyn Storage {
        self.0.as_ref()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if offset < SECTOR_SIZE {
            let mut start = [0; 512];
            self.0.read_padded_at(0, &mut start, self.0.len()?)?;
            let from = usize::try_from(offset).unwrap_or(start.len());
            for (to, from) in start.iter_mut().skip(from).zip(data) {
                *to = *from;
            }
            if list::of_start(&start) != Format::RAW {
                return Err(Error::invalid(format!(
                    "error while writing at byte {offset}: Operation not permitted"
                )));
            }
        }
        self.0.write_at(offset, data)
    }

    /// Copies to any part but the first sector, since the contents of a copy within the system aren't visible here.
    fn copy_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<bool> {
        if offset < SECTOR_SIZE {
            return Ok(false);
        }
        self.0.copy_from(offset, source, source_offset, length)
    }

    /// Shares any part but the first sector, for the same reason as [`copy_from`](Self::copy_from).
    fn share_from(
        &self,
        offset: u64,
        source: &dyn Storage,
        source_offset: u64,
        length: u64,
    ) -> Result<(), NotShared> {
        if offset < SECTOR_SIZE {
            let why = Error::unsupported("the start of a disk of unstated format isn't shared");
            return Err(NotShared { ever: false, why });
        }
        self.0.share_from(offset, source, source_offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, GuardedStart};
    use crate::storage::{MemoryStorage, Storage as _};

    #[test]
    fn a_header_is_refused_at_the_start_only() {
        let guarded = GuardedStart(Arc::new(MemoryStorage::new(vec![1; 2048])));
        let header = b"QFI\xfb\0\0\0\x03";
        let refused = guarded.write_at(0, header).unwrap_err().to_string();
        assert!(refused.ends_with("at byte 0: Operation not permitted"));
        guarded.write_at(512, header).unwrap();
        // Writing the header in two parts is refused, too.
        guarded.write_at(4, &header[4..]).unwrap();
        assert!(guarded.write_at(0, &header[..4]).is_err());
        assert!(guarded.write_at(0, b"# comment\nversion=1\n").is_err());
        guarded.write_at(0, b"anything else").unwrap();
        let mut start = [0; 13];
        guarded.read_at(0, &mut start).unwrap();
        assert_eq!(&start, b"anything else");
    }
}
