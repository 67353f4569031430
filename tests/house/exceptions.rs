//! What breaks the laws of the house today, and why. These lists shrink: a line that isn't needed any more fails.

/// A file, a use or a name, and the reason.
pub type Exceptions = &'static [(&'static str, &'static str)];

const SPEED: &str = "`speed` measures what formats are made of";

/// Files that name formats where none is to be named.
pub const NAMES_OF_FORMATS: Exceptions = &[
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

/// Uses that don't go downwards.
pub const UPWARDS: Exceptions = &[];

/// Uses of a format by another, or by what is common to formats.
pub const OF_FORMATS: Exceptions = &[];

/// Pairs of files that use each other.
pub const CIRCLES: Exceptions = &[
    (
        "formats/new_image.rs <-> formats/reservation.rs",
        "runs and the room reserved for them",
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

/// Names that more than one type has.
pub const TYPES: Exceptions = &[];

/// Files of more lines than a reader takes in.
pub const LONG: Exceptions = &[];
