//! `convert`: the contents of one image, or of several as one disk, into another image.

use std::sync::Arc;

use super::source::OpenSource;
use super::{Passwords, Purpose, Source, Target};
use crate::convert::{self, Observer, Settings};
use crate::error::{Error, Result};
use crate::formats::{Chain, Concatenation, Image, TopOnly};
use crate::storage::FileStorage;

/// What is converted into what.
pub struct Plan<'a> {
    /// The images to read, one after the other as one disk: at least one.
    pub sources: Vec<Source<'a>>,
    /// The image to make.
    pub target: Target<'a>,
    /// How the work is done.
    pub settings: Settings,
}

/// Converts. When it succeeds, the target holds exactly what the sources hold.
///
/// # Errors
/// What keeps a source from being read or the target from being written; no new file is left then.
pub fn run(plan: &Plan<'_>, passwords: &dyn Passwords, observer: &dyn Observer) -> Result<()> {
    let Plan {
        sources,
        target,
        settings,
    } = plan;
    let opened: Vec<OpenSource> = sources
        .iter()
        .map(|source| source.open(Purpose::Copy, passwords))
        .collect::<Result<_>>()?;
    let files: Vec<&FileStorage> = opened.iter().flat_map(OpenSource::files).collect();
    let image = match opened.as_slice() {
        // What the source only has from its backing file, the target has from its own.
        [only] if settings.leave_unallocated => Arc::new(TopOnly(Arc::clone(&only.image))),
        all => join(all)?,
    };
    let open = target
        .open(image.size(), &files, passwords)
        .map_err(|error| match target.existing {
            Some(_) => error,
            None => {
                let format = target.format();
                error.context(format!("{}: error while converting {format}", target.name))
            }
        })?;
    convert::copy(image.as_ref(), open.image.as_ref(), *settings, observer)?;
    open.keep(target)
}

/// The disks of all sources as one.
fn join(sources: &[OpenSource]) -> Result<Arc<dyn Image>> {
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
