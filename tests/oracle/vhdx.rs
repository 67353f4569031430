//! Tests of the features of VHDX: its tables, the fields of its headers and metadata, and the states of its blocks.
//! vhdx_logs.rs tests its log.
//!
//! Comments name the cases in which QEMU accepts a damaged image, and cowhide doesn't.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same_answer, without_help};
use crate::trial;

pub const MIB: usize = 1 << 20;
/// The offsets of the headers, the region tables, the log, the BAT and the metadata of small images, in bytes.
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
pub const LOG: usize = MIB;
pub const TABLE: usize = 2 * MIB;
const METADATA: usize = 3 * MIB;
const ITEMS: usize = METADATA + (64 << 10);
/// The offset of the first block in bytes.
pub const DATA: usize = 8 * MIB;
/// The offsets of fields in a header, in bytes.
pub const LOG_ID: usize = 48;
const LOG_VERSION: usize = 64;
const VERSION: usize = 66;
const LOG_LENGTH: usize = 68;
const LOG_OFFSET: usize = 72;
/// The unit of the log in bytes.
pub const SECTOR: usize = 4096;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("vhdx::new_images_have_the_same_tables", new_images),
        trial("vhdx::wrong_options", wrong_options),
        trial("vhdx::blocks_go_where_the_real_tool_puts_them", blocks),
        trial("vhdx::fixed_images", fixed),
        trial("vhdx::headers", headers),
        trial("vhdx::regions", regions),
        trial("vhdx::metadata", metadata),
        trial("vhdx::states_of_blocks", states),
        trial("vhdx::damaged_tables", damaged_tables),
        trial("vhdx::cut_files", cut_files),
        trial("vhdx::bitmaps_between_the_blocks", bitmaps),
        trial("vhdx::the_map_tells_where_blocks_are", maps),
    ]
}

pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Stores the right checksum in a structure.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    put(bytes, 4, &sum.to_le_bytes());
}

/// Makes a folder with the image `x.vhdx`, of 4 blocks of 1 MiB, whose blocks 1 and 3 have data. Returns the image's
/// bytes, too.
pub fn folder_with_image() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "create",
        "-q",
        "-f",
        "vhdx",
        "-o",
        "block_size=1M",
        "x.vhdx",
        "4M",
    ];
    qemu_img(folder.path(), &args).ok();
    let writes = ["write -q -P 7 1M 1M", "write -q -P 9 3M 64k"];
    qemu_io(folder.path(), "vhdx", "x.vhdx", &writes);
    let bytes = fs::read(folder.path().join("x.vhdx")).unwrap();
    assert_eq!(bytes.len(), DATA + 2 * MIB);
    (folder, bytes)
}

/// Converts an image to a raw disk. The tool must end with that status.
pub fn to_raw(folder: &Path, tool: Tool, image: &str, status: i32) -> Option<Vec<u8>> {
    let back = folder.join("back.raw");
    let _ = fs::remove_file(&back);
    let args = ["convert", "-f", "vhdx", "-O", "raw", image, "back.raw"];
    let ran = tool(folder, &args);
    assert_eq!(ran.status, Some(status), "{ran:?}");
    fs::read(back).ok().filter(|_| status == 0)
}

/// The arguments that overwrite `x.vhdx` with `disk.raw`.
pub const OVER: [&str; 8] = [
    "convert", "-n", "-f", "raw", "-O", "vhdx", "disk.raw", "x.vhdx",
];

/// Asserts that both tools have the same status for `info` of an image, and the same report if it succeeds.
fn same_report(folder: &Path, image: &[u8], why: &str) {
    fs::write(folder.join("x.vhdx"), image).unwrap();
    let args = ["info", "-f", "vhdx", "x.vhdx"];
    let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
    assert_eq!(ours.status, theirs.status, "{why}: {ours:?} {theirs:?}");
    assert_eq!(ours.stdout, theirs.stdout, "{why}");
    if theirs.status != Some(0) {
        assert_eq!(ours.stderr.lines().count(), 1, "{why}: {ours:?}");
        // qemu-img names overlapping structures in a separate line.
        let words = theirs.stderr.replace("qemu-img", "cowhide");
        let has_more = words.lines().count() > 1;
        assert!(
            has_more || ours.stderr == words,
            "{why}: {ours:?} {theirs:?}"
        );
    }
}

