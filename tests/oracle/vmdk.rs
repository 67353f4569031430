//! Tests of the features of VMDK: its kinds of images, their descriptors and extents, parents, and the fields of
//! headers, valid and damaged.
//!
//! Kinds that qemu-img reads but doesn't make (streams with a footer, extents of ESX) are built here. Comments name
//! the cases in which it accepts a damaged image, and cowhide doesn't.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{qemu_io, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same, without_help, words};
use crate::trial;

const MIB: usize = 1 << 20;
/// The kinds of images that can be created.
const SUBFORMATS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

pub fn trials() -> Vec<Trial> {
    vec![
        trial("vmdk::new_images_have_the_same_bytes", new_images),
        trial("vmdk::disks_come_back_in_both_directions", both_directions),
        trial("vmdk::reports_of_each_kind", reports),
        trial("vmdk::large_disks_are_cut_alike", large_disks),
        trial("vmdk::options_and_their_mistakes", options),
        trial("vmdk::names_of_extents", names_of_extents),
        trial("vmdk::written_over", written_over),
        trial("vmdk::written_in_place_by_both", written_in_place),
        trial("vmdk::parents", parents),
        trial(
            "vmdk::parents_that_are_not_there",
            parents_that_are_not_there,
        ),
        trial("vmdk::commit", commit),
        trial("vmdk::streams", streams),
        trial("vmdk::wrong_headers", wrong_headers),
        trial("vmdk::descriptors_by_hand", descriptors_by_hand),
        trial("vmdk::extents_that_the_real_tool_passes_over", passed_over),
        trial("vmdk::names_that_are_not_followed", not_followed),
        trial("vmdk::damaged_tables", damaged_tables),
        trial("vmdk::tables_that_are_missing", missing_tables),
        trial("vmdk::repairs", repairs),
        trial("vmdk::extents_of_esx", extents_of_esx),
        trial("vmdk::se_sparse", se_sparse),
    ]
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn done(tool: Tool, folder: &Path, line: &str) -> String {
    tool(folder, &words(line)).ok()
}

/// Returns the files of a folder and their bytes, with equal content ids.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mut bytes = fs::read(entry.path()).unwrap();
            let mark = bytes.windows(5).position(|window| window == b"\nCID=");
            if let Some(at) = mark {
                let digits = bytes[at + 5..]
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap();
                bytes.drain(at + 5..at + 5 + digits);
                // An embedded descriptor is padded with zeroes.
                if bytes.starts_with(b"KDMV") {
                    let end = 21 * 512 - digits;
                    bytes.splice(end..end, vec![0; digits]);
                }
            }
            (entry.file_name().into_string().unwrap(), bytes)
        })
        .collect();
    files.sort();
    files
}

/// Runs each tool in its own folder, and returns both folders.
fn both(line: &str) -> [tempfile::TempDir; 2] {
    [ours as Tool, qemu_img].map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        done(tool, folder.path(), line);
        folder
    })
}

/// Asserts that both tools read the expected contents from an image.
fn assert_reads(folder: &Path, image: &str, expected: &Path) {
    for (number, tool) in [ours as Tool, qemu_img].into_iter().enumerate() {
        let back = format!("back{number}.raw");
        let _ = fs::remove_file(folder.join(&back));
        done(
            tool,
            folder,
            &format!("convert -f vmdk -O raw {image} {back}"),
        );
        assert!(same_contents(expected, &folder.join(&back)), "{image}");
    }
}

fn new_images() {
    for subformat in &SUBFORMATS[..4] {
        for (size, more) in [
            ("1", ""),
            ("1000", ",hwversion=99x,toolsversion=7"),
            ("10M", ",adapter_type=lsilogic"),
            ("130M", ",compat6=on"),
        ] {
            let line = format!("create -q -f vmdk -o subformat={subformat}{more} a.b.vmdk {size}");
            let folders = both(&line);
            let [ours, theirs] = folders.each_ref().map(|folder| files(folder.path()));
            assert!(ours.len() == theirs.len() && ours == theirs, "{line}");
        }
    }
    let folders = both("create -q -f vmdk -o zeroed_grain=on x 70M");
    let [ours, theirs] = folders.each_ref().map(|folder| files(folder.path()));
    assert!(ours == theirs, "zeroed_grain");
}

fn both_directions() {
    for subformat in SUBFORMATS {
        // A table maps 32 MiB.
        for size in [512, 5000, MIB + 512, 33 * MIB] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            write_disk(&folder.join("disk.raw"), size as u64, size as u64);
            let disk = fs::File::options()
                .write(true)
                .open(folder.join("disk.raw"))
                .unwrap();
            disk.set_len(size.next_multiple_of(512) as u64).unwrap();
            let ways = [(ours as Tool, ""), (qemu_img, ""), (ours, "-S 0 -m 1 -W")];
            let few = if size > 5 * MIB { 1 } else { ways.len() };
            for (tool, more) in &ways[..few] {
                let line = format!(
                    "convert {more} -f raw -O vmdk -o subformat={subformat} disk.raw x.vmdk"
                );
                done(*tool, folder, &line);
                assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
                same(folder, "compare -f vmdk -F raw x.vmdk disk.raw");
                same(folder, "check -f vmdk x.vmdk");
            }
        }
    }
}

