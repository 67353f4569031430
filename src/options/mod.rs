//! QEMU's option syntax, as data.
//!
//! An option is told in a list (`key=value,key2=value2`), in JSON, or on the command line, and always means
//! the same. Everything that reads options stands above this room: the command line, the names of images,
//! and the formats and protocols, which say what each of them knows.
//!
//! - [`list`]: the list, its doubled commas, and its numbers.
//! - [`json`]: JSON as QEMU reads it.
//! - [`tree`]: either of the two as a flat tree of dotted keys, taken out one by one.
//! - [`value`]: one value of such a tree.
//! - [`spec`]: which options a driver has, and help.
//! - [`values`]: options held against their specs.
//! - [`qemu_json`]: JSON as QEMU prints it, and the order of its keys.

pub mod json;
pub mod list;
pub mod qemu_json;
pub mod spec;
pub mod tree;
pub mod value;
pub mod values;

pub use self::spec::{Kind, OptionSpec};
pub use self::tree::Tree;
pub use self::value::Value;
pub use self::values::Values;
