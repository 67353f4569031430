//! The real program as users and scripts call it, without another one to hold it against.
//!
//! One test program for all of them: each is linked with the whole of the library, which takes longer than its tests.

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod descriptors;
mod ended;
mod help;
mod names_inside;
mod readable_secrets;
mod sandbox;
mod speed;
mod standard_output;
