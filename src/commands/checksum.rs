//! The subcommand `checksum`: the checksum of an image's contents, whatever its format.

use std::num::NonZeroUsize;

use super::{Passwords, Purpose, plausible, sandbox};
use crate::convert::{self, Algorithm, Digest, Observer};
use crate::error::Result;
use crate::nodes::Node;

/// Computes the checksum of the image's contents, which is that of the raw image that `convert` makes of it.
///
/// # Errors
/// Returns an error if the image can't be read, or if the length of one of its files changed meanwhile.
pub fn run(
    source: &Node<'_>,
    algorithm: Algorithm,
    workers: NonZeroUsize,
    passwords: &dyn Passwords,
    observer: &dyn Observer,
) -> Result<Digest> {
    let opened = source.open(Purpose::Read, passwords)?;
    sandbox::all_is_open(source);
    plausible::look_at_start(&opened, passwords)?;
    let digest = convert::checksum(opened.image.as_ref(), algorithm, workers, observer)?;
    opened.check_lengths()?;
    Ok(digest)
}
