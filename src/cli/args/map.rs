//! The arguments of `map`.

use clap::Args;

use super::shared::{CommonArgs, ImageArgs, PasswordArgs};

/// `map`
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    mut_arg("output", |output| output.help("human, json, picture or svg"))
)]
pub struct MapArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) image: ImageArgs,
    /// Guest offset of the start of the mapped part (suffixes k M G T P E)
    #[arg(short, long, value_name = "OFFSET", allow_hyphen_values = true)]
    pub(in crate::cli) start_offset: Option<String>,
    /// Length of the mapped part
    #[arg(short = 'l', long, value_name = "LENGTH", allow_hyphen_values = true)]
    pub(in crate::cli) max_length: Option<String>,
}
