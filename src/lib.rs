//! Cowhide: a memory-safe, faster `qemu-img`.
//!
//! The library has these modules, of which each uses only those below it:
//!
//! ```text
//! main → cli → commands → convert, nodes → formats → storage
//!                              formats::qcow2 → crypto        options, error, units: below everything
//! ```
//!
//! - [`cli`]: the command line and the printed reports; touches no image.
//! - [`commands`]: one file for each subcommand, from typed options to a report; prints nothing.
//! - [`nodes`]: from the names of images to open disks; names no format.
//! - [`convert`]: copies one disk into another with many threads; knows no format by name.
//! - [`formats`]: what a disk image is, and the formats that there are.
//! - [`options`]: the syntax of options; knows nothing that has any.
//! - [`crypto`]: sector ciphers and secrets; knows no image.
//! - [`storage`]: files and block devices; knows no format.
//! - [`error`], [`units`]: what all of them share.

// What comes from outside may be anything: nothing in the library takes it on trust. (Tests may;
// see clippy.toml.)
#![warn(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod cli;
pub mod commands;
pub mod convert;
pub mod crypto;
pub mod error;
pub mod formats;
pub mod nodes;
pub mod options;
pub mod storage;
pub mod units;
