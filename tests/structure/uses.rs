//! The uses of files by other files, found by the names in their code.
//!
//! A name is followed through re-exports to the file that defines it. So a file that only re-exports names uses nothing,
//! and one that imports from the `mod.rs` of a module uses the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Token};

/// A name that a `use` brings into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The path as it is written.
    pub path: Vec<String>,
    /// Its name in the file, or `_` for none.
    pub name: String,
}

/// The names of a file.
#[derive(Debug, Default)]
struct Names {
    imports: Vec<Import>,
    /// Paths of at least two names outside of imports.
    paths: Vec<Vec<String>>,
    /// Every word outside of imports.
    words: BTreeSet<String>,
}

/// All files by module, with the names that they use.
pub struct ModuleGraph<'s> {
    modules: BTreeMap<&'s [String], &'s Source>,
    names: BTreeMap<&'s str, Names>,
}

/// A file that uses another, by their paths.
pub type Edge<'s> = (&'s str, &'s str);

impl<'s> ModuleGraph<'s> {
    pub fn new(sources: &'s [Source]) -> Self {
        // The program itself defines nothing that others could use.
        let library = sources.iter().filter(|source| source.path != "main.rs");
        Self {
            modules: library
                .map(|source| (source.module.as_slice(), source))
                .collect(),
            names: sources
                .iter()
                .map(|source| (source.path.as_str(), Names::of(&source.code)))
                .collect(),
        }
    }

    /// Returns every use of one file by another.
    pub fn edges(&self) -> BTreeSet<Edge<'s>> {
        let mut edges = BTreeSet::new();
        for source in self.modules.values().filter(|source| !source.is_test()) {
            let names = &self.names[source.path.as_str()];
            let imports = names.imports.iter().filter(|import| {
                import.name == "_" || import.name == "*" || names.words.contains(&import.name)
            });
            let imports = imports.map(|import| (&import.path, import.name == "*"));
            let paths = names.paths.iter().map(|path| (path, false));
            for (path, is_glob) in imports.chain(paths) {
                match self.find(source, path, 0) {
                    // Only uses of items in a module count, and not of the module itself.
                    Some((_, true)) if !is_glob => {}
                    Some((used, _)) if used.path != source.path => {
                        edges.insert((source.path.as_str(), used.path.as_str()));
                    }
                    _ => {}
                }
            }
        }
        edges
    }

    /// Returns the file that a path in `source` refers to, and true if it is the module as a whole.
    fn find(
        &self,
        source: &'s Source,
        path: &[String],
        depth: usize,
    ) -> Option<(&'s Source, bool)> {
        // More re-exports than this are a circle.
        if depth > 10 {
            return None;
        }
        let mut module = source.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" | "cowhide" => {
                module.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [&module[..], &[first.to_owned()]].concat();
                if !self.modules.contains_key(child.as_slice()) {
                    // It is another crate, or an imported name.
                    let imports = self.names[source.path.as_str()].imports.iter();
                    let mut known = imports.filter(|import| import.name == first);
                    let import = known.find(|import| import.path != path)?;
                    let path = [&import.path[..], &rest[1..]].concat();
                    return self.find(source, &path, depth + 1);
                }
            }
        }
        for (index, name) in rest.iter().enumerate() {
            let child = [&module[..], std::slice::from_ref(name)].concat();
            if self.modules.contains_key(child.as_slice()) {
                module = child;
                continue;
            }
            let here = self.modules.get(module.as_slice())?;
            let imports = &self.names[here.path.as_str()].imports;
            return match imports.iter().find(|import| import.name == *name) {
                Some(import) if here.path != source.path || import.path != path => {
                    let path = [&import.path[..], &rest[index + 1..]].concat();
                    self.find(here, &path, depth + 1)
                }
                _ => Some((here, false)),
            };
        }
        Some((self.modules.get(module.as_slice())?, true))
    }
}

