//! The arguments of `amend`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, PasswordArgs};

/// `amend`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct AmendArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    /// Format of the image; without it, it is found out
    #[arg(short, long, value_name = "FMT", allow_hyphen_values = true)]
    pub(in crate::cli) format: Option<String>,
    /// FILENAME is an option string (driver=…,file.filename=…), not a file name
    #[arg(long)]
    pub(in crate::cli) image_opts: bool,
    /// Options to change, k=v,k2=v2 ("-o help" lists them)
    #[arg(short, long, value_name = "OPTS", allow_hyphen_values = true)]
    pub(in crate::cli) options: Vec<OsString>,
    /// Do what loses data, such as erasing the last password
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Show progress
    #[arg(short, long)]
    pub(in crate::cli) progress: bool,
    /// Cache mode of the image
    #[arg(
        short = 't',
        long,
        value_name = "CACHE",
        default_value = "writeback",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) cache: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
