//! The definition of the command line as plain data, without its interpretation.
//!
//! Names and short options are those of `qemu-img` before and after version 10.1. Positional arguments are never
//! required here: the code that interprets them reports a missing one in the words of `qemu-img`. Each subcommand has
//! a file, and [`shared`] has the common options.

mod amend;
mod bench;
mod bitmap;
mod check;
mod checksum;
mod commit;
mod compare;
mod completions;
mod convert;
mod create;
mod dd;
mod info;
mod man;
mod map;
mod measure;
mod rebase;
mod resize;
mod shared;
mod snapshot;
mod speed;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::cli::getopt::OWN;

pub use self::amend::AmendArgs;
pub use self::bench::BenchArgs;
pub use self::bitmap::BitmapArgs;
pub use self::check::CheckArgs;
pub use self::checksum::ChecksumArgs;
pub use self::commit::CommitArgs;
pub use self::compare::CompareArgs;
pub use self::completions::CompletionsArgs;
pub use self::convert::ConvertArgs;
pub use self::create::CreateArgs;
pub use self::dd::DdArgs;
pub use self::info::InfoArgs;
pub use self::man::ManArgs;
pub use self::map::MapArgs;
pub use self::measure::MeasureArgs;
pub use self::rebase::RebaseArgs;
pub use self::resize::ResizeArgs;
pub use self::shared::{CommonArgs, PasswordArgs, PlausibleArgs, ProgressArgs};
pub use self::snapshot::SnapshotArgs;
pub use self::speed::SpeedArgs;

/// A memory-safe, faster qemu-img.
#[derive(Debug, Parser)]
#[command(
    name = "cowhide",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    arg_required_else_help = false,
    propagate_version = false
)]
pub struct Cli {
    /// The options before the subcommand.
    #[command(flatten)]
    pub globals: GlobalArgs,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The options before the subcommand.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Trace events; there are none, so it has no effect
    #[arg(short = 'T', long, value_name = "TRACE")]
    pub(in crate::cli) trace: Vec<String>,
    /// Print errors and warnings as text, or as json: an object on each line
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = ["text", "json"], help_heading = OWN)]
    pub(in crate::cli) error_format: String,
}

impl Cli {
    /// Returns the definition of all subcommands, built for a look at their options.
    pub(in crate::cli) fn definition() -> clap::Command {
        let mut all = Self::command();
        all.build();
        all
    }

    /// Returns the definition of a single subcommand, since defining all of them takes longer than the rest of
    /// `info`. It parses in the same way as the whole definition, and has no help texts. Returns `None` if there is
    /// no such subcommand.
    pub(in crate::cli) fn of_one_subcommand(name: &str) -> Option<clap::Command> {
        let program = clap::Command::new("cowhide")
            .disable_help_subcommand(true)
            .args_override_self(true);
        Some(GlobalArgs::augment_args(program).subcommand(Command::definition(name)?))
    }
}

/// Returns the definition of the listed subcommand with a name.
macro_rules! definition {
    ($name:expr, $($known:literal => $args:ty),* $(,)?) => {
        match $name {
            $($known => Some(<$args>::augment_args(clap::Command::new($known))),)*
            _ => None,
        }
    };
}

impl Command {
    fn definition(name: &str) -> Option<clap::Command> {
        definition!(
            name,
            "amend" => AmendArgs,
            "create" => CreateArgs,
            "convert" => ConvertArgs,
            "dd" => DdArgs,
            "rebase" => RebaseArgs,
            "commit" => CommitArgs,
            "bench" => BenchArgs,
            "checksum" => ChecksumArgs,
            "info" => InfoArgs,
            "bitmap" => BitmapArgs,
            "check" => CheckArgs,
            "compare" => CompareArgs,
            "map" => MapArgs,
            "measure" => MeasureArgs,
            "snapshot" => SnapshotArgs,
            "resize" => ResizeArgs,
            "speed" => SpeedArgs,
            "completions" => CompletionsArgs,
            "man" => ManArgs,
        )
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Change the options of an existing image
    Amend(AmendArgs),
    /// Create a new, empty disk image
    Create(CreateArgs),
    /// Copy a disk image into a new one of another format
    Convert(Box<ConvertArgs>),
    /// Copy a range of blocks of a disk image into a new one
    Dd(DdArgs),
    /// Give an image another backing file, or none
    Rebase(RebaseArgs),
    /// Write an image's data into an image of its backing chain
    Commit(CommitArgs),
    /// Measure the time of many requests to an image
    Bench(BenchArgs),
    /// Print the checksum of an image's contents
    Checksum(ChecksumArgs),
    /// Show the contents of an image's header
    Info(InfoArgs),
    /// Add, remove, clear, enable, disable or merge persistent bitmaps
    Bitmap(BitmapArgs),
    /// Check an image's consistency
    Check(CheckArgs),
    /// Compare the contents of two images
    Compare(CompareArgs),
    /// Show the extents of a disk
    Map(MapArgs),
    /// Calculate the size of a new image's file
    Measure(MeasureArgs),
    /// List, create, apply or delete internal snapshots
    Snapshot(SnapshotArgs),
    /// Change the size of an image's disk
    Resize(ResizeArgs),
    /// Measure the ciphers and the cost of encryption on this machine
    Speed(SpeedArgs),
    /// Print a script that completes command lines in a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subcommand_is_defined_as_among_all() {
        let all = Cli::command();
        for whole in all.get_subcommands() {
            let name = whole.get_name();
            let one = Cli::of_one_subcommand(name).unwrap();
            let arguments = |command: &clap::Command| {
                let all = command.get_arguments();
                all.map(|argument| format!("{argument:?}"))
                    .collect::<Vec<_>>()
            };
            assert_eq!(arguments(&one), arguments(&all));
            let one = one.find_subcommand(name).unwrap();
            assert_eq!(arguments(one), arguments(whole), "{name}");
        }
        assert!(Cli::of_one_subcommand("convrt").is_none());
    }
}
