//! The forecast of a conversion. Nothing is written, and no file is created.
//!
//! Only metadata is read. A conversion also skips zeroes that the source stores as data, so it may write less, and
//! the new file may be smaller than `required`.

use super::convert::{Conversion, join};
use crate::crypto::{Backend, chosen_backend};
use crate::error::{Error, Result};
use crate::formats::driver::{Contents, Measured};
use crate::formats::encryption::{EncryptionFormat, key_secret, key_secret_option};
use crate::formats::{Image, ImageFile};
use crate::nodes::Disk;
use crate::options::Values;
use crate::storage::Storage;
use crate::units::GuestOffset;

/// The work that a conversion would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The name, the format and the encryption of each source.
    pub sources: Vec<ForecastImage>,
    /// The name, the format and the encryption of the target.
    pub target: ForecastImage,
    /// True if the target is an existing image that is written into.
    pub exists: bool,
    /// True if a new image replaces an existing file.
    pub replaces: bool,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The bytes of data of the sources, all of which are read.
    pub read: u64,
    /// The size of the new file in bytes, if the format can measure it.
    pub measured: Option<Measured>,
    /// The number of threads.
    pub threads: usize,
    /// The implementation of the cipher, if there is encryption.
    pub backend: Option<Backend>,
}

/// An image of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForecastImage {
    /// Its name.
    pub name: String,
    /// The name of its format.
    pub format: &'static str,
    /// Its encryption format.
    pub encryption: Option<EncryptionFormat>,
}

/// Returns the forecast of a conversion.
///
/// # Errors
/// Returns the errors of a conversion before it writes, or an error if the sources' metadata can't be read.
pub fn run(plan: &Conversion<'_>) -> Result<Forecast> {
    let opened = plan.sources.disks();
    let joined = join(opened)?;
    let image = joined.as_ref();
    let target = &plan.target;
    let (base, new) = target.plan_conversion(image.size())?;
    let files: Vec<&dyn Storage> = opened.iter().flat_map(Disk::files).collect();
    let (replaces, encryption) = match new.as_deref() {
        Some(new) => {
            let replaces = target.check_new(new, &files, base.as_ref());
            (
                replaces.map_err(|error| target.failed(error))?,
                new.encryption(),
            )
        }
        None => (false, target.check_existing(image.size(), &files)?),
    };
    let sources: Vec<ForecastImage> = opened.iter().filter_map(named).collect();
    let target_named = ForecastImage {
        name: target.name.clone(),
        format: target.driver.name(),
        encryption,
    };
    let only = match opened {
        [only] => only.layers.first().map(|layer| layer.image.as_ref()),
        _ => None,
    };
    let contents = Contents {
        size: image.size(),
        image: Some(image),
        bitmaps: only.and_then(ImageFile::bitmaps),
    };
    let measured = match new {
        Some(_) => known(target.format().measure(&with_secret(plan), &contents))?,
        None => None,
    };
    let of_sources = sources.iter().any(|image| image.encryption.is_some());
    let is_encrypted = of_sources || target_named.encryption.is_some();
    let backend = is_encrypted.then(chosen_backend).transpose()?;
    Ok(Forecast {
        exists: target.existing.is_some(),
        replaces,
        size: image.size(),
        read: stored(image)?,
        measured,
        threads: plan.settings.workers.get(),
        backend,
        sources,
        target: target_named,
    })
}

/// Returns the options of the target with a secret if it is encrypted, without which formats measure nothing. The
/// password may come from elsewhere, and only a new image needs it.
fn with_secret(plan: &Conversion<'_>) -> Values {
    let mut options = plan.target.options.clone();
    if key_secret(&options).is_none() {
        options.set(key_secret_option(&options), "");
    }
    options
}

fn named(source: &Disk) -> Option<ForecastImage> {
    let top = source.layers.first()?;
    Some(ForecastImage {
        name: top.name.clone(),
        format: top.format.name(),
        encryption: top.image.encryption(),
    })
}

/// Returns `None` for a format that can't measure.
fn known(measured: Result<Measured>) -> Result<Option<Measured>> {
    match measured {
        Err(error) if error.kind() == crate::error::ErrorKind::Unsupported => Ok(None),
        other => other.map(Some),
    }
}

/// Returns the number of bytes of data of a disk.
fn stored(image: &dyn Image) -> Result<u64> {
    let mut bytes = 0;
    let mut position = 0;
    while position < image.size() {
        let extent = image.extent_at(GuestOffset(position), image.size() - position)?;
        if extent.length == 0 {
            return Err(Error::corrupt("an extent without a byte"));
        }
        if extent.kind.is_data() {
            bytes += extent.length;
        }
        position += extent.length;
    }
    Ok(bytes)
}
