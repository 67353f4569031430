//! The arguments of `info`.

use clap::Args;

use super::shared::{CommonArgs, ImageArgs, PasswordArgs, PlausibleArgs};
use crate::cli::getopt::OWN;

/// `info`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct InfoArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) plausible: PlausibleArgs,
    #[command(flatten)]
    pub(in crate::cli) image: ImageArgs,
    /// Show the whole backing chain
    #[arg(short, long)]
    pub(in crate::cli) backing_chain: bool,
    /// Show the block limits; there are none, so it has no effect
    #[arg(long)]
    pub(in crate::cli) limits: bool,
    /// Explain the header in sentences
    #[arg(long, help_heading = OWN)]
    pub(in crate::cli) explain: bool,
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    pub(in crate::cli) cache: String,
}
