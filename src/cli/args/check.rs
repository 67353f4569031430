//! The arguments of `check`.

use clap::Args;

use super::shared::{CommonArgs, ImageArgs};

/// `check`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CheckArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) image: ImageArgs,
    /// Repair the image: leaks, or all
    #[arg(short, long, value_name = "WHAT", allow_hyphen_values = true)]
    pub(in crate::cli) repair: Option<String>,
    /// Cache mode of the image
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    pub(in crate::cli) cache: String,
}
