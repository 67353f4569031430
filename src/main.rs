//! The `cowhide` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cowhide::cli::main(std::env::args_os())
}
