//! The subcommand `convert`: the contents of one image, or of several as one disk, are copied into another image.
//! Optionally the target is verified, or a checksum is computed.

use std::sync::Arc;

use super::backing::Base;
use super::bitmaps::CopiedBitmaps;
use super::target::Written;
use super::{Passwords, Purpose, Target, bitmaps, plausible};
use crate::convert::compare::{Side, first_difference};
use crate::convert::{self, Algorithm, CopiedBytes, Digest, Observer, Settings};
use crate::error::{Error, Result};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::{Chain, Concatenation, Image, NewImage, TopOnly};
use crate::nodes::{Disk, Node};
use crate::storage::Storage;

/// Open images that are read as one disk, one after the other.
pub struct Sources(Vec<Disk>);

impl Sources {
    /// Opens the images. There must be at least one.
    ///
    /// # Errors
    /// Returns the errors of [`Node::open`]. Returns an error for an image that decrypts to noise, if `passwords`
    /// makes it one.
    pub fn open(sources: &[Node<'_>], passwords: &dyn Passwords) -> Result<Self> {
        let opened = sources
            .iter()
            .map(|source| source.open(Purpose::Copy, passwords))
            .collect::<Result<Vec<_>>>()?;
        for source in &opened {
            plausible::look_at_start(source, passwords)?;
        }
        Ok(Self(opened))
    }

    /// Returns the images.
    pub(super) fn disks(&self) -> &[Disk] {
        &self.0
    }
}

/// A conversion.
pub struct Conversion<'a> {
    /// The images to read.
    pub sources: Sources,
    /// The image to write.
    pub target: Target<'a>,
    /// The settings of the copy.
    pub settings: Settings,
    /// True if the target is read back and compared with the source.
    pub verify: bool,
    /// The algorithm of the wanted checksum.
    pub checksum: Option<Algorithm>,
    /// The treatment of the source's persistent bitmaps.
    pub bitmaps: BitmapCopies,
}

/// The treatment of the source's persistent bitmaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapCopies {
    /// Copies none.
    Leave,
    /// Copies all. An inconsistent one is an error.
    All,
    /// Copies those that are consistent.
    Consistent,
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The numbers of copied bytes.
    pub bytes: CopiedBytes,
    /// True if unallocated parts of the target read as its backing file. Otherwise they read as zeroes.
    pub is_backed: bool,
    /// The encryption formats of the first source and of the target.
    pub encryption: [Option<EncryptionFormat>; 2],
    /// The checksum of the contents, if one was wanted.
    pub digest: Option<Digest>,
    /// The names of bitmaps that were skipped.
    pub skipped_bitmaps: Vec<String>,
}

/// Converts images. After success the target has exactly the contents of the sources. `passwords` are those of the
/// target and of its backing chain.
///
/// # Errors
/// Returns an error if a source can't be read or the target can't be written, or if the length of a source's file
/// changed meanwhile. With `verify`, returns an error if the target differs. No new file is left then.
pub fn run(
    plan: &Conversion<'_>,
    passwords: &dyn Passwords,
    observer: &dyn Observer,
) -> Result<Converted> {
    let Conversion {
        sources,
        target,
        settings,
        ..
    } = plan;
    if plan.verify && settings.salvage {
        return Err(Error::invalid(
            "what can't be read can't be verified: --verify and --salvage exclude each other",
        ));
    }
    let Sources(opened) = sources;
    let taken = bitmaps_to_copy(plan.bitmaps, opened)?;
    let files: Vec<&dyn Storage> = opened.iter().flat_map(Disk::files).collect();
    if plan.checksum.is_some() && settings.leave_unallocated {
        return Err(Error::invalid(
            "a checksum is of the whole disk, of which only a part is read for a target with a \
             backing file: --checksum and -B exclude each other",
        ));
    }
    let joined = join(opened)?;
    let image = joined.as_ref();
    let failed = |error| target.failed(error);
    // The backing file stays open until the end, since the written data depends on it.
    let (base, plan_of_new) = target.plan_conversion(image.size())?;
    let plan_of_new = plan_of_new.as_deref();
    if let Some(taken) = &taken {
        taken.check_target(target, plan_of_new)?;
    }
    let open = match plan_of_new {
        Some(new) => target.make(new, &files, base.as_ref(), passwords),
        None => target.open_over(image.size(), &files, passwords),
    };
    let open = open.map_err(failed)?;
    let new = open.image.as_ref();
    let is_backed = new.backed().is_some();
    let layers = opened.iter().flat_map(|source| &source.layers);
    let read_encryption = layers.filter_map(|layer| layer.image.encryption()).next();
    let encryption = [read_encryption, open.encryption];
    let copy = |image: &dyn Image, leave_unallocated| {
        let settings = Settings {
            leave_unallocated,
            ..*settings
        };
        convert::copy_and_hash(image, new, settings, plan.checksum, observer)
    };
    let copied = match opened.as_slice() {
        [only] if settings.leave_unallocated && leaves_something(only, target, new) => {
            let image = only_stored(only, target, base.as_ref(), open.below, passwords)?;
            copy(&image, true)?
        }
        _ => copy(image, false)?,
    };
    let written = open.written();
    if let Some(taken) = &taken {
        taken.copy(target, &written)?;
    }
    if plan.verify {
        let observer = OnlyCancelling(observer);
        verify(image, target, &written, *settings, passwords, &observer)?;
    }
    opened.iter().try_for_each(Disk::check_lengths)?;
    written.keep(target)?;
    Ok(Converted {
        size: image.size(),
        bytes: copied.bytes,
        is_backed,
        encryption,
        digest: copied.digest,
        skipped_bitmaps: taken.map_or_else(Vec::new, |taken| taken.skipped),
    })
}

