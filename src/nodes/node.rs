//! The description of an image: all that a user said about it, before anything is opened.
//!
//! A node is plain data. [`open`](super::open) opens its files and its disk, and [`backing`](super::backing) finds
//! the node of its backing file.

use std::path::PathBuf;
use std::sync::Arc;

use super::names::{Names, Warn};
use super::options::NodeOptions;
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, Result, printable};
use crate::formats::encryption::KEY_SECRETS;
use crate::formats::snapshots::SnapshotName;
use crate::formats::{FORMATS, Format};
use crate::options::json::PREFIX;
use crate::options::{Values, qemu_json, similar};
use crate::storage::{CacheMode, Protocol, Reopen, Sharing, WindowRange};

/// The policy for opening an image and its backing chain.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The cache mode for reading files.
    pub cache: CacheMode,
    /// True if parts that can't be read are skipped, and the rest is read.
    pub salvage: bool,
    /// True if all of a file is read, including what the file system reports as holes.
    pub ignores_holes: bool,
    /// True if a backing file is read although its content id isn't the one that its overlay was created with.
    pub takes_any_content: bool,
    /// True if the process drops privileges for good once all files are open, as commands do that only read an image.
    pub sandbox: bool,
    /// The policy for files that an image names.
    pub names: Names,
    /// The receiver of warnings about an image that can be used nevertheless.
    pub warn: Warn,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cache: CacheMode::Writeback,
            salvage: false,
            ignores_holes: false,
            takes_any_content: false,
            sandbox: false,
            names: Names::Follow(|_, _| ()),
            warn: |_, _| (),
        }
    }
}

/// An existing image, as the user named it.
#[derive(Clone)]
pub struct Node<'a> {
    /// The file.
    pub path: PathBuf,
    /// The file itself, if it is open already. It may have no name.
    pub handle: Option<Arc<dyn Reopen>>,
    /// The image whose disk contains this one, in place of a file.
    pub inside: Option<Box<Node<'a>>>,
    /// The options that reports name the image by, if no driver was given. The probed driver is added later.
    pub guessed: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its name in messages.
    pub name: String,
    /// The format, if it was given; else it is probed.
    pub format: Option<Format>,
    /// The options of its node.
    pub options: NodeOptions,
    /// The secrets that those options may name.
    pub secrets: Option<&'a Secrets>,
    /// The password, if the caller has it.
    pub secret: Option<&'a Secret>,
    /// The rule for other processes that write the image while it is read.
    pub sharing: Sharing,
    /// The policy for opening it and its backing chain.
    pub policy: Policy,
    /// True if an option opens it read-only.
    pub is_read_only: bool,
    /// The internal snapshot that is read instead of the active state.
    pub snapshot: Option<SnapshotName>,
    /// The protocol of the file, if it was given; else the name decides it.
    pub protocol: Option<Protocol>,
    /// The options of that protocol.
    pub protocol_options: Values,
    /// The part of the file that the image is in: a window, and maybe a window of that.
    pub windows: Vec<WindowRange>,
    /// The raw nodes that options put between the file and the image, from the file on. They are for reports only:
    /// their windows are in [`windows`](Self::windows).
    pub between: Vec<RawNode>,
    /// True if options named only the node of the file, without any format.
    pub is_bare: bool,
    /// Other files with parts of the image that options named, by the role that the option has.
    pub others: Vec<(String, PathBuf)>,
    /// The other files if they are open already. They may have no names.
    pub other_handles: Vec<Arc<dyn Reopen>>,
    /// The backing file.
    pub below: BackingNode<'a>,
    /// True if options ask for a way of reading that needs `cache.direct`, and no option sets that.
    pub needs_direct: bool,
    /// The format by the extension of the file's name, for files whose contents have no format; see
    /// [`named`](crate::formats::named).
    pub named: Option<Format>,
}

/// A raw node between a file and an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawNode {
    /// Its name in reports.
    pub name: String,
    /// The part of the node below that it shows, or `None` for all of it.
    pub window: Option<WindowRange>,
}

/// The backing file of an image.
#[derive(Clone, Default)]
pub enum BackingNode<'a> {
    /// The backing file that the image names, if any.
    #[default]
    Stored,
    /// The backing file that the image names, opened with this one's password and format.
    StoredWith(Box<Node<'a>>),
    /// The image that options name.
    Given(Box<Node<'a>>),
    /// No backing file, whatever the image names.
    Nothing,
}

impl Node<'_> {
    /// Returns the node of a file with no other options.
    pub fn plain(path: PathBuf, name: String, format: Option<Format>) -> Self {
        Self {
            path,
            handle: None,
            inside: None,
            guessed: None,
            name,
            format,
            options: NodeOptions::default(),
            secrets: None,
            secret: None,
            sharing: Sharing::Agreed,
            policy: Policy::default(),
            is_read_only: false,
            snapshot: None,
            protocol: None,
            protocol_options: Values::default(),
            windows: Vec::new(),
            between: Vec::new(),
            is_bare: false,
            others: Vec::new(),
            other_handles: Vec::new(),
            below: BackingNode::Stored,
            needs_direct: false,
            named: None,
        }
    }

    /// Returns the name in reports of an image that was probed as `format`, or `None` if its options include the
    /// format.
    ///
    /// # Errors
    /// Returns the errors of [`qemu_json::one_line`].
    pub fn shown_as(&self, format: Format) -> Result<Option<String>> {
        let Some(mut options) = self.guessed.clone() else {
            return Ok(None);
        };
        options.insert("driver".into(), format.name().into());
        let text = qemu_json::one_line(&options.into())?;
        Ok(Some(format!("{PREFIX}{text}")))
    }

    /// Returns true if the caller, or an option, has a password for the image.
    pub fn has_password(&self) -> bool {
        self.secret.is_some() || KEY_SECRETS.iter().any(|name| self.options.has(name))
    }

    /// Sets the format from the name of a driver, if one is given. The name of a protocol means its raw bytes.
    ///
    /// # Errors
    /// Returns an error if this version doesn't have the driver.
    pub fn of_driver(&mut self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        self.format = if let Some(protocol) = Protocol::from_name(name) {
            self.is_bare = true;
            self.protocol = Some(protocol);
            Some(Format::RAW)
        } else {
            Some(Format::from_name(name).ok_or_else(|| unknown_driver(name))?)
        };
        Ok(())
    }
}

/// Returns the error for a driver that this version doesn't have, with a hint at those that it has.
pub(super) fn unknown_driver(name: &str) -> Error {
    let known = FORMATS.iter().map(|format| format.name());
    let unknown = Error::invalid(format!("Unknown driver '{}'", printable(name)));
    unknown.with_hint(similar::format(name, known))
}