impl Names {
    fn of(code: &[Token]) -> Self {
        let mut names = Self::default();
        let mut index = 0;
        while let Some(token) = code.get(index) {
            index += 1;
            let Token::Word(word) = token else {
                continue;
            };
            if word == "use" {
                // A bound such as `use<'a>` is no import.
                if code.get(index) != Some(&Token::Sign('<')) {
                    index = tree(code, index, &[], &mut names.imports);
                }
                continue;
            }
            let mut path = vec![word.clone()];
            names.words.insert(word.clone());
            while let (Some(Token::Colons), Some(Token::Word(next))) =
                (code.get(index), code.get(index + 1))
            {
                path.push(next.clone());
                names.words.insert(next.clone());
                index += 2;
            }
            if path.len() > 1 {
                names.paths.push(path);
            }
        }
        names
    }
}

/// Parses a tree of imports from `index` on. Returns the index of its end.
fn tree(code: &[Token], mut index: usize, prefix: &[String], imports: &mut Vec<Import>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match code.get(index) {
            Some(Token::Word(word)) if word == "as" => {
                if let Some(Token::Word(name)) = code.get(index + 1) {
                    let name = name.clone();
                    imports.push(Import { path, name });
                }
                return index + 2;
            }
            Some(Token::Word(word)) => {
                path.push(word.clone());
                index += 1;
            }
            Some(Token::Colons) => index += 1,
            Some(Token::Sign('*')) => {
                let name = "*".to_owned();
                imports.push(Import { path, name });
                return index + 1;
            }
            Some(Token::Sign('{')) => {
                index += 1;
                while code
                    .get(index)
                    .is_some_and(|token| *token != Token::Sign('}'))
                {
                    index = tree(code, index, &path, imports);
                    if code.get(index) == Some(&Token::Sign(',')) {
                        index += 1;
                    }
                }
                return index + 1;
            }
            _ => {
                // `{self}` is the module itself.
                if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
                    path.pop();
                }
                if let Some(name) = path.last().cloned() {
                    imports.push(Import { path, name });
                }
                // A token that isn't understood is skipped.
                let is_end = matches!(code.get(index), Some(Token::Sign(',' | '}' | ';')));
                return index + usize::from(!is_end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let sources: Vec<_> = files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let edges = ModuleGraph::new(&sources).edges().into_iter();
        edges
            .map(|(one, other)| (one.into(), other.into()))
            .collect()
    }

    fn edge(one: &str, other: &str) -> (String, String) {
        (one.to_owned(), other.to_owned())
    }

    #[test]
    fn names_are_followed_through_re_exports() {
        let files = [
            ("lib.rs", "pub mod a; pub mod b;"),
            ("a/mod.rs", "mod x; pub use x::{Deep, Other as Renamed};"),
            ("a/x.rs", "pub struct Deep; pub struct Other;"),
            (
                "b.rs",
                "use crate::a::{self, Renamed as R}; fn f(_: R) { a::Deep; }",
            ),
        ];
        assert_eq!(edges(&files), [edge("b.rs", "a/x.rs")]);
    }

    #[test]
    fn what_is_passed_on_is_not_used() {
        let files = [
            (
                "a/mod.rs",
                "mod x; mod y; pub use x::X; use y::Y; fn f(_: Y) {}",
            ),
            ("a/x.rs", "use super::f; fn g() { f() }"),
            ("a/y.rs", "use std::fmt; fn h() { super::x::g() }"),
        ];
        let expected = [
            ("a/mod.rs", "a/y.rs"),
            ("a/x.rs", "a/mod.rs"),
            ("a/y.rs", "a/x.rs"),
        ];
        assert_eq!(edges(&files), expected.map(|(one, other)| edge(one, other)));
    }

    #[test]
    fn paths_without_an_import_count_and_tests_do_not() {
        let files = [
            ("a.rs", "fn f() { crate::b::g() }"),
            (
                "b.rs",
                "#[cfg(test)] mod tests { use crate::a::f; } pub fn g() {}",
            ),
            ("b/tests.rs", "use crate::a::f; fn t() { f() }"),
        ];
        assert_eq!(edges(&files), [edge("a.rs", "b.rs")]);
    }
}
