//! Tests of the structure of `src/`, by the text of its files.
//!
//! The compiler checks none of these rules: it accepts circular uses, names of formats in other modules, and two
//! types of one name. [`exceptions`] lists the current violations with their reasons. An exception that isn't needed
//! any more is an error too, so that the lists only shrink.

mod exceptions;
mod source;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use exceptions::Exceptions;
use source::{Source, Token};
use uses::{Edge, ModuleGraph};

/// The layers of top-level modules, from the lowest up. A file uses its own module and those of lower layers.
const LAYERS: &[&[&str]] = &[
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

/// The top-level modules that name no format.
const WITHOUT_FORMATS: &[&str] = &["commands", "convert", "nodes", "server", "cli"];

/// Names of formats that are found anywhere in a word.
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

/// Names of formats that are only found as whole words, since other words contain them.
const SHORT_FORMAT_NAMES: &[&str] = &["vpc", "qed"];

/// The greatest number of lines of a file.
const LONGEST: usize = 600;

/// The source files.
static SOURCES: LazyLock<Vec<Source>> =
    LazyLock::new(|| source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));

/// Asserts that the violations of a rule are exactly its exceptions.
fn assert_only(rule: &str, found: impl IntoIterator<Item = String>, exceptions: Exceptions) {
    let found: BTreeSet<String> = found.into_iter().collect();
    let allowed: BTreeSet<String> = exceptions.iter().map(|(what, _)| (*what).into()).collect();
    let broken: Vec<_> = found.difference(&allowed).collect();
    let over: Vec<_> = allowed.difference(&found).collect();
    assert!(broken.is_empty(), "{rule}: broken by {broken:#?}");
    assert!(
        over.is_empty(),
        "{rule}: no exceptions any more, take out {over:#?}"
    );
}

/// Returns the files that name formats.
fn naming_formats(sources: &[Source]) -> Vec<String> {
    let names_one = |line: &str| {
        let line = line.to_lowercase();
        let mut words = line.split(|char: char| !char.is_ascii_alphanumeric());
        FORMAT_NAMES.iter().any(|name| line.contains(name))
            || words.any(|word| SHORT_FORMAT_NAMES.contains(&word))
    };
    let modules = sources
        .iter()
        .filter(|source| WITHOUT_FORMATS.contains(&source.top_module()) && !source.is_test());
    modules
        .filter(|source| source.lines().into_iter().any(|(_, line)| names_one(line)))
        .map(|source| source.path.clone())
        .collect()
}

fn layer(module: &str) -> usize {
    let layer = LAYERS.iter().position(|modules| modules.contains(&module));
    layer.unwrap_or_else(|| panic!("the module {module} is in no layer: add it to LAYERS"))
}

/// Returns the top-level module of a file, by its path.
fn top_module(path: &str) -> &str {
    let module = path.split('/').next().unwrap_or(path);
    module.strip_suffix(".rs").unwrap_or(module)
}

fn arrow((one, other): &Edge<'_>) -> String {
    format!("{one} -> {other}")
}

/// Returns the uses that don't go to a lower layer.
fn upwards(edges: &BTreeSet<Edge<'_>>) -> Vec<String> {
    let goes_up = |(one, other): &&Edge<'_>| {
        let (one, other) = (top_module(one), top_module(other));
        one != other && other != "lib" && one != "lib" && layer(one) <= layer(other)
    };
    edges.iter().filter(goes_up).map(arrow).collect()
}

/// Returns the folders of formats.
fn format_folders(sources: &[Source]) -> BTreeSet<&str> {
    let implements = source::tokens("impl FormatDriver for");
    let drivers = sources.iter().filter(|source| {
        let mut places = source.code.windows(implements.len());
        places.any(|place| place == implements)
    });
    let within = drivers.filter(|source| top_module(&source.path) == "formats");
    within
        .filter_map(|source| source.path.rsplit_once('/'))
        .map(|(folder, _)| folder)
        .collect()
}