/// Returns the bitmaps of the sources that are to be copied.
fn bitmaps_to_copy(wanted: BitmapCopies, sources: &[Disk]) -> Result<Option<CopiedBitmaps>> {
    match (wanted, sources) {
        (BitmapCopies::Leave, _) => Ok(None),
        (wanted, [only]) => bitmaps::find(only, wanted == BitmapCopies::Consistent).map(Some),
        _ => Err(Error::invalid(
            "Copying bitmaps only possible with single source",
        )),
    }
}

/// Returns the part of a disk that the top image of a source stores. The rest is left to the target's backing file.
/// In partial clusters the rest is copied from that file, unless the target is compressed.
fn only_stored(
    source: &Disk,
    target: &Target<'_>,
    base: Option<&Base>,
    below_target: u64,
    passwords: &dyn Passwords,
) -> Result<TopOnly> {
    let chain = Arc::clone(&source.image);
    let base = match base {
        Some(base) if chain.depth() > 1 && !target.compressed => base.open(passwords)?,
        _ => None,
    };
    Ok(match base {
        Some(base) => TopOnly::over(chain, base),
        None => TopOnly::new(chain, below_target),
    })
}

/// Returns true if anything can be left to a backing file. `qemu-img` looks up the block status of a source in steps,
/// and leaves only whole clusters of a compressed target within a step. A source with small clusters has steps that
/// are shorter.
fn leaves_something(source: &Disk, target: &Target<'_>, new: &dyn NewImage) -> bool {
    let step = source.image.layer(0).map(Image::status_step);
    !target.compressed || step.is_some_and(|step| step >= new.allocation_unit() as u64)
}

/// Reads the target back from its medium, as far as the system allows, with its header, tables and cipher, and
/// compares it with the sources.
fn verify(
    image: &dyn Image,
    target: &Target<'_>,
    written: &Written,
    settings: Settings,
    passwords: &dyn Passwords,
    observer: &dyn Observer,
) -> Result<()> {
    let compare = || {
        let written = target.as_source(written, passwords)?;
        let written = written.open(Purpose::Copy, passwords)?;
        // The files of a backing chain weren't written.
        for file in written.layers.iter().take(1).flat_map(|layer| &layer.files) {
            file.leave_cache()?;
        }
        if written.image.size() < image.size() {
            return Err(Error::corrupt("it is smaller than the source"));
        }
        let side = |image, name| Side { image, name };
        let sides = [
            side(image, "the source"),
            side(written.image.as_ref(), "the target"),
        ];
        match first_difference(sides, settings.workers, observer)? {
            None => Ok(()),
            Some(at) => Err(Error::corrupt(format!(
                "it differs from the source in the sector at guest offset {}",
                at.0
            ))),
        }
    };
    compare().map_err(|error: Error| error.context(format!("verifying '{}'", target.name)))
}

/// The observer of a verification, whose progress isn't that of the conversion.
struct OnlyCancelling<'a>(&'a dyn Observer);

impl Observer for OnlyCancelling<'_> {
    fn go_on(&self) -> Result<()> {
        self.0.go_on()
    }
}

/// Joins the disks of all sources into one.
pub(super) fn join(sources: &[Disk]) -> Result<Arc<dyn Image>> {
    let images = sources
        .iter()
        .map(|source| Arc::<Chain>::clone(&source.image) as Arc<dyn Image>);
    let mut images: Vec<Arc<dyn Image>> = images.collect();
    match images.pop() {
        Some(only) if images.is_empty() => Ok(only),
        last => {
            images.extend(last);
            Concatenation::new(images)
                .map(|all| Arc::new(all) as Arc<dyn Image>)
                .ok_or_else(|| Error::invalid("the sources are too big for one disk"))
        }
    }
}
