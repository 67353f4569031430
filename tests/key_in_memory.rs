//! The test that no key is on the stack, and none anywhere in memory at the end of the program.
//!
//! It is a separate program, which runs the code of `cowhide` and then searches all of its own memory. It never has
//! the key itself, but only its complement.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;

use cowhide::crypto::{BACKEND_VARIABLE, Backend, Secret};
use cowhide::formats::encryption::{EncryptedHeader as _, LegacyAes};

/// The complement of the key.
const TURNED: [u8; 16] = [
    0x8e, 0x9e, 0x91, 0xc2, 0x97, 0x84, 0xd0, 0x96, 0xbb, 0x90, 0xcd, 0xc6, 0x8a, 0x9c, 0xa9, 0xb6,
];

/// Returns the mappings of memory that contain the key, by name.
fn places(memory: &File) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut places = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // This buffer is memory too, so it is complemented before the next search.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        let found = bytes.windows(16).filter(|window| *window == TURNED).count();
        let name = rest.split_whitespace().nth(4).unwrap_or("anonymous");
        places.extend(vec![name.to_owned(); found]);
    }
    places
}

/// Writes the key to a file byte by byte.
fn write_key(path: &Path) {
    let mut file = File::create(path).unwrap();
    for byte in TURNED {
        file.write_all(&[!byte]).unwrap();
    }
}

fn cowhide(args: &str) {
    let args = args.split(' ').map(Into::into);
    let status = cowhide::cli::main(args);
    assert_eq!(format!("{status:?}"), format!("{:?}", ExitCode::SUCCESS));
}

fn main() {
    // This is done before there is a secret, since not even this process may open it afterwards.
    let memory = File::open("/proc/self/mem").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    write_key(Path::new("pw"));
    fs::write("disk.raw", vec![1; 3 << 20]).unwrap();
    assert!(places(&memory).is_empty(), "{:?}", places(&memory));

    // While the key exists it must be found, so that the later searches are meaningful.
    let secret = Secret::new(fs::read("pw").unwrap());
    let cipher = LegacyAes.unlock(&secret).unwrap();
    let found = places(&memory);
    assert!(!found.is_empty());
    assert!(!found.iter().any(|name| name == "[stack]"), "{found:?}");
    drop((secret, cipher));
    assert!(places(&memory).is_empty(), "{:?}", places(&memory));

    let object = "--object secret,id=s,file=pw";
    for call in [
        "cowhide convert --encrypt aes --password-file pw -O qcow2 disk.raw enc",
        "cowhide convert --password-file pw -O raw enc dec",
        "cowhide compare --no-sandbox --password-file pw enc disk.raw -q",
        "cowhide map --output=json --no-sandbox --password-file pw enc",
        &format!(
            "cowhide convert {object} -o encrypt.format=aes,encrypt.key-secret=s -O qcow2 disk.raw enc"
        ),
    ] {
        cowhide(call);
        let found = places(&memory);
        assert!(found.is_empty(), "{call}: {found:?}");
    }
    assert_eq!(fs::read("dec").unwrap(), fs::read("disk.raw").unwrap());

    // The environment selects the backend, so each needs its own process.
    if std::env::var_os(BACKEND_VARIABLE).is_none() {
        for backend in Backend::available() {
            let program = std::env::current_exe().unwrap();
            let mut program = std::process::Command::new(program);
            let status = program.env(BACKEND_VARIABLE, backend.name()).status();
            assert!(status.unwrap().success(), "{backend}");
        }
    }
}
