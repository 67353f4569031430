//! The real program as users and scripts call it, without another one to hold it against.
//!
//! One test program for all of them: each is linked with the whole of the library, which takes longer than its tests.

#[path = "../common/mod.rs"]
mod common;

mod at_a_terminal;
mod commands;
mod completions;
mod descriptors;
mod documents;
mod ended;
mod for_programs;
mod help;
mod manual;
mod mistakes;
mod names_inside;
mod pictures;
mod readable_secrets;
mod sandbox;
mod speed;
mod standard_output;
