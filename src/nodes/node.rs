//! An image as it was named: nothing is open.
//!
//! A node is plain data. [`open`](super::open) makes files and disks of it, and [`backing`](super::backing)
//! finds the node below.

use std::path::PathBuf;
use std::sync::Arc;

use super::names::{Names, Warn};
use super::options::NodeOptions;
use crate::crypto::{Secret, Secrets};
use crate::error::{Error, Result, printable};
use crate::formats::Format;
use crate::formats::encryption::KEY_SECRETS;
use crate::formats::snapshots::SnapshotName;
use crate::options::json::PREFIX;
use crate::options::{Values, qemu_json};
use crate::storage::{CacheMode, Protocol, Reopen, Sharing, WindowRange};

/// The way in which an image is opened, with all that is below it.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The way in which files are read.
    pub cache: CacheMode,
    /// True if parts that can't be read are given up, and the rest is read all the same.
    pub salvage: bool,
    /// True if all of a file is read, also the parts that the file system calls holes.
    pub ignores_holes: bool,
    /// True if backing files are read whose contents have another id than the images above were made for.
    pub takes_any_content: bool,
    /// True if the program gives up rights for good once all files are open, as a command does that only
    /// looks at the image. It is for programs that do nothing else.
    pub sandbox: bool,
    /// Says if files are opened that an image names.
    pub names: Names,
    /// The receiver of warnings about an image that can be used all the same.
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

/// An image that exists, as the user named it.
#[derive(Clone)]
pub struct Node<'a> {
    /// The file.
    pub path: PathBuf,
    /// The file itself, where it is open already and may have no name.
    pub handle: Option<Arc<dyn Reopen>>,
    /// The image whose disk holds this one, in the place of a file.
    pub inside: Option<Box<Node<'a>>>,
    /// The options by which reports name it, where no driver is stated; the driver that is found is still to
    /// be added.
    pub guessed: Option<serde_json::Map<String, serde_json::Value>>,
    /// Its name in messages.
    pub name: String,
    /// The format, where it was stated; else it is probed.
    pub format: Option<Format>,
    /// The options of its node.
    pub options: NodeOptions,
    /// The secrets that those options may name.
    pub secrets: Option<&'a Secrets>,
    /// The password, where the caller has it.
    pub secret: Option<&'a Secret>,
    /// Says if others may write the image while it is read.
    pub sharing: Sharing,
    /// The way in which it is opened, with all that is below.
    pub policy: Policy,
    /// True if an option said that it is only read.
    pub is_read_only: bool,
    /// The internal snapshot that is read instead of what the image holds now.
    pub snapshot: Option<SnapshotName>,
    /// The protocol of the file, where it was stated; else its name tells it.
    pub protocol: Option<Protocol>,
    /// The options of that protocol.
    pub protocol_options: Values,
    /// The part of the file that the image is in: a window, and maybe a window of that.
    pub windows: Vec<WindowRange>,
    /// The raw nodes that options put between the file and the image, from the file on. Only reports show
    /// them: their windows are among [`windows`](Self::windows).
    pub between: Vec<RawNode>,
    /// True if options named the file's own node, without any format.
    pub is_bare: bool,
    /// Other files that hold parts of the image, where options named them, by the options' names for their
    /// roles.
    pub others: Vec<(String, PathBuf)>,
    /// The same, open already and maybe without a name.
    pub other_handles: Vec<Arc<dyn Reopen>>,
    /// The image below.
    pub below: BackingNode<'a>,
    /// True if the file is to be read in a way that bypasses the system's cache, and no option allows that.
    pub needs_direct: bool,
    /// The format that the file's name stands for, where the contents tell none; see
    /// [`named`](crate::formats::named).
    pub named: Option<Format>,
}

/// A raw node that holds an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawNode {
    /// Its name in reports.
    pub name: String,
    /// The part of the node below that is in it; `None` for all of that.
    pub window: Option<WindowRange>,
}

/// The image below another.
#[derive(Clone, Default)]
pub enum BackingNode<'a> {
    /// The backing file that the image names, if any.
    #[default]
    Stored,
    /// The backing file that the image names, opened with this one's password and format.
    StoredWith(Box<Node<'a>>),
    /// This image.
    Given(Box<Node<'a>>),
    /// Nothing, whatever the image names.
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

    /// Returns the name by which reports show an image that turned out to be of this format. Returns `None`
    /// where its options make it clear.
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

    /// Sets the format from the name of a driver, where one is stated. The name of a protocol stands for the
    /// raw bytes in it.
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
            let unknown = || Error::invalid(format!("Unknown driver '{}'", printable(name)));
            Some(Format::from_name(name).ok_or_else(unknown)?)
        };
        Ok(())
    }
}
