//! The arguments of `amend`.

use std::ffi::OsString;

use clap::Args;

use super::shared::{CommonArgs, NamedArgs, PasswordArgs, ProgressArgs, WrittenArgs};

/// `amend`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct AmendArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) password: PasswordArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Options to change, k=v,k2=v2 ("-o help" lists them)
    #[arg(short, long, value_name = "OPTS", allow_hyphen_values = true)]
    pub(in crate::cli) options: Vec<OsString>,
    /// Allow changes that lose data, such as erasing the last password
    #[arg(long)]
    pub(in crate::cli) force: bool,
    #[command(flatten)]
    pub(in crate::cli) progress: ProgressArgs,
    #[command(flatten)]
    pub(in crate::cli) written: WrittenArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
