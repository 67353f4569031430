//! Prints a range of a disk's bytes, whatever the format of its image.
//!
//! `cargo run --example dump_range -- disk.qcow2 0 512`

use std::error::Error;
use std::io::{Write as _, stdout};

use cowhide::OpenOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, offset, length] = arguments.as_slice() else {
        return Err("three arguments are expected: IMAGE OFFSET LENGTH".into());
    };
    let image = OpenOptions::new().open(path)?;
    let offset: u64 = offset.parse()?;
    let mut bytes = vec![0; length.parse()?];
    image.read_at(offset, &mut bytes)?;
    let mut out = stdout().lock();
    for (line, bytes) in (0u64..).zip(bytes.chunks(16)) {
        write!(out, "{:010x} ", offset + line * 16)?;
        for byte in bytes {
            write!(out, " {byte:02x}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