fn new_images() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (size, options) in [
        ("1", ""),
        ("10M", ""),
        ("1G", ""),
        ("1073742336", ""),
        ("100G", ""),
        ("107374182912", ""),
        ("32T", ""),
        ("35184372089344", ""),
        ("64T", ""),
        ("10M", "block_size=1M"),
        ("10M", "block_size=1.5M"),
        ("10M", "block_size=1"),
        ("10M", "block_size=257M"),
        ("10M", "block_size=4G"),
        ("10M", "block_state_zero=off"),
        ("5G", "block_size=1M"),
        ("5G", "block_size=1M,block_state_zero=off"),
        ("10M", "log_size=1"),
        ("10M", "log_size=5M"),
        ("10M", "log_size=5.5M,block_size=2M"),
        ("3M", "subformat=fixed,block_state_zero=off,block_size=1M"),
        ("5G", "subformat=fixed,block_state_zero=off,block_size=1M"),
        ("10M", "subformat=fixed,block_state_zero=off"),
    ] {
        let images = [ours as Tool, qemu_img].map(|tool| {
            let given = match options {
                "" => "block_size=0",
                options => options,
            };
            let args = ["create", "-q", "-f", "vhdx", "-o", given, "x.vhdx", size];
            tool(folder, &args).ok();
            let length = fs::metadata(folder.join("x.vhdx")).unwrap().len();
            let file = fs::File::open(folder.join("x.vhdx")).unwrap();
            let mut start = vec![0; 12 * MIB.min(usize::try_from(length).unwrap())];
            let read = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0).unwrap();
            start.truncate(read);
            let info = qemu_img(folder, &["info", "x.vhdx"]).ok();
            let info = info.lines().filter(|line| !line.starts_with("disk size"));
            let info: Vec<String> = info
                .filter(|line| !line.contains("disk size"))
                .map(str::to_owned)
                .collect();
            let places = |table: &[u8]| {
                let field = |at: usize| u64::from_le_bytes(table[at..at + 8].try_into().unwrap());
                [16 + 16, 16 + 24, 48 + 16, 48 + 24].map(|at| field(at) & 0xffff_ffff)
            };
            let regions = REGIONS.map(|at| places(&start[at..]));
            let mut rest = start.split_off(LOG);
            let [_, _, metadata, _] = regions[0];
            let id = usize::try_from(metadata).unwrap() + (64 << 10) + 16 - LOG;
            if let Some(id) = rest.get_mut(id..id + 16) {
                assert!(id.iter().any(|byte| *byte != 0));
                id.fill(0);
            }
            (length, info, regions, rest)
        });
        let [ours, theirs] = images;
        assert_eq!(
            (ours.0, ours.1, ours.2),
            (theirs.0, theirs.1, theirs.2),
            "{size} {options}"
        );
        assert!(ours.3 == theirs.3, "{size} {options}");
    }
    // Identifiers are random, and both headers have the same file identifier.
    let identifiers = || {
        ours(folder, &["create", "-q", "-f", "vhdx", "x.vhdx", "1M"]).ok();
        let image = fs::read(folder.join("x.vhdx")).unwrap();
        let [one, other] = HEADERS.map(|at| image[at + 16..at + LOG_ID].to_vec());
        assert_eq!(one, other);
        [&one[..16], &one[16..], &image[ITEMS + 16..ITEMS + 32]].map(<[u8]>::to_vec)
    };
    let mut all = [identifiers(), identifiers()].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
}

