//! The arguments of `completions`.

use std::ffi::OsString;

use clap::Args;

/// `completions`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct CompletionsArgs {
    /// The shell: bash, zsh or fish
    #[arg(value_name = "SHELL")]
    pub(in crate::cli) operands: Vec<OsString>,
}
