//! A new VPC image, checked and not made yet.

use std::sync::Arc;

use super::fixed::FixedDisk;
use super::footer::{self, DiskKind, LONGEST, VhdFooter};
use super::geometry::Chs;
use super::header::DynamicDisk;
use super::table::VhdTable;
use crate::error::{Error, Result};
use crate::formats::NewImage;
use crate::formats::block_map::{NewBlocks, make_zero};
use crate::formats::driver::{NewDisk, NewParts, Plan};
use crate::options::values::not_accepted;
use crate::units::SECTOR_SIZE;

/// A new image.
pub(super) struct VpcPlan {
    footer: VhdFooter,
    kind: DiskKind,
    /// The size of the disk in bytes, a multiple of 512.
    size: u64,
    /// The size that was asked for, in whole sectors, in bytes.
    wanted: u64,
}

impl VpcPlan {
    /// Checks the options.
    ///
    /// # Errors
    /// Returns an error if the format has no disk of that size, or no such variant.
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
        // A device may hold an older image's header, which must lead nobody to what is written meanwhile.
        if !file.starts_as_zeroes() {
            file.write_at(0, &[0; footer::LENGTH])?;
        }
        if self.kind == DiskKind::Dynamic {
            let disk = DynamicDisk::new(self.size);
            let table = VhdTable::new(Arc::clone(&file), disk, self.footer);
            return Ok(Box::new(NewBlocks::new(table, file, false, parts.flush)));
        }
        if !file.starts_as_zeroes() {
            let (length, needed) = (file.len()?, self.size + footer::LENGTH as u64);
            // Its footer is looked for at the end.
            if length != needed {
                return Err(Error::invalid(format!(
                    "a fixed image of this size fills a device of {needed} bytes, and this one has {length}"
                )));
            }
            // The source ends before the disk where its size was rounded up.
            make_zero(file.as_ref(), self.wanted.min(self.size)..needed)?;
        }
        let disk = FixedDisk::new(Arc::clone(&file), self.footer, self.size, self.size);
        Ok(Box::new(NewBlocks::new(disk, file, true, parts.flush)))
    }
}
