//! The arguments of `bitmap`.
//!
//! The changes are applied in the order of their options, so all of these options are parsed into one list.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use super::shared::{CommonArgs, NamedArgs};
use crate::commands::bitmap::BitmapChange;

/// `bitmap`
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct BitmapArgs {
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
    #[command(flatten)]
    pub(in crate::cli) changes: ChangeArgs,
    #[command(flatten)]
    pub(in crate::cli) named: NamedArgs,
    /// Granularity of an added bitmap: the number of bytes for each bit (suffixes k M G)
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) granularity: Option<String>,
    /// The image that has the bitmaps of --merge, if it is another one
    #[arg(
        short = 'b',
        long,
        value_name = "SRC_FILENAME",
        allow_hyphen_values = true
    )]
    pub(in crate::cli) source_file: Option<OsString>,
    /// Format of SRC_FILENAME
    #[arg(short = 'F', long, value_name = "SRC_FMT", allow_hyphen_values = true)]
    pub(in crate::cli) source_format: Option<String>,
    /// The image, and the name of the bitmap
    #[arg(value_name = "FILENAME BITMAP")]
    pub(in crate::cli) operands: Vec<OsString>,
}

/// The changes, in order.
#[derive(Debug)]
pub struct ChangeArgs(pub(in crate::cli) Vec<BitmapChange>);

/// The options without a value: name, help, and the change.
const PLAIN: [(&str, &str, BitmapChange); 5] = [
    (
        "add",
        "Add BITMAP, and let it record changes of the disk",
        BitmapChange::Add,
    ),
    ("remove", "Remove BITMAP", BitmapChange::Remove),
    ("clear", "Clear all bits of BITMAP", BitmapChange::Clear),
    (
        "enable",
        "Let BITMAP record changes of the disk",
        BitmapChange::Enable,
    ),
    (
        "disable",
        "Let BITMAP record no changes of the disk",
        BitmapChange::Disable,
    ),
];
/// The option that names another bitmap.
const MERGE: &str = "merge";

impl Args for ChangeArgs {
    fn augment_args(command: Command) -> Command {
        let flags = PLAIN.map(|(name, help, _)| {
            Arg::new(name)
                .long(name)
                .help(help)
                .action(ArgAction::Append)
                .num_args(0)
                .value_parser(clap::value_parser!(OsString))
                .default_missing_value("")
        });
        let merge = Arg::new(MERGE)
            .long(MERGE)
            .value_name("SOURCE")
            .help("Add the bits of the bitmap SOURCE to BITMAP")
            .action(ArgAction::Append)
            .value_parser(clap::value_parser!(OsString))
            .allow_hyphen_values(true);
        command.args(flags).arg(merge)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ChangeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut changes: Vec<(usize, BitmapChange)> = Vec::new();
        for (name, _, change) in PLAIN {
            let places = matches.indices_of(name).into_iter().flatten();
            changes.extend(places.map(|place| (place, change.clone())));
        }
        let names = matches.get_many::<OsString>(MERGE).into_iter().flatten();
        let places = matches.indices_of(MERGE).into_iter().flatten();
        let merge = |name: &OsString| BitmapChange::Merge(name.as_bytes().to_vec());
        changes.extend(places.zip(names.map(merge)));
        changes.sort_by_key(|(place, _)| *place);
        Ok(Self(
            changes.into_iter().map(|(_, change)| change).collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
