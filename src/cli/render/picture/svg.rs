//! A picture as SVG, which every browser shows, with a title for each cell.

use std::fmt::Write as _;

use super::model::{CellKind, Picture, Strip};
use crate::error::printable;
use crate::units::human_size;

/// The number of cells in a row.
const COLUMNS: usize = 128;
/// The width and the height of a cell, in pixels.
const CELL: usize = 8;
/// The margin around everything, in pixels.
const MARGIN: usize = 16;
/// The height of a line of text, in pixels.
const LINE: usize = 20;

/// Renders a picture.
pub fn svg(picture: &Picture) -> String {
    let mut body = String::new();
    let mut y = MARGIN + LINE;
    // Writing to a string can't fail.
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        MARGIN + LINE / 2,
        escaped(&picture.name)
    );
    for (strip, heading) in picture.strips().into_iter().zip(picture.headings()) {
        let _ = writeln!(
            body,
            "<text x=\"{MARGIN}\" y=\"{}\">{}</text>",
            y + LINE / 2,
            escaped(&heading)
        );
        y += LINE;
        y = cells(&mut body, strip, y);
        y = legend(&mut body, strip, y + LINE / 2);
        y += LINE;
    }
    let width = 2 * MARGIN + COLUMNS * CELL;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y}\" \
         viewBox=\"0 0 {width} {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{y}\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Draws the cells of a strip from `top` on, with adjacent cells of one kind joined. Returns the position below.
fn cells(body: &mut String, strip: &Strip, top: usize) -> usize {
    let shown: Vec<_> = strip.shown().collect();
    let rows = shown.chunks(COLUMNS);
    let count = rows.len();
    for (row, cells) in rows.enumerate() {
        let mut start = 0;
        for same in cells.chunk_by(|one, other| one == other) {
            let Some((kind, is_most)) = same.first().copied() else {
                continue;
            };
            let first = row * COLUMNS + start;
            let range = strip.part(first).start..strip.part(first + same.len() - 1).end;
            let _ = writeln!(
                body,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" \
                 fill-opacity=\"{}\"><title>{}, bytes {} to {}</title></rect>",
                MARGIN + start * CELL,
                top + row * CELL,
                same.len() * CELL,
                CELL - 1,
                colour(kind),
                if is_most { "1" } else { "0.5" },
                kind.name(),
                range.start,
                range.end
            );
            start += same.len();
        }
    }
    top + count * CELL
}

/// Draws the legend of a strip at `top`. Returns the position below.
fn legend(body: &mut String, strip: &Strip, top: usize) -> usize {
    let mut x = MARGIN;
    for (kind, bytes) in Picture::legend(strip) {
        let text = format!("{} {}", kind.name(), human_size(bytes));
        let _ = writeln!(
            body,
            "<rect x=\"{x}\" y=\"{top}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{text}</text>",
            colour(kind),
            x + 2 * CELL,
            top + CELL
        );
        x += 3 * CELL + text.len() * 7;
    }
    top + LINE
}

fn colour(kind: CellKind) -> &'static str {
    match kind {
        CellKind::Data => "#2b6cb0",
        CellKind::Compressed => "#805ad5",
        CellKind::Backing => "#d69e2e",
        CellKind::Zero => "#cbd5e0",
        CellKind::Nothing | CellKind::Hole => "#edf2f7",
        CellKind::Metadata | CellKind::Unknown => "#38a169",
        CellKind::Other => "#7b341e",
    }
}

/// Returns a text with the special characters of XML escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
