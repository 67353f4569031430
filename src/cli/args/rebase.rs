//! The arguments of `rebase`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, PasswordArgs, ProgressArgs, WrittenArgs};

/// `rebase`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct RebaseArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// The new backing file, relative to the image; "" for none
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub(in crate::cli) backing: Option<OsString>,
    /// Format of the new backing file
    #[arg(short = 'F', long, value_name = "FMT", allow_hyphen_values = true)]
    pub(in crate::cli) backing_format: Option<String>,
    /// Change only the header, even if the disk's contents change; no backing file is opened
    #[arg(short = 'u', long)]
    pub(in crate::cli) backing_unsafe: bool,
    /// Compress data that is written into the image
    #[arg(short, long)]
    pub(in crate::cli) compress: bool,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    #[command(flatten)]
    pub(in crate::cli) written: WrittenArgs,
    /// Cache mode of the new backing file
    #[arg(
        short = 'T',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) backing_cache: String,
    /// Open the new backing file even while another process writes it
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
