//! Encrypts a raw disk with LUKS into a qcow2 image, and shows its progress.
//!
//! `cargo run --release --example encrypt_disk -- disk.img disk.qcow2 < password`

use std::error::Error;
use std::io::{Read as _, Write as _, stderr, stdin};

use cowhide::{ConvertOptions, OpenOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, image] = arguments.as_slice() else {
        return Err("two arguments are expected: DISK IMAGE".into());
    };
    let mut password = Vec::new();
    stdin().read_to_end(&mut password)?;
    if password.last() == Some(&b'\n') {
        password.pop();
    }
    let summary = ConvertOptions::new("qcow2")
        .source(OpenOptions::new().format("raw"))
        .option("encrypt.format", "luks")
        .password(password)
        .on_progress(|done, total| {
            let percent = done * 100 / total.max(1);
            // A failure to print progress is ignored.
            drop(write!(stderr(), "\r{percent:3} %"));
        })
        .verified()
        .convert(disk, image)?;
    eprintln!("\r{} of {} bytes are stored", summary.stored, summary.size);
    Ok(())
}
