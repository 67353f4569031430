//! `convert`: the contents of one image into a new one of another format.

use super::{Passwords, Source, Target};
use crate::convert::{self, Observer, Settings};
use crate::error::Result;
use crate::formats::Image as _;

/// What is converted into what.
pub struct Plan<'a> {
    /// The image to read.
    pub source: Source<'a>,
    /// The image to make.
    pub target: Target<'a>,
    /// How the work is done.
    pub settings: Settings,
}

/// Converts. When it succeeds, the target holds exactly what the source holds.
///
/// # Errors
/// What keeps the source from being read or the target from being written; no new file is left
/// then.
pub fn run(plan: &Plan<'_>, passwords: &dyn Passwords, observer: &dyn Observer) -> Result<()> {
    let Plan {
        source,
        target,
        settings,
    } = plan;
    let opened = source.open(passwords)?;
    let image = &opened.image;
    let open = target
        .open(image.size(), &opened.files(), passwords)
        .map_err(|error| match target.existing {
            Some(_) => error,
            None => {
                let format = target.format();
                error.context(format!("{}: error while converting {format}", target.name))
            }
        })?;
    convert::copy(image, open.image.as_ref(), *settings, observer)?;
    open.keep(target)
}
