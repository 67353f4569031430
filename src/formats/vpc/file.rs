//! A VPC file whose footer has been read.
//!
//! A dynamic image has the footer's cookie at the start of the file, where a fixed one has the first bytes of its
//! disk. A guest can write the cookie there. So the first bytes are ignored if a file ends with the footer of a fixed
//! disk and is long enough for it.

use std::ops::Range;
use std::sync::Arc;

use super::differencing::{DifferencingDisk, VhdParent};
use super::fixed::FixedDisk;
use super::footer::{self, DiskKind, LONGEST, SizeRule, VhdFooter};
use super::header::DynamicDisk;
use super::table::VhdTable;
use crate::error::{Error, Result};
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::refuse_damaged;
use crate::formats::driver::{BackingRef, ImageFile, Parts, Warning, WriteParts};
use crate::formats::info::ImageInfo;
use crate::formats::refusals::without_text;
use crate::formats::{FileUse, Image, WritableImage, parent_name};
use crate::options::Values;
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The largest number of entries that are checked before an image is read. Entries of longer BATs are checked when
/// their block is read.
const MOST_LOOKED_AT: u64 = 1 << 22;

/// A VPC file.
pub(super) struct VpcFile {
    file: Arc<dyn Storage>,
    footer: VhdFooter,
    /// The offset of the footer at the end of the file, in bytes.
    footer_at: u64,
    is_fixed: bool,
    /// True if the copy of the footer at the start of the file is damaged, so that the one at the end was used.
    is_from_end: bool,
    rule: SizeRule,
    layout: VpcLayout,
    /// The parent of a differencing image.
    parent: Option<VhdParent>,
}

/// The layout of the disk in the file.
#[derive(Debug, Clone, Copy)]
enum VpcLayout {
    /// The disk is at the start of the file, and has this size in bytes.
    Fixed(u64),
    /// The disk has blocks, which the BAT maps.
    Dynamic(DynamicDisk),
}

impl VpcFile {
    /// Reads the footer of the image in `file`, and the dynamic disk header.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if the image is damaged, or if
    /// its parent can't be opened.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let length = file.len()?;
        // Old versions of Virtual PC omitted the last byte of the footer.
        let footer_at = length
            .next_multiple_of(SECTOR_SIZE)
            .saturating_sub(footer::LENGTH as u64);
        let read = |at: u64| {
            let mut bytes = [0; footer::LENGTH];
            file.read_padded_at(at, &mut bytes, length)?;
            Ok(VhdFooter::parse(&bytes))
        };
        if length == 0 {
            return Err(Error::corrupt("File too small for a VHD header"));
        }
        let (at_start, at_end) = (read(0)?, read(footer_at)?);
        let is_kind = |footer: &VhdFooter, kinds: &[DiskKind]| kinds.contains(&footer.kind());
        let fits = |footer: &VhdFooter| {
            let is_fixed = is_kind(footer, &[DiskKind::Fixed]) && footer.data_offset() == u64::MAX;
            is_fixed && footer.size(SizeRule::OfCreator) <= footer_at
        };
        let (footer, is_fixed, is_from_end) = match (at_start, at_end) {
            (_, Some(Ok(footer))) if fits(&footer) => (footer, true, false),
            (Some(Ok(footer)), _) => (footer, false, false),
            (Some(Err(_)), Some(Ok(footer)))
                if is_kind(&footer, &[DiskKind::Dynamic, DiskKind::Differencing]) =>
            {
                (footer, false, true)
            }
            (Some(Err(error)), _) => return Err(error),
            (None, Some(Ok(footer))) if is_kind(&footer, &[DiskKind::Fixed]) => {
                (footer, true, false)
            }
            (None, Some(Err(error))) => return Err(error),
            (None, _) => return Err(Error::corrupt("invalid VPC image")),
        };
        let layout = layout(file.as_ref(), &footer, is_fixed, SizeRule::default())?;
        let is_differencing = !is_fixed && is_kind(&footer, &[DiskKind::Differencing]);
        let parent = match is_differencing {
            true => Some(VhdParent::read(file.as_ref(), footer.data_offset())?),
            false => None,
        };
        Ok(Self {
            parent,
            file,
            footer,
            footer_at,
            is_fixed,
            is_from_end,
            rule: SizeRule::default(),
            layout,
        })
    }

    fn table(&self, disk: DynamicDisk, flushes: bool) -> VhdTable {
        VhdTable::stored(Arc::clone(&self.file), disk, self.footer, flushes)
    }

    fn fixed(&self, size: u64) -> BlockImage<FixedDisk> {
        let file = Arc::clone(&self.file);
        let disk = FixedDisk::new(Arc::clone(&file), self.footer, size, self.footer_at);
        BlockImage::new(disk, file, true)
    }

    fn dynamic(&self, table: VhdTable) -> BlockImage<VhdTable> {
        BlockImage::new(table, Arc::clone(&self.file), false)
    }
}