fn wrong_options() {
    for line in [
        "create -f vhdx -o block_size=3M x 10M",
        "create -f vhdx -o log_size=0 x 10M",
        "create -f vhdx -o log_size=4G x 10M",
        "create -f vhdx -o log_size=5G x 10M",
        "create -f vhdx -o log_size=0,block_size=3M x 10M",
        "create -f vhdx -o log_size=0,block_size=3M x 65T",
        "create -f vhdx -o subformat=bogus,log_size=0 x 65T",
        "create -f vhdx -o subformat=differencing x 1M",
        "create -f vhdx -o subformat= x 1M",
        "create -f vhdx x 70368744178176",
        "create -f vhdx x 7E",
        "create -f vhdx -b disk.raw -F raw x",
        "convert -c -O vhdx disk.raw x",
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("disk.raw"), [0; 512]).unwrap();
        let args: Vec<&str> = line.split(' ').collect();
        let theirs = qemu_img(folder.path(), &args);
        let _ = fs::remove_file(folder.path().join("x"));
        let ours = ours(folder.path(), &args);
        assert_eq!((ours.status, theirs.status), (Some(1), Some(1)), "{line}");
        assert_eq!(ours.stdout, theirs.stdout, "{line}");
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        assert_eq!(without_help(&ours.stderr, &complaint), complaint);
        assert!(!folder.path().join("x").exists());
    }
}

/// Returns the entries of the BAT.
fn entries(image: &[u8], count: usize) -> Vec<u64> {
    let table = image[TABLE..TABLE + 8 * count].chunks_exact(8);
    table
        .map(|entry| u64::from_le_bytes(entry.try_into().unwrap()))
        .collect()
}

fn blocks() {
    let (folder, theirs) = folder_with_image();
    let folder = folder.path();
    let disk = to_raw(folder, qemu_img, "x.vhdx", 0).unwrap();
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    let create = [
        "create",
        "-q",
        "-f",
        "vhdx",
        "-o",
        "block_size=1M",
        "x.vhdx",
        "4M",
    ];
    // Each tool converts a disk, and overwrites an empty image.
    ours(folder, &create).ok();
    ours(folder, &OVER).ok();
    fs::copy(folder.join("x.vhdx"), folder.join("over.vhdx")).unwrap();
    qemu_img(folder, &create).ok();
    ours(folder, &OVER).ok();
    let args = ["convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M"];
    ours(folder, &[&args[..], &["disk.raw", "new.vhdx"]].concat()).ok();
    for name in ["x.vhdx", "over.vhdx", "new.vhdx"] {
        let image = fs::read(folder.join(name)).unwrap();
        assert_eq!(entries(&image, 4), entries(&theirs, 4), "{name}");
        assert_eq!(image.len(), theirs.len(), "{name}");
        assert!(image[DATA..] == theirs[DATA..], "{name}");
        assert!(to_raw(folder, qemu_img, name, 0).unwrap() == disk, "{name}");
        same_answer(folder, &["check", name]);
    }
    // Every writer changes the identifiers of the file and of the contents.
    let of = |image: &[u8]| HEADERS.map(|at| image[at + 8..at + LOG_ID].to_vec());
    let before = fs::read(folder.join("x.vhdx")).unwrap();
    ours(folder, &OVER).ok();
    let after = of(&fs::read(folder.join("x.vhdx")).unwrap());
    let before = of(&before);
    assert!(before.iter().zip(&after).all(|(before, after)| {
        (0..3).all(|field| before[field * 8] != after[field * 8]) || before != after
    }));
    assert_eq!(after[0][8..], after[1][8..]);
    // A writer that writes nothing doesn't change them.
    fs::write(folder.join("disk.raw"), vec![0; 5 * MIB]).unwrap();
    let before = fs::read(folder.join("x.vhdx")).unwrap();
    assert_eq!(ours(folder, &OVER).status, Some(1));
    assert!(fs::read(folder.join("x.vhdx")).unwrap() == before);
}

