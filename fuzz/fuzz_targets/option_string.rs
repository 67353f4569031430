//! Fuzzes options of new images, secrets and sizes: any text must be parsed or refused.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| text.split('\n').for_each(fuzzing::option_string));
