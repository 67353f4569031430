//! The command line as data: what can be written, and nothing about what it means.
//!
//! Names and short options are `qemu-img`'s, of its versions before and after 10.1. Positional
//! arguments are never required here, so that a missing one is reported in that tool's words by the
//! code that interprets them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::getopt::OWN;
use crate::commands::Sharing;

/// A memory-safe, faster qemu-img.
#[derive(Debug, Parser)]
#[command(
    name = "cowhide",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    arg_required_else_help = false,
    propagate_version = false
)]
pub struct Cli {
    /// Trace events; there are none, so it has no effect
    #[arg(short = 'T', long, value_name = "TRACE")]
    pub(super) trace: Vec<String>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new, empty disk image
    Create(CreateArgs),
    /// Copy a disk image into a new one of another format
    Convert(Box<ConvertArgs>),
    /// Print the checksum of what an image holds
    Checksum(ChecksumArgs),
    /// Show what an image's header says
    Info(InfoArgs),
    /// Check an image's consistency
    Check(CheckArgs),
    /// Find out whether two images have the same contents
    Compare(CompareArgs),
    /// Show how and where the disk's contents are stored
    Map(MapArgs),
    /// Tell how big the file of a new image will be
    Measure(MeasureArgs),
    /// Measure the ciphers and what encryption costs on this machine
    Speed(SpeedArgs),
}

/// Options that every subcommand has.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Define a secret: secret,id=ID,file=PATH (or data=TEXT, which other users can see)
    #[arg(long, value_name = "OBJDEF", allow_hyphen_values = true)]
    pub object: Vec<OsString>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Keep the right to open files and to use the network while an image is looked at
    #[arg(long, help_heading = OWN)]
    pub no_sandbox: bool,
    /// Open no file whose name is found inside an image (backing files, external data files)
    #[arg(long)]
    pub untrusted: bool,
}

/// The ways to give a password without an object.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Take the password from FILE ("-": standard input), less one newline at its end; for every encrypted
    /// image of this command that has no key-secret
    #[arg(long, value_name = "FILE", allow_hyphen_values = true, help_heading = OWN)]
    pub password_file: Option<PathBuf>,
    /// Take the password from the open file descriptor N
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "password_file",
        help_heading = OWN
    )]
    pub password_fd: Option<i32>,
}

/// Help against wrong passwords.
#[derive(Debug, Args)]
pub struct PlausibleArgs {
    /// Fail when an image of legacy AES decrypts to noise, as with a wrong password it does; without
    /// this option, at a terminal, that is a warning
    #[arg(long, help_heading = OWN)]
    pub require_plausible: bool,
}

/// `checksum`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ChecksumArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    #[command(flatten)]
    pub(super) plausible: PlausibleArgs,
    /// Format of the image; without it, it is found out
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(super) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long)]
    pub(super) image_opts: bool,
    /// sha256 or blake3
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    pub(super) algorithm: String,
    /// Show progress, on standard error
    #[arg(short, long)]
    pub(super) progress: bool,
    /// Cache mode of the image
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(super) cache: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(super) operands: Vec<OsString>,
}

/// `create`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CreateArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    /// Format of the new image
    #[arg(
        short,
        long,
        value_name = "FMT",
        default_value = "raw",
        allow_hyphen_values = true
    )]
    pub(super) format: String,
    /// Options of the format, k=v,k2=v2 ("-o help" lists them)
    #[arg(short, long, value_name = "OPTS", allow_hyphen_values = true)]
    pub(super) options: Vec<OsString>,
    /// The backing file, from which is read what the image doesn't hold; relative to the new image
    #[arg(
        short = 'b',
        long = "backing",
        value_name = "FILE",
        allow_hyphen_values = true
    )]
    pub(super) backing: Option<OsString>,
    /// Format of the backing file
    #[arg(
        short = 'F',
        short_alias = 'B',
        long,
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(super) backing_format: Option<String>,
    /// Don't look at the backing file; it need not be there
    #[arg(short = 'u', long)]
    pub(super) backing_unsafe: bool,
    /// Encrypt the image; same as -o encrypt.format=FORMAT
    #[arg(long, value_name = "FORMAT", help_heading = OWN)]
    pub(super) encrypt: Option<String>,
    /// The new file, and the disk's size (suffixes k M G T P E)
    #[arg(value_name = "FILENAME [SIZE]", allow_hyphen_values = false)]
    pub(super) operands: Vec<OsString>,
}

