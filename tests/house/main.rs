//! The laws of the house, held against the text of `src/`.
//!
//! A compiler holds none of them: it is content with circles, with a format named in the engine, and with two
//! types of one name. What breaks a law today is listed in [`exceptions`], each line with its reason. A line that
//! isn't needed any more fails too, so the lists only shrink.

mod exceptions;
mod source;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use exceptions::Exceptions;
use source::{Source, Token};
use uses::{Edge, House};

/// The rooms from the lowest floor up. A file uses its own room and those on lower floors.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["units"],
    &["options"],
    &["storage", "crypto"],
    &["formats"],
    &["convert", "nodes"],
    &["server"],
    &["commands"],
    &["cli", "library"],
];

/// The rooms that know no format by its name.
const WITHOUT_FORMATS: &[&str] = &["commands", "convert", "nodes", "server", "cli"];

/// Names of formats, wherever they stand in a word.
const FORMAT_NAMES: &[&str] = &[
    "qcow",
    "vdi",
    "vmdk",
    "vhd",
    "luks",
    "parallels",
    "cloop",
    "bochs",
    "dmg",
];

/// Names of formats that are parts of other words.
const SHORT_FORMAT_NAMES: &[&str] = &["vpc", "qed"];

/// How many lines a file has at the most.
const LONGEST: usize = 600;

/// The house as it stands.
static SOURCES: LazyLock<Vec<Source>> =
    LazyLock::new(|| source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));

/// Holds what breaks a law against its list of exceptions, of which none may be left over.
fn assert_only(law: &str, found: impl IntoIterator<Item = String>, exceptions: Exceptions) {
    let found: BTreeSet<String> = found.into_iter().collect();
    let allowed: BTreeSet<String> = exceptions.iter().map(|(what, _)| (*what).into()).collect();
    let broken: Vec<_> = found.difference(&allowed).collect();
    let over: Vec<_> = allowed.difference(&found).collect();
    assert!(broken.is_empty(), "{law}: broken by {broken:#?}");
    assert!(
        over.is_empty(),
        "{law}: no exceptions any more, take out {over:#?}"
    );
}

/// The files that name formats.
fn naming_formats(sources: &[Source]) -> Vec<String> {
    let names_one = |line: &str| {
        let line = line.to_lowercase();
        let mut words = line.split(|char: char| !char.is_ascii_alphanumeric());
        FORMAT_NAMES.iter().any(|name| line.contains(name))
            || words.any(|word| SHORT_FORMAT_NAMES.contains(&word))
    };
    let rooms = sources
        .iter()
        .filter(|source| WITHOUT_FORMATS.contains(&source.room()) && !source.is_test());
    rooms
        .filter(|source| source.lines().into_iter().any(|(_, line)| names_one(line)))
        .map(|source| source.path.clone())
        .collect()
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|rooms| rooms.contains(&room));
    floor.unwrap_or_else(|| panic!("the room {room} is on no floor: give it one in FLOORS"))
}

/// The room of a file, by its path.
fn room(path: &str) -> &str {
    let room = path.split('/').next().unwrap_or(path);
    room.strip_suffix(".rs").unwrap_or(room)
}

fn arrow((one, other): &Edge<'_>) -> String {
    format!("{one} -> {other}")
}

/// The uses that don't go downwards.
fn upwards(edges: &BTreeSet<Edge<'_>>) -> Vec<String> {
    let goes_up = |(one, other): &&Edge<'_>| {
        let (one, other) = (room(one), room(other));
        one != other && other != "lib" && one != "lib" && floor(one) <= floor(other)
    };
    edges.iter().filter(goes_up).map(arrow).collect()
}

/// The folders that hold a format.
fn format_folders(sources: &[Source]) -> BTreeSet<&str> {
    let implements = source::tokens("impl FormatDriver for");
    let drivers = sources.iter().filter(|source| {
        let mut places = source.code.windows(implements.len());
        places.any(|place| place == implements)
    });
    let within = drivers.filter(|source| room(&source.path) == "formats");
    within
        .filter_map(|source| source.path.rsplit_once('/'))
        .map(|(folder, _)| folder)
        .collect()
}

/// The uses of a format by another, or by what is common to them.
fn of_formats(edges: &BTreeSet<Edge<'_>>, folders: &BTreeSet<&str>) -> Vec<String> {
    let folder = |path: &str| {
        let mut folders = folders.iter().copied();
        folders.find(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let breaks = |(one, other): &&Edge<'_>| {
        // The list has to know them all.
        let is_list = *one == "formats/list.rs";
        !is_list
            && room(one) == "formats"
            && folder(other).is_some_and(|used| folder(one) != Some(used))
    };
    edges.iter().filter(breaks).map(arrow).collect()
}

/// The pairs of files that use each other.
fn circles(edges: &BTreeSet<Edge<'_>>) -> Vec<String> {
    let back = |(one, other): &&Edge<'_>| one < other && edges.contains(&(*other, *one));
    let pair = |(one, other): &Edge<'_>| format!("{one} <-> {other}");
    edges.iter().filter(back).map(pair).collect()
}

/// The names of types that are defined more than once, of all that aren't inside of another item.
fn ambiguous_types(sources: &[Source]) -> Vec<String> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let mut depth = 0;
        for pair in source.code.windows(2) {
            match pair {
                [Token::Sign('{' | '('), _] => depth += 1,
                [Token::Sign('}' | ')'), _] => depth -= 1,
                [Token::Word(kind), Token::Word(name)]
                    if depth == 0 && ["struct", "enum", "trait", "type"].contains(&&**kind) =>
                {
                    *places.entry(name).or_default() += 1;
                }
                _ => {}
            }
        }
    }
    let several = places.into_iter().filter(|(_, places)| *places > 1);
    several.map(|(name, _)| name.to_owned()).collect()
}