/// Returns the uses of a format by another one, or by their common code.
fn of_formats(edges: &BTreeSet<Edge<'_>>, folders: &BTreeSet<&str>) -> Vec<String> {
    let folder = |path: &str| {
        let mut folders = folders.iter().copied();
        folders.find(|folder| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let breaks = |(one, other): &&Edge<'_>| {
        // The list uses all formats.
        let is_list = *one == "formats/list.rs";
        !is_list
            && top_module(one) == "formats"
            && folder(other).is_some_and(|used| folder(one) != Some(used))
    };
    edges.iter().filter(breaks).map(arrow).collect()
}

/// Returns the pairs of files that use each other.
fn circles(edges: &BTreeSet<Edge<'_>>) -> Vec<String> {
    let back = |(one, other): &&Edge<'_>| one < other && edges.contains(&(*other, *one));
    let pair = |(one, other): &Edge<'_>| format!("{one} <-> {other}");
    edges.iter().filter(back).map(pair).collect()
}

/// Returns the names of types that are defined more than once, without those inside of other items.
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
    let found = upwards(&ModuleGraph::new(&SOURCES).edges());
    assert_only("a use goes up", found, exceptions::UPWARDS);
}

#[test]
fn formats_do_not_know_each_other() {
    let folders = format_folders(&SOURCES);
    assert!(folders.len() >= 3, "{folders:?}");
    let found = of_formats(&ModuleGraph::new(&SOURCES).edges(), &folders);
    assert_only("a format is known", found, exceptions::OF_FORMATS);
}

#[test]
fn no_two_files_use_each_other() {
    let edges = ModuleGraph::new(&SOURCES).edges();
    // There are at least as many if they are found at all.
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

/// Tests that each rule finds its violations.
mod found {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        let files = files.iter();
        files.map(|(path, text)| Source::new(path, text)).collect()
    }

    #[test]
    fn names_of_formats() {
        let sources = sources(&[
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
        let sources = sources(&[
            (
                "storage/mod.rs",
                "use crate::formats::image::Image; fn f(_: Image) {}",
            ),
            ("formats/mod.rs", "pub mod image;"),
            ("formats/image.rs", "use crate::storage::f; fn g() { f() }"),
            ("convert/mod.rs", "fn h() { crate::nodes::i() }"),
            ("nodes.rs", "pub fn i() {}"),
        ]);
        let found = upwards(&ModuleGraph::new(&sources).edges());
        let expected = [
            "convert/mod.rs -> nodes.rs",
            "storage/mod.rs -> formats/image.rs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn uses_of_formats() {
        let sources = sources(&[
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
        let found = of_formats(
            &ModuleGraph::new(&sources).edges(),
            &format_folders(&sources),
        );
        let expected = [
            "formats/image.rs -> formats/one/mod.rs",
            "formats/one/mod.rs -> formats/two/mod.rs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn files_that_use_each_other() {
        let sources = sources(&[
            ("a/mod.rs", "mod x; mod y; pub use x::X;"),
            ("a/x.rs", "use super::y::Y; fn f(_: Y) {}"),
            ("a/y.rs", "use crate::a::X; fn f(_: X) {}"),
        ]);
        let edges = ModuleGraph::new(&sources).edges();
        assert_eq!(circles(&edges), ["a/x.rs <-> a/y.rs"]);
    }

    #[test]
    fn types_of_one_name() {
        let sources = sources(&[
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
        let sources = sources(&[("a.rs", &text), ("b.rs", &longer)]);
        assert_eq!(too_long(&sources), ["b.rs"]);
    }

    #[test]
    fn exceptions_that_are_left_over() {
        let check = |found: &[&str]| {
            let found: Vec<String> = found.iter().map(|found| (*found).to_owned()).collect();
            std::panic::catch_unwind(move || assert_only("rule", found, &[("a", "why")])).is_ok()
        };
        assert!(check(&["a"]));
        assert!(!check(&[]));
        assert!(!check(&["a", "b"]));
    }
}
