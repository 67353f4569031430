//! The arguments of `checksum`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, OutputArgs, PasswordArgs, PlausibleArgs, ProgressArgs};

/// `checksum`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ChecksumArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) plausible: PlausibleArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// sha256 or blake3
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    pub(in crate::cli) algorithm: String,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    #[command(flatten)]
    pub(in crate::cli) output: OutputArgs,
    /// Cache mode of the image
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(in crate::cli) cache: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