/// Checks fixed images. In those of qemu-img all blocks are zero by default, and writes allocate space after the
/// preallocated one.
fn fixed() {
    for (size, options) in [
        (3u64 << 20, "subformat=fixed,block_size=1M"),
        (
            (5 << 20) + 512,
            "subformat=fixed,block_state_zero=off,block_size=2M",
        ),
        (10 << 20, "subformat=fixed"),
        (0, "subformat=fixed"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_disk(&folder.join("disk.raw"), size, 5);
        let args = [
            "convert", "-f", "raw", "-O", "vhdx", "-o", options, "disk.raw",
        ];
        ours(folder, &[&args[..], &["ours.vhdx"]].concat()).ok();
        qemu_img(folder, &[&args[..], &["x.vhdx"]].concat()).ok();
        let length = |name: &str| fs::metadata(folder.join(name)).unwrap().len();
        // The table of an empty disk has the length of a small one.
        let is_long = size == 0 || length("ours.vhdx") == DATA as u64 + size;
        assert!(is_long, "{options}");
        for (tool, name) in [
            (ours as Tool, "ours.vhdx"),
            (ours, "x.vhdx"),
            (qemu_img, "ours.vhdx"),
        ] {
            to_raw(folder, tool, name, 0).unwrap();
            assert!(same_contents(
                &folder.join("disk.raw"),
                &folder.join("back.raw")
            ));
            same_answer(folder, &["check", name]);
            same_answer(folder, &["info", name]);
        }
        write_disk(&folder.join("disk.raw"), size, 6);
        for name in ["ours.vhdx", "x.vhdx"] {
            let before = length(name);
            let into = ["convert", "-n", "-f", "raw", "-O", "vhdx", "disk.raw", name];
            ours(folder, &into).ok();
            to_raw(folder, qemu_img, name, 0).unwrap();
            assert!(same_contents(
                &folder.join("disk.raw"),
                &folder.join("back.raw")
            ));
            assert!(name == "x.vhdx" || length(name) == before, "{options}");
        }
    }
}

/// Changes a field of the given headers.
pub fn with_headers(image: &[u8], which: &[usize], at: usize, field: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    for header in which {
        let start = HEADERS[*header];
        put(&mut image, start + at, field);
        seal(&mut image[start..start + SECTOR]);
    }
    image
}

fn headers() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let both: &[usize] = &[0, 1];
    for (which, at, field) in [
        (&[0][..], VERSION, &2u16.to_le_bytes()[..]),
        (&[1], VERSION, &2u16.to_le_bytes()),
        (both, VERSION, &2u16.to_le_bytes()),
        (both, LOG_VERSION, &1u16.to_le_bytes()),
        (both, LOG_OFFSET, &0u64.to_le_bytes()),
        (both, LOG_OFFSET, &0x10_0200u64.to_le_bytes()),
        (both, LOG_OFFSET, &(2u64 << 20).to_le_bytes()),
        (both, LOG_LENGTH, &(2u32 << 20).to_le_bytes()),
        (both, 8, &7u64.to_le_bytes()),
        (&[0], 8, &u64::MAX.to_le_bytes()),
        (both, 0, b"x"),
        (both, 100, b"reserved"),
    ] {
        let image = with_headers(&bytes, which, at, field);
        same_report(folder, &image, &format!("{which:?} {at} {field:?}"));
    }
    for broken in [&[0][..], &[1], both] {
        let mut image = bytes.clone();
        for header in broken {
            image[HEADERS[*header] + 200] ^= 1;
        }
        same_report(folder, &image, &format!("checksum of {broken:?}"));
    }
    let mut same = bytes.clone();
    same.copy_within(HEADERS[0]..HEADERS[0] + SECTOR, HEADERS[1]);
    same_report(folder, &same, "two of one");
    let mut unmarked = bytes;
    unmarked[3] = b'X';
    same_report(folder, &unmarked, "no mark");
}

/// A change of a region table.
type RegionChange<'a> = &'a dyn Fn(&mut [u8]);

