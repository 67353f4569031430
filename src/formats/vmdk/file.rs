//! A VMDK image whose descriptor and extent headers have been read.
//!
//! The descriptor is embedded in the file of the only extent, or is a separate file that names those of the extents.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::check;
use super::descriptor::{self, DiskDescriptor, ExtentAccess, ExtentLine, ExtentType};
use super::esx_headers::{COWD_MARK, read_cowd, read_se_sparse};
use super::flat::FlatBlocks;
use super::grains::{EntryKind, GrainLayout, GrainMap};
use super::info::{ExtentInfo, VmdkInfo};
use super::parts;
use super::repair;
use super::sparse_header::{self, SparseHeader};
use super::write::{ContentId, WritableVmdk};
use crate::error::{Error, Result, printable};
use crate::formats::block_map::{BlockImage, WritableBlocks};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair, refuse_damaged};
use crate::formats::driver::{BackingRef, FileRef, ImageFile, NameRule, Parts, WriteParts};
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::{
    Concatenation, DiskPart, FileUse, Image, NewImage, OverwriteOptions, OverwrittenImage,
    WritableImage, ZeroImage,
};
use crate::storage::Storage;
use crate::units::SECTOR_SIZE;

/// The offset of an embedded descriptor if the header has none, in sectors.
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_LENGTH: u64 = 20;

/// A VMDK image.
pub(super) struct VmdkFile {
    pub(super) file: Arc<dyn Storage>,
    pub(super) descriptor: DiskDescriptor,
    /// The offset of the descriptor's text and the space for it, in bytes.
    pub(super) text: (u64, u64),
    /// True if the descriptor is embedded in the file of the only extent.
    pub(super) is_embedded: bool,
    /// The extents in guest order.
    pub(super) extents: Vec<DiskExtent>,
}

/// An extent whose header has been read.
pub(super) struct DiskExtent {
    /// The size in bytes.
    pub(super) size: u64,
    pub(super) kind: ExtentType,
    pub(super) access: ExtentAccess,
    /// The offset of a flat extent in its file, in bytes.
    pub(super) offset: u64,
    /// The version in the header of a sparse extent, or 0 for others.
    pub(super) version: u32,
    /// The layout of an extent with grains.
    pub(super) layout: Option<GrainLayout>,
    /// The file, if there is one and it is open.
    pub(super) file: Option<Arc<dyn Storage>>,
}

impl VmdkFile {
    /// Reads the descriptor in `file`, and the header of an extent with an embedded descriptor.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words where it has any, if either is invalid.
    pub(super) fn load(file: Arc<dyn Storage>) -> Result<Self> {
        let length = file.len()?;
        let mut start = [0; sparse_header::LENGTH];
        file.read_padded_at(0, &mut start, length)?;
        if SparseHeader::parse(&start).is_some() {
            return Self::load_embedded(file);
        }
        if start.starts_with(COWD_MARK) {
            return Err(Error::unsupported(
                "the file is an extent of an image whose descriptor is another file",
            ));
        }
        if length > descriptor::LONGEST {
            return Err(match descriptor::is_descriptor(&start) {
                true => Error::corrupt("VMDK description file too big"),
                false => descriptor::invalid(),
            });
        }
        let mut text = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(0, &mut text, "the descriptor")?;
        let descriptor = DiskDescriptor::parse(&text)?;
        descriptor.check_separate()?;
        let size = descriptor
            .sectors()
            .and_then(|sectors| sectors.checked_mul(SECTOR_SIZE));
        if size.is_none_or(|size| i64::try_from(size).is_err()) {
            return Err(Error::corrupt("the disk of the image is too large"));
        }
        let extents = descriptor.extents.iter().map(DiskExtent::of_line);
        Ok(Self {
            extents: extents.collect(),
            file,
            descriptor,
            text: (0, length),
            is_embedded: false,
        })
    }

