//! A qcow2 file whose header has been read: its description before its disk is opened.

use std::ops::Range;
use std::sync::Arc;

use super::amend::{Amended, amend};
use super::bitmaps::read_bitmaps;
use super::geometry::ENTRY_SIZE;
use super::header::rewrite::{BackingNames, HeaderRewrite};
use super::header::{Header, Version, until_zero};
use super::header::{extensions, features};
use super::info::Qcow2Info;
use super::read::{Qcow2Image, ReadOptions};
use super::snapshots::{Snapshot, read_snapshots};
use super::write::{
    self, Qcow2WriteParts, WritableQcow2, apply_snapshot, check_new_bitmap, copy_bitmaps,
    create_snapshot, delete_snapshot, refuse_corrupt, replace_bitmap,
};
use super::{check, cipher_of, explain, luks_header, parts, repair, repaired_header};
use crate::error::{Error, Result};
use crate::formats::bitmaps::{Bitmaps, PersistentBitmap, Replacement};
use crate::formats::check::{Check, CheckEvent, CheckReport, Repair};
use crate::formats::driver::{
    Backing, BackingRef, FileRef, ImageFile, Load, NameRule, Parts, Warning, WriteParts,
};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::encryption::luks::LuksHeader;
use crate::formats::explanation::Statement;
use crate::formats::info::{ImageInfo, Specific};
use crate::formats::snapshots::{NewSnapshot, SnapshotInfo, SnapshotName, Snapshots, not_found};
use crate::formats::{Amend, FileUse, Image, Resize, WritableImage};
use crate::options::Values;
use crate::storage::{RecentReads, Storage};

/// The name of the external data file in options.
pub(super) const DATA_FILE_ROLE: &str = "data-file";

/// A qcow2 file whose header has been read and checked.
pub(super) struct Qcow2File {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) header: Header,
    /// The LUKS header inside the image, if it has one.
    pub(super) luks: Option<LuksHeader>,
}

impl Qcow2File {
    /// Reads the header of the image in `storage`. [`Load::Check`] accepts an image without a refcount table.
    ///
    /// # Errors
    /// Returns the system's error. Returns an error, in QEMU's words, if the header is invalid.
    pub(super) fn load(storage: Arc<dyn Storage>, how: Load) -> Result<Self> {
        let header = match how {
            Load::Use | Load::Headless => Header::read(storage.as_ref())?,
            Load::Check => Header::read_for_check(storage.as_ref())?,
        };
        let luks = match how {
            Load::Use | Load::Headless => luks_header(&storage, &header)?,
            Load::Check => None,
        };
        Ok(Self {
            storage,
            header,
            luks,
        })
    }

    /// Plans the change of the backing file in the present header.
    fn rewriting(&self, backing: Option<&Backing>) -> Result<HeaderRewrite> {
        let header = Header::read(self.storage.as_ref())?;
        refuse_corrupt(&header)?;
        if backing.is_some() && header.has_autoclear(features::DATA_FILE_RAW) {
            return Err(Error::invalid("Invalid argument"));
        }
        let names = backing.map(|backing| BackingNames {
            file: &backing.name,
            format: backing.format.as_deref().map(str::as_bytes),
        });
        HeaderRewrite::plan(self.storage.as_ref(), &header, |contents| {
            contents.set_backing(names)
        })
    }

    /// Returns the file for a change of metadata, which reads the same tables repeatedly.
    fn recent_reads(&self) -> Arc<dyn Storage> {
        Arc::new(RecentReads::new(Arc::clone(&self.storage)))
    }

    /// Returns the inputs for opening the disk for writing.
    fn open_options(&self, parts: WriteParts<'_>) -> Result<Qcow2WriteParts> {
        Ok(Qcow2WriteParts {
            cipher: cipher_of(&self.header, self.luks.as_ref(), parts.secret)?,
            data: parts.files.into_iter().next(),
            backing: parts.backing,
            flush: parts.flush,
        })
    }
}

impl ImageFile for Qcow2File {
    fn size(&self) -> u64 {
        self.header.size()
    }

