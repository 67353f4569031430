//! A check for wrong passwords of images that can't verify them: the start of the decrypted disk must not be noise.

use super::{Passwords, Purpose};
use crate::error::{Error, Result};
use crate::formats::ImageFile;
use crate::formats::driver::{Load, Parts};
use crate::formats::encryption::EncryptionFormat;
use crate::formats::plausible::starts_with_noise;
use crate::nodes::{Disk, Node};

/// Reports each image of the chain that decrypts to noise to `passwords`.
///
/// # Errors
/// Returns the error that `passwords` makes of noise.
pub(super) fn look_at_start(opened: &Disk, passwords: &dyn Passwords) -> Result<()> {
    for (depth, layer) in opened.layers.iter().enumerate() {
        let encryption = layer.image.encryption();
        let is_unchecked = encryption.is_some_and(EncryptionFormat::accepts_any_password);
        let image = opened.image.layer(depth).filter(|_| is_unchecked);
        // Read errors are reported when the data is needed.
        if image.is_some_and(|image| starts_with_noise(image).unwrap_or(false)) {
            let newline = is_with_newline(layer.image.as_ref(), passwords);
            passwords.implausible(&layer.name, newline)?;
        }
    }
    Ok(())
}

/// Reports an image that decrypts to noise to `passwords`. Opens only the image's file, and does nothing for images
/// without such encryption.
///
/// # Errors
/// Returns an error if the image can't be opened, or if there is no password. Returns the error that
/// `passwords` makes of noise.
pub fn run(source: &Node<'_>, passwords: &dyn Passwords) -> Result<()> {
    let opened = source.open_file(Purpose::Inspect)?;
    let could_not_open = |error: Error| error.context(format!("Could not open '{}'", source.name));
    let mut image = opened.load(Load::Use).map_err(could_not_open)?;
    let encryption = image.encryption();
    if !encryption.is_some_and(EncryptionFormat::accepts_any_password)
        || image.other_files().is_ok_and(|files| !files.is_empty())
    {
        return Ok(());
    }
    let secret = source.secret_for(image.as_mut(), &opened.options, passwords)?;
    let disk = image.open(Parts {
        secret,
        ..Parts::default()
    })?;
    if starts_with_noise(disk.as_ref()).unwrap_or(false) {
        passwords.implausible(&source.name, is_with_newline(image.as_ref(), passwords))?;
    }
    Ok(())
}

/// Returns true if the password with the newline that ended its file doesn't decrypt the image to noise. Images with
/// a data file aren't tested.
fn is_with_newline(image: &dyn ImageFile, passwords: &dyn Passwords) -> bool {
    let Some(secret) = passwords.with_newline() else {
        return false;
    };
    let parts = Parts {
        secret: Some(&secret),
        ..Parts::default()
    };
    let noise = image
        .open(parts)
        .and_then(|disk| starts_with_noise(disk.as_ref()));
    // A read error says nothing about the password.
    noise.is_ok_and(|noise| !noise)
}
