//! Fuzzes command lines: they must be parsed or refused, and a parsed one must parse to the same again.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    bytes
        .split(|byte| *byte == b'\n')
        .for_each(fuzzing::command_line);
});
