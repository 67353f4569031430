//! Fuzzes `info`: its report on any file must be safe to print, and it must write nothing.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use cowhide::cli::fuzzing;
use cowhide::formats::Format;
use libfuzzer_sys::fuzz_target;

/// Returns a file in memory, which `info` opens like any other.
fn scratch() -> &'static (File, PathBuf) {
    static FILE: OnceLock<(File, PathBuf)> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("cowhide-fuzz-info-{}", std::process::id()));
        let options = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = options.expect("a place for scratch files");
        // The name is removed at once, so that no file is left.
        std::fs::remove_file(&path).expect("it was just made");
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        (file, format!("/proc/self/fd/{number}").into())
    })
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = cowhide_fuzz::image(bytes);
    let (file, path) = scratch();
    file.set_len(0).expect("a scratch file");
    file.write_all_at(&bytes, 0).expect("a scratch file");
    fuzzing::info(path, None);
    fuzzing::info(path, Format::from_name("qcow2"));
    let mut after = vec![0; bytes.len()];
    file.read_exact_at(&mut after, 0)
        .expect("as long as before");
    assert!(after == bytes && file.metadata().expect("a file").len() == bytes.len() as u64);
});