    fn load_embedded(file: Arc<dyn Storage>) -> Result<Self> {
        let header = SparseHeader::read(file.as_ref())?;
        let (start, sectors) = match (header.descriptor, header.descriptor_length) {
            (0, _) | (_, 0) => (DESCRIPTOR_AT, DESCRIPTOR_LENGTH),
            place => place,
        };
        let place = start
            .checked_mul(SECTOR_SIZE)
            .zip(sectors.checked_mul(SECTOR_SIZE));
        let Some((start, space)) = place.filter(|(_, space)| *space <= descriptor::LONGEST) else {
            return Err(Error::corrupt("VMDK description file too big"));
        };
        let mut text = vec![0; usize::try_from(space).unwrap_or(0)];
        file.read_padded_at(start, &mut text, file.len()?)?;
        let descriptor = DiskDescriptor::parse(&text)?;
        let lines = descriptor.sectors();
        if header.capacity == 0 && lines.is_some_and(|sectors| sectors > 0) {
            return Err(Error::unsupported(format!(
                "Unsupported image type '{}'",
                printable(&descriptor.create_type)
            )));
        }
        let access = descriptor.extents.first().map(|line| line.access);
        let extent = DiskExtent {
            size: header.size(),
            kind: ExtentType::Sparse,
            access: access.unwrap_or(ExtentAccess::ReadWrite),
            offset: 0,
            version: header.version,
            layout: Some(header.layout()),
            file: Some(Arc::clone(&file)),
        };
        Ok(Self {
            file,
            descriptor,
            text: (start, space),
            is_embedded: true,
            extents: vec![extent],
        })
    }

    /// Returns the images of the extents, for reading.
    fn images(&self, files: &[Arc<dyn Storage>]) -> Result<Vec<Arc<dyn Image>>> {
        let mut files = files.iter();
        let images = self.extents.iter().map(|extent| {
            let file = match extent.has_file() {
                false => None,
                true if self.is_embedded => Some(&self.file),
                true => files.next(),
            };
            extent.image(file)
        });
        images.collect()
    }

    /// Returns the size of the disk in bytes.
    pub(super) fn size_of_disk(&self) -> u64 {
        self.extents.iter().map(|extent| extent.size).sum()
    }

    /// Returns the grain tables of each extent with grains.
    ///
    /// # Errors
    /// Returns an error if a grain directory can't be read.
    pub(super) fn grain_maps(&self) -> Result<Vec<GrainMap>> {
        let extents = self.extents.iter();
        let maps = extents.filter_map(|extent| extent.map().transpose());
        maps.collect()
    }
}

impl DiskExtent {
    /// Returns the extent of a descriptor's line, whose file isn't open yet.
    fn of_line(line: &ExtentLine) -> Self {
        Self {
            size: line.sectors.saturating_mul(SECTOR_SIZE),
            kind: line.kind,
            access: line.access,
            offset: line.offset.saturating_mul(SECTOR_SIZE),
            version: 0,
            layout: None,
            file: None,
        }
    }

    pub(super) fn has_file(&self) -> bool {
        self.kind != ExtentType::Zero
    }

    /// Returns the grain tables, if there are any.
    ///
    /// # Errors
    /// Returns an error if the grain directory can't be read.
    pub(super) fn map(&self) -> Result<Option<GrainMap>> {
        let file = self.file.as_ref().zip(self.layout);
        let map = file.map(|(file, layout)| GrainMap::open(Arc::clone(file), layout));
        map.transpose()
    }

    /// Reads the header of the extent in `file`.
    fn attach(&mut self, file: &Arc<dyn Storage>) -> Result<()> {
        // An untrusted descriptor must not make a device be read.
        if file.has_fixed_length() {
            return Err(Error::invalid("an extent must be a regular file"));
        }
        self.file = Some(Arc::clone(file));
        let layout = match self.kind {
            ExtentType::Sparse => {
                let header = SparseHeader::read(file.as_ref())?;
                self.version = header.version;
                header.layout()
            }
            ExtentType::VmfsSparse => read_cowd(file.as_ref())?,
            ExtentType::SeSparse => read_se_sparse(file.as_ref())?,
            ExtentType::Flat | ExtentType::Vmfs | ExtentType::Zero => return Ok(()),
        };
        // The header's capacity may be rounded up to a whole grain.
        let whole = self.size.checked_next_multiple_of(layout.grain);
        if layout.size != self.size && Some(layout.size) != whole {
            return Err(Error::corrupt(format!(
                "the extent has {} sectors, and the descriptor says {}",
                layout.size / SECTOR_SIZE,
                self.size / SECTOR_SIZE
            )));
        }
        self.layout = Some(GrainLayout {
            size: self.size,
            ..layout
        });
        Ok(())
    }

    fn image(&self, file: Option<&Arc<dyn Storage>>) -> Result<Arc<dyn Image>> {
        let Some(file) = file else {
            return Ok(Arc::new(ZeroImage { size: self.size }));
        };
        if self.access == ExtentAccess::None {
            return Err(Error::unsupported(
                "the descriptor says that an extent must not be read (NOACCESS)",
            ));
        }
        let file = Arc::clone(file);
        Ok(match self.layout {
            Some(layout) => {
                let map = GrainMap::open(Arc::clone(&file), layout)?;
                Arc::new(BlockImage::new(map, file, false))
            }
            None => {
                let blocks = FlatBlocks::open(file, self.offset, self.size)?;
                Arc::new(blocks.image())
            }
        })
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.layout.is_some_and(|layout| layout.is_compressed())
    }

