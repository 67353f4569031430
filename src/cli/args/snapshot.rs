//! The arguments of `snapshot`.

use std::ffi::OsString;

use clap::{ArgAction, Args};

use super::shared::{CommonArgs, NamedArgs};
use crate::cli::getopt::OWN;

/// `snapshot`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct SnapshotArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Open the image even while another process writes it; only for -l
    #[arg(short = 'U', long)]
    pub(in crate::cli) force_share: bool,
    /// List the snapshots, which is the default
    #[arg(short, long, action = ArgAction::Count)]
    pub(in crate::cli) list: u8,
    /// Create a snapshot of that name
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    pub(in crate::cli) create: Vec<OsString>,
    /// Revert the disk to the snapshot with that id or name
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    pub(in crate::cli) apply: Vec<OsString>,
    /// Delete the first snapshot of that name
    #[arg(short, long, value_name = "SNAPSHOT", allow_hyphen_values = true)]
    pub(in crate::cli) delete: Vec<OsString>,
    /// Form of the list: human or json
    #[arg(long, value_name = "FORM", default_value = "human", help_heading = OWN)]
    pub(in crate::cli) output: String,
    /// The image
    #[arg(value_name = "FILENAME")]
    pub(in crate::cli) operands: Vec<OsString>,
}