fn reports() {
    for subformat in SUBFORMATS {
        for tool in [ours as Tool, qemu_img] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            write_disk(&folder.join("disk.raw"), 3 << 20, 5);
            let line = format!("convert -f raw -O vmdk -o subformat={subformat} disk.raw x.vmdk");
            done(tool, folder, &line);
            for line in [
                "info x.vmdk",
                "info --output=json x.vmdk",
                "info -f vmdk x.vmdk",
                "map x.vmdk",
                "map --output=json x.vmdk",
                "measure -O raw x.vmdk",
                "measure -O qcow2 x.vmdk",
                "check x.vmdk",
                "check --output=json x.vmdk",
                "snapshot -l x.vmdk",
            ] {
                same(folder, line);
            }
            // A streamOptimized image isn't opened for writing.
            if subformat != "streamOptimized" {
                same(folder, "resize x.vmdk 10M");
                same(folder, "amend -o size=5M x.vmdk");
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    same(folder.path(), "measure -O vmdk --size 1M");
}

/// Checks extents of 2 GiB, with data on both sides of a border.
fn large_disks() {
    for subformat in &SUBFORMATS[2..] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let disk = fs::File::create(folder.join("disk.raw")).unwrap();
        disk.set_len((5 << 30) + 512).unwrap();
        let args = [
            "write -q -P 7 2147418112 131072",
            "write -q -P 9 4294966784 1024",
        ];
        qemu_io(folder, "raw", "disk.raw", &args);
        for (tool, name) in [(ours as Tool, "ours"), (qemu_img, "theirs")] {
            let line =
                format!("convert -f raw -O vmdk -o subformat={subformat} disk.raw {name}.vmdk");
            done(tool, folder, &line);
            same(
                folder,
                &format!("compare -f vmdk -F raw {name}.vmdk disk.raw"),
            );
            same(folder, &format!("info {name}.vmdk"));
            same(folder, &format!("map {name}.vmdk"));
            same(folder, &format!("map --output=json {name}.vmdk"));
            let line = format!("compare -f vmdk -F raw {name}.vmdk disk.raw");
            assert_eq!(done(qemu_img, folder, &line), "Images are identical.\n");
        }
        let names = |prefix: &str| -> Vec<String> {
            let names = files_named(folder, prefix);
            names
                .into_iter()
                .map(|name| name.replace(prefix, "x"))
                .collect()
        };
        assert_eq!(names("ours"), names("theirs"));
    }
}

fn files_named(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

fn options() {
    for options in [
        "subformat=bogus",
        "subformat=MonolithicSparse",
        "adapter_type=pvscsi",
        "adapter_type=IDE",
        "compat6=on,hwversion=3",
        "subformat=monolithicFlat,zeroed_grain=on",
        "subformat=twoGbMaxExtentFlat,backing_file=base.vmdk,backing_fmt=vmdk",
        "backing_file=base.raw,backing_fmt=raw",
        "backing_file=base.vmdk,backing_fmt=raw",
        "adapter_type=legacyESX",
        "hwversion=undefined",
    ] {
        let [mut mine, theirs] = [ours as Tool, qemu_img].map(|tool| {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            fs::write(folder.join("base.raw"), [0; 512]).unwrap();
            done(qemu_img, folder, "create -q -f vmdk base.vmdk 1M");
            let ran = tool(
                folder,
                &["create", "-f", "vmdk", "-o", options, "x.vmdk", "1M"],
            );
            let is_left = folder.join("x.vmdk").exists();
            let said = ran.stderr.replace("qemu-img", "cowhide");
            let is_left = is_left && ran.status != Some(0);
            ((ran.status, ran.stdout, said), is_left)
        });
        assert!(!mine.1, "{options}: something is left");
        mine.0.2 = without_help(&mine.0.2, &theirs.0.2);
        assert_eq!(mine.0, theirs.0, "{options}");
    }
}

fn names_of_extents() {
    for name in ["a.b.vmdk", "noext", ".vmdk", "folder/x.vmdk"] {
        for subformat in ["monolithicFlat", "twoGbMaxExtentSparse"] {
            let [ours, theirs] = [ours as Tool, qemu_img].map(|tool| {
                let folder = tempfile::tempdir().unwrap();
                fs::create_dir(folder.path().join("folder")).unwrap();
                let line = format!("create -q -f vmdk -o subformat={subformat} {name} 1M");
                done(tool, folder.path(), &line);
                let text = done(tool, folder.path(), &format!("map {name}"));
                let listed = |folder: &Path| files_named(folder, "");
                let in_folder = listed(&folder.path().join("folder"));
                (listed(folder.path()), in_folder, text)
            });
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

fn written_over() {
    for subformat in &SUBFORMATS[..4] {
        for (maker, more) in [
            (ours as Tool, ""),
            (qemu_img, ""),
            (ours, "-S 0"),
            (qemu_img, "-c -W"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            write_disk(&folder.join("old.raw"), 6 << 20, 1);
            write_disk(&folder.join("disk.raw"), (5 << 20) + 512, 2);
            let line = format!("convert -f raw -O vmdk -o subformat={subformat} old.raw x.vmdk");
            done(maker, folder, &line);
            let before = done(qemu_img, folder, "info x.vmdk");
            done(
                ours,
                folder,
                &format!("convert -n {more} -f raw -O vmdk disk.raw x.vmdk"),
            );
            let mut expected = fs::read(folder.join("disk.raw")).unwrap();
            let old = fs::read(folder.join("old.raw")).unwrap();
            expected.extend_from_slice(&old[expected.len()..]);
            fs::write(folder.join("expected.raw"), expected).unwrap();
            assert_reads(folder, "x.vmdk", &folder.join("expected.raw"));
            same(folder, "check x.vmdk");
            let cid = |text: &str| {
                text.lines()
                    .find(|line| line.contains(" cid:"))
                    .unwrap()
                    .to_owned()
            };
            let after = done(qemu_img, folder, "info x.vmdk");
            assert_ne!(cid(&before), cid(&after), "the contents have another id");
        }
    }
}

fn written_in_place() {
    for subformat in &SUBFORMATS[..4] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_disk(&folder.join("disk.raw"), 4 << 20, 1);
        let line = format!("convert -f raw -O vmdk -o subformat={subformat} disk.raw x.vmdk");
        done(ours, folder, &line);
        let writes = [
            "write -q -P 5 1M 300k",
            "write -q -z 2M 128k",
            "write -q -P 6 3145216 1024",
        ];
        qemu_io(folder, "vmdk", "x.vmdk", &writes);
        qemu_io(folder, "raw", "disk.raw", &writes);
        assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
        same(folder, "check x.vmdk");
    }
}

fn parents() {
    for options in [
        "",
        "-o zeroed_grain=on",
        "-o subformat=twoGbMaxExtentSparse",
        "-o subformat=streamOptimized",
    ] {
        for maker in [ours as Tool, qemu_img] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            write_disk(&folder.join("base.raw"), 3 << 20, 1);
            write_disk(&folder.join("top.raw"), (4 << 20) + 512, 2);
            done(maker, folder, "convert -f raw -O vmdk base.raw base.vmdk");
            let line = format!("create -q -f vmdk -b base.vmdk -F vmdk {options} empty.vmdk");
            done(maker, folder, &line);
            assert_reads(folder, "empty.vmdk", &folder.join("base.raw"));
            for line in [
                "info empty.vmdk",
                "info --backing-chain empty.vmdk",
                "map --output=json empty.vmdk",
            ] {
                same(folder, line);
            }
            let line =
                format!("convert -f raw -O vmdk -B base.vmdk -F vmdk {options} top.raw top.vmdk");
            done(ours, folder, &line);
            assert_reads(folder, "top.vmdk", &folder.join("top.raw"));
            // A change of the base makes its overlays invalid, which cowhide reports when it opens one.
            qemu_io(folder, "vmdk", "base.vmdk", &["write -q 0 512"]);
            let refused = ours(folder, &words("convert -O raw top.vmdk x.raw"));
            refused.fails(1, "has changed since the image above it was made");
            assert!(!folder.join("x.raw").exists());
        }
    }
}

/// Checks that a parent is always opened, since its content id is stored.
fn parents_that_are_not_there() {
    for line in [
        "create -f vmdk -u -b base.vmdk -F vmdk x.vmdk 2M",
        "create -f vmdk -u -b missing.vmdk -F vmdk x.vmdk 2M",
    ] {
        let [mine, theirs] = [ours as Tool, qemu_img].map(|tool| {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            done(qemu_img, folder, "create -q -f vmdk base.vmdk 1M");
            let ran = tool(folder, &words(line));
            let is_read = qemu_img(folder, &words("convert -O raw x.vmdk y.raw")).status == Some(0);
            (
                ran.status,
                ran.stderr.replace("qemu-img", "cowhide"),
                is_read,
            )
        });
        assert_eq!(mine, theirs, "{line}");
    }
}

fn commit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3 << 20, 1);
    done(
        qemu_img,
        folder,
        "convert -f raw -O vmdk disk.raw base.vmdk",
    );
    done(
        ours,
        folder,
        "create -q -f vmdk -b base.vmdk -F vmdk top.vmdk",
    );
    let writes = ["write -q -P 5 64k 1M", "write -q -P 6 2097152 512"];
    qemu_io(folder, "vmdk", "top.vmdk", &writes);
    qemu_io(folder, "raw", "disk.raw", &writes);
    done(ours, folder, "commit top.vmdk");
    assert_reads(folder, "base.vmdk", &folder.join("disk.raw"));
    // The overlay is still valid, and has the base's new content id. After a commit of qemu-img it doesn't.
    assert_reads(folder, "top.vmdk", &folder.join("disk.raw"));
    same(folder, "check base.vmdk");
    // An interrupted commit, before the overlay had the new id, can be repeated.
    qemu_io(folder, "vmdk", "base.vmdk", &["write -q -P 5 64k 64k"]);
    ours(folder, &words("convert -O raw top.vmdk x.raw")).fails(1, "has changed since");
    done(ours, folder, "commit top.vmdk");
    assert_reads(folder, "top.vmdk", &folder.join("disk.raw"));
}

/// Checks streamOptimized images. Those of cowhide have VMware's layout, which qemu-img reads. cowhide reads both.
fn streams() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let size = 70 * MIB + 512;
    write_disk(&folder.join("disk.raw"), size as u64, 3);
    for workers in ["-m 1", "-m 8", "-c -m 16"] {
        let line = format!(
            "convert {workers} -f raw -O vmdk -o subformat=streamOptimized disk.raw x.vmdk"
        );
        done(ours, folder, &line);
        assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
    }
    let whole = fs::read(folder.join("x.vmdk")).unwrap();
    assert_eq!((number(&whole, 4), number(&whole, 8)), (3, 0x30001));
    assert_eq!(whole[56..64], [0xff; 8], "the footer has the directory");
    let end = whole.len() - 1536;
    assert_eq!((number(&whole, end), number(&whole, end + 12)), (1, 3));
    assert_eq!(&whole[end + 512..end + 516], b"KDMV");
    assert!(whole[end + 1024..].iter().all(|byte| *byte == 0));
    // Zeroes after the end come from copies in blocks. qemu-img refuses them.
    fs::write(
        folder.join("padded.vmdk"),
        [&whole[..], &[0; 4096]].concat(),
    )
    .unwrap();
    done(ours, folder, "convert -f vmdk -O raw padded.vmdk y.raw");
    done(ours, folder, "convert -f vmdk -O raw x.vmdk z.raw");
    assert!(same_contents(&folder.join("y.raw"), &folder.join("z.raw")));
    for cut in [512, 1024, 1536, 3000, whole.len() / 2, whole.len() - 1000] {
        fs::write(folder.join("cut.vmdk"), &whole[..whole.len() - cut]).unwrap();
        for line in [
            "info -f vmdk cut.vmdk",
            "convert -f vmdk -O raw cut.vmdk y.raw",
        ] {
            for tool in [ours as Tool, qemu_img] {
                assert_eq!(tool(folder, &words(line)).status, Some(1), "{cut} {line}");
            }
        }
    }
    // A damaged grain is an error.
    let first = 128 * 512;
    for at in [first + 8, first + 12, first + 40] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        fs::write(folder.join("bad.vmdk"), damaged).unwrap();
        assert_eq!(
            ours(folder, &words("convert -O raw bad.vmdk y.raw")).status,
            Some(1)
        );
    }
    let over = words("convert -n -f raw -O vmdk disk.raw x.vmdk");
    let refused = "Could not write to allocated cluster for streamOptimized";
    ours(folder, &over).fails(1, refused);
    // An image without grains is rewritten with the values of its descriptor.
    for maker in [ours as Tool, qemu_img] {
        let options =
            "subformat=streamOptimized,zeroed_grain=on,toolsversion=7,adapter_type=lsilogic";
        done(
            maker,
            folder,
            &format!("create -q -f vmdk -o {options} x.vmdk 71M"),
        );
        let before = done(qemu_img, folder, "info x.vmdk");
        done(ours, folder, over.join(" ").as_str());
        disk_of(folder, 71 << 20);
        assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
        same(folder, "check x.vmdk");
        let after = fs::read(folder.join("x.vmdk")).unwrap();
        assert_eq!((number(&after, 4), number(&after, 8)), (3, 0x30005));
        let text = String::from_utf8_lossy(&after[512..2048]).into_owned();
        assert!(text.contains("ddb.toolsVersion = \"7\"") && text.contains("lsilogic"));
        assert_ne!(
            before,
            done(qemu_img, folder, "info x.vmdk"),
            "the id of the contents"
        );
        ours(folder, &over).fails(1, refused);
        disk_of(folder, size as u64);
    }
}

