//! Slow storage: each request of a program waits, by a library that is loaded before it starts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::race::Contender;

/// Compiles the library in `folder`.
///
/// # Errors
/// Returns the output of the C compiler if it fails, or the system's error if there is none.
pub fn compile(folder: &Path) -> Result<PathBuf> {
    let library = folder.join("delay.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/common/delay.c");
    let output = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .output()
        .context("starting cc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cc: {}", said.trim());
    Ok(library)
}

/// The delay of requests.
#[derive(Debug, Clone, Copy)]
pub struct Delayed<'a> {
    pub library: &'a Path,
    pub microseconds: u32,
    /// True if the search for holes and reserving space are delayed too.
    pub seeks: bool,
}

impl Delayed<'_> {
    /// Returns a contender that `env` starts, so that only the program itself is delayed.
    pub fn contender(&self, contender: Contender) -> Contender {
        let mut preload = OsString::from("LD_PRELOAD=");
        preload.push(self.library);
        let mut command = vec![preload, format!("DELAY_US={}", self.microseconds).into()];
        if self.seeks {
            command.push("DELAY_SEEKS=1".into());
        }
        command.push(contender.program);
        command.extend(contender.args);
        Contender {
            program: "env".into(),
            args: command,
            ..contender
        }
    }
}
