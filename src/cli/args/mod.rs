//! The command line as data: what can be written, and nothing about what it means.
//!
//! Names and short options are `qemu-img`'s, of its versions before and after 10.1. Positional arguments are
//! never required here: the code that interprets them reports a missing one in `qemu-img`'s words. Each
//! subcommand has a file; [`shared`] has what several of them take.

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

use clap::{Args, Parser, Subcommand};

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
    /// Returns the definition of command lines of one subcommand: to make that of all takes longer than `info` does
    /// otherwise. It parses as the whole one does, and has nothing for help. `None` if there is no such subcommand.
    pub(in crate::cli) fn of_one_subcommand(name: &str) -> Option<clap::Command> {
        let program = clap::Command::new("cowhide")
            .disable_help_subcommand(true)
            .args_override_self(true);
        Some(GlobalArgs::augment_args(program).subcommand(Command::definition(name)?))
    }
}

/// Returns the definition of the subcommand of a name, of those that are listed.
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
    /// Change the options of an image that exists
    Amend(AmendArgs),
    /// Create a new, empty disk image
    Create(CreateArgs),
    /// Copy a disk image into a new one of another format
    Convert(Box<ConvertArgs>),
    /// Copy a run of blocks of a disk image into a new one
    Dd(DdArgs),
    /// Give an image another backing file, or none
    Rebase(RebaseArgs),
    /// Write what an image holds into one that it is over
    Commit(CommitArgs),
    /// Measure how long many requests to an image take
    Bench(BenchArgs),
    /// Print the checksum of what an image holds
    Checksum(ChecksumArgs),
    /// Show what an image's header says
    Info(InfoArgs),
    /// Add, remove, clear, enable, disable or merge persistent bitmaps
    Bitmap(BitmapArgs),
    /// Check an image's consistency
    Check(CheckArgs),
    /// Find out whether two images have the same contents
    Compare(CompareArgs),
    /// Show how and where the disk's contents are stored
    Map(MapArgs),
    /// Tell how big the file of a new image will be
    Measure(MeasureArgs),
    /// List, take, go back to or delete internal snapshots
    Snapshot(SnapshotArgs),
    /// Give the disk of an image another size
    Resize(ResizeArgs),
    /// Measure the ciphers and what encryption costs on this machine
    Speed(SpeedArgs),
    /// Print a script with which a shell completes command lines
    Completions(CompletionsArgs),
    /// Write the manual's pages into a folder
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

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
