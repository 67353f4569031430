//! `create`: a new image with nothing in it.

use super::{Passwords, Target};
use crate::error::Result;

/// Creates `target` as a disk of `size` bytes that reads as zeroes.
///
/// # Errors
/// What keeps it from being created; no new file is left then.
pub fn run(target: &Target<'_>, size: u64, passwords: &dyn Passwords) -> Result<()> {
    let create = || {
        let (file, image) = target.create(size, &[], passwords)?;
        image.finish()?;
        if target.flush {
            super::flush_directory_of(&target.path)?;
        }
        file.keep();
        Ok(())
    };
    create().map_err(|error: crate::error::Error| error.context(&target.name))
}
