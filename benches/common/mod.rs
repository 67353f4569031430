//! The common part of the benchmarks: running a program and measuring its cost, running several alternately,
//! and describing the machine.
//!
//! They measure whole processes, as a user runs them: start, conversion and end. Criterion can't do that,
//! since only the parent can get a process's CPU time and memory.

#![allow(dead_code, reason = "each program uses some of it")]

pub mod delay;
pub mod disks;
pub mod machine;
pub mod measure;
pub mod numbers;
pub mod race;
pub mod tools;

/// Returns true if this is a real run. `cargo bench` passes `--bench`. `cargo test --all-targets` runs these
/// programs without it, and must not wait for minutes.
pub fn is_bench_run() -> bool {
    std::env::args_os().any(|argument| argument == "--bench")
}