    fn backing(&self) -> Option<BackingRef<'_>> {
        let format = self.header.extension(extensions::BACKING_FORMAT);
        self.header.backing_file().map(|name| BackingRef {
            name,
            format: format.map(until_zero),
        })
    }

    fn other_files(&self) -> Result<Vec<FileRef<'_>>> {
        if !self.header.has_incompatible(features::DATA_FILE) {
            self.header.check_data_file_raw()?;
            return Ok(Vec::new());
        }
        let name = self.header.extension(extensions::DATA_FILE);
        Ok(vec![FileRef {
            role: DATA_FILE_ROLE.into(),
            name: name.map(until_zero),
            rule: NameRule::AsItStands,
        }])
    }

    fn encryption(&self) -> Option<EncryptionFormat> {
        self.header.encryption()
    }

    fn accept(&mut self, options: &Values) -> Result<()> {
        let cluster = self.header.geometry().cluster_size();
        if let Some(size) = options.number("l2-cache-entry-size")
            && (!size.is_power_of_two() || size < 512 || size > cluster)
        {
            return Err(Error::invalid(format!(
                "L2 cache entry size must be a power of two between 512 and the cluster size \
                 ({cluster})"
            )));
        }
        match (options.text("encrypt.format"), self.header.encryption()) {
            (Some(stated), None) => Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{stated}'"
            ))),
            (Some(stated), Some(format)) if stated != format.name() => {
                Err(Error::invalid(format!(
                    "Header reported '{}' encryption format but options specify '{stated}'",
                    format.name()
                )))
            }
            _ => Ok(()),
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let stores_bitmaps = self.header.extension(extensions::BITMAPS).is_some();
        if !stores_bitmaps || self.header.bitmaps().is_some() {
            return Vec::new();
        }
        let text = match self.header.version() {
            Version::V3 => {
                "a program lacking bitmap support modified this file, so all bitmaps are now \
                 considered inconsistent"
            }
            Version::V2 => {
                "This qcow2 v2 image contains bitmaps, but they may have been modified by a program \
                 without persistent bitmap support; so now they must all be considered inconsistent"
            }
        };
        let hint = "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.";
        vec![Warning { text, hint }]
    }

    fn describe(&self, info: &mut ImageInfo) -> Result<()> {
        info.cluster_size = Some(self.header.geometry().cluster_size());
        info.dirty_flag = Some(self.header.has_incompatible(features::DIRTY));
        info.snapshots = Snapshots::list(self)?;
        let bitmaps = Bitmaps::list(self)?;
        let bitmaps = bitmaps.iter().map(PersistentBitmap::info).collect();
        let specific = Qcow2Info::of(&self.header, self.luks.as_ref(), bitmaps);
        info.format_specific = Some(Specific::new("qcow2", &specific)?);
        Ok(())
    }

    fn explain(&self) -> Vec<Statement> {
        explain::statements(&self.header)
    }

    fn parts_of(&self, used_for: FileUse, each: &mut dyn FnMut(Range<u64>)) -> Result<bool> {
        if self.header.has_incompatible(features::DATA_FILE) {
            // An external data file has nothing but data.
            return Ok(true);
        }
        match used_for {
            FileUse::Metadata => parts::metadata(self.storage.as_ref(), &self.header, each)?,
            FileUse::Compressed => parts::compressed(&self.storage, &self.header, each)?,
        }
        Ok(true)
    }

    fn table_memory(&self) -> u64 {
        self.header.l1().entries.saturating_mul(ENTRY_SIZE)
    }

    fn at_snapshot(&mut self, name: &SnapshotName) -> Result<()> {
        let snapshots = read_snapshots(self.storage.as_ref(), &self.header)?;
        let names = snapshots.iter().map(|one| (&*one.id, &*one.name));
        let index = name.find(names);
        let snapshot = index.and_then(|index| snapshots.get(index));
        let l1 = snapshot
            .ok_or_else(not_found)?
            .l1_table(self.header.geometry())?;
        self.header = self.header.clone().with_l1(l1);
        Ok(())
    }

    fn prepare_to_change(&mut self, looks_for_damage: bool) -> Result<()> {
        refuse_corrupt(&self.header)?;
        // The change that follows reads the same tables as the search for damage.
        self.storage = self.recent_reads();
        let storage = self.storage.as_ref();
        if looks_for_damage && !self.header.has_incompatible(features::DIRTY) {
            write::refuse_damaged(storage, &self.header)?;
        }
        self.header = repaired_header(storage, &self.header)?.into_owned();
        Ok(())
    }

    fn open(&self, parts: Parts<'_>) -> Result<Arc<dyn Image>> {
        let storage = Arc::clone(&self.storage);
        let options = ReadOptions {
            cipher: cipher_of(&self.header, self.luks.as_ref(), parts.secret)?,
            data: parts.files.into_iter().next(),
            salvage: parts.salvage,
        };
        let image = Qcow2Image::open_with(storage, &self.header, options)?;
        Ok(Arc::new(image.at_depth(parts.depth)))
    }

    fn check_writable(&self) -> Result<()> {
        refuse_corrupt(&self.header)
    }

    fn open_writable(&self, parts: WriteParts<'_>) -> Result<Box<dyn WritableImage>> {
        let options = self.open_options(parts)?;
        // A dirty image is repaired when it is opened, so only others are refused for wrong refcounts.
        if !self.header.has_incompatible(features::DIRTY) {
            write::refuse_damaged(self.storage.as_ref(), &self.header)?;
        }
        let storage = Arc::clone(&self.storage);
        let image = WritableQcow2::open(storage, &self.header, options)?;
        Ok(Box::new(image))
    }

    fn check_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.rewriting(backing).map(drop)
    }

    fn set_backing(&self, backing: Option<&Backing>, flush: bool) -> Result<()> {
        let rewriting = self.rewriting(backing)?;
        let storage = self.storage.as_ref();
        rewriting.write(storage, &|| storage.flush_if(flush))
    }

    fn amend(&self, parts: &WriteParts<'_>, change: &Amend<'_>) -> Result<()> {
        let file = Amended {
            storage: &self.recent_reads(),
            header: &self.header,
            luks: self.luks.as_ref(),
            writing: self.open_options(parts.clone())?,
        };
        amend(file, parts, change)
    }

    fn resize(&self, parts: WriteParts<'_>, resize: Resize) -> Result<()> {
        let options = self.open_options(parts)?;
        write::resize_disk(&self.recent_reads(), &self.header, options, resize)
    }

    fn make_empty(&self, parts: WriteParts<'_>) -> Result<()> {
        let options = self.open_options(parts)?;
        write::make_empty(&self.recent_reads(), &self.header, options)
    }

    fn check(&self) -> Option<&dyn Check> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        match self.header.version() {
            Version::V2 => None,
            Version::V3 => Some(self),
        }
    }

    fn lacks_bitmaps(&self) -> Option<Error> {
        let lacks = self.header.version() == Version::V2;
        lacks.then(|| Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"))
    }
}