/// Sets the length of `disk.raw`.
fn disk_of(folder: &Path, size: u64) {
    let disk = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("disk.raw"));
    disk.unwrap().set_len(size).unwrap();
}

fn wrong_headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(qemu_img, folder, "create -q -f vmdk x.vmdk 10M");
    let bytes = fs::read(folder.join("x.vmdk")).unwrap();
    let cases: [(usize, &[u8]); 10] = [
        (16, &[0xff, 0xff, 0xff, 0x7f]),
        (4, &[4, 0, 0, 0]),
        (20, &[0; 8]),
        (20, &[0, 0, 0x40, 0, 0, 0, 0, 0]),
        (44, &[1, 2, 0, 0]),
        (44, &[0; 4]),
        (64, &[0xff, 0xff, 0, 0, 0, 0, 0, 0]),
        (56, &[0xff; 8]),
        (12, &[0, 0, 0, 0, 0, 0, 0, 1]),
        (0, b"KDMW"),
    ];
    for (at, field) in cases {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, field);
        fs::write(folder.join("x.vmdk"), wrong).unwrap();
        for line in [
            "info -f vmdk x.vmdk",
            "check -f vmdk x.vmdk",
            "convert -f vmdk -O raw x.vmdk y.raw",
        ] {
            let (mine, theirs) = (ours(folder, &words(line)), qemu_img(folder, &words(line)));
            assert_eq!(
                mine.status, theirs.status,
                "{at} {line}: {mine:?} {theirs:?}"
            );
            let has_reason = !theirs.stderr.contains("Invalid argument");
            // The largest size is refused by different checks.
            if has_reason && at != 12 {
                let said = theirs.stderr.replace("qemu-img", "cowhide");
                assert_eq!(without_help(&mine.stderr, &said), said, "{at} {line}");
            }
        }
    }
    // A transfer as text changes line ends, which qemu-img doesn't check.
    let mut wrong = bytes.clone();
    wrong[75] = b'\n';
    fs::write(folder.join("x.vmdk"), wrong).unwrap();
    ours(folder, &["info", "x.vmdk"]).fails(1, "a transfer that changes the ends of lines");
}

