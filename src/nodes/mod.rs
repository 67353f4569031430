//! From the names of images to open disks.
//!
//! A name, or a tree of options, is parsed into a [`Node`], which is data. Opening one reads a header and
//! settles the format. Opening its disk opens every file of it and of those below. The engine gets disks and
//! opens none. The formats get the options that are theirs and know no names.
//!
//! - [`node`]: the data; [`options`]: those of its options that are the format's;
//! - [`image_name`], [`parse`]: the names that a user, or an image, gives an image; [`file_name`]: names of
//!   files;
//! - [`names`]: the policy for names found inside images; [`backing`]: the node below another;
//! - [`open`]: files and disks of nodes; [`disk`]: the results of that;
//! - [`write`](mod@write): images that are changed where they are; [`create`]: the files of new ones;
//! - [`info`]: reports on images and what holds them.

pub mod backing;
pub mod create;
pub mod disk;
pub mod file_name;
pub mod image_name;
pub mod info;
pub mod names;
pub mod node;
pub mod open;
pub mod options;
pub mod parse;
pub mod write;

pub use create::{NewFile, NewImageFiles};
pub use disk::{ChainImage, Disk, Loaded};
pub use info::Inspected;
pub use names::{Names, Warn};
pub use node::{BackingNode, Node, Policy, RawNode};
pub use open::infinite_loop;
pub(crate) use open::{NAMED_IMAGES, could_not_open, refuse_loop};
pub use options::NodeOptions;
pub(crate) use write::refuse_same;
pub use write::{WritableFile, WriteAccess};