fn too_long(sources: &[Source]) -> Vec<String> {
    let long = |source: &&Source| source.text.lines().count() > LONGEST;
    let long = sources.iter().filter(long);
    long.map(|source| source.path.clone()).collect()
}

#[test]
fn formats_are_named_in_their_folders_only() {
    let found = naming_formats(&SOURCES);
    assert_only("a format is named", found, exceptions::NAMES_OF_FORMATS);
}

#[test]
fn uses_go_downwards() {
    let found = upwards(&House::new(&SOURCES).edges());
    assert_only("a use goes up", found, exceptions::UPWARDS);
}

#[test]
fn formats_do_not_know_each_other() {
    let folders = format_folders(&SOURCES);
    assert!(folders.len() >= 3, "{folders:?}");
    let found = of_formats(&House::new(&SOURCES).edges(), &folders);
    assert_only("a format is known", found, exceptions::OF_FORMATS);
}

#[test]
fn no_two_files_use_each_other() {
    let edges = House::new(&SOURCES).edges();
    // As many as that are there if they are found at all.
    assert!(edges.len() > SOURCES.len(), "{}", edges.len());
    assert_only("files use each other", circles(&edges), exceptions::CIRCLES);
}

#[test]
fn names_of_types_are_unique() {
    let found = ambiguous_types(&SOURCES);
    assert_only("a type's name has two meanings", found, exceptions::TYPES);
}

#[test]
fn files_are_short() {
    assert_only("a file is too long", too_long(&SOURCES), exceptions::LONG);
}

/// Each law finds what breaks it.
mod found {
    use super::*;

    fn house(files: &[(&str, &str)]) -> Vec<Source> {
        let files = files.iter();
        files.map(|(path, text)| Source::new(path, text)).collect()
    }

    #[test]
    fn names_of_formats() {
        let sources = house(&[
            ("commands/a.rs", "// as Qcow2 has it"),
            ("cli/b.rs", "fn f() { \"vpc\" }"),
            ("convert/c.rs", "fn provides() { unequal }"),
            (
                "convert/d.rs",
                "fn f() {}\n#[cfg(test)]\nmod tests {\n    // vdi\n}\n",
            ),
            ("convert/tests.rs", "// vdi"),
            ("formats/vdi/mod.rs", "// vdi"),
        ]);
        assert_eq!(naming_formats(&sources), ["commands/a.rs", "cli/b.rs"]);
    }

    #[test]
    fn uses_upwards() {
        let sources = house(&[
            (
                "storage/mod.rs",
                "use crate::formats::image::Image; fn f(_: Image) {}",
            ),
            ("formats/mod.rs", "pub mod image;"),
            ("formats/image.rs", "use crate::storage::f; fn g() { f() }"),
            ("convert/mod.rs", "fn h() { crate::nodes::i() }"),
            ("nodes.rs", "pub fn i() {}"),
        ]);
        let found = upwards(&House::new(&sources).edges());
        let expected = [
            "convert/mod.rs -> nodes.rs",
            "storage/mod.rs -> formats/image.rs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn uses_of_formats() {
        let sources = house(&[
            ("formats/list.rs", "fn all() { super::one::g() }"),
            (
                "formats/mod.rs",
                "pub mod list; pub mod one; pub mod two; pub mod image; pub mod shared;",
            ),
            ("formats/image.rs", "fn f() { super::one::g() }"),
            (
                "formats/one/mod.rs",
                "impl FormatDriver for One {} pub fn g() { super::two::h() }",
            ),
            (
                "formats/two/mod.rs",
                "impl FormatDriver for Two {} pub fn h() { super::shared::i() }",
            ),
            ("formats/shared/mod.rs", "pub fn i() {}"),
        ]);
        let found = of_formats(&House::new(&sources).edges(), &format_folders(&sources));
        let expected = [
            "formats/image.rs -> formats/one/mod.rs",
            "formats/one/mod.rs -> formats/two/mod.rs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn files_that_use_each_other() {
        let sources = house(&[
            ("a/mod.rs", "mod x; mod y; pub use x::X;"),
            ("a/x.rs", "use super::y::Y; fn f(_: Y) {}"),
            ("a/y.rs", "use crate::a::X; fn f(_: X) {}"),
        ]);
        let edges = House::new(&sources).edges();
        assert_eq!(circles(&edges), ["a/x.rs <-> a/y.rs"]);
    }

    #[test]
    fn types_of_one_name() {
        let sources = house(&[
            (
                "a.rs",
                "pub struct Plan { a: u8 } impl X for Y { type Target = u8; } enum One {}",
            ),
            (
                "b.rs",
                "pub(crate) trait Plan {} impl X for Z { type Target = u8; }",
            ),
            ("c/tests.rs", "struct One;"),
        ]);
        assert_eq!(ambiguous_types(&sources), ["Plan"]);
    }

    #[test]
    fn long_files() {
        let text = "\n".repeat(LONGEST);
        let longer = format!("{text}\n");
        let sources = house(&[("a.rs", &text), ("b.rs", &longer)]);
        assert_eq!(too_long(&sources), ["b.rs"]);
    }

    #[test]
    fn exceptions_that_are_left_over() {
        let check = |found: &[&str]| {
            let found: Vec<String> = found.iter().map(|found| (*found).to_owned()).collect();
            std::panic::catch_unwind(move || assert_only("law", found, &[("a", "why")])).is_ok()
        };
        assert!(check(&["a"]));
        assert!(!check(&[]));
        assert!(!check(&["a", "b"]));
    }
}
