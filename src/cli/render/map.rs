//! The report of `map`, as text and as JSON, written extent by extent.
//!
//! The JSON is formatted by hand, one extent on each line, as `qemu-img` prints it.

use std::io::{self, Write};
use std::path::Path;

use crate::commands::map::MapRun;

/// Writes the table's heading.
///
/// # Errors
/// Returns the error of `out`.
pub fn human_heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<16}{:<16}{:<16}File",
        "Offset", "Length", "Mapped to"
    )
}

/// Writes an extent's line of the table. Only extents with data have one.
///
/// # Errors
/// Returns the error of `out`.
pub fn human(out: &mut impl Write, run: &MapRun, file: Option<&Path>) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;

    let host = run.status.offset.map_or(0, |host| host.0);
    for number in [run.start.0, run.status.length, host] {
        // The format is C's `%#-16lx`, in which zero has no prefix.
        match number {
            0 => write!(out, "{:<16}", 0)?,
            _ => write!(out, "{number:<#16x}")?,
        }
    }
    let file = file.map_or(&b""[..], |file| file.as_os_str().as_bytes());
    out.write_all(file)?;
    out.write_all(b"\n")
}

/// Writes an extent, without the separator before it (`[`, or `,` and a newline).
///
/// # Errors
/// Returns the error of `out`.
pub fn json(out: &mut impl Write, run: &MapRun) -> io::Result<()> {
    let status = &run.status;
    write!(
        out,
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
         \"data\": {}, \"compressed\": {}",
        run.start.0,
        status.length,
        status.depth,
        status.present,
        status.zero,
        status.data,
        status.compressed
    )?;
    if let Some(host) = status.offset {
        write!(out, ", \"offset\": {}", host.0)?;
    }
    out.write_all(b"}")
}
