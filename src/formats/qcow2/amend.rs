//! The amendment of an existing image's options.
//!
//! Options are checked in QEMU's order, so that of several errors the same one is reported. Everything that can be
//! refused is refused before anything is written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use super::check::{change_refcount_width, repaired_header};
use super::header::rewrite::{HeaderContents, HeaderRewrite};
use super::header::{Header, Version, extensions, features, fields, until_zero};
use super::options::{
    BACKING_FILE, BACKING_FMT, COMPAT, DATA_FILE, DATA_FILE_RAW, LAZY_REFCOUNTS, REFCOUNT_BITS,
    SIZE,
};
use super::snapshots::{Snapshot, read_snapshots};
use super::write::{
    Qcow2WriteParts, keeps_zero_flags, refuse_corrupt, remove_zero_flags, resize_disk,
};
use crate::error::{Error, Result};
use crate::formats::driver::WriteParts;
use crate::formats::encryption::EncryptionFormat;
use crate::formats::encryption::luks::{ENCRYPT_SLOT_OPTIONS, LuksHeader, SlotChange};
use crate::formats::encryption::missing_secret;
use crate::formats::{Amend, Preallocation, Resize};
use crate::options::OptionSpec;
use crate::storage::Storage;

/// The options that `amend` accepts.
pub(super) const AMEND_OPTIONS: &[OptionSpec] = &[
    ENCRYPT_SLOT_OPTIONS[0],
    ENCRYPT_SLOT_OPTIONS[1],
    ENCRYPT_SLOT_OPTIONS[2],
    ENCRYPT_SLOT_OPTIONS[3],
    ENCRYPT_SLOT_OPTIONS[4],
    SIZE,
    COMPAT,
    BACKING_FILE,
    BACKING_FMT,
    DATA_FILE,
    DATA_FILE_RAW,
    LAZY_REFCOUNTS,
    REFCOUNT_BITS,
];

/// An image to be amended.
pub(super) struct Amended<'a> {
    pub(super) storage: &'a Arc<dyn Storage>,
    pub(super) header: &'a Header,
    pub(super) luks: Option<&'a LuksHeader>,
    /// The inputs for opening the disk for writing, if a change needs that.
    pub(super) writing: Qcow2WriteParts,
}

impl Amended<'_> {
    fn flush(&self) -> Result<()> {
        self.storage.flush_if(self.writing.flush)
    }

    /// Changes the contents of the header.
    fn rewrite(&self, change: impl FnOnce(&mut HeaderContents) -> Result<()>) -> Result<()> {
        self.write(self.plan(change)?)
    }

    fn plan(
        &self,
        change: impl FnOnce(&mut HeaderContents) -> Result<()>,
    ) -> Result<HeaderRewrite> {
        let storage = self.storage.as_ref();
        HeaderRewrite::plan(storage, &Header::read(storage)?, change)
    }

    fn write(&self, plan: HeaderRewrite) -> Result<()> {
        plan.write(self.storage.as_ref(), &|| self.flush())
    }

    /// Converts the image to version 3.
    fn upgrade(&self) -> Result<()> {
        let snapshots = read_snapshots(self.storage.as_ref(), self.header)?;
        if !snapshots.iter().all(|one| one.is_complete(Version::V3)) {
            return Err(Error::unsupported(
                "the image has snapshots of a program before 2010, which this version doesn't upgrade",
            ));
        }
        let plan = |with_names| {
            self.plan(|contents| {
                contents.upgrade(with_names);
                Ok(())
            })
        };
        // In clusters of 512 bytes there may be no space for the feature names.
        self.write(plan(true).or_else(|_| plan(false))?)
    }

    /// Converts the image to version 2. Zero clusters become allocated clusters first, since version 2 has no zero
    /// flag.
    fn downgrade(&self) -> Result<()> {
        remove_zero_flags(self.storage, &self.repaired()?, self.writing.flush)?;
        self.rewrite(|contents| {
            contents.downgrade();
            Ok(())
        })
    }

    /// Returns the current header, after a repair of the refcounts if necessary.
    fn repaired(&self) -> Result<Header> {
        let storage = self.storage.as_ref();
        Ok(repaired_header(storage, &Header::read(storage)?)?.into_owned())
    }

    /// Clears an autoclear feature.
    fn clear_autoclear(&self, feature: u64) -> Result<()> {
        if !self.header.has_autoclear(feature) {
            return Ok(());
        }
        fields::set_autoclear(self.storage.as_ref(), self.header.autoclear() & !feature)?;
        self.flush()
    }

    /// Changes the size of the disk in bytes.
    fn resize(&mut self, size: u64) -> Result<()> {
        let rest = Qcow2WriteParts {
            flush: self.writing.flush,
            ..Qcow2WriteParts::default()
        };
        resize_disk(
            self.storage,
            &Header::read(self.storage.as_ref())?,
            std::mem::replace(&mut self.writing, rest),
            Resize {
                size,
                preallocation: Preallocation::Off,
            },
        )
    }
}