/// Changes both region tables.
fn with_regions(image: &[u8], change: RegionChange<'_>) -> Vec<u8> {
    let mut image = image.to_vec();
    for start in REGIONS {
        let table = &mut image[start..start + (64 << 10)];
        change(table);
        seal(table);
    }
    image
}

fn regions() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let unknown = |required: u8, place: u64| {
        move |table: &mut [u8]| {
            put(table, 8, &3u32.to_le_bytes());
            table[80..96].fill(0x33);
            put(table, 96, &place.to_le_bytes());
            put(table, 104, &(1u32 << 20).to_le_bytes());
            table[108] = required;
        }
    };
    let cases: [(&str, RegionChange<'_>); 10] = [
        ("too many", &|table| put(table, 8, &2048u32.to_le_bytes())),
        ("none", &|table| put(table, 8, &[0; 4])),
        ("one", &|table| put(table, 8, &[1])),
        ("unknown", &unknown(0, 4 << 20)),
        ("unknown and required", &unknown(1, 4 << 20)),
        ("unknown over the table of blocks", &unknown(0, 2 << 20)),
        ("unknown over the log", &unknown(0, 1 << 20)),
        ("the metadata over the table of blocks", &|table| {
            put(table, 64, &(2u64 << 20).to_le_bytes());
        }),
        ("a table too short", &|table| {
            put(table, 40, &16u32.to_le_bytes())
        }),
        ("twice", &|table| {
            put(table, 8, &[3]);
            table.copy_within(16..48, 80);
            put(table, 96, &(4u64 << 20).to_le_bytes());
        }),
    ];
    for (why, change) in cases {
        same_report(folder, &with_regions(&bytes, change), why);
    }
    // qemu-img doesn't detect a region over the headers.
    let over = with_regions(&bytes, &unknown(0, 0));
    fs::write(folder.join("x.vhdx"), &over).unwrap();
    ours(folder, &["info", "x.vhdx"]).fails(1, "overlaps with region 0-1048576");
    // It only reads the first table.
    let mut second = bytes.clone();
    second[REGIONS[1] + 100] ^= 1;
    same_report(folder, &second, "the second table");
    let mut first = bytes;
    first[REGIONS[0] + 100] ^= 1;
    fs::write(folder.join("x.vhdx"), &first).unwrap();
    assert_eq!(qemu_img(folder, &["info", "x.vhdx"]).status, Some(1));
    ours(folder, &["info", "x.vhdx"]).ok();
    first[REGIONS[1] + 100] ^= 1;
    same_report(folder, &first, "both tables");
}

fn metadata() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let mut cases: Vec<(String, usize, Vec<u8>)> = Vec::new();
    for (why, at, field) in [
        ("no mark", METADATA, &b"x"[..]),
        ("four items", METADATA + 10, &[4]),
        ("too many", METADATA + 10, &[0, 8]),
        ("blocks of 512 KiB", ITEMS, &(512u32 << 10).to_le_bytes()),
        ("blocks of 3 MiB", ITEMS, &(3u32 << 20).to_le_bytes()),
        ("blocks of 512 MiB", ITEMS, &(512u32 << 20).to_le_bytes()),
        ("blocks of nothing", ITEMS, &[0; 4]),
        ("a parent without a name", ITEMS + 4, &[2]),
        ("blocks left allocated", ITEMS + 4, &[1]),
        (
            "an odd size",
            ITEMS + 8,
            &((4u64 << 20) + 100).to_le_bytes(),
        ),
        ("a long disk", ITEMS + 8, &(128u64 << 40).to_le_bytes()),
        (
            "a disk longer than the table",
            ITEMS + 8,
            &(1u64 << 40).to_le_bytes(),
        ),
        (
            "logical sectors of 4096",
            ITEMS + 32,
            &4096u32.to_le_bytes(),
        ),
        (
            "physical sectors of 4096",
            ITEMS + 36,
            &4096u32.to_le_bytes(),
        ),
        ("physical sectors of 7", ITEMS + 36, &7u32.to_le_bytes()),
    ] {
        cases.push((why.into(), at, field.to_vec()));
    }
    for item in 0..5 {
        let entry = METADATA + 32 + 32 * item;
        cases.push((format!("item {item} unknown"), entry, vec![1; 16]));
        // It doesn't check the offsets of items.
        let mut inside = bytes.clone();
        put(&mut inside, entry + 16, &100u32.to_le_bytes());
        fs::write(folder.join("x.vhdx"), &inside).unwrap();
        ours(folder, &["info", "x.vhdx"]).fails(1, "Invalid argument");
    }
    for (why, at, field) in cases {
        let mut image = bytes.clone();
        put(&mut image, at, &field);
        same_report(folder, &image, &why);
    }
    // This is a further, unknown item, which may be required.
    for required in [0, 4] {
        let mut image = bytes.clone();
        image[METADATA + 10] = 6;
        let entry = METADATA + 32 + 32 * 5;
        image[entry..entry + 16].fill(5);
        put(&mut image, entry + 16, &(65536u32 + 64).to_le_bytes());
        put(&mut image, entry + 20, &8u32.to_le_bytes());
        put(&mut image, entry + 24, &[required]);
        same_report(folder, &image, &format!("a further item {required}"));
    }
}

