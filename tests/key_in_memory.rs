//! Where keys stand in memory: nowhere on the stack, and nowhere at all when the program is done.
//!
//! A program of its own, which runs `cowhide` within itself and then looks at all of its memory. It never has
//! the key in one piece itself: what it knows is the key with its bits turned.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;

use cowhide::crypto::{BACKEND_VARIABLE, Backend, Secret};
use cowhide::formats::encryption::{EncryptedHeader as _, LegacyAes};

/// The key with all bits turned.
const TURNED: [u8; 16] = [
    0x8e, 0x9e, 0x91, 0xc2, 0x97, 0x84, 0xd0, 0x96, 0xbb, 0x90, 0xcd, 0xc6, 0x8a, 0x9c, 0xa9, 0xb6,
];

/// Where the key stands, by the name of the mapping.
fn places(memory: &File) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut places = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // This buffer is memory too, and is filled with the bits turned before anything looks at it again.
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

/// Writes the key to a file, never two bytes of it at a time.
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
    // Before there is a secret: then not even we may open it.
    let memory = File::open("/proc/self/mem").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    write_key(Path::new("pw"));
    fs::write("disk.raw", vec![1; 3 << 20]).unwrap();
    assert!(places(&memory).is_empty(), "{:?}", places(&memory));

    // As long as there is a key it is found, so that what follows tells something.
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

    // The backend is of the environment, so each has a program of its own.
    if std::env::var_os(BACKEND_VARIABLE).is_none() {
        for backend in Backend::available() {
            let program = std::env::current_exe().unwrap();
            let mut program = std::process::Command::new(program);
            let status = program.env(BACKEND_VARIABLE, backend.name()).status();
            assert!(status.unwrap().success(), "{backend}");
        }
    }
}
