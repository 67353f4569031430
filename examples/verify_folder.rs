//! Checks every image in a folder, and fails if one is damaged.
//!
//! `cargo run --release --example verify_folder -- /var/lib/images`

use std::error::Error;
use std::fs;

use cowhide::OpenOptions;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("a folder is expected")?;
    let mut damaged = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let shown = path.display();
        // Each file is checked alone, without the files that it names.
        match OpenOptions::new().untrusted().check(&path) {
            Ok(None) => println!("{shown}: nothing to check"),
            Ok(Some(summary)) if summary.is_clean() => println!("{shown}: clean"),
            Ok(Some(summary)) => {
                damaged += 1;
                println!(
                    "{shown}: {} errors, {} leaks",
                    summary.corruptions, summary.leaks
                );
            }
            Err(error) => {
                damaged += 1;
                println!("{shown}: {error}");
            }
        }
    }
    if damaged > 0 {
        return Err(format!("{damaged} images aren't clean").into());
    }
    Ok(())
}
