//! QEMU's option syntax, as data.
//!
//! An option is given in a list (`key=value,key2=value2`), in JSON, or on the command line, and always means
//! the same. The command line, the names of images, the formats and the protocols build on this module.
//! Formats and protocols say what options each of them has.
//!
//! - [`list`]: the list, its doubled commas, and its numbers.
//! - [`json`]: JSON as QEMU reads it.
//! - [`tree`]: either of the two as a flat tree of dotted keys, taken out one by one.
//! - [`value`]: one value of such a tree.
//! - [`spec`]: the options that a driver has, and help.
//! - [`values`]: options checked against their specs.
//! - [`similar`]: the known name that is most like an unknown one.
//! - [`qemu_json`]: JSON as QEMU prints it, and the order of its keys.

pub mod json;
pub mod list;
pub mod qemu_json;
pub mod similar;
pub mod spec;
pub mod tree;
pub mod value;
pub mod values;

pub use self::spec::{Kind, OptionSpec};
pub use self::tree::Tree;
pub use self::value::Value;
pub use self::values::Values;
