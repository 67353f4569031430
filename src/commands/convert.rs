//! `convert`: the contents of one image, or of several as one disk, into another image; and if wanted, a
//! second look at what was written, or a checksum.

use std::sync::Arc;

use super::backing::Base;
use super::target::Written;
use super::{Passwords, Purpose, Target, bitmaps, plausible};
use crate::convert::compare::{Side, first_difference};
use crate::convert::{self, Algorithm, CopiedBytes, Digest, Observer, Settings};
use crate::error::{Error, Result};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::{Chain, Concatenation, Image, NewImage, TopOnly};
use crate::nodes::{Disk, Node, could_not_open};
use crate::storage::Storage;

/// Images that are open and will be read, one after the other as one disk.
pub struct Sources(Vec<Disk>);

impl Sources {
    /// Opens the images, of which there is at least one.
    ///
    /// # Errors
    /// As [`Node::open`]; one that decrypts to noise, where that counts.
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
    /// The image to make.
    pub target: Target<'a>,
    /// The way in which the work is done.
    pub settings: Settings,
    /// The target is read back and compared with the source.
    pub verify: bool,
    /// The checksum of the contents that is wanted.
    pub checksum: Option<Algorithm>,
    /// Says if the source's persistent bitmaps are copied, too.
    pub bitmaps: BitmapCopies,
}

/// The treatment of the source's persistent bitmaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitmapCopies {
    /// They aren't copied.
    Leave,
    /// All are copied; that one is inconsistent is an error.
    All,
    /// Those that aren't inconsistent are copied.
    Consistent,
}

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The bytes that were moved.
    pub bytes: CopiedBytes,
    /// True if what the target doesn't store is left to a backing file. Else it reads as zeroes.
    pub is_backed: bool,
    /// The format by which the source that is read first is encrypted, and that by which the target is.
    pub encryption: [Option<EncryptionFormat>; 2],
    /// The checksum of its contents, where one was wanted.
    pub digest: Option<Digest>,
    /// The names of bitmaps that were left out.
    pub skipped_bitmaps: Vec<String>,
}

/// Converts. When it succeeds, the target holds exactly what the sources hold. `passwords` are those of the target and
/// of the images below it.
///
/// # Errors
/// Returns an error if a source can't be read or the target can't be written, or if a file of a source
/// changed its length meanwhile; a difference, where that is looked for. No new file is left then.
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
    let taken = match (plan.bitmaps, opened.as_slice()) {
        (BitmapCopies::Leave, _) => None,
        (wanted, [only]) => Some(bitmaps::find(only, wanted == BitmapCopies::Consistent)?),
        _ => {
            return Err(Error::invalid(
                "Copying bitmaps only possible with single source",
            ));
        }
    };
    let files: Vec<&dyn Storage> = opened.iter().flat_map(Disk::files).collect();
    if plan.checksum.is_some() && settings.leave_unallocated {
        return Err(Error::invalid(
            "a checksum is of the whole disk, of which only a part is read for a target with a \
             backing file: --checksum and -B exclude each other",
        ));
    }
    let joined = join(opened)?;
    let image = joined.as_ref();
    let failed = |error: Error| match target.existing {
        Some(_) => error,
        None => {
            let driver = target.driver.name();
            error.context(format!("{}: error while converting {driver}", target.name))
        }
    };
    // What the options say is looked at before what they name.
    target.plan(image.size(), None).map_err(failed)?;
    // Held until the end: what is written relies on what is below it.
    let base = target.base().map_err(|error| {
        let error = error.context("Could not open backing file");
        could_not_open(&target.name, error)
    })?;
    let plan_of_new = target.plan(image.size(), base.as_ref()).map_err(failed)?;
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
    let copied = match opened.as_slice() {
        [only] if settings.leave_unallocated && leaves_something(only, target, new) => {
            let image = only_stored(only, target, base.as_ref(), open.below, passwords)?;
            convert::copy_and_hash(&image, new, *settings, plan.checksum, observer)?
        }
        _ => {
            let settings = Settings {
                leave_unallocated: false,
                ..*settings
            };
            convert::copy_and_hash(image, new, settings, plan.checksum, observer)?
        }
    };
    let written = open.written();
    if let Some(taken) = &taken {
        taken.copy(target, &written)?;
    }
    if plan.verify {
        verify(image, target, &written, *settings, passwords)?;
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

/// Returns the part of a disk that a source stores itself. What it has from its backing file the target has from its
/// own. That goes for what is in the same cluster as something that the source stores, too, unless the cluster is
/// compressed.
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

/// Returns true if anything can be left to a backing file. `qemu-img` asks how a source is stored in pieces of a
/// part of its tables, and leaves what is to be compressed in whole clusters of a piece. From an image of small
/// clusters none is left.
fn leaves_something(source: &Disk, target: &Target<'_>, new: &dyn NewImage) -> bool {
    let step = source.image.layer(0).map(Image::status_step);
    !target.compressed || step.is_some_and(|step| step >= new.allocation_unit() as u64)
}

/// Reads the target back from its medium, as far as the system lets us, through all that a reader
/// goes through: the header, the tables, the cipher.
fn verify(
    image: &dyn Image,
    target: &Target<'_>,
    written: &Written,
    settings: Settings,
    passwords: &dyn Passwords,
) -> Result<()> {
    let compare = || {
        let written = target.as_source(written, passwords)?;
        let written = written.open(Purpose::Copy, passwords)?;
        // The images below it, if it has any, were there before.
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
        match first_difference(sides, settings.workers)? {
            None => Ok(()),
            Some(at) => Err(Error::corrupt(format!(
                "it differs from the source in the sector at guest offset {}",
                at.0
            ))),
        }
    };
    compare().map_err(|error: Error| error.context(format!("verifying '{}'", target.name)))
}

/// The disks of all sources as one.
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
