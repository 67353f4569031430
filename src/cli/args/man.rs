//! The arguments of `man`.

use std::ffi::OsString;

use clap::Args;

/// `man`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct ManArgs {
    /// The existing folder to write the pages into
    #[arg(value_name = "DIRECTORY")]
    pub(in crate::cli) operands: Vec<OsString>,
}