/// Makes a folder with two flat extents of 1 MiB each.
fn folder_with_extents() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, byte) in [("a.bin", 7), ("b.bin", 9)] {
        fs::write(folder.path().join(name), vec![byte; MIB]).unwrap();
    }
    folder
}

pub const HEAD: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                    createType=\"monolithicFlat\"\n# Extents\n";
const LINES: &str = "RW 2048 FLAT \"a.bin\" 0\nRW 1024 FLAT \"b.bin\" 1024\n";

fn descriptors_by_hand() {
    let folder = folder_with_extents();
    let folder = folder.path();
    let text = format!("{HEAD}{LINES}");
    // Both tools read these.
    for text in [
        text.clone(),
        text.replace('\n', "\r\n"),
        text.replace("FLAT ", "FLAT\t  "),
    ] {
        fs::write(folder.join("x.vmdk"), text).unwrap();
        for line in [
            "info x.vmdk",
            "info --output=json x.vmdk",
            "map x.vmdk",
            "map --output=json x.vmdk",
        ] {
            same(folder, line);
        }
        same(folder, "convert -O raw x.vmdk y.raw");
    }
    let expected = fs::read(folder.join("y.raw")).unwrap();
    assert_eq!(expected, [vec![7; MIB], vec![9; MIB / 2]].concat());
    // Only cowhide reads these: a blank line before an extent makes qemu-img count it twice.
    for text in [
        text.replace("# Extents\n", "\n"),
        text.replace("createType", "CREATETYPE").replace("RW", "rw"),
        text.replace('=', " = "),
    ] {
        fs::write(folder.join("x.vmdk"), text).unwrap();
        done(ours, folder, "convert -f vmdk -O raw x.vmdk y.raw");
        assert!(fs::read(folder.join("y.raw")).unwrap() == expected);
    }
    // These are mistakes with qemu-img's errors.
    for text in [
        text.replace("createType", "bogus"),
        text.replace("monolithicFlat", "custom"),
        text.replace("\"a.bin\" 0", "\"a.bin\""),
        text.replace("a.bin", "missing.bin"),
    ] {
        fs::write(folder.join("x.vmdk"), text).unwrap();
        same(folder, "info x.vmdk");
    }
    fs::write(folder.join("x.vmdk"), HEAD).unwrap();
    ours(folder, &["info", "x.vmdk"]).fails(1, "invalid VMDK image descriptor");
    // qemu-img reads a truncated flat extent as zeroes.
    fs::write(folder.join("x.vmdk"), text.replace("2048", "4096")).unwrap();
    ours(folder, &words("convert -O raw x.vmdk z.raw")).fails(1, "File truncated");
    assert!(!folder.join("z.raw").exists());
}

