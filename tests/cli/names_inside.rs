//! Tests of malicious names inside images: of backing files and their formats, data files, snapshots, bitmaps and
//! features. No command may print a control character, or more lines than for a harmless name, and JSON must stay
//! valid.

use std::fs;
use std::path::Path;

use crate::common::{COWHIDE, Ran, run};

/// Names of four bytes each. One is harmless, some move the cursor, begin a line or change the direction of text, and
/// some aren't UTF-8 or end a string.
const NAMES: [&[u8; 4]; 8] = [
    b"abcd",
    b"\x1b[2J",
    b"a\nb\r",
    b"\xc2\x9b1m",
    b"\xe2\x80\xaex",
    b"\xff\xfe\x80\xc0",
    b"\"\\\x7f'",
    b"a\0\x1bc",
];

fn seed(name: &str) -> Vec<u8> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image");
    fs::read(seeds.join(name)).unwrap()
}

fn with(mut bytes: Vec<u8>, patches: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, patch) in patches {
        bytes[*at..*at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

/// Returns images with a name in different places.
fn images(name: &[u8; 4]) -> Vec<(&'static str, Vec<u8>)> {
    // This is a feature name table with one entry: the unknown incompatible feature 10.
    let feature = [b"\x68\x03\xf8\x57\0\0\0\x30\0\x0a", &name[..]].concat();
    let unknown: &[u8] = b"\0\0\0\0\0\0\x04\0";
    vec![
        ("backing file", with(seed("backing"), &[(0x88, name)])),
        (
            "backing format",
            with(seed("backing"), &[(0x77, b"\x04"), (0x78, name)]),
        ),
        ("data file", with(seed("data-file"), &[(0x78, name)])),
        ("snapshot", with(seed("all"), &[(0x1041, name)])),
        (
            "snapshot's id",
            with(
                seed("all"),
                &[(0x100d, b"\x04"), (0x100f, b"\x03"), (0x1040, name)],
            ),
        ),
        ("bitmap", with(seed("all"), &[(0x1418, name)])),
        (
            "broken bitmap",
            with(seed("all"), &[(0x1418, name), (0x1200, b"\xff")]),
        ),
        (
            "inconsistent bitmap",
            with(seed("all"), &[(0x1418, name), (0x140f, b"\x01")]),
        ),
        (
            "extent",
            [
                b"version=1\nCID=1\nparentCID=ffffffff\ncreateType=vmfs\nRW 1 VMFS \"",
                &name[..],
                b"\"\n",
            ]
            .concat(),
        ),
        (
            "kind",
            [
                b"version=1\nCID=1\nparentCID=ffffffff\ncreateType=",
                &name[..],
                b"\nRW 1 ZERO\n",
            ]
            .concat(),
        ),
        (
            "parent",
            [
                b"version=1\nCID=1\nparentCID=2\nparentFileNameHint=\"",
                // These bytes would end the line or the string.
                &name.map(|byte| {
                    if b"\"\n\0".contains(&byte) {
                        b'x'
                    } else {
                        byte
                    }
                })[..],
                b"\"\ncreateType=vmfs\nRW 1 ZERO\n",
            ]
            .concat(),
        ),
        (
            "feature",
            with(seed("lazy"), &[(0x48, unknown), (0x70, &feature)]),
        ),
    ]
}

const COMMANDS: [&str; 19] = [
    "info x",
    "info --output=json x",
    "info --backing-chain x",
    "info --backing-chain --output=json x",
    "check x",
    "check --output=json x",
    "check -r all x",
    "map x",
    "map --output=json x",
    "measure -O qcow2 x",
    "measure -O qcow2 --output=json x",
    "compare -F raw x disk.raw",
    "checksum x",
    "convert x y",
    "convert --bitmaps -O qcow2 x y",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 x y",
    "convert -l none x y",
    "convert -n -O qcow2 disk.raw x",
    "create -f qcow2 -F qcow2 -b x y",
];

fn ran(folder: &Path, image: &[u8], command: &str) -> Ran {
    fs::write(folder.join("x"), image).unwrap();
    let _ = fs::remove_file(folder.join("y"));
    run(folder, COWHIDE, command.split(' ').chain(["--no-sandbox"]))
}

#[test]
fn names_inside_images_are_shown_without_their_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![7; 32 << 10]).unwrap();
    let look = |name| {
        let images = images(name);
        let looks = images.iter().flat_map(|(place, image)| {
            COMMANDS.map(|command| (*place, command, ran(folder, image, command)))
        });
        looks.collect::<Vec<_>>()
    };
    let harmless = look(NAMES[0]);
    let mut shown = 0;
    for name in NAMES {
        for ((place, command, ran), (_, _, plain)) in look(name).iter().zip(&harmless) {
            let when = format!("{place} {name:?}, {command}: {ran:?}");
            assert_eq!(ran.status, plain.status, "{when}, not {plain:?}");
            for (text, plain) in [(&ran.stdout, &plain.stdout), (&ran.stderr, &plain.stderr)] {
                let moves = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
                assert!(!text.contains(moves), "{when}");
                assert_eq!(text.lines().count(), plain.lines().count(), "{when}");
                shown += usize::from(plain.contains("abcd") && text != plain);
            }
            if command.contains("json") && !ran.stdout.is_empty() {
                let parsed = serde_json::from_str::<serde_json::Value>(&ran.stdout);
                assert!(parsed.is_ok() && ran.stdout.is_ascii(), "{when}");
            }
        }
    }
    // Most commands print most names.
    assert!(shown > 200, "{shown} shown");
}
