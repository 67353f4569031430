//! The report of `map` as a picture: the disk and the image's file as rows of cells.
//!
//! A cell represents a part of the disk or of the file. It shows the most frequent kind of the stored bytes, or, if
//! none are stored, of all bytes. So a single sector in an unallocated gigabyte is visible.
//!
//! - [`model`]: the cells;
//! - [`mod@terminal`]: as characters, optionally with colours;
//! - [`mod@svg`]: as a drawing for browsers.

mod model;
mod svg;
mod terminal;

pub use model::Picture;
pub use svg::svg;
pub use terminal::{Terminal, terminal};

#[cfg(test)]
mod tests;
