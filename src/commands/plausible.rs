//! Help against a wrong password, where the image itself can't tell: a look at what comes out.

use std::sync::Arc;

use super::opened::OpenSource;
use super::{Passwords, Purpose, Source};
use crate::error::Result;
use crate::formats::plausible::starts_with_noise;
use crate::formats::qcow2::{EncryptionMethod, Header, Qcow2Image, features};
use crate::storage::Storage;

/// Tells `passwords` of each image of the chain that decrypts to noise.
///
/// # Errors
/// What `passwords` makes of it.
pub(super) fn look_at_start(opened: &OpenSource, passwords: &dyn Passwords) -> Result<()> {
    for (depth, layer) in opened.layers.iter().enumerate() {
        let image = opened.image.layer(depth).filter(|_| layer.legacy_aes);
        // What can't be read is reported when it is needed.
        if image.is_some_and(|image| starts_with_noise(image).unwrap_or(false)) {
            let newline = is_with_newline(&layer.storage, passwords);
            passwords.implausible(&layer.name, newline)?;
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
    let storage = opened.storage;
    let image = Qcow2Image::open_with(Arc::clone(&storage), None, header, secret)?;
    if starts_with_noise(&image).unwrap_or(false) {
        passwords.implausible(&source.name, is_with_newline(&storage, passwords))?;
    }
    Ok(())
}

/// Tells if an image that decrypts to noise doesn't with the newline that ended the password's file. Those with a
/// data file aren't looked into.
fn is_with_newline(storage: &Arc<dyn Storage>, passwords: &dyn Passwords) -> bool {
    let Some(secret) = passwords.with_newline() else {
        return false;
    };
    let noise = Header::read(storage.as_ref())
        .and_then(|header| Qcow2Image::open_with(Arc::clone(storage), None, header, Some(&secret)))
        .and_then(|image| starts_with_noise(&image));
    // What can't be read says nothing.
    noise.is_ok_and(|noise| !noise)
}
