//! Links the unwinder of GCC's runtime library into the program.
//!
//! A Rust program for GNU/Linux loads it as a shared library, libgcc_s. Finding, mapping and relocating that takes a
//! fifth of the time of `cowhide info`, for code that only a panic needs. The linker has no option for this library
//! alone, so it finds a linker script by that name first, which names the static one.
//!
//! Without the static library, and for other targets, the program is linked as usual.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

/// The static unwinder.
const UNWINDER: &str = "libgcc_eh.a";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let is_gnu =
        variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").contains("crt-static");
    // The library of another target would have to be asked for of another compiler.
    if is_gnu && !is_static && variable("HOST") == variable("TARGET") && has_unwinder() {
        let folder = variable("OUT_DIR");
        fs::write(Path::new(&folder).join("libgcc_s.so"), "INPUT(-lgcc_eh)\n")?;
        println!("cargo::rustc-link-arg-bins=-L{folder}");
    }
    Ok(())
}

/// Returns true if the C compiler, by which Rust links, has the static unwinder.
fn has_unwinder() -> bool {
    let asked = Command::new("cc")
        .arg(format!("-print-file-name={UNWINDER}"))
        .output();
    // It prints the name alone if there is none.
    asked.is_ok_and(|asked| asked.stdout.starts_with(b"/"))
}