/// Checks unknown lines, which qemu-img skips, so that the later extents move to the front.
fn passed_over() {
    let folder = folder_with_extents();
    let folder = folder.path();
    let text = format!("{HEAD}RDONLY 2048 FLAT \"a.bin\" 0\nRW 100 ZERO\n{LINES}");
    fs::write(folder.join("x.vmdk"), text).unwrap();
    done(ours, folder, "convert -O raw x.vmdk y.raw");
    let expected = [
        vec![7; MIB],
        vec![0; 51_200],
        vec![7; MIB],
        vec![9; MIB / 2],
    ]
    .concat();
    assert!(fs::read(folder.join("y.raw")).unwrap() == expected);
    fs::write(folder.join("disk.raw"), [0; 512]).unwrap();
    ours(folder, &words("convert -n -O vmdk disk.raw x.vmdk")).fails(1, "RDONLY");
    let text = format!("{HEAD}NOACCESS 2048 FLAT \"a.bin\" 0\n");
    fs::write(folder.join("x.vmdk"), text).unwrap();
    ours(folder, &words("convert -O raw x.vmdk y.raw")).fails(1, "NOACCESS");
}

fn not_followed() {
    let folder = folder_with_extents();
    let folder = folder.path();
    fs::create_dir(folder.join("sub")).unwrap();
    for name in ["/etc/passwd", "../a.bin", "sub/../../a.bin"] {
        let text = format!("{HEAD}RW 1 FLAT \"{name}\" 0\n");
        fs::write(folder.join("sub/x.vmdk"), text).unwrap();
        for line in ["info sub/x.vmdk", "convert -O raw sub/x.vmdk y.raw"] {
            ours(folder, &words(line)).fails(1, "which is not in its own folder");
        }
    }
    // Options may name any file.
    let node = "driver=vmdk,file.filename=sub/x.vmdk,extents.0.filename=a.bin";
    for node in [node.to_owned(), node.replace("driver=vmdk,", "")] {
        let args = ["convert", "-O", "raw", "--image-opts", &node, "y.raw"];
        ours(folder, &args).ok();
        assert_eq!(fs::read(folder.join("y.raw")).unwrap(), [7; 512]);
    }
    let args = [
        "info",
        "--image-opts",
        "driver=vmdk,file.filename=sub/x.vmdk,extents.1.filename=a.bin",
    ];
    ours(folder, &args).fails(1, "extents.1");
    fs::write(folder.join("x.vmdk"), format!("{HEAD}{LINES}")).unwrap();
    ours(folder, &words("convert --untrusted -O raw x.vmdk y.raw")).fails(1, "--untrusted");
    let text = done(ours, folder, "info --untrusted x.vmdk");
    assert!(text.contains("virtual size: 1.5 MiB"), "{text}");
}

