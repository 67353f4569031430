//! Tests of the options of `convert` and `create`, compared with the oracle.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::common::{Noise, same_contents, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, spec, without_help, words};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("options::sparse_size", sparse_size),
        trial("options::sparse_size_and_holes", sparse_size_and_holes),
        trial("options::workers_and_order", workers),
        trial("options::cache_modes", cache_modes),
        trial("options::copy_offload", copy_offload),
        trial("options::rate_limit", rate_limit),
        trial("options::into_an_existing_raw_image", no_create),
        trial("options::wrong_values", wrong_values),
        trial("options::size_is_the_sources", given_size),
        trial("options::salvage", salvage),
        trial("options::salvage_cut_off", salvage_cut_off),
        trial("options::preallocated_images", preallocation),
        trial("options::preallocated_raw", preallocated_raw),
        trial(
            "options::preallocated_conversions",
            preallocated_conversions,
        ),
    ]
}

/// Makes a disk of 3 MB with holes, zeroes and noise.
fn disk(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 3_000_320, 9);
}

fn assert_same_as_disk(folder: &Path, image: &str, format: &str) {
    let args = ["compare", "-f", "raw", "-F", format, "disk.raw", image];
    assert_eq!(
        qemu_img(folder, &args).ok(),
        "Images are identical.\n",
        "{image}"
    );
}

/// Checks that zeroes in the source's metadata become holes for any value of `-S`.
fn sparse_size_and_holes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let args = ["create", "-q", "-f", "qcow2", "holes", "4M"];
    qemu_img(folder, &args).ok();
    let writes = [
        "write -P 1 0 64k",
        "write -P 2 128k 64k",
        "write -P 4 2M 512k",
        "write -z 2176k 64k",
    ];
    crate::common::qemu_io(folder, "qcow2", "holes", &writes);
    for size in ["4k", "64k", "1M"] {
        let [theirs, ours] = [
            ("theirs", qemu_img as fn(&Path, &[&str]) -> _),
            ("ours", ours),
        ]
        .map(|(name, tool)| {
            let args = ["convert", "-S", size, "-O", "raw", "holes", name];
            tool(folder, &args).ok();
            qemu_img(folder, &["map", "--output=json", name]).ok()
        });
        assert_eq!(ours, theirs, "-S {size}");
    }
}

fn sparse_size() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    let mut allocated = Vec::new();
    for size in ["0", "512", "4k", "64k", "1M"] {
        ours(
            folder,
            &["convert", "-S", size, "-O", "qcow2", "disk.raw", "x.qcow2"],
        )
        .ok();
        assert!(
            qemu_img(folder, &["check", "x.qcow2"])
                .ok()
                .starts_with("No errors")
        );
        assert_same_as_disk(folder, "x.qcow2", "qcow2");
        let _ = fs::remove_file(folder.join("x.raw"));
        ours(folder, &["convert", "-S", size, "disk.raw", "x.raw"]).ok();
        assert_same_as_disk(folder, "x.raw", "raw");
        allocated.push(fs::metadata(folder.join("x.raw")).unwrap().blocks() * 512);
    }
    let [all, fine, usual, coarse, coarsest] = allocated[..] else {
        panic!("{allocated:?}");
    };
    assert!(all >= 3_000_320, "-S 0 allocates everything: {all}");
    assert!(
        fine <= usual && usual <= coarse && coarse <= coarsest,
        "{allocated:?}"
    );
    // Every cluster is allocated with -S 0, as in the oracle's image.
    for tool in [ours as Tool, qemu_img] {
        tool(folder, &words("convert -S 0 -O qcow2 disk.raw x.qcow2")).ok();
        let report = qemu_img(folder, &["check", "x.qcow2"]).ok();
        assert!(report.contains("46/46 = 100.00% allocated"), "{report}");
    }
}

fn workers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    let mut first = None;
    for options in ["", "-m 1", "-m 2", "-m 3", "-m 16", "-W", "-W -m 16"] {
        let line = format!("convert {options} -O qcow2 -o cluster_size=4k disk.raw x.qcow2");
        ours(folder, &words(&line)).ok();
        let image = fs::read(folder.join("x.qcow2")).unwrap();
        assert!(*first.get_or_insert(image.clone()) == image, "{options}");
    }
    assert_same_as_disk(folder, "x.qcow2", "qcow2");
}