/// Amends the options of an image. After a power cut each option has its old or its new value.
///
/// # Errors
/// Returns an error, in QEMU's words, if an option can't have the requested value, or if this version can't change
/// it; nothing was written then. Returns the system's error.
pub(super) fn amend(
    mut file: Amended<'_>,
    parts: &WriteParts<'_>,
    amend: &Amend<'_>,
) -> Result<()> {
    refuse_corrupt(file.header)?;
    check_has_slots(&file, amend)?;
    let version = version(file.header, amend)?;
    let upgrades = version > file.header.version();
    let downgrades = version < file.header.version();
    check_values(&file, amend, version)?;
    if downgrades {
        check_downgrade(&file, amend)?;
    }
    let slots = SlotChange::of(amend.options, "encrypt.", amend.secret)?;
    let lazy = lazy_refcounts(&file, amend, version)?;
    if upgrades {
        file.upgrade()?;
    }
    if let Some(change) = slots {
        let luks = file.luks.ok_or_else(no_slots)?;
        let secret = parts.secret.ok_or_else(missing_secret)?;
        luks.change_slots(change, secret, amend.force)?;
    }
    let bits = amend.options.number("refcount_bits");
    let bits = bits.and_then(|bits| u32::try_from(bits).ok());
    if let Some(bits) = bits.filter(|bits| *bits != file.header.geometry().refcount_bits()) {
        change_refcount_width(file.storage.as_ref(), &file.repaired()?, bits)?;
    }
    if amend.options.switch("data_file_raw") == Some(false) {
        file.clear_autoclear(features::DATA_FILE_RAW)?;
    }
    if let Some(name) = amend.options.name("data_file") {
        file.rewrite(|contents| {
            contents.set_data_file(name.as_bytes());
            Ok(())
        })?;
    }
    if let Some(compatible) = lazy {
        fields::set_compatible(file.storage.as_ref(), compatible)?;
        file.flush()?;
    }
    let size = new_size(file.header, amend);
    if size != file.header.size() {
        file.resize(size)?;
    }
    // The downgrade comes last, as in QEMU, since earlier changes may remove what it refuses.
    if downgrades {
        file.downgrade()?;
    }
    Ok(())
}

/// Returns the size that the disk is to have. A size of 0 changes nothing, as in QEMU.
fn new_size(header: &Header, amend: &Amend<'_>) -> u64 {
    let size = amend.options.number("size");
    size.filter(|size| *size != 0).unwrap_or(header.size())
}

/// Returns the version that the image gets.
fn version(header: &Header, amend: &Amend<'_>) -> Result<Version> {
    match amend.options.text("compat") {
        None => Ok(header.version()),
        Some("0.10" | "v2") => Ok(Version::V2),
        Some("1.1" | "v3") => Ok(Version::V3),
        Some(other) => Err(Error::invalid(format!(
            "Unknown compatibility level {other}"
        ))),
    }
}