    /// Returns the length of a grain in bytes, if the extent has grains.
    fn grain(&self) -> Option<u64> {
        self.layout.map(|layout| layout.grain)
    }

    fn describe(&self, is_embedded: bool) -> ExtentInfo {
        let file = self.file.as_ref();
        let name = file.map(|file| file.location().to_string_lossy().into_owned());
        ExtentInfo {
            compressed: self.is_compressed().then_some(true),
            virtual_size: self.size,
            filename: name.unwrap_or_default(),
            cluster_size: self.grain(),
            format: if is_embedded { "" } else { self.kind.name() },
        }
    }
}

impl ImageFile for VmdkFile {
    fn size(&self) -> u64 {
        self.size_of_disk()
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        let name = self.descriptor.parent.as_deref()?;
        Some(BackingRef {
            name,
            format: Some(b"vmdk"),
        })
    }

    fn content_id(&self) -> Option<u64> {
        Some(self.descriptor.cid.into())
    }

    fn backing_content_id(&self) -> Option<u64> {
        self.descriptor.parent.as_ref()?;
        Some(self.descriptor.parent_cid.into())
    }

    fn set_backing_content_id(&self, id: u64, flush: bool) -> Result<()> {
        let (start, space) = self.text;
        let mut text = vec![0; usize::try_from(space).unwrap_or(0)];
        self.file
            .read_padded_at(start, &mut text, self.file.len()?)?;
        let place = descriptor::place_of_id(&text, "parentCID").ok_or_else(descriptor::invalid)?;
        let digits = format!("{id:0width$x}", width = place.len());
        if digits.len() == place.len() {
            // The new digits have the same length, so nothing else moves, and a power cut leaves the old or the new
            // id.
            self.file
                .write_at(start + place.start as u64, digits.as_bytes())?;
        } else {
            let end = text
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(text.len());
            text.truncate(end);
            text.splice(place, digits.into_bytes());
            if self.is_embedded && text.len() as u64 > space {
                return Err(Error::unsupported("the descriptor has no room for the id"));
            }
            self.file.write_at(start, &text)?;
        }
        self.file.flush_if(flush)
    }

    fn other_files(&self) -> Result<Vec<FileRef<'_>>> {
        if self.is_embedded {
            return Ok(Vec::new());
        }
        let lines = self.descriptor.extents.iter();
        let lines = lines.filter(|line| line.kind != ExtentType::Zero);
        let files = lines.enumerate().map(|(index, line)| FileRef {
            role: Cow::Owned(format!("extents.{index}")),
            name: Some(&line.name),
            rule: NameRule::Beside,
        });
        Ok(files.collect())
    }

    fn has_headers_elsewhere(&self) -> bool {
        !self.is_embedded
    }

    fn attach(&mut self, files: &[Arc<dyn Storage>]) -> Result<()> {
        if self.is_embedded {
            return Ok(());
        }
        let extents = self.extents.iter_mut().filter(|extent| extent.has_file());
        for (extent, file) in extents.zip(files) {
            extent.attach(file).map_err(|error| {
                let name = file.location().to_string_lossy();
                error.context(format!("Could not open '{}'", printable(&name)))
            })?;
        }
        Ok(())
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        let mut grains = self.extents.iter().map(DiskExtent::grain);
        let first = grains.next().flatten();
        info.cluster_size = first.filter(|_| grains.all(|grain| grain == first));
        let extents = self.extents.iter();
        let data = VmdkInfo {
            cid: self.descriptor.cid,
            parent_cid: self.descriptor.parent_cid,
            create_type: self.descriptor.create_type.clone(),
            extents: extents
                .map(|extent| extent.describe(self.is_embedded))
                .collect(),
        };
        info.format_specific = Some(Specific::new("vmdk", &data)?);
        Ok(())
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        let extent = self.extents.iter().rfind(|extent| extent.has_file());
        if used_for == FileUse::Metadata && (self.is_embedded || extent.is_none()) {
            let (start, length) = self.text;
            each(start..start.saturating_add(length));
        }
        // A flat extent has nothing but data.
        if let Some(map) = extent.map(DiskExtent::map).transpose()?.flatten() {
            match used_for {
                FileUse::Metadata => parts::metadata(&map, each)?,
                FileUse::Compressed => parts::compressed(&map, each)?,
            }
        }
        Ok(true)
    }

    fn table_memory(&self) -> u64 {
        let layouts = self.extents.iter().filter_map(|extent| extent.layout);
        layouts
            .map(|layout| layout.tables().saturating_mul(8))
            .sum()
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let images = self.images(&parts.files)?;
        if let [image] = images.as_slice() {
            return Ok(Arc::clone(image));
        }
        let all = Concatenation::new(images);
        Ok(Arc::new(all.ok_or_else(|| {
            Error::corrupt("the disk of the image is too large")
        })?))
    }

    fn check_writable(&self) -> Result<()> {
        for extent in &self.extents {
            extent.check_writable()?;
        }
        Ok(())
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        if self.extents.iter().any(DiskExtent::is_compressed) {
            return Err(Error::unsupported(
                "a streamOptimized image is written once, from its start to its end",
            ));
        }
        self.refuse_damage()?;
        let id = ContentId::find(Arc::clone(&self.file), self.text, parts.flush)?;
        let mut start = 0;
        let mut extents: Vec<Box<dyn WritableImage>> = Vec::with_capacity(self.extents.len());
        for extent in &self.extents {
            let backing = parts.backing.as_ref();
            let backing = backing.map(|backing| part_of(backing, start, extent.size));
            extents.push(extent.writable(backing.transpose()?, parts.flush)?);
            start += extent.size;
        }
        Ok(Box::new(WritableVmdk::new(extents, id)))
    }

    fn write_over(
        &self,
        parts: WriteParts<'_>,
        size: u64,
        options: OverwriteOptions,
    ) -> Result<Box<dyn NewImage>> {
        if self.stream().is_some() {
            return self.write_stream(parts.flush);
        }
        let image = self.open_writable(parts)?;
        Ok(Box::new(OverwrittenImage::new(image, size, options)?))
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }
}