/// `convert`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    /// Format of the source; without it, it is found out
    #[arg(
        short = 'f',
        long,
        value_name = "FMT",
        alias = "format",
        allow_hyphen_values = true
    )]
    pub(super) source_format: Option<String>,
    /// The source is an option string (driver=…,file.filename=…), not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(super) image_opts: bool,
    /// Format of the target [default: raw]
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        alias = "output-format",
        allow_hyphen_values = true
    )]
    pub(super) target_format: Option<String>,
    /// Options of the target's format, k=v,k2=v2 ("-o help" lists them)
    #[arg(
        short = 'o',
        long,
        value_name = "OPTS",
        aliases = ["target-format-options", "options"],
        allow_hyphen_values = true
    )]
    pub(super) target_options: Vec<OsString>,
    /// Encrypt the target; same as -o encrypt.format=FORMAT
    #[arg(long, value_name = "FORMAT", help_heading = OWN)]
    pub(super) encrypt: Option<String>,
    /// Compress the target's data (qcow2; -o compression_type says how)
    #[arg(short, long)]
    pub(super) compress: bool,
    /// Show progress
    #[arg(short, long)]
    pub(super) progress: bool,
    /// Shortest run of zeroes that is left out (default 4k); 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) sparse_size: Option<String>,
    /// The target exists: write into it
    #[arg(short = 'n', long)]
    pub(super) no_create: bool,
    /// The target is an option string, not a file name (with -n)
    #[arg(long)]
    pub(super) target_image_opts: bool,
    /// The target reads as zeroes already (with -n)
    #[arg(long)]
    pub(super) target_is_zero: bool,
    /// Write out of order; always done here, since the result is the same
    #[arg(short = 'W', long)]
    pub(super) oob_writes: bool,
    /// How many threads work on it, 1 to 16 (default: one for each processor)
    #[arg(short = 'm', long, value_name = "N", allow_hyphen_values = true)]
    pub(super) parallel: Option<String>,
    /// Cache mode of the target: none, writeback, writethrough, directsync, unsafe, or auto: none where
    /// the file system can, else writeback
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "unsafe",
        alias = "output-cache"
    )]
    pub(super) target_cache: String,
    /// Cache mode of the source
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(super) source_cache: String,
    /// Copy within the system where possible, without looking for zeroes
    #[arg(short = 'C', long)]
    pub(super) copy_range_offloading: bool,
    /// Share blocks with the source instead of copying them: auto where the file system can (the
    /// default), always or fail, never
    #[arg(long, value_name = "WHEN", help_heading = OWN)]
    pub(super) reflink: Option<String>,
    /// Copy at most so many bytes a second (suffixes k M G)
    #[arg(
        short,
        long,
        value_name = "RATE",
        alias = "rate-limit",
        allow_hyphen_values = true
    )]
    pub(super) rate: Option<String>,
    /// The target's backing file: only what the source itself holds is written, which must stand
    /// over the same contents
    #[arg(
        short = 'B',
        short_alias = 'b',
        long = "target-backing",
        value_name = "FILE",
        alias = "backing",
        allow_hyphen_values = true
    )]
    pub(super) backing: Option<OsString>,
    /// Format of the target's backing file
    #[arg(
        short = 'F',
        long = "backing-format",
        value_name = "FMT",
        alias = "target-backing-format",
        allow_hyphen_values = true
    )]
    pub(super) backing_format: Option<String>,
    /// Read an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME
    #[arg(
        short = 'l',
        long,
        value_name = "SNAPSHOT",
        alias = "source-snapshot",
        allow_hyphen_values = true
    )]
    pub(super) snapshot: Option<OsString>,
    /// Open the source even while another process writes it; what is seen may be inconsistent
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,
    /// Copy the persistent bitmaps too, from a qcow2 image to a qcow2 image
    #[arg(long)]
    pub(super) bitmaps: bool,
    /// Leave out bitmaps that are inconsistent, with a warning (with --bitmaps)
    #[arg(long)]
    pub(super) skip_broken_bitmaps: bool,
    /// Replace what can't be read by zeroes, with a warning
    #[arg(long)]
    pub(super) salvage: bool,
    /// Read all of the source's files, also what the file system says is a hole
    #[arg(long, help_heading = OWN)]
    pub(super) ignore_holes: bool,
    /// Make a raw target as long as the next multiple of SIZE (suffixes k M G), as some clouds demand
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = OWN)]
    pub(super) align: Option<String>,
    /// Read the target back when it is written and compare it with the source
    #[arg(long, help_heading = OWN)]
    pub(super) verify: bool,
    /// Print the checksum of what was converted: sha256 or blake3
    #[arg(long, value_name = "NAME", help_heading = OWN)]
    pub(super) checksum: Option<String>,
    #[command(flatten)]
    pub(super) plausible: PlausibleArgs,
    /// The sources, which are read as one disk, and the target
    #[arg(value_name = "SOURCE... TARGET")]
    pub(super) operands: Vec<OsString>,
}

