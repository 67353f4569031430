//! Images and files: from their names to open disks.
//!
//! A name or a tree of options is parsed into a [`Node`], which is plain data. Opening a node reads the header and
//! determines the format. Opening its disk opens all files of the image and of its backing chain. Conversions get
//! open disks. Formats get only their own options, and know no names.
//!
//! - [`node`]: the data; [`options`]: the options of the format;
//! - [`image_name`], [`parse`]: names of images, by users or inside images; [`file_name`]: names of files;
//! - [`names`]: the policy for names found inside images; [`backing`]: the node of a backing file;
//! - [`open`]: files and disks of nodes; [`disk`]: the results of that;
//! - [`write`](mod@write): images that are changed in place; [`create`]: the files of new images;
//! - [`info`]: reports on images and their storage.

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