impl Check for Qcow2File {
    fn check(&self, on_event: &mut dyn FnMut(&CheckEvent<'_>)) -> Result<CheckReport> {
        check(self.storage.as_ref(), &self.header, &mut |event| {
            on_event(&event)
        })
    }

    fn repair(
        &self,
        what: Repair,
        on_event: &mut dyn FnMut(&CheckEvent<'_>),
    ) -> Result<CheckReport> {
        let storage = self.storage.as_ref();
        let repaired = repair(storage, &self.header, what, &mut |event| on_event(&event))?;
        if repaired.leaks_fixed == 0 && repaired.corruptions_fixed == 0 {
            return Ok(repaired);
        }
        // The repair may have moved the tables to which the header refers.
        let again = Self::load(Arc::clone(&self.storage), Load::Check)?;
        let again = Check::check(&again, on_event)?;
        Ok(CheckReport {
            leaks_fixed: repaired.leaks_fixed,
            corruptions_fixed: repaired.corruptions_fixed,
            ..again
        })
    }
}

impl Snapshots for Qcow2File {
    fn count(&self) -> u32 {
        self.header.snapshots()
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let snapshots = read_snapshots(self.storage.as_ref(), &self.header)?;
        Ok(snapshots.iter().map(Snapshot::info).collect())
    }

    fn create(&self, new: &NewSnapshot, flush: bool) -> Result<()> {
        create_snapshot(&self.storage, &self.header, new, flush)
    }

    fn apply(&self, name: &SnapshotName, flush: bool) -> Result<()> {
        apply_snapshot(&self.storage, &self.header, name, flush)
    }

    fn delete(&self, name: &SnapshotName, flush: bool) -> Result<()> {
        delete_snapshot(&self.storage, &self.header, name, flush)
    }
}

impl Bitmaps for Qcow2File {
    fn list(&self) -> Result<Vec<PersistentBitmap>> {
        let bitmaps = read_bitmaps(self.storage.as_ref(), &self.header)?;
        let geometry = self.header.geometry();
        let bitmaps = bitmaps.iter();
        Ok(bitmaps
            .map(|bitmap| bitmap.persistent(&self.storage, geometry))
            .collect())
    }

    fn add(&self, copied: &[PersistentBitmap], flush: bool) -> Result<()> {
        copy_bitmaps(&self.recent_reads(), &self.header, copied, flush)
    }

    fn default_granularity(&self) -> u64 {
        self.header.geometry().cluster_size().clamp(4096, 65536)
    }

    fn check_new(&self, name: &[u8], granularity: u64) -> Result<()> {
        check_new_bitmap(self.storage.as_ref(), &self.header, name, granularity)
    }

    fn replace(&self, name: &[u8], with: Replacement, flush: bool) -> Result<()> {
        replace_bitmap(&self.storage, &self.header, name, with, flush)
    }
}
