//! Fuzzes names of images (`json:{…}`, option strings): they must be parsed or refused, and the name that `info`
//! shows must name the same image.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| text.split('\n').for_each(fuzzing::image_name));