/// Returns the part of a backing file's disk that an extent covers.
fn part_of(backing: &Arc<dyn Image>, start: u64, size: u64) -> Result<Arc<dyn Image>> {
    if start == 0 && size >= backing.size() {
        return Ok(Arc::clone(backing));
    }
    let start = start.min(backing.size());
    let length = size.min(backing.size() - start);
    let part = DiskPart::new(Arc::clone(backing), start, length)?;
    Ok(Arc::new(part))
}

impl VmdkFile {
    /// Refuses an image whose grain tables refer to space that is used otherwise.
    fn refuse_damage(&self) -> Result<()> {
        let mut corruptions = 0;
        for map in self.grain_maps()? {
            corruptions += check::find(&map, &mut |_| {})?.corruptions;
        }
        refuse_damaged(corruptions)
    }
}

impl DiskExtent {
    /// Opens the extent for writing.
    fn writable(
        &self,
        backing: Option<Arc<dyn Image>>,
        flush: bool,
    ) -> Result<Box<dyn WritableImage>> {
        let file = self.file.as_ref().map(Arc::clone);
        let file = file.ok_or_else(|| Error::invalid("an extent's file isn't open"))?;
        Ok(match self.layout {
            Some(layout) => {
                let map = GrainMap::open(Arc::clone(&file), layout)?;
                map.find_space(flush)?;
                let image = BlockImage::new(map, file, false);
                Box::new(WritableBlocks::new(image, flush).with_backing(backing))
            }
            None => {
                let blocks = FlatBlocks::open(file, self.offset, self.size)?;
                Box::new(WritableBlocks::new(blocks.image(), flush))
            }
        })
    }

    /// Refuses an extent that is read-only, or that this version can't write.
    fn check_writable(&self) -> Result<()> {
        if self.access != ExtentAccess::ReadWrite {
            return Err(Error::unsupported(
                "the descriptor says that an extent is only read (RDONLY)",
            ));
        }
        let Some(layout) = self.layout else {
            return Ok(());
        };
        if matches!(layout.kind, EntryKind::SeSparse { .. }) {
            return Err(Error::unsupported(
                "No write support for seSparse images available",
            ));
        }
        if layout.is_compressed() {
            return self.refuse_written(layout);
        }
        if self.version >= 3 {
            return Err(Error::unsupported("VMDK version 3 must be read only"));
        }
        Ok(())
    }
}

impl Check for VmdkFile {
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for map in self.grain_maps()? {
            report.corruptions += check::find(&map, on_event)?.corruptions;
        }
        Ok(report)
    }

    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for map in self.grain_maps()? {
            let found = check::find(&map, on_event)?;
            let fixed = match what {
                Repair::Leaks => 0,
                Repair::All => repair::repair(&map, &found, on_event)?,
            };
            report.corruptions_fixed += fixed;
            report.corruptions += match fixed {
                0 => found.corruptions,
                _ => repair::left_over(&map)?,
            };
        }
        Ok(report)
    }
}