fn with_entry(image: &[u8], index: usize, entry: u64) -> Vec<u8> {
    let mut image = image.to_vec();
    put(&mut image, TABLE + 8 * index, &entry.to_le_bytes());
    image
}

fn states() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    let place = DATA as u64;
    for state in 0..8 {
        let mut image = with_entry(&bytes, 0, place | state);
        put(&mut image, TABLE + 8, &0u64.to_le_bytes());
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        let is_readable = state != 4 && state != 7;
        let status = i32::from(!is_readable);
        let [ours, theirs] =
            [ours as Tool, qemu_img].map(|tool| to_raw(folder, tool, "x.vhdx", status));
        assert!(ours == theirs, "state {state}");
        same_report(folder, &image, &format!("state {state}"));
        fs::write(folder.join("disk.raw"), vec![5; MIB]).unwrap();
        let over = crate::tools::ours(folder, &OVER);
        assert_eq!(over.status, Some(status), "state {state}: {over:?}");
        if is_readable {
            let back = to_raw(folder, qemu_img, "x.vhdx", 0).unwrap();
            assert!(back[..MIB].iter().all(|byte| *byte == 5), "state {state}");
            assert!(back[3 * MIB..3 * MIB + 65536].iter().all(|byte| *byte == 9));
        }
    }
    // Reserved bits are ignored.
    let image = with_entry(&bytes, 1, place | 0xfff6);
    fs::write(folder.join("x.vhdx"), &image).unwrap();
    let read = to_raw(folder, ours, "x.vhdx", 0);
    assert!(read == to_raw(folder, qemu_img, "x.vhdx", 0));
}

/// Checks damaged tables. qemu-img detects entries beyond the end of the file and in the metadata, and neither reads
/// nor writes such an image. It doesn't detect a block that is used twice, or one in the headers, and writes both.
fn damaged_tables() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 4 * MIB]).unwrap();
    for (entry, is_found, is_readable) in [
        (100 << 20 | 6, true, false),
        (2 << 20 | 6, true, false),
        (3 << 20 | 6, true, false),
        (6, false, false),
        (8 << 20 | 6, false, true),
        (9 << 20 | 6, false, true),
    ] {
        let image = with_entry(&bytes, 0, entry);
        fs::write(folder.join("x.vhdx"), &image).unwrap();
        let said = ours(folder, &["check", "x.vhdx"]);
        assert_eq!(said.status, Some(2), "{entry:#x}: {said:?}");
        assert!(said.stdout.contains("1 errors were found on the image."));
        if is_found {
            same_answer(folder, &["check", "--output=json", "x.vhdx"]);
            same_answer(folder, &["check", "x.vhdx"]);
            to_raw(folder, qemu_img, "x.vhdx", 1);
        }
        let read = to_raw(folder, ours, "x.vhdx", i32::from(!is_readable));
        if is_readable {
            assert!(read == to_raw(folder, qemu_img, "x.vhdx", 0));
        }
        ours(folder, &OVER).fails(1, "the image is damaged in 1 places");
        assert!(fs::read(folder.join("x.vhdx")).unwrap() == image);
    }
}

