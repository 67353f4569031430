//! Cowhide reads, writes, converts and checks disk images, encrypts them, and is fast at it. It is also a command
//! line program, a memory-safe `qemu-img`.
//!
//! # What there is
//!
//! - [`OpenOptions`] opens an image: [`DiskImage`] to read, [`WritableDisk`] to write. [`DiskImage::extents`] tells how a
//!   disk is stored.
//! - [`CreateOptions`] makes a new image.
//! - [`ConvertOptions`] converts an image into another format, encrypts, decrypts or compresses it, with all
//!   processors, and tells of its progress.
//! - [`OpenOptions::check`] and [`OpenOptions::repair`] look after an image's metadata.
//! - [`Error`] says what went wrong, and its [`ErrorKind`] of what kind that is.
//!
//! Formats, and the options that each has, go by the names that `qemu-img` has for them.
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
//! # Images from strangers
//!
//! An image names other files, and these are opened with the rights of the process. Open images that you don't trust
//! with [`OpenOptions::untrusted`], and state the format of raw ones: what is in an image must not decide how it is
//! read.
//!
//! # What isn't promised
//!
//! All else in the crate is for the program, its tests and its benchmarks. It isn't documented here and may change in
//! any release.

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

// Hidden from those who build on the library. Lints and our own documentation see everything: CI sets `internals`.
//
// The rooms, of which each uses only those below it:
//
//   main → cli → commands → convert, nodes → formats → storage
//      library ↗              formats::qcow2 → crypto        options, error, units: below everything
//
// cli: the command line and the printed reports; touches no image.
// library: the interface for other programs.
// commands: one file for each subcommand, from typed options to a report; prints nothing.
// nodes: from the names of images to open disks; names no format.
// convert: copies one disk into another with many threads; knows no format by name.
// formats: what a disk image is, and the formats that there are.
// options: the syntax of options; knows nothing that has any.
// crypto: sector ciphers and secrets; knows no image.
// storage: files and block devices; knows no format.
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
pub use library::open::OpenOptions;
