//! The report of `info --explain`: sentences, wrapped to 80 columns.

use crate::error::printable;
use crate::formats::explanation::Statement;

/// The length of a line in characters.
const WIDTH: usize = 80;
/// The indentation of a text.
const INDENT: &str = "    ";

/// Renders statements, each text below its subject. A subject of several adjacent ones is printed once.
pub fn human(statements: &[Statement]) -> String {
    let mut text = String::new();
    let mut last = None;
    for statement in statements {
        if last != Some(&statement.subject) {
            text += &format!("{}:\n", printable(&statement.subject));
        }
        last = Some(&statement.subject);
        wrap(&mut text, &printable(&statement.text));
    }
    text
}

/// Adds a text in lines, broken between words.
fn wrap(text: &mut String, words: &str) {
    let mut length = 0;
    for word in words.split(' ') {
        let wide = word.chars().count();
        if length == 0 || length + 1 + wide > WIDTH {
            if length > 0 {
                text.push('\n');
            }
            text.push_str(INDENT);
            length = INDENT.len();
        } else {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += wide;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_between_words_and_subjects_said_once() {
        let statement = |text: &str| Statement::new("features", text);
        let long = "word ".repeat(30);
        let text = human(&[statement("None\u{1b}."), statement(long.trim())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["features:", "    None\\u{1b}."]);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
    }
}
