//! The arguments of `resize`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, PasswordArgs};

/// `resize`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ResizeArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Preallocation of the added space: off, metadata, falloc or full
    #[arg(
        long,
        value_name = "MODE",
        default_value = "off",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) preallocation: String,
    /// Allow the disk to get smaller; data beyond its new end is lost
    #[arg(long)]
    pub(in crate::cli) shrink: bool,
    /// The image, and the disk's size (suffixes k M G T P E); with + or - in front, the difference
    #[arg(value_name = "FILENAME [+|-]SIZE", allow_negative_numbers = true)]
    pub(in crate::cli) operands: Vec<OsString>,
}
