//! What the measuring programs share: running one program and seeing what it cost, running several
//! in turns, and saying on which machine that was.
//!
//! These programs measure whole processes, as a user has them: starting up, converting, ending.
//! Criterion can't do that, since a process's CPU seconds and memory are its parent's to ask for.

#![allow(dead_code, reason = "each program uses some of it")]

pub mod disks;
pub mod machine;
pub mod measure;
pub mod numbers;
pub mod race;
pub mod tools;

/// Whether this is a real run. `cargo bench` passes `--bench`; `cargo test --all-targets` starts
/// these programs too, without it, and must not wait for minutes.
pub fn is_bench_run() -> bool {
    std::env::args_os().any(|argument| argument == "--bench")
}
