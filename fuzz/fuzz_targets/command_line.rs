//! Any words as arguments are read or refused, and what they are read as is read as the same again.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bytes
        .split(|byte| *byte == b'\n')
        .for_each(fuzzing::command_line);
});
