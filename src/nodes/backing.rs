//! The backing file of an image: its node, from options or from the name in the header.

use std::path::Path;

use super::file_name::{self, beside};
use super::image_name;
use super::names::Names;
use super::node::{BackingNode, Node};
use crate::error::{Error, Result};
use crate::formats::{self, ImageFile};
use crate::options::json;

impl Names {
    /// Returns the node of the backing file that `name` and `format` name, as found in the image at `path`. A
    /// relative name is relative to the image's folder. The node has no other options.
    ///
    /// # Errors
    /// Returns an error if names aren't followed, if the protocol or the format is unknown, or if an option
    /// tree in the name is malformed.
    pub fn backing_file(
        self,
        path: &Path,
        name: &[u8],
        format: Option<&str>,
    ) -> Result<Node<'static>> {
        self.check(name, "backing file")?;
        if let (Self::Follow(warn), true) = (self, name.starts_with(json::PREFIX.as_bytes())) {
            let text = std::str::from_utf8(name)
                .map_err(|_| Error::invalid("Could not parse the JSON options: not UTF-8"))?;
            return image_name::found_inside(text, format, warn);
        }
        let path = file_name::file(beside(path, name).as_os_str())?;
        let shown = path.to_string_lossy().into_owned();
        let mut source = Node::plain(path, shown, None);
        source.of_driver(format)?;
        if format.is_none() {
            source.named = formats::named(name);
        }
        Ok(source)
    }
}

impl<'a> Node<'a> {
    /// Returns the node of the backing file: that of the options, or the one that the header names.
    ///
    /// # Errors
    /// Returns an error if names aren't followed, or if this version doesn't have the protocol or the format.
    pub(crate) fn backing_node(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let given = match &self.below {
            BackingNode::Stored => return self.stored_backing(image),
            BackingNode::Nothing => return Ok(None),
            BackingNode::Given(given) => Self {
                sharing: self.sharing.below().max(given.sharing),
                policy: self.policy,
                ..given.as_ref().clone()
            },
            BackingNode::StoredWith(given) => {
                let stored = self.stored_backing(image)?.ok_or_else(|| {
                    Error::invalid(
                        "Could not open backing file: Must specify either driver or file",
                    )
                })?;
                Self {
                    path: stored.path,
                    name: stored.name,
                    format: given.format.or(stored.format),
                    sharing: stored.sharing.max(given.sharing),
                    policy: self.policy,
                    ..given.as_ref().clone()
                }
            }
        };
        Ok(Some(given))
    }

    fn stored_backing(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let below = self.named_below(image);
        below.map_err(|error| error.context("Could not open backing file"))
    }

    /// Returns the node of the backing file that the header names, if any. The error message has no prefix.
    ///
    /// # Errors
    /// Returns an error if names aren't followed, or if this version doesn't have the protocol or the format.
    pub(crate) fn named_below(&self, image: &dyn ImageFile) -> Result<Option<Self>> {
        let Some(stored) = image.backing() else {
            return Ok(None);
        };
        let format = stored.format.map(String::from_utf8_lossy);
        let below = self
            .policy
            .names
            .backing_file(&self.path, stored.name, format.as_deref())?;
        Ok(Some(Self {
            sharing: self.sharing.below(),
            policy: self.policy,
            ..below
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const FOLLOW: Names = Names::Follow(|_, _| ());

    #[test]
    fn names_in_images_are_relative_to_them() {
        let at = |image: &str, name: &[u8]| {
            let source = FOLLOW.backing_file(Path::new(image), name, None);
            source.unwrap().path
        };
        assert_eq!(at("a/top", b"base"), PathBuf::from("a/base"));
        assert_eq!(at("a/top", b"/base"), PathBuf::from("/base"));
        assert_eq!(at("top", b"file:b"), PathBuf::from("b"));
        let tree = br#"json:{"driver":"raw","file.filename":"base"}"#;
        assert_eq!(at("a/top", tree), PathBuf::from("base"));
        for name in [&b"base"[..], b"json:{}"] {
            let refused = Names::Refuse.backing_file(Path::new("top"), name, None);
            let message = refused.err().unwrap().to_string();
            assert!(message.contains("with --untrusted no file is opened"));
        }
    }
}
