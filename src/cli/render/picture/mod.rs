//! The report of `map` as a picture: the disk, and the file that it is in, as rows of cells.
//!
//! A cell stands for a part of the disk, or of the file. It shows what most of that part's stored bytes are, or, where
//! none are stored, what else it is. So one sector in a gigabyte of nothing is still seen.
//!
//! - [`model`]: the cells;
//! - [`mod@terminal`]: as characters, with colours where they are wanted;
//! - [`mod@svg`]: as a drawing for browsers.

mod model;
mod svg;
mod terminal;

pub use model::Picture;
pub use svg::svg;
pub use terminal::{Terminal, terminal};

#[cfg(test)]
mod tests;
