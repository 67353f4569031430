//! A picture in characters.

use std::fmt::Write as _;

use super::model::{CellKind, Picture, Strip};
use crate::units::human_size;

/// The abilities of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Its width in characters.
    pub width: usize,
    /// True if colours are supported and wanted.
    pub colours: bool,
    /// True if it shows Unicode.
    pub unicode: bool,
}

/// Renders a picture: each strip with its heading above and its legend below.
pub fn terminal(picture: &Picture, terminal: Terminal) -> String {
    let mut text = format!("{}\n", picture.name);
    for (strip, heading) in picture.strips().into_iter().zip(picture.headings()) {
        // Writing to a string can't fail.
        let _ = writeln!(text, "\n{heading}");
        draw(&mut text, strip, terminal);
        let mut length = 0;
        for (kind, bytes) in Picture::legend(strip) {
            let part = format!("{} {}", kind.name(), human_size(bytes));
            // An entry has a character and a space, and three spaces after it.
            let wide = part.chars().count() + 5;
            if length > 0 && length + wide > terminal.width {
                text.truncate(text.trim_end().len());
                text.push('\n');
                length = 0;
            }
            push(&mut text, kind, true, terminal);
            let _ = write!(text, " {part}   ");
            length += wide;
        }
        let kept = text.trim_end().len();
        text.truncate(kept);
        text.push('\n');
    }
    text
}

fn draw(text: &mut String, strip: &Strip, terminal: Terminal) {
    for (at, (kind, is_most)) in strip.shown().enumerate() {
        if at > 0 && at % terminal.width.max(1) == 0 {
            text.push('\n');
        }
        push(text, kind, is_most, terminal);
    }
    text.push('\n');
}

/// Adds a cell's character.
fn push(text: &mut String, kind: CellKind, is_most: bool, terminal: Terminal) {
    let (unicode, ascii, colour) = match (kind, is_most) {
        (CellKind::Data, true) => ('█', '#', 34),
        (CellKind::Data, false) => ('▄', '+', 34),
        (CellKind::Compressed, true) => ('▓', 'C', 35),
        (CellKind::Compressed, false) => ('▒', 'c', 35),
        (CellKind::Backing, true) => ('▓', 'B', 33),
        (CellKind::Backing, false) => ('▒', 'b', 33),
        (CellKind::Metadata | CellKind::Unknown, true) => ('▒', 'T', 32),
        (CellKind::Metadata | CellKind::Unknown, false) => ('░', 't', 32),
        (CellKind::Other, true) => ('▒', 'O', 36),
        (CellKind::Other, false) => ('░', 'o', 36),
        (CellKind::Zero, _) => ('0', '0', 90),
        (CellKind::Nothing, _) => ('·', '.', 90),
        (CellKind::Hole, _) => ('·', '.', 90),
    };
    // Without colours, shades of several kinds would look the same.
    let is_clear = terminal.colours || !kind.is_shaded();
    let character = match terminal.unicode && is_clear {
        true => unicode,
        false => ascii,
    };
    if terminal.colours {
        // Writing to a string can't fail.
        let _ = write!(text, "\x1b[{colour}m{character}\x1b[0m");
    } else {
        text.push(character);
    }
}
