//! The sources for tests of their structure: files, their modules, and their code as words and signs.
//!
//! The rules need no full parser of Rust. Comments, strings and code for tests are omitted, so that a name in an example
//! or a test breaks no rule.

use std::fs;
use std::path::Path;

/// A part of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A name, keyword or number.
    Word(String),
    /// `::`.
    Colons,
    /// Any other sign.
    Sign(char),
}

/// A source file.
#[derive(Debug)]
pub struct Source {
    /// Its path below `src`.
    pub path: String,
    /// The path of its module: `["formats", "vdi"]`.
    pub module: Vec<String>,
    pub text: String,
    /// Its code, without code for tests.
    pub code: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let stem = path.strip_suffix(".rs").unwrap();
        let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
        if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        Self {
            path: path.to_owned(),
            module,
            text: text.to_owned(),
            code: without_tests(&tokens(text)),
        }
    }

    /// Returns the top-level module.
    pub fn top_module(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }

    /// Returns true if all of the file is for tests.
    pub fn is_test(&self) -> bool {
        let is_test = |name: &String| name == "tests" || name.ends_with("_tests");
        self.module.iter().any(is_test)
    }

    /// Returns the lines outside of test modules, with their numbers.
    pub fn lines(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        let mut is_test = false;
        let all: Vec<&str> = self.text.lines().collect();
        for (index, line) in all.iter().enumerate() {
            let next = all.get(index + 1).copied().unwrap_or_default();
            let opens = next.starts_with("mod ") && next.ends_with('{');
            is_test |= *line == "#[cfg(test)]" && opens;
            if !is_test {
                lines.push((index + 1, *line));
            }
            is_test &= *line != "}";
        }
        lines
    }
}

/// Returns every source file below a folder, sorted by path.
pub fn read(folder: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                sources.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

/// Returns the words and signs of a text, without comments, strings, characters and lifetimes.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < chars.len() {
        let char = at(index);
        if char == '/' && at(index + 1) == '/' {
            while index < chars.len() && at(index) != '\n' {
                index += 1;
            }
        } else if char == '/' && at(index + 1) == '*' {
            while index < chars.len() && (at(index), at(index + 1)) != ('*', '/') {
                index += 1;
            }
            index += 2;
        } else if char == '"' {
            index += 1;
            while index < chars.len() && at(index) != '"' {
                index += if at(index) == '\\' { 2 } else { 1 };
            }
            index += 1;
        } else if char == '\'' {
            index += match (at(index + 1), at(index + 2)) {
                ('\\', _) => {
                    let rest = chars.iter().skip(index + 3);
                    4 + rest.take_while(|char| **char != '\'').count()
                }
                (_, '\'') => 3,
                // A lifetime. Its name becomes a word without any effect.
                _ => 1,
            };
        } else if is_word(char) {
            let start = index;
            while is_word(at(index)) {
                index += 1;
            }
            let word: String = chars[start..index].iter().collect();
            let hashes = (index..).take_while(|index| at(*index) == '#').count();
            let is_raw = ["r", "br", "cr"].contains(&word.as_str());
            if is_raw && at(index + hashes) == '"' {
                index += hashes + 1;
                let ends = |index: usize| {
                    at(index) == '"' && (1..=hashes).all(|hash| at(index + hash) == '#')
                };
                while index < chars.len() && !ends(index) {
                    index += 1;
                }
                index += hashes + 1;
            } else if !(["b", "c"].contains(&word.as_str()) && ['"', '\''].contains(&at(index))) {
                tokens.push(Token::Word(word));
            }
        } else if char == ':' && at(index + 1) == ':' {
            tokens.push(Token::Colons);
            index += 2;
        } else {
            if !char.is_whitespace() {
                tokens.push(Token::Sign(char));
            }
            index += 1;
        }
    }
    tokens
}

/// Returns the tokens without items under `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let attribute = self::tokens("#[cfg(test)]");
    let mut rest = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if !tokens[index..].starts_with(&attribute) {
            rest.push(tokens[index].clone());
            index += 1;
            continue;
        }
        index += attribute.len();
        // An item ends with a semicolon or its braces.
        let mut depth = 0;
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token {
                Token::Sign('{' | '(' | '[') => depth += 1,
                Token::Sign('}') if depth == 1 => break,
                Token::Sign('}' | ')' | ']') => depth -= 1,
                Token::Sign(';') if depth == 0 => break,
                _ => {}
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = Source::new("x.rs", text).code.into_iter();
        let word = |token| match token {
            Token::Word(word) => Some(word),
            _ => None,
        };
        tokens.filter_map(word).collect()
    }

    #[test]
    fn comments_and_text_are_no_code() {
        let text = "a /* b */ \"c \\\" d\" r#\"e \" f\"# // g\n b'h' b\"i\" '\\'' '\"' j r\"k\"";
        assert_eq!(words(text), ["a", "j"]);
    }

    #[test]
    fn what_is_for_tests_is_left_out() {
        let text =
            "a; #[cfg(test)] mod b { c { d } } e #[cfg(test)] use f::{g}; #[cfg(test)] mod h; i";
        assert_eq!(words(text), ["a", "e", "i"]);
    }

    #[test]
    fn lines_of_tests_are_left_out() {
        let text = "a\n#[cfg(test)]\nmod tests {\n    b\n}\nc\n#[cfg(test)]\nmod more;\n";
        let source = Source::new("x/mod.rs", text);
        let lines: Vec<usize> = source.lines().into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 6, 7, 8]);
        assert_eq!(source.module, ["x"]);
    }
}
