//! Cowhide reads, writes, converts and checks disk images, encrypts them, and is fast at it. It is also a command
//! line program, a memory-safe `qemu-img`. The feature `cli`, which is on by default, is that program: a program that
//! uses the library does without it and its packages (`default-features = false`).
//!
//! # Overview
//!
//! - [`OpenOptions`] opens an image: [`DiskImage`] to read, [`WritableDisk`] to write. [`DiskImage::extents`] lists a
//!   disk's extents. [`DiskReader`] and [`DiskStream`] make them streams of the standard library.
//! - [`OpenOptions::inspect`] reads only the header, without a password or any other file.
//! - [`CreateOptions`] makes a new image.
//! - [`ConvertOptions`] converts an image into another format, and encrypts, decrypts or compresses it. It uses all
//!   processors, reports its progress, and can be cancelled.
//! - [`OpenOptions::check`] and [`OpenOptions::repair`] check and repair an image's metadata.
//! - [`OpenOptions::take_snapshot`] and [`OpenOptions::change_bitmap`] change snapshots and bitmaps.
//! - [`Error`] has the message of a failure, and its [`ErrorKind`].
//!
//! Formats and their options have the names that `qemu-img` has for them.
//!
//! ```
//! use cowhide::{ConvertOptions, OpenOptions};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&folder).unwrap();
//! # std::fs::write("disk.img", vec![7; 1 << 20]).unwrap();
//! // Encrypt a raw disk,
//! ConvertOptions::new("qcow2")
//!     .source(OpenOptions::new().format("raw"))
//!     .option("encrypt.format", "luks")
//!     # .option("encrypt.iter-time", "10")
//!     .password("correct horse")
//!     .on_progress(|done, total| println!("{done} of {total} bytes"))
//!     .convert("disk.img", "disk.qcow2")?;
//! // and read the first sector of it.
//! let image = OpenOptions::new()
//!     .format("qcow2")
//!     .password("correct horse")
//!     .open("disk.qcow2")?;
//! let mut sector = [0; 512];
//! image.read_at(0, &mut sector)?;
//! # assert_eq!(sector, [7; 512]);
//! # Ok::<(), cowhide::Error>(())
//! ```
//!
//! # Images from untrusted sources
//!
//! An image names other files, and these are opened with the rights of the process. Open images that you don't trust
//! with [`OpenOptions::untrusted`], and give the format of raw ones. Otherwise a guest that writes a header to its
//! disk decides how the image is read. [`OpenOptions::inspect`] tells which files an image needs.
//!
//! # Effects on the process
//!
//! The library handles no signals, prints nothing, and leaves the limits and attributes of the process alone. A program
//! that holds passwords should disable its core dumps (`PR_SET_DUMPABLE`), as the command does.
//!
//! # Stability
//!
//! Only the items on this page are the public interface. The rest of the crate is for the program, its tests and its
//! benchmarks, and may change in any release.

// Input may be malicious, so no input may make the library panic or print. Tests may do both; see clippy.toml.
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

// The internal modules are hidden from the users of the library. Lints and the internal documentation see them: CI
// sets `internals`.
//
// The modules, each of which uses only those below it:
//
//   main → cli → commands → convert, nodes → formats → storage
//      library ↗              formats::qcow2 → crypto        options, error, units: below everything
//
// cli: the command line and the printed reports; touches no image.
// library: the public interface.
// commands: one file for each subcommand, from typed options to a report; prints nothing.
// nodes: from the names of images to open disks; names no format.
// convert: copies one disk into another with many threads; names no format.
// formats: the interface of a disk image, and the formats.
// options: the syntax of options; knows no driver.
// crypto: sector ciphers and secrets; knows no image.
// storage: files, devices and other protocols; knows no format.
#[cfg(feature = "cli")]
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod cli;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod commands;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod convert;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod crypto;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod error;
#[cfg(test)]
mod for_tests;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod formats;
mod library;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod nodes;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod options;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod storage;
#[cfg_attr(not(any(clippy, internals)), doc(hidden))]
pub mod units;

pub use error::{Error, ErrorKind, Result};
pub use library::bitmaps::{BitmapRanges, DiskBitmapChange};
pub use library::check::CheckSummary;
pub use library::convert::{ConvertOptions, ConvertSummary};
pub use library::create::CreateOptions;
pub use library::extents::{ExtentState, ImageExtent, ImageExtents};
pub use library::image::{DiskBitmap, DiskImage, DiskSnapshot, WritableDisk};
pub use library::inspect::ImageSummary;
pub use library::open::OpenOptions;
pub use library::streams::{DiskReader, DiskStream};