/// Reads the rest of the metadata. `rule` determines which size in the footer is used.
fn layout(
    file: &dyn Storage,
    footer: &VhdFooter,
    is_fixed: bool,
    rule: SizeRule,
) -> Result<VpcLayout> {
    let size = footer.size(rule);
    if size > LONGEST {
        return Err(without_text(file, "File too large"));
    }
    Ok(match is_fixed {
        true => VpcLayout::Fixed(size),
        false => VpcLayout::Dynamic(DynamicDisk::read(file, footer.data_offset(), size)?),
    })
}

impl ImageFile for VpcFile {
    fn size(&self) -> u64 {
        match self.layout {
            VpcLayout::Fixed(size) => size,
            VpcLayout::Dynamic(disk) => disk.size,
        }
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        self.parent.as_ref().map(|parent| BackingRef {
            name: &parent.name,
            format: Some(b"vpc"),
        })
    }

    fn content_id(&self) -> Option<u64> {
        Some(parent_name::content_id(self.footer.id()))
    }

    fn backing_content_id(&self) -> Option<u64> {
        let parent = self.parent.as_ref()?;
        Some(parent_name::content_id(parent.id))
    }

    fn check_writable(&self) -> Result<()> {
        parent_name::refuse_child(self.parent.is_some())
    }

    fn accept(&mut self, options: &Values) -> Result<()> {
        self.rule = SizeRule::of(options)?;
        self.layout = layout(self.file.as_ref(), &self.footer, self.is_fixed, self.rule)?;
        Ok(())
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if self.is_from_end {
            warnings.push(Warning {
                text: "the footer's copy at the start of the image is damaged; the footer at its end is used",
                hint: "",
            });
        }
        if self.rule == SizeRule::OfCreator && self.footer.loses_end() {
            warnings.push(Warning {
                text: "the geometry of the image is smaller than its size, and what lies behind it isn't read",
                hint: "force_size_calc=current_size reads all of it",
            });
        }
        warnings
    }

    fn refuse_truncated(&self) -> Result<()> {
        match self.layout {
            VpcLayout::Dynamic(disk) if disk.blocks() <= MOST_LOOKED_AT => {
                self.table(disk, false).look_for_end()
            }
            _ => Ok(()),
        }
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        if let VpcLayout::Dynamic(disk) = self.layout {
            info.cluster_size = Some(disk.block_size);
        }
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if used_for != FileUse::Metadata {
            return Ok(true);
        }
        if let VpcLayout::Dynamic(disk) = self.layout {
            disk.metadata().into_iter().for_each(&mut *each);
            self.table(disk, false).bitmaps(each)?;
        }
        let end = self.footer_at.saturating_add(footer::LENGTH as u64);
        each(self.footer_at..end.min(self.file.len()?));
        Ok(true)
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        Ok(match self.layout {
            VpcLayout::Fixed(size) => Arc::new(self.fixed(size)),
            VpcLayout::Dynamic(disk) => {
                if !parts.salvage {
                    self.refuse_truncated()?;
                }
                let table = self.table(disk, false);
                let file = Arc::clone(&self.file);
                match self.parent {
                    None => Arc::new(self.dynamic(table)),
                    Some(_) => {
                        let disk = DifferencingDisk::new(table, disk, Arc::clone(&file));
                        Arc::new(BlockImage::new(disk, file, false))
                    }
                }
            }
        })
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        self.check_writable()?;
        let disk = match self.layout {
            VpcLayout::Fixed(size) => {
                return Ok(Box::new(WritableBlocks::new(self.fixed(size), parts.flush)));
            }
            VpcLayout::Dynamic(disk) => disk,
        };
        let table = self.table(disk, parts.flush);
        table.look_for_end()?;
        refuse_damaged(table.find_space()?)?;
        if self.is_from_end {
            // New blocks overwrite the footer at the end, so a copy is written to the start first.
            self.file.write_at(0, self.footer.bytes())?;
            self.file.flush_if(parts.flush)?;
        }
        Ok(Box::new(WritableBlocks::new(
            self.dynamic(table),
            parts.flush,
        )))
    }
}