fn damaged_tables() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 3 << 20, 1);
    done(
        qemu_img,
        folder,
        "convert -S 0 -f raw -O vmdk disk.raw x.vmdk",
    );
    let bytes = fs::read(folder.join("x.vmdk")).unwrap();
    // These are the offsets of the directory and of the first table of a small disk.
    let (directory, table) = (26 * 512, 27 * 512);
    assert_eq!(number(&bytes, table), 128);
    let cases: [(usize, u32, &str); 6] = [
        (table, 0x00ff_ffff, "points after EOF"),
        (table, 1, "over the header or the tables"),
        (table, 27, "over the header or the tables"),
        (table + 4, 128, "used by more than one sector"),
        (table + 4, 129, "used by more than one sector"),
        (directory, 0x00ff_ffff, "beyond the end of the file"),
    ];
    for (at, value, message) in cases {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, &value.to_le_bytes());
        fs::write(folder.join("x.vmdk"), &wrong).unwrap();
        let ran = ours(folder, &["check", "x.vmdk"]);
        assert!([Some(1), Some(2)].contains(&ran.status), "{ran:?}");
        let said = [ran.stdout, ran.stderr].concat();
        assert!(said.contains(message), "{said}");
        let ran = ours(folder, &words("convert -n -f raw -O vmdk disk.raw x.vmdk"));
        assert_eq!(ran.status, Some(1), "{at}: {ran:?}");
        assert!(
            fs::read(folder.join("x.vmdk")).unwrap() == wrong,
            "nothing is written"
        );
    }
    // qemu-img converts this to zeroes, with status 0.
    let mut wrong = bytes.clone();
    put(&mut wrong, table, &0x00ff_ffffu32.to_le_bytes());
    fs::write(folder.join("x.vmdk"), &wrong).unwrap();
    let ran = ours(folder, &words("convert -f vmdk -O raw x.vmdk y.raw"));
    ran.fails(1, "where the file has none");
}

