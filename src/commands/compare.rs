//! `compare`: have two images the same contents?

use super::source::OpenSource;
use super::{Passwords, Purpose, Source, sandbox};
use crate::convert::compare::{self, Outcome, Side};
use crate::convert::{Observer, Settings};
use crate::error::Result;

/// An image that is open to be compared.
pub struct Opened {
    image: OpenSource,
    sandbox: bool,
    /// What messages call it.
    name: String,
}

/// Opens one of the images.
///
/// # Errors
/// As [`Source::open`].
pub fn open(source: Source<'_>, passwords: &dyn Passwords) -> Result<Opened> {
    Ok(Opened {
        image: source.open(Purpose::Read, passwords)?,
        sandbox: source.sandbox,
        name: source.name,
    })
}

/// Compares. With `strict`, sizes, and how the contents are stored, count as well. What goes wrong is in
/// the outcome.
pub fn run(images: &[Opened; 2], strict: bool, observer: &dyn Observer) -> Outcome {
    if images.iter().all(|opened| opened.sandbox) {
        sandbox::enter();
    }
    let sides = images.each_ref().map(|opened| Side {
        image: opened.image.image.as_ref(),
        name: &opened.name,
    });
    let workers = Settings::default().workers;
    compare::compare(sides, strict, workers, observer)
}
