//! The plan of a new VPC image, whose options have been checked.

use std::sync::Arc;

use super::fixed::FixedDisk;
use super::footer::{self, DiskKind, LONGEST, VhdFooter};
use super::geometry::Chs;
use super::header::DynamicDisk;
use super::table::VhdTable;
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::block_map::NewBlocks;
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::formats::new_image::wipe_old_header;
use crate::formats::zeroes::make_zero;
use crate::options::values::not_accepted;
use crate::units::SECTOR_SIZE;

/// The plan of a new image.
pub(super) struct VpcPlan {
    footer: VhdFooter,
    kind: DiskKind,
    /// The size of the disk in bytes, a multiple of 512.
    size: u64,
    /// The requested size in bytes, rounded up to whole sectors.
    wanted: u64,
}

impl VpcPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if the format doesn't support a disk of that size, or if there is no such subformat.
    pub(super) fn new(new: &NewDisk<'_>) -> Result<Self> {
        let kind = match new.options.text("subformat") {
            None | Some("dynamic") => DiskKind::Dynamic,
            Some("fixed") => DiskKind::Fixed,
            Some(other) => return Err(not_accepted("subformat", other)),
        };
        let is_exact = new.options.switch("force_size") == Some(true);
        let wanted = new.size.checked_next_multiple_of(SECTOR_SIZE);
        let wanted = wanted.unwrap_or(u64::MAX);
        let geometry = match is_exact {
            true => Chs::greatest(),
            false => Chs::at_least(wanted / SECTOR_SIZE),
        };
        let size = match geometry.is_greatest() {
            true => wanted,
            false => geometry.bytes(),
        };
        if size > LONGEST {
            return Err(Error::invalid(
                "The image size is too large for file format 'vpc'",
            ));
        }
        Ok(Self {
            footer: VhdFooter::new(size, geometry, kind, is_exact),
            kind,
            size,
            wanted,
        })
    }
}

impl Plan for VpcPlan {
    fn create(&self, parts: NewParts<'_>) -> Result<Box<dyn NewImage>> {
        let file = parts.file;
        let is_device = !file.starts_as_zeroes();
        let needed = self.size + footer::LENGTH as u64;
        if is_device && self.kind == DiskKind::Fixed && file.len()? != needed {
            // Readers look for the footer at the end of the device.
            return Err(Error::invalid(format!(
                "a fixed image of this size fills a device of {needed} bytes, and this one has {}",
                file.len()?
            )));
        }
        wipe_old_header(file.as_ref(), footer::LENGTH)?;
        if self.kind == DiskKind::Dynamic {
            let disk = DynamicDisk::new(self.size);
            let table = VhdTable::new(Arc::clone(&file), disk, self.footer);
            return Ok(Box::new(NewBlocks::new(table, file, false, parts.flush)));
        }
        if is_device {
            // If the size was rounded up, the source ends before the disk does.
            make_zero(file.as_ref(), self.wanted.min(self.size)..needed)?;
        }
        let disk = FixedDisk::new(Arc::clone(&file), self.footer, self.size, self.size);
        Ok(Box::new(NewBlocks::new(disk, file, true, parts.flush)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::driver::{ImageFile as _, Parts};
    use crate::formats::vpc::file::VpcFile;
    use crate::options::Values;
    use crate::storage::{MemoryStorage, Storage};
    use crate::units::GuestOffset;

    /// Creates an empty image on a device that has other contents.
    fn on_device(subformat: &str, device: usize, size: u64) -> (Arc<MemoryStorage>, Result<()>) {
        let storage = Arc::new(MemoryStorage::new(vec![0xee; device]).as_device());
        let mut options = Values::default();
        options.set("subformat", subformat);
        let plan = VpcPlan::new(&NewDisk {
            size,
            options: &options,
            backing_size: None,
            base: None,
            path: std::path::Path::new("image"),
            compressed: false,
            align: None,
            path_of: |name| Ok(name.into()),
        });
        let made = plan.unwrap().create(NewParts {
            file: Arc::<MemoryStorage>::clone(&storage),
            files: Vec::new(),
            secret: None,
            flush: true,
        });
        let made = made.and_then(|image| {
            let reservation = image.reserve(GuestOffset(0), 512, &[0..512], &[])?;
            image.write(&reservation, &[1; 512])?;
            image.finish()
        });
        (storage, made)
    }

    #[test]
    fn nothing_old_of_a_device_shows() {
        // The disk has one cylinder, and the source one sector.
        let size = 34816;
        for (subformat, length) in [("fixed", size + 512), ("dynamic", 3 << 20)] {
            let (storage, made) = on_device(subformat, length, 512);
            made.unwrap();
            let file: Arc<dyn Storage> = storage;
            let image = VpcFile::load(file).unwrap().open(Parts::default()).unwrap();
            let mut disk = vec![0xaa; size];
            image.read_at(GuestOffset(0), &mut disk).unwrap();
            assert!(disk[..512].iter().all(|byte| *byte == 1), "{subformat}");
            // A fixed disk is written completely by the conversion, including zeroes, up to the source's end.
            assert!(disk[512..].iter().all(|byte| *byte == 0), "{subformat}");
        }
    }

    #[test]
    fn a_device_of_another_length_is_left_as_it_is() {
        for length in [34816, 34816 + 513, 1 << 20] {
            let (storage, made) = on_device("fixed", length, 512);
            assert!(made.unwrap_err().to_string().contains("of 35328 bytes"));
            assert!(storage.contents() == vec![0xee; length]);
        }
    }
}