/// Refuses to convert an image to version 2 if it has a feature of version 3.
fn check_downgrade(file: &Amended<'_>, amend: &Amend<'_>) -> Result<()> {
    let header = file.header;
    let bits = amend.options.number("refcount_bits");
    let bits = bits.unwrap_or_else(|| header.geometry().refcount_bits().into());
    if bits != 16 {
        return Err(Error::invalid("compat=0.10 requires refcount_bits=16"));
    }
    let unsupported = |why: String| Err(Error::unsupported(why));
    if header.has_incompatible(features::DATA_FILE) {
        return unsupported("Cannot downgrade an image with a data file".into());
    }
    let others = header.incompatible() & !(features::DIRTY | features::COMPRESSION);
    if others != 0 {
        return unsupported(format!(
            "Cannot downgrade an image with incompatible features {others:#x} set"
        ));
    }
    // QEMU converts such an image, after which its compressed clusters can't be read or its bitmaps are outdated.
    if header.has_incompatible(features::COMPRESSION) {
        return unsupported("Cannot downgrade an image with zstd compression".into());
    }
    if header.bitmaps().is_some() {
        return Err(Error::unsupported("Cannot downgrade an image with bitmaps")
            .with_hint("They can be removed with 'bitmap --remove'."));
    }
    let size = new_size(header, amend);
    let fits = |one: &Snapshot| u32::try_from(one.vm_state_size).is_ok() && one.disk_size == size;
    if !read_snapshots(file.storage.as_ref(), header)?
        .iter()
        .all(fits)
    {
        return unsupported("Internal snapshots prevent downgrade of image".into());
    }
    if keeps_zero_flags(file.storage, header)? {
        return unsupported(
            "Cannot downgrade an encrypted image that has zero clusters over a backing file".into(),
        );
    }
    Ok(())
}

/// Returns true if options name another backing file than the image has. QEMU compares both names if one is given.
fn changes_backing(header: &Header, amend: &Amend<'_>) -> bool {
    let file = amend.options.name("backing_file").map(OsStr::as_bytes);
    let format = amend.options.text("backing_fmt").map(str::as_bytes);
    let now = header.extension(extensions::BACKING_FORMAT).map(until_zero);
    let is_same = file == header.backing_file() && format == now;
    (file.is_some() || format.is_some()) && !is_same
}

fn no_slots() -> Error {
    Error::invalid("Only LUKS encryption options can be amended")
}

/// Refuses options of key slots for an image that has none.
fn check_has_slots(file: &Amended<'_>, amend: &Amend<'_>) -> Result<()> {
    let mut slots = ENCRYPT_SLOT_OPTIONS.iter();
    if !slots.any(|option| amend.options.name(option.name).is_some()) {
        return Ok(());
    }
    match file.header.encryption() {
        Some(EncryptionFormat::Luks) => Ok(()),
        Some(_) => Err(no_slots()),
        None => Err(Error::invalid(
            "Can't amend encryption options - encryption not present",
        )),
    }
}

/// Refuses values that the image can't have.
fn check_values(file: &Amended<'_>, amend: &Amend<'_>, version: Version) -> Result<()> {
    let header = file.header;
    let options = amend.options;
    if changes_backing(header, amend) {
        return Err(Error::invalid("Cannot amend the backing file")
            .with_hint("You can use 'qemu-img rebase' instead."));
    }
    let bits = options.number("refcount_bits");
    if bits.is_some_and(|bits| !bits.is_power_of_two() || bits > 64) {
        return Err(Error::invalid(
            "Refcount width must be a power of two and may not exceed 64 bits",
        ));
    }
    let has_data_file = header.has_incompatible(features::DATA_FILE);
    if options.name("data_file").is_some() && !has_data_file {
        return Err(Error::invalid(
            "data-file can only be set for images that use an external data file",
        ));
    }
    let is_raw = header.has_autoclear(features::DATA_FILE_RAW);
    if options.switch("data_file_raw") == Some(true) && !is_raw {
        return Err(Error::invalid(
            "data-file-raw cannot be set on existing images",
        ));
    }
    if version == Version::V2 && bits.is_some_and(|bits| bits != 16) {
        return Err(Error::invalid(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
             greater)",
        ));
    }
    Ok(())
}

/// Returns the compatible features with lazy refcounts set as requested, or `None` if nothing changes.
fn lazy_refcounts(file: &Amended<'_>, amend: &Amend<'_>, version: Version) -> Result<Option<u64>> {
    let header = file.header;
    let Some(lazy) = amend.options.switch("lazy_refcounts") else {
        return Ok(None);
    };
    if lazy && version == Version::V2 {
        return Err(Error::invalid(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or \
             greater)",
        ));
    }
    if lazy == header.has_compatible(features::LAZY_REFCOUNTS) {
        return Ok(None);
    }
    // Without the feature, the outdated refcounts of an image that was left dirty would never be repaired.
    if header.has_incompatible(features::DIRTY) {
        return Err(Error::invalid(
            "the image was not closed, and its refcounts are out of date; repair it first (check -r all)",
        ));
    }
    let other = header.compatible() & !features::LAZY_REFCOUNTS;
    Ok(Some(match lazy {
        true => other | features::LAZY_REFCOUNTS,
        false => other,
    }))
}
