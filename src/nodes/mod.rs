//! From the names of images to open disks.
//!
//! A name, or a tree of options, is parsed into a [`Node`], which is data. Opening one reads a header and settles
//! the format; opening its disk opens every file of it and of those below. The engine gets disks and opens
//! none; the formats are told what is theirs of the options and know no names.
//!
//! - [`node`]: the data; [`options`]: those of its options that are the format's;
//! - [`image_name`], [`parse`]: what a user, or an image, calls an image; [`file_name`]: names of files;
//! - [`names`]: whether names found inside images are followed; [`backing`]: the node below another;
//! - [`open`]: files and disks of nodes; [`disk`]: what that gives.

pub mod backing;
pub mod disk;
pub mod file_name;
pub mod image_name;
pub mod names;
pub mod node;
pub mod open;
pub mod options;
pub mod parse;

pub use disk::{ChainImage, Disk, Loaded};
pub use names::{Names, Warn};
pub use node::{BackingNode, Node, RawNode};
pub use open::infinite_loop;
pub(crate) use open::{NAMED_IMAGES, could_not_open, inside, only_read, refuse_loop};
pub use options::NodeOptions;
