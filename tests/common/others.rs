//! Programs of others that tests need, and what becomes of a test without them.

use std::io::{self, Write as _};
use std::process::Command;

/// Returns true if a test fails without the programs that it needs. For a user without them it is left out by name.
pub fn are_required() -> bool {
    ["CI", "COWHIDE_REQUIRE_ORACLE"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

/// Returns true if `program` can be run, or if a test fails without it. Otherwise says that `what` is left out.
pub fn can_run(program: &str, what: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there && !are_required() {
        // The test harness keeps the output of macros back.
        let _ = writeln!(io::stderr(), "left out, since {program} is missing: {what}");
        return false;
    }
    true
}
