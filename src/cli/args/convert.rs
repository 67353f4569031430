//! The arguments of `convert`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, PasswordArgs, PlausibleArgs, ProgressArgs, TargetPasswordArgs};
use crate::cli::getopt::OWN;

/// `convert`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) target_password: TargetPasswordArgs,
    /// Format of the source; it is probed by default
    #[arg(
        short = 'f',
        long,
        value_name = "FMT",
        alias = "format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) source_format: Option<String>,
    /// The source is an option string (driver=…,file.filename=…), not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(in crate::cli) image_opts: bool,
    /// Format of the target [default: raw]
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        alias = "output-format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) target_format: Option<String>,
    /// Options of the target's format, k=v,k2=v2 ("-o help" lists them)
    #[arg(
        short = 'o',
        long,
        value_name = "OPTS",
        aliases = ["target-format-options", "options"],
        allow_hyphen_values = true
    )]
    pub(in crate::cli) target_options: Vec<OsString>,
    /// Encrypt the target: luks or aes; same as -o encrypt.format=FORMAT
    #[arg(long, value_name = "FORMAT", help_heading = OWN)]
    pub(in crate::cli) encrypt: Option<String>,
    /// Compress the target's data, if its format can (-o compression_type sets the algorithm)
    #[arg(short, long)]
    pub(in crate::cli) compress: bool,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    /// Shortest run of zeroes that is skipped (default 4k); 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) sparse_size: Option<String>,
    /// Write into an existing target
    #[arg(short = 'n', long)]
    pub(in crate::cli) no_create: bool,
    /// The target is an option string, not a file name (with -n)
    #[arg(long)]
    pub(in crate::cli) target_image_opts: bool,
    /// The target reads as zeroes already (with -n)
    #[arg(long)]
    pub(in crate::cli) target_is_zero: bool,
    /// Write out of order; always done, since the result is the same
    #[arg(short = 'W', long)]
    pub(in crate::cli) oob_writes: bool,
    /// Number of threads, 1 to 16 (default: one for each processor)
    #[arg(short = 'm', long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) parallel: Option<String>,
    /// Cache mode of the target: none, writeback, writethrough, directsync, unsafe, or auto: none where
    /// the file system can, else writeback
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "unsafe",
        alias = "output-cache"
    )]
    pub(in crate::cli) target_cache: String,
    /// Cache mode of the source; the same names
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(in crate::cli) source_cache: String,
    /// Copy within the kernel where possible, without a search for zeroes
    #[arg(short = 'C', long)]
    pub(in crate::cli) copy_range_offloading: bool,
    /// Share blocks with the source instead of copying them: auto where the file system can (the
    /// default), always or fail, never
    #[arg(long, value_name = "WHEN", help_heading = OWN)]
    pub(in crate::cli) reflink: Option<String>,
    /// Copy at most RATE bytes per second (suffixes k M G)
    #[arg(
        short,
        long,
        value_name = "RATE",
        alias = "rate-limit",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) rate: Option<String>,
    /// The target's backing file, which must have the contents of the source's: only the allocated parts of the
    /// source are written
    #[arg(
        short = 'B',
        short_alias = 'b',
        long = "target-backing",
        value_name = "FILE",
        alias = "backing",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) backing: Option<OsString>,
    /// Format of the target's backing file
    #[arg(
        short = 'F',
        long = "backing-format",
        value_name = "FMT",
        alias = "target-backing-format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) backing_format: Option<String>,
    /// Read an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME
    #[arg(
        short = 'l',
        long,
        value_name = "SNAPSHOT",
        alias = "source-snapshot",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) snapshot: Option<OsString>,
    /// Open the source even while another process writes it; its contents may be inconsistent
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// Copy the persistent bitmaps too, between formats that have them
    #[arg(long)]
    pub(in crate::cli) bitmaps: bool,
    /// Skip inconsistent bitmaps, with a warning (with --bitmaps)
    #[arg(long)]
    pub(in crate::cli) skip_broken_bitmaps: bool,
    /// Replace parts that can't be read by zeroes, with a warning
    #[arg(long)]
    pub(in crate::cli) salvage: bool,
    /// Read all of the source's files, including holes that the file system reports
    #[arg(long, help_heading = OWN)]
    pub(in crate::cli) ignore_holes: bool,
    /// Round the length of a raw target up to a multiple of SIZE (suffixes k M G), as some clouds require
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = OWN)]
    pub(in crate::cli) align: Option<String>,
    /// Print what would be done, and do nothing
    #[arg(long, help_heading = OWN)]
    pub(in crate::cli) plan: bool,
    /// Form of the plan: human or json
    #[arg(long, value_name = "FORM", default_value = "human", help_heading = OWN)]
    pub(in crate::cli) output: String,
    /// Read the target back after writing, and compare it with the source
    #[arg(long, help_heading = OWN)]
    pub(in crate::cli) verify: bool,
    /// Print the checksum of the converted disk: sha256 or blake3
    #[arg(long, value_name = "NAME", help_heading = OWN)]
    pub(in crate::cli) checksum: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) plausible: PlausibleArgs,
    /// The sources, which are read as one disk, and the target
    #[arg(value_name = "SOURCE... TARGET")]
    pub(in crate::cli) operands: Vec<OsString>,
}

impl ConvertArgs {
    /// Returns the name of the target's format: that of `-O`, or `raw`.
    pub(in crate::cli) fn target_format(&self) -> &str {
        self.target_format.as_deref().unwrap_or("raw")
    }
}
