//! `convert`: the contents of one image into a new one of another format.

use super::{Passwords, Source, Target};
use crate::convert::{self, Settings};
use crate::error::Result;

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
pub fn run(plan: &Plan<'_>, passwords: &dyn Passwords) -> Result<()> {
    let Plan {
        source,
        target,
        settings,
    } = plan;
    let opened = source.open_file()?;
    let image = source.open_image(&opened, passwords)?;
    let (file, new) = target
        .create(image.size(), &[&opened.file], passwords)
        .map_err(|error| {
            let place = format!(
                "{}: error while converting {}",
                target.name,
                target.format()
            );
            error.context(place)
        })?;
    convert::copy(image.as_ref(), new.as_ref(), *settings)?;
    if target.flush {
        super::flush_directory_of(&target.path)?;
    }
    file.keep();
    Ok(())
}