/// Checks that lost entries are repaired from the redundant tables. qemu-img can't repair this format.
fn repairs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 40 << 20, 1);
    done(qemu_img, folder, "convert -f raw -O vmdk disk.raw x.vmdk");
    let bytes = fs::read(folder.join("x.vmdk")).unwrap();
    let directory = number(&bytes, 56) as usize * 512;
    let first = number(&bytes, directory) as usize * 512;
    let second = number(&bytes, 48) as usize * 512 + 512;
    let lost = 0x00ff_ffffu32.to_le_bytes();
    let stored = (0..512)
        .find(|index| number(&bytes, first + 4 * index) != 0)
        .unwrap();
    // These are an entry, a whole table, and an entry in both tables.
    for (at, both) in [
        (first + 4 * stored, false),
        (directory + 4, false),
        (first + 4 * stored, true),
    ] {
        let mut wrong = bytes.clone();
        put(&mut wrong, at, &lost);
        if both {
            put(&mut wrong, second + 4 * stored, &lost);
        }
        fs::write(folder.join("x.vmdk"), &wrong).unwrap();
        assert_eq!(ours(folder, &["check", "x.vmdk"]).status, Some(2));
        assert_eq!(
            ours(folder, &words("check -r leaks x.vmdk")).status,
            Some(2)
        );
        assert!(fs::read(folder.join("x.vmdk")).unwrap() == wrong);
        let ran = ours(folder, &words("check -r all x.vmdk"));
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(ran.stdout.contains("1 corruptions"), "{ran:?}");
        done(qemu_img, folder, "check x.vmdk");
        done(ours, folder, "check x.vmdk");
        if !both {
            assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
        }
    }
}

/// Checks missing tables, for which qemu-img overwrites the header.
fn missing_tables() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    done(qemu_img, folder, "create -q -f vmdk x.vmdk 70M");
    let mut bytes = fs::read(folder.join("x.vmdk")).unwrap();
    let second = number(&bytes, 48) as usize * 512;
    let first = number(&bytes, 56) as usize * 512;
    for at in [first, first + 8, second + 4, second + 8] {
        put(&mut bytes, at, &[0; 4]);
    }
    fs::write(folder.join("x.vmdk"), &bytes).unwrap();
    write_disk(&folder.join("disk.raw"), 70 << 20, 1);
    done(ours, folder, "convert -n -f raw -O vmdk disk.raw x.vmdk");
    assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
    same(folder, "check x.vmdk");
    let bytes = fs::read(folder.join("x.vmdk")).unwrap();
    let entries =
        |at: usize| -> Vec<u32> { (0..3).map(|table| number(&bytes, at + 4 * table)).collect() };
    let (firsts, seconds) = (entries(first), entries(second));
    for (one, other) in firsts.iter().zip(&seconds) {
        let table = |sector: u32| &bytes[sector as usize * 512..][..2048];
        assert!(*one != 0 && one != other && table(*one) == table(*other));
    }
}

pub fn cowd() -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    bytes[..4].copy_from_slice(b"COWD");
    put(&mut bytes, 4, &1u32.to_le_bytes());
    put(&mut bytes, 8, &3u32.to_le_bytes());
    put(&mut bytes, 12, &2048u32.to_le_bytes());
    put(&mut bytes, 16, &1u32.to_le_bytes());
    put(&mut bytes, 20, &4u32.to_le_bytes());
    put(&mut bytes, 24, &1u32.to_le_bytes());
    // The file has the directory, then a table of 4096 entries, and then two grains.
    let mut directory = vec![0; 512];
    put(&mut directory, 0, &5u32.to_le_bytes());
    let mut table = vec![0; 4096 * 4];
    put(&mut table, 0, &37u32.to_le_bytes());
    put(&mut table, 12, &38u32.to_le_bytes());
    put(&mut bytes, 28, &39u32.to_le_bytes());
    [bytes, directory, table, vec![1; 512], vec![2; 512]].concat()
}

