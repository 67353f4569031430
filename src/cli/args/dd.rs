//! The arguments of `dd`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, PasswordArgs, PlausibleArgs};

/// `dd`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct DdArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) plausible: PlausibleArgs,
    /// Format of the input; it is probed by default
    #[arg(
        short,
        long,
        value_name = "FMT",
        alias = "source-format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) format: Option<String>,
    /// The input is an option string (driver=…,file.filename=…), not a file name
    #[arg(long, alias = "source-image-opts")]
    pub(in crate::cli) image_opts: bool,
    /// Format of the output [default: raw]
    #[arg(
        short = 'O',
        long,
        value_name = "FMT",
        alias = "target-format",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) output_format: Option<String>,
    /// Open the input even while another process writes it; its contents may be inconsistent
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// The size of a block (512), the number of blocks from the disk's start, the number of these that are skipped,
    /// and both images
    #[arg(value_name = "[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT")]
    pub(in crate::cli) operands: Vec<OsString>,
}