fn cut_files() {
    let (folder, bytes) = folder_with_image();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), vec![5; 4 * MIB]).unwrap();
    for length in [bytes.len() - 4096, bytes.len() - MIB, DATA + 512] {
        same_report(folder, &bytes[..length], "cut");
        same_answer(folder, &["check", "x.vhdx"]);
        to_raw(folder, ours, "x.vhdx", 1);
        ours(folder, &OVER).fails(1, "the image is damaged");
        // The rest can be read with `--salvage`.
        let args = ["convert", "--salvage", "-O", "raw", "x.vhdx", "back.raw"];
        let _ = ours(folder, &args);
        assert_eq!(
            fs::metadata(folder.join("back.raw")).unwrap().len(),
            4 << 20
        );
    }
    for length in [0, 8, 100, 65536, 200_000, LOG, METADATA, ITEMS] {
        same_report(folder, &bytes[..length], &format!("{length}"));
    }
}

/// Checks larger disks, which have bitmap entries between block entries. Older versions of QEMU left garbage in
/// these.
fn bitmaps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let raw = fs::File::create(folder.join("disk.raw")).unwrap();
    raw.set_len(5 << 30).unwrap();
    let mut places = vec![(0u64, 1u8), (4095 << 20, 2), (4096 << 20, 3)];
    let write = |(at, byte): (u64, u8)| {
        std::os::unix::fs::FileExt::write_all_at(&raw, &[byte; 5000], at + 500).unwrap();
    };
    // qemu-img treats all blocks as data, so only some offsets are read.
    let same_disk = |places: &[(u64, u8)]| {
        let reads = places.iter().map(|(at, byte)| {
            let [before, after] = [*at, at + 5500].map(|at| format!("read -q -P 0 {at} 500"));
            let stored = format!("read -q -P {byte} {} 5000", at + 500);
            [before, stored, after]
        });
        let reads: Vec<_> = reads.flatten().collect();
        qemu_io(folder, "vhdx", "x.vhdx", &reads);
        let compare = ["compare", "-f", "raw", "-F", "vhdx", "disk.raw", "x.vhdx"];
        ours(folder, &compare).ok();
    };
    places.iter().for_each(|place| write(*place));
    let options = "block_size=1M";
    let args = [
        "convert", "-f", "raw", "-O", "vhdx", "-o", options, "disk.raw", "x.vhdx",
    ];
    ours(folder, &args).ok();
    same_disk(&places);
    let file = fs::File::options().write(true).open(folder.join("x.vhdx"));
    let entry = (TABLE + 8 * 4096) as u64;
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[0xff; 8], entry).unwrap();
    same_disk(&places);
    same_answer(folder, &["check", "x.vhdx"]);
    places.push((4097 << 20, 77));
    write((4097 << 20, 77));
    ours(folder, &OVER).ok();
    same_disk(&places);
}

/// Checks `map`. qemu-img doesn't map blocks.
fn maps() {
    let (folder, _) = folder_with_image();
    let folder = folder.path();
    let map = ours(folder, &["map", "--output=json", "x.vhdx"]).ok();
    let starts: Vec<_> = map
        .lines()
        .filter(|line| line.contains("\"data\": true"))
        .collect();
    assert_eq!(starts.len(), 2, "{map}");
    assert!(starts[0].contains("\"start\": 1048576"), "{map}");
    assert!(starts[0].contains(&format!("\"offset\": {DATA}")), "{map}");
    assert!(
        starts[1].contains(&format!("\"offset\": {}", DATA + MIB)),
        "{map}"
    );
}
