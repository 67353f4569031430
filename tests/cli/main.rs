//! Tests of the real program as users and scripts call it, without a comparison with another one.
//!
//! All are one test program, since linking one with the whole library takes longer than running its tests.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/schemas.rs"]
mod schemas;

mod at_a_terminal;
mod commands;
mod completions;
mod descriptors;
mod documents;
mod ended;
mod for_programs;
mod help;
mod json_schemas;
mod manual;
mod mistakes;
mod names_inside;
mod pictures;
mod readable_secrets;
mod sandbox;
mod speed;
mod standard_output;
