//! Any text as the options of a new image, as a secret or as a size is read or refused.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| text.split('\n').for_each(fuzzing::option_string));
