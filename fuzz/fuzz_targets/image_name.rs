//! Any text as the name of an image (`json:{…}`, option strings) is read or refused; the name that `info`
//! would show for it names the same image.
#![no_main]

use cowhide::cli::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| text.split('\n').for_each(fuzzing::image_name));
