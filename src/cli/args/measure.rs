//! The arguments of `measure`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, ImageArgs, PasswordArgs};

/// `measure`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct MeasureArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) image: ImageArgs,
    /// Format of the new image
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        default_value = "raw",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) target_format: String,
    /// Options of that format, k=v,k2=v2
    #[arg(
        short,
        long,
        value_name = "OPTS",
        alias = "target-format-options",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) options: Vec<OsString>,
    /// Measure an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME
    #[arg(short = 'l', long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    pub(in crate::cli) snapshot: Option<OsString>,
    /// Measure an empty disk of that size
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) size: Option<String>,
}
