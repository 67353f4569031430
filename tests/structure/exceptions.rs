//! The current violations of the structure's rules, with reasons. A line that isn't needed any more is an error.

/// A file, a use or a name, and the reason.
pub type Exceptions = &'static [(&'static str, &'static str)];

const SPEED: &str = "`speed` measures what formats are made of";

/// Files that name formats in modules without formats.
pub const NAMES_OF_FORMATS: Exceptions = &[
    ("cli/args/convert.rs", "help names the values of --encrypt"),
    ("cli/args/create.rs", "help names the values of --encrypt"),
    (
        "cli/examples.rs",
        "examples name the formats that people use",
    ),
    ("cli/fuzzing.rs", "the image that fuzzed command lines make"),
    ("cli/getopt.rs", "an example in a comment"),
    ("cli/render/speed.rs", SPEED),
    ("commands/speed/report.rs", SPEED),
    ("commands/speed/sweep.rs", SPEED),
];

/// Uses that don't go to a lower layer.
pub const UPWARDS: Exceptions = &[];

/// Uses of a format by another one, or by their common code.
pub const OF_FORMATS: Exceptions = &[];

/// Pairs of files that use each other.
pub const CIRCLES: Exceptions = &[
    (
        "formats/new_image.rs <-> formats/reservation.rs",
        "runs and the space reserved for them",
    ),
    (
        "formats/qcow2/entries/mod.rs <-> formats/qcow2/entries/subclusters.rs",
        "a cluster and its subclusters",
    ),
    (
        "storage/driver.rs <-> storage/file/unfinished.rs",
        "a driver makes files, and files know their driver",
    ),
    (
        "storage/file/driver.rs <-> storage/list.rs",
        "the list of protocols, and a driver that looks another one up",
    ),
    (
        "storage/file/interrupt.rs <-> storage/file/unfinished.rs",
        "unfinished files go when the program is interrupted",
    ),
];

/// Names of more than one type.
pub const TYPES: Exceptions = &[];

/// Files that are too long.
pub const LONG: Exceptions = &[];
