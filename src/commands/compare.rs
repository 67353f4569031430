//! `compare`: have two images the same contents?

use super::{Passwords, Purpose, Source};
use crate::convert::compare::{self, Outcome, Side};
use crate::convert::{Observer, Settings};
use crate::error::Result;

/// What is compared.
pub struct Plan<'a> {
    /// The images.
    pub sources: [Source<'a>; 2],
    /// Whether sizes, and how the contents are stored, count as well.
    pub strict: bool,
}

/// Compares.
///
/// # Errors
/// An image can't be opened; what goes wrong later is in the outcome.
pub fn run(plan: &Plan<'_>, passwords: &dyn Passwords, observer: &dyn Observer) -> Result<Outcome> {
    let [one, other] = &plan.sources;
    let first = one.open(Purpose::Read, passwords)?;
    let second = other.open(Purpose::Read, passwords)?;
    let sides = [
        Side {
            image: first.image.as_ref(),
            name: &one.name,
        },
        Side {
            image: second.image.as_ref(),
            name: &other.name,
        },
    ];
    let workers = Settings::default().workers;
    Ok(compare::compare(sides, plan.strict, workers, observer))
}
