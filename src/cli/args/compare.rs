//! The arguments of `compare`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, OutputArgs, PasswordArgs, ProgressArgs};

/// `compare`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CompareArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    /// Format of the first image; it is probed by default
    #[arg(
        short = 'f',
        long = "a-format",
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) first_format: Option<String>,
    /// Format of the second image
    #[arg(
        short = 'F',
        long = "b-format",
        value_name = "FMT",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) second_format: Option<String>,
    /// Both names are option strings (driver=…,file.filename=…), not file names
    #[arg(long)]
    pub(in crate::cli) image_opts: bool,
    /// Compare sizes and allocation status as well
    #[arg(short, long)]
    pub(in crate::cli) strict: bool,
    /// Cache mode of both images
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(in crate::cli) cache: String,
    /// Open the images even while another process writes them; their contents may be inconsistent
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    #[command(flatten)]
    pub(in crate::cli) output: OutputArgs,
    /// The images
    #[arg(value_name = "FILENAME1 FILENAME2")]
    pub(in crate::cli) operands: Vec<OsString>,
}
