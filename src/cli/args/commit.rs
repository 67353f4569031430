//! The arguments of `commit`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, PasswordArgs, ProgressArgs};

/// `commit`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CommitArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Cache mode of all images
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) cache: String,
    /// Commit to this image of the backing chain instead of the backing file; implies -d
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub(in crate::cli) base: Option<OsString>,
    /// Don't empty the image
    #[arg(short, long)]
    pub(in crate::cli) drop: bool,
    /// Copy at most RATE bytes per second (suffixes k M G)
    #[arg(short, long, value_name = "RATE", allow_hyphen_values = true)]
    pub(in crate::cli) rate: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
