//! The arguments of `create`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, OutputArgs, PasswordArgs};
use crate::cli::getopt::OWN;

/// `create`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CreateArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    /// Format of the new image [default: raw]
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(in crate::cli) format: Option<String>,
    /// Options of the format, k=v,k2=v2 ("-o help" lists them)
    #[arg(short, long, value_name = "OPTS", allow_hyphen_values = true)]
    pub(in crate::cli) options: Vec<OsString>,
    /// The backing file, relative to the new image
    #[arg(
        short = 'b',
        long = "backing",
        value_name = "FILE",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) backing: Option<OsString>,
    /// Format of the backing file
    #[arg(
        short = 'F',
        short_alias = 'B',
        long,
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) backing_format: Option<String>,
    /// Don't open the backing file; it needn't exist
    #[arg(short = 'u', long)]
    pub(in crate::cli) backing_unsafe: bool,
    /// Encrypt the image: luks or aes; same as -o encrypt.format=FORMAT
    #[arg(long, value_name = "FORMAT", help_heading = OWN)]
    pub(in crate::cli) encrypt: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: OutputArgs,
    /// The new file, and the disk's size (suffixes k M G T P E)
    #[arg(value_name = "FILENAME [SIZE]", allow_hyphen_values = false)]
    pub(in crate::cli) operands: Vec<OsString>,
}