/// One image to look at, and how to report on it.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Format of the image; without it, it is found out
    #[arg(
        short,
        long,
        value_name = "FMT",
        alias = "source-format",
        allow_hyphen_values = true
    )]
    pub(super) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(super) image_opts: bool,
    /// Open the image even while another process writes it; what is seen may be inconsistent
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human")]
    pub(super) output: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(super) operands: Vec<OsString>,
}

impl ConvertArgs {
    /// The format of the target, where its options don't tell.
    pub(super) fn target_format(&self) -> &str {
        self.target_format.as_deref().unwrap_or("raw")
    }
}

impl ImageArgs {
    /// Gives if others keep from the image, where its own options said `stated`.
    pub(super) fn sharing(&self, stated: Sharing) -> Sharing {
        if self.force_share {
            stated.max(Sharing::Forced)
        } else {
            stated
        }
    }
}

/// `info`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct InfoArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    #[command(flatten)]
    pub(super) plausible: PlausibleArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    /// Show the backing file too, and its backing file, and so on
    #[arg(short, long)]
    pub(super) backing_chain: bool,
    /// Show the block limits; there are none here, so it has no effect
    #[arg(long)]
    pub(super) limits: bool,
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    pub(super) cache: String,
}

/// `check`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CheckArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    /// Repair the image: leaks, or all
    #[arg(short, long, value_name = "WHAT", allow_hyphen_values = true)]
    pub(super) repair: Option<String>,
    /// Cache mode of the image
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(super) cache: String,
}

/// `compare`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CompareArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    /// Format of the first image; without it, it is found out
    #[arg(
        short = 'f',
        long = "a-format",
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(super) first_format: Option<String>,
    /// Format of the second image
    #[arg(
        short = 'F',
        long = "b-format",
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(super) second_format: Option<String>,
    /// Both names are option strings (driver=…,file.filename=…), not file names
    #[arg(long)]
    pub(super) image_opts: bool,
    /// Sizes, and how the contents are stored, have to be the same too
    #[arg(short, long)]
    pub(super) strict: bool,
    /// Cache mode of both images
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(super) cache: String,
    /// Open the images even while another process writes them; what is seen may be inconsistent
    #[arg(short = 'U', long)]
    pub(super) force_share: bool,
    /// Show progress
    #[arg(short, long)]
    pub(super) progress: bool,
    /// The images
    #[arg(value_name = "FILENAME1 FILENAME2")]
    pub(super) operands: Vec<OsString>,
}

/// `map`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct MapArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    /// Where on the disk to start (suffixes k M G T P E)
    #[arg(short, long, value_name = "OFFSET", allow_hyphen_values = true)]
    pub(super) start_offset: Option<String>,
    /// How much of the disk to look at
    #[arg(short = 'l', long, value_name = "LENGTH", allow_hyphen_values = true)]
    pub(super) max_length: Option<String>,
}

/// `measure`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct MeasureArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) password: PasswordArgs,
    #[command(flatten)]
    pub(super) image: ImageArgs,
    /// Format of the new image
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        default_value = "raw",
        allow_hyphen_values = true
    )]
    pub(super) target_format: String,
    /// Options of that format, k=v,k2=v2
    #[arg(
        short,
        long,
        value_name = "OPTS",
        alias = "target-format-options",
        allow_hyphen_values = true
    )]
    pub(super) options: Vec<OsString>,
    /// Measure an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME
    #[arg(short = 'l', long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    pub(super) snapshot: Option<OsString>,
    /// Measure for an empty disk of that size
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) size: Option<String>,
}

/// `speed`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct SpeedArgs {
    /// About how long to measure, in seconds
    #[arg(
        long,
        value_name = "N",
        default_value = "6",
        allow_hyphen_values = true
    )]
    pub(super) seconds: f64,
    /// Measure a storage instead: how long requests take, and how many a second there are with 1, 4, 16
    /// and 64 in flight. In a folder a file without a name is written and read; a file or device is read
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub(super) storage: Option<PathBuf>,
    /// How many threads to use for "all threads"; without it, as many as the machine runs at once
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) threads: Option<usize>,
    /// human or json
    #[arg(long, value_name = "FORM", default_value = "human")]
    pub(super) output: String,
    /// There are none; for the message
    #[arg(hide = true)]
    pub(super) operands: Vec<OsString>,
}