fn cache_modes() {
    // The folder is on a real disk, since not every tmpfs can bypass the page cache.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    disk(folder);
    for mode in [
        "none",
        "off",
        "writeback",
        "writethrough",
        "directsync",
        "unsafe",
    ] {
        for cluster_size in ["512", "64k", "2M"] {
            let options =
                format!("cluster_size={cluster_size},encrypt.format=aes,encrypt.key-secret=s");
            let args = [
                "convert", "--object", SECRET, "-t", mode, "-T", mode, "-O", "qcow2", "-o",
            ];
            ours(
                folder,
                &[&args[..], &[&options, "disk.raw", "x.qcow2"]].concat(),
            )
            .ok();
            let image = spec("x.qcow2", "qcow2", true);
            let args = ["compare", "--object", SECRET, "--image-opts", &image];
            let raw = spec("disk.raw", "raw", false);
            let compared = qemu_img(folder, &[&args[..], &[&raw]].concat()).ok();
            assert_eq!(compared, "Images are identical.\n", "{mode} {cluster_size}");
            let _ = fs::remove_file(folder.join("back.raw"));
            let args = [
                "convert",
                "--object",
                SECRET,
                "-t",
                mode,
                "-T",
                mode,
                "--image-opts",
                &image,
            ];
            ours(folder, &[&args[..], &["back.raw"]].concat()).ok();
            assert!(
                same_contents(&folder.join("disk.raw"), &folder.join("back.raw")),
                "{mode}"
            );
        }
    }
}

fn copy_offload() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for (from, format, to) in [
        ("disk.raw", "raw", "a.raw"),
        ("disk.raw", "qcow2", "b.qcow2"),
        ("b.qcow2", "raw", "c.raw"),
        ("b.qcow2", "qcow2", "d.qcow2"),
    ] {
        ours(folder, &["convert", "-C", "-O", format, from, to]).ok();
        assert_same_as_disk(folder, to, format);
        if format == "qcow2" {
            assert!(
                qemu_img(folder, &["check", to])
                    .ok()
                    .starts_with("No errors")
            );
        }
    }
    let encrypted = "encrypt.format=aes,encrypt.key-secret=s";
    let args = [
        "convert", "-C", "--object", SECRET, "-O", "qcow2", "-o", encrypted,
    ];
    ours(folder, &[&args[..], &["disk.raw", "e.qcow2"]].concat()).ok();
    let image = spec("e.qcow2", "qcow2", true);
    ours(
        folder,
        &[
            "convert",
            "-C",
            "--object",
            SECRET,
            "--image-opts",
            &image,
            "f.raw",
        ],
    )
    .ok();
    assert_same_as_disk(folder, "f.raw", "raw");
}

fn rate_limit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), Noise(1).bytes(4 << 20)).unwrap();
    let start = Instant::now();
    ours(folder, &words("convert -r 8M -O qcow2 disk.raw x.qcow2")).ok();
    // The last chunk is sent at once, so the least time is a little below half a second.
    assert!(
        start.elapsed() > Duration::from_millis(350),
        "{:?}",
        start.elapsed()
    );
    assert_same_as_disk(folder, "x.qcow2", "qcow2");
}

fn no_create() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for (length, fill, options, status) in [
        (3_000_320, 0xaa, "-n", 0),
        (3_500_032, 0xaa, "-n", 0),
        (3_000_320, 0x00, "-n --target-is-zero", 0),
        (1_000_448, 0xaa, "-n", 1),
    ] {
        let mut results = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            fs::write(folder.join("x.raw"), vec![fill; length]).unwrap();
            let ran = tool(
                folder,
                &words(&format!("convert {options} -O raw disk.raw x.raw")),
            );
            assert_eq!(ran.status, Some(status), "{ran:?}");
            let stderr = ran.stderr.replace("cowhide", "qemu-img");
            results.push((stderr, fs::read(folder.join("x.raw")).unwrap()));
        }
        assert!(
            results[0] == results[1],
            "{length} {options}: {} / {}",
            results[0].0,
            results[1].0
        );
    }
}

