//! The subcommand `amend`: new options for an existing image.

use super::Passwords;
use crate::crypto::Secrets;
use crate::error::{Error, Result};
use crate::formats::{Amend, Format};
use crate::nodes::{Node, WriteAccess};
use crate::options::Values;

/// The parameters of `amend`.
pub struct AmendRequest<'a> {
    /// The image.
    pub image: Node<'a>,
    /// The new options.
    pub options: Values,
    /// The secrets that the options may name.
    pub secrets: &'a Secrets,
    /// True if changes that lose data are allowed.
    pub force: bool,
}

/// Refuses a format whose options can't be changed.
///
/// # Errors
/// Returns an error in the words of `qemu-img` if the format has no options to amend.
pub fn check_format(format: Format) -> Result<()> {
    if format.amend_options().is_empty() {
        return Err(Error::unsupported(format!(
            "Format driver '{format}' does not support option amendment"
        )));
    }
    Ok(())
}

/// Changes the options.
///
/// # Errors
/// Returns an error if the image can't be opened, if it can't have the options, or if it can't be written.
pub fn run(request: &AmendRequest<'_>, passwords: &dyn Passwords) -> Result<()> {
    let access = WriteAccess {
        // Only a change of the size needs the backing file.
        opens_backing: request.options.number("size").is_some(),
        ..WriteAccess::to_change(request.image.policy.cache.flushes())
    };
    let open = request.image.open_to_write(&access, passwords)?;
    check_format(open.format)?;
    open.image.amend(
        &open.parts,
        &Amend {
            options: &request.options,
            force: request.force,
            secret: &|id| request.secrets.get(id),
        },
    )
}
