//! Help against a wrong password, where the image itself can't tell: a look at what comes out.

use super::opened::OpenSource;
use super::{Passwords, Purpose, Source};
use crate::error::Result;
use crate::formats::plausible::starts_with_noise;
use crate::formats::qcow2::{EncryptionMethod, Qcow2Image, features};

/// Tells `passwords` of each image of the chain that decrypts to noise.
///
/// # Errors
/// What `passwords` makes of it.
pub(super) fn look_at_start(opened: &OpenSource, passwords: &dyn Passwords) -> Result<()> {
    for (depth, layer) in opened.layers.iter().enumerate() {
        let image = opened.image.layer(depth).filter(|_| layer.legacy_aes);
        // What can't be read is reported when it is needed.
        if image.is_some_and(|image| starts_with_noise(image).unwrap_or(false)) {
            passwords.implausible(&layer.name)?;
        }
    }
    Ok(())
}

/// Tells `passwords` when an image decrypts to noise, and opens nothing but its file to find out. Nothing
/// is done for images that aren't encrypted so.
///
/// # Errors
/// The image can't be opened; there is no password; what `passwords` makes of noise.
pub fn run(source: &Source<'_>, passwords: &dyn Passwords) -> Result<()> {
    let opened = source.open_file(Purpose::Inspect)?;
    let header = opened.header()?;
    let Some(header) = header.filter(|header| {
        header.encryption() == EncryptionMethod::Aes
            && !header.has_incompatible(features::DATA_FILE)
    }) else {
        return Ok(());
    };
    let secret = source.secret_for(&header, passwords)?;
    let image = Qcow2Image::open_with(opened.storage, None, header, secret)?;
    if starts_with_noise(&image).unwrap_or(false) {
        passwords.implausible(&source.name)?;
    }
    Ok(())
}