fn wrong_values() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for line in [
        "convert -S 100 disk.raw x",
        "convert -S 32M disk.raw x",
        "convert -S abc disk.raw x",
        "convert -m 0 disk.raw x",
        "convert -m 17 disk.raw x",
        "convert -m many disk.raw x",
        "convert -T bogus disk.raw x",
        "convert -C -S 4k disk.raw x",
        "convert -C --salvage disk.raw x",
        "convert --target-is-zero disk.raw x",
        "convert -n -o size=1 -O raw disk.raw disk.raw",
        "convert -O raw -o preallocation=metadata disk.raw x",
        "convert -O qcow2 -o preallocation=bogus disk.raw x",
        "create -f raw -o preallocation=metadata x 1M",
    ] {
        let (ours, theirs) = (ours(folder, &words(line)), qemu_img(folder, &words(line)));
        assert_eq!(ours.status, theirs.status, "{line}: {ours:?} {theirs:?}");
        let said = ours.stderr.replace("cowhide", "qemu-img");
        assert_eq!(without_help(&said, &theirs.stderr), theirs.stderr, "{line}");
        let _ = fs::remove_file(folder.join("x"));
    }
    // The oracle only finds this mistake after it has made the target, and leaves that.
    let bad = ours(folder, &words("convert -t bogus disk.raw x"));
    bad.fails(1, "Invalid cache option: bogus");
    assert!(!folder.join("x").exists());
}

/// Checks that `-o size=` is accepted, and that the target has the size of the source.
fn given_size() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for line in [
        "convert -O qcow2 -o size=512 disk.raw x",
        "convert -O qcow2 -o size=5M,cluster_size=4k disk.raw x",
        "convert -o size=5M disk.raw x",
        "convert -o size=4M,size=512 disk.raw x",
    ] {
        let told = [ours as Tool, qemu_img].map(|tool| {
            let _ = fs::remove_file(folder.join("x"));
            assert_eq!(tool(folder, &words(line)).ok(), "", "{line}");
            let info = qemu_img(folder, &words("info --output=json x")).ok();
            let size = info.lines().rfind(|line| line.contains("virtual-size"));
            size.map(str::to_owned)
        });
        assert!(told[0].is_some() && told[0] == told[1], "{line}: {told:?}");
        let format = if line.contains("qcow2") {
            "qcow2"
        } else {
            "raw"
        };
        assert_same_as_disk(folder, "x", format);
    }
}

