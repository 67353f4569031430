//! The references of persistent bitmaps: the directory, the bitmap tables, and the clusters of bits.

use super::places::Walk;
use crate::error::Result;
use crate::formats::qcow2::bitmaps::read_bitmaps;
use crate::formats::qcow2::check::finding::Finding;
use crate::formats::qcow2::entries::BitmapTarget;
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::Header;

impl Walk<'_> {
    /// Counts the clusters of the bitmaps, unless they are outdated.
    ///
    /// # Errors
    /// Returns the system's error, or an error if the directory can't be read.
    pub(super) fn bitmaps(&self, header: &Header, found: &mut dyn FnMut(Finding)) -> Result<()> {
        let Some(directory) = header.bitmaps() else {
            return Ok(());
        };
        self.region(
            "bitmap directory",
            directory.directory,
            directory.length,
            found,
        );
        for bitmap in read_bitmaps(self.storage, header)? {
            let bytes = bitmap.table.entries * ENTRY_SIZE;
            if !self.region("bitmap table", bitmap.table.host, bytes, found) {
                continue;
            }
            for (index, entry) in bitmap.read_table(self.storage)?.into_iter().enumerate() {
                match entry.target(self.geometry) {
                    Ok(BitmapTarget::Uniform(_)) => {}
                    Ok(BitmapTarget::Stored(host)) => {
                        self.region("bitmap data", host, self.geometry.cluster_size(), found);
                    }
                    Err(why) => {
                        let name = String::from_utf8_lossy(&bitmap.name);
                        let name = crate::error::printable(&name);
                        let what = format!("entry {index} of the table of bitmap '{name}': {why}");
                        found(Finding::Structure { what, times: 1 });
                    }
                }
            }
        }
        Ok(())
    }
}