fn extents_of_esx() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("x-delta.vmdk"), cowd()).unwrap();
    let text = HEAD.replace("monolithicFlat", "vmfsSparse");
    fs::write(
        folder.join("x.vmdk"),
        format!("{text}RW 2048 VMFSSPARSE \"x-delta.vmdk\"\n"),
    )
    .unwrap();
    for line in [
        "info x.vmdk",
        "info --output=json x.vmdk",
        "map --output=json x.vmdk",
    ] {
        same(folder, line);
    }
    let mut expected = vec![0; MIB];
    expected[..512].fill(1);
    expected[1536..2048].fill(2);
    fs::write(folder.join("expected.raw"), &expected).unwrap();
    assert_reads(folder, "x.vmdk", &folder.join("expected.raw"));
    // This writes to an image with a missing table, for which qemu-img overwrites the header.
    let mut bytes = cowd();
    put(&mut bytes, 2048, &[0; 4]);
    fs::write(folder.join("x-delta.vmdk"), bytes).unwrap();
    write_disk(&folder.join("disk.raw"), 1 << 20, 1);
    done(ours, folder, "convert -n -f raw -O vmdk disk.raw x.vmdk");
    assert_reads(folder, "x.vmdk", &folder.join("disk.raw"));
    let bytes = fs::read(folder.join("x-delta.vmdk")).unwrap();
    assert_eq!(
        number(&bytes, 28) as usize * 512,
        bytes.len(),
        "the first free sector"
    );
    // This is a flat extent.
    fs::write(folder.join("x-flat.vmdk"), &expected).unwrap();
    let text = HEAD.replace("monolithicFlat", "vmfs");
    fs::write(
        folder.join("v.vmdk"),
        format!("{text}RW 2048 VMFS \"x-flat.vmdk\"\n"),
    )
    .unwrap();
    same(folder, "info v.vmdk");
    assert_reads(folder, "v.vmdk", &folder.join("expected.raw"));
    // An extent alone is no image.
    assert_eq!(ours(folder, &["info", "x-delta.vmdk"]).status, Some(1));
}

pub fn se_sparse_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 512 * 2];
    let fields = [
        (0, 0xcafe_babe),
        (1, 0x2_0000_0001),
        (2, 2048),
        (3, 8),
        (4, 64),
        (10, 1),
        (11, 1),
        (16, 8),
        (17, 8),
        (18, 16),
        (19, 64),
        (24, 80),
        (25, 16),
    ];
    for (index, value) in fields {
        put(&mut bytes, index * 8, &u64::to_le_bytes(value));
    }
    put(&mut bytes, 512, &0xcafe_cafe_u64.to_le_bytes());
    bytes.resize(80 * 512, 0);
    put(
        &mut bytes,
        8 * 512,
        &0x1000_0000_0000_0000_u64.to_le_bytes(),
    );
    let entries = [3 << 60, 1 << 60, 2 << 60, 3 << 60 | 1 << 48];
    for (index, entry) in entries.into_iter().enumerate() {
        put(&mut bytes, 16 * 512 + index * 8, &u64::to_le_bytes(entry));
    }
    [bytes, vec![5; 4096], vec![6; 4096]].concat()
}

fn se_sparse() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = se_sparse_bytes();
    fs::write(folder.join("x-sesparse.vmdk"), &good).unwrap();
    let text = HEAD.replace("monolithicFlat", "seSparse");
    fs::write(
        folder.join("x.vmdk"),
        format!("{text}RW 2048 SESPARSE \"x-sesparse.vmdk\"\n"),
    )
    .unwrap();
    for line in [
        "info x.vmdk",
        "info --output=json x.vmdk",
        "map --output=json x.vmdk",
    ] {
        same(folder, line);
    }
    let mut expected = vec![0; MIB];
    expected[..4096].fill(5);
    expected[12288..16384].fill(6);
    fs::write(folder.join("expected.raw"), &expected).unwrap();
    assert_reads(folder, "x.vmdk", &folder.join("expected.raw"));
    fs::write(folder.join("disk.raw"), [0; 512]).unwrap();
    let ran = ours(folder, &words("convert -n -f raw -O vmdk disk.raw x.vmdk"));
    ran.fails(1, "No write support for seSparse images available");
    for (at, value) in [
        (0, 7),
        (8, 7),
        (24, 16),
        (32, 65),
        (40, 1),
        (48, 1),
        (72, 9),
        (300, 1),
        (512, 7),
        (536, 1),
        (600, 1),
    ] {
        let mut wrong = good.clone();
        put(&mut wrong, at, &u64::to_le_bytes(value));
        fs::write(folder.join("x-sesparse.vmdk"), wrong).unwrap();
        let (mine, theirs) = (
            ours(folder, &["info", "x.vmdk"]),
            qemu_img(folder, &["info", "x.vmdk"]),
        );
        assert_eq!(mine.status, theirs.status, "{at}");
        let reason = theirs
            .stderr
            .trim_end()
            .rsplit("': ")
            .next()
            .unwrap()
            .to_owned();
        assert!(mine.stderr.contains(&reason), "{at}: {mine:?} {theirs:?}");
    }
    for entry in [4 << 60, 7] {
        let mut wrong = good.clone();
        put(&mut wrong, 16 * 512, &u64::to_le_bytes(entry));
        fs::write(folder.join("x-sesparse.vmdk"), wrong).unwrap();
        let ran = ours(folder, &words("convert -f vmdk -O raw x.vmdk y.raw"));
        assert_eq!(ran.status, Some(1));
    }
}