fn salvage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), Noise(3).bytes(64 << 10)).unwrap();
    qemu_img(
        folder,
        &words("convert -O qcow2 -o cluster_size=4k disk.raw x.qcow2"),
    )
    .ok();
    // The entry of the second cluster points beyond the end of the file.
    let image = fs::File::options()
        .read(true)
        .write(true)
        .open(folder.join("x.qcow2"))
        .unwrap();
    let get = |offset| {
        let mut bytes = [0; 8];
        image.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    };
    let l2 = get(get(40)) & 0x00ff_ffff_ffff_fe00;
    let far = (1u64 << 63 | 1 << 40).to_be_bytes();
    image.write_all_at(&far, l2 + 8).unwrap();

    let failed = ours(folder, &["convert", "x.qcow2", "back.raw"]);
    failed.fails(1, "beyond the end of the file");
    assert!(!folder.join("back.raw").exists());
    let ran = ours(folder, &["convert", "--salvage", "x.qcow2", "back.raw"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    // The oracle prints a line for each sector.
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(
        ran.stderr
            .starts_with("cowhide: warning: error while reading offset 4096: "),
        "{ran:?}"
    );
    let mut expected = fs::read(folder.join("disk.raw")).unwrap();
    expected[4096..8192].fill(0);
    assert!(fs::read(folder.join("back.raw")).unwrap() == expected);
}

/// Checks that the existing entries of a truncated L1 table can be used.
fn salvage_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut expected = Noise(4).bytes(64 << 10);
    fs::write(folder.join("disk.raw"), &expected).unwrap();
    let convert = "convert -O qcow2 -o cluster_size=512 disk.raw x.qcow2";
    qemu_img(folder, &words(convert)).ok();
    // The two L1 entries, each for 32 KiB, are moved to the end of the file, so that the second one is beyond it.
    let mut image = fs::read(folder.join("x.qcow2")).unwrap();
    image.resize(image.len().next_multiple_of(512), 0);
    let end = (image.len() as u64).to_be_bytes();
    let l1 = u64::from_be_bytes(image[40..48].try_into().unwrap());
    let first = image[usize::try_from(l1).unwrap()..][..8].to_vec();
    image.extend(first);
    image[40..48].copy_from_slice(&end);
    fs::write(folder.join("x.qcow2"), image).unwrap();

    let failed = ours(folder, &["convert", "x.qcow2", "back.raw"]);
    failed.fails(1, "the L1 table");
    for tool in [ours, qemu_img] {
        let ran = tool(folder, &["convert", "--salvage", "x.qcow2", "back.raw"]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        // Only cowhide reports that.
        let said = "error while reading offset 32768: L1 entry 1 is invalid: it is beyond the end";
        assert!(
            ran.stderr.is_empty() || ran.stderr.contains(said),
            "{ran:?}"
        );
        expected[32 << 10..].fill(0);
        assert!(fs::read(folder.join("back.raw")).unwrap() == expected);
    }
    let ran = ours(folder, &["convert", "--salvage", "x.qcow2", "back.raw"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

/// Returns true if `map` reports all of an image as present.
fn all_present(folder: &Path, image: &str) -> bool {
    let args = ["map", "--output=json", "--image-opts", image];
    let map = qemu_img(folder, &args).ok();
    !map.contains("\"present\": false") && map.lines().all(|line| line.contains("\"data\": true"))
}

fn preallocation() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for mode in ["metadata", "falloc", "full"] {
        for (cluster_size, size) in [("512", "1000k"), ("4k", "9M"), ("64k", "33M"), ("2M", "0")] {
            for encrypted in [false, true] {
                let mut options = format!("preallocation={mode},cluster_size={cluster_size}");
                if encrypted {
                    options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
                }
                let args = ["create", "-f", "qcow2", "--object", SECRET, "-o", &options];
                let printed = ours(folder, &[&args[..], &["x.qcow2", size]].concat()).ok();
                let theirs = qemu_img(folder, &[&args[..], &["y.qcow2", size]].concat()).ok();
                assert_eq!(printed.replace("x.qcow2", "y.qcow2"), theirs);
                let image = spec("x.qcow2", "qcow2", encrypted);
                let args = ["check", "--object", SECRET, "--image-opts", &image];
                let report = qemu_img(folder, &args).ok();
                assert!(report.starts_with("No errors"), "{options}: {report}");
                assert!(
                    size == "0" || report.contains("= 100.00% allocated"),
                    "{report}"
                );
                // Unwritten data reads as zeroes, encrypted or not (in the oracle's encrypted images it reads as
                // noise).
                let args = [
                    "convert",
                    "--object",
                    SECRET,
                    "--image-opts",
                    &image,
                    "-O",
                    "raw",
                ];
                qemu_img(folder, &[&args[..], &["back.raw"]].concat()).ok();
                let back = fs::read(folder.join("back.raw")).unwrap();
                assert!(back.iter().all(|byte| *byte == 0), "{options}");
                assert!(
                    encrypted || size == "0" || all_present(folder, &image),
                    "{options}"
                );
                let taken = fs::metadata(folder.join("x.qcow2")).unwrap().blocks() * 512;
                assert!(
                    mode == "metadata" || taken >= back.len() as u64,
                    "{options}: {taken}"
                );
            }
        }
    }
}

fn preallocated_raw() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for mode in ["falloc", "full"] {
        let options = format!("preallocation={mode}");
        ours(
            folder,
            &["create", "-q", "-f", "raw", "-o", &options, "x.raw", "5M"],
        )
        .ok();
        let meta = fs::metadata(folder.join("x.raw")).unwrap();
        assert_eq!(meta.len(), 5 << 20);
        assert!(meta.blocks() * 512 >= 5 << 20, "{mode}");
    }
}

fn preallocated_conversions() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for mode in ["metadata", "falloc", "full"] {
        for cluster_size in ["512", "64k"] {
            for encrypted in [false, true] {
                let mut options = format!("preallocation={mode},cluster_size={cluster_size}");
                if encrypted {
                    options.push_str(",encrypt.format=aes,encrypt.key-secret=s");
                }
                let args = ["convert", "--object", SECRET, "-O", "qcow2", "-o", &options];
                ours(folder, &[&args[..], &["disk.raw", "x.qcow2"]].concat()).ok();
                let image = spec("x.qcow2", "qcow2", encrypted);
                let args = ["check", "--object", SECRET, "--image-opts", &image];
                assert!(qemu_img(folder, &args).ok().contains("= 100.00% allocated"));
                let raw = spec("disk.raw", "raw", false);
                let args = ["compare", "--object", SECRET, "--image-opts", &image, &raw];
                assert_eq!(
                    qemu_img(folder, &args).ok(),
                    "Images are identical.\n",
                    "{options}"
                );
            }
        }
    }
}
