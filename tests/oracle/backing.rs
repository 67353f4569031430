//! Tests of new images with a backing file: `create -b` and `convert -B`, compared with the oracle.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, qemu_io, run, same_contents, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, spec, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("backing::create", create),
        trial("backing::create_is_refused", create_is_refused),
        trial("backing::convert", convert),
        trial("backing::convert_is_refused", convert_is_refused),
        trial("backing::nothing_is_below_the_source", alone),
        trial("backing::anything_over_anything", || anything(1..61, false)),
        trial("backing::into_anything_that_is_there", || {
            anything(61..101, true);
        }),
        trial("backing::loop", ends_in_itself),
        trial("backing::something_is_missing_below", missing_below),
        trial("backing::smaller_target", smaller_target),
    ]
}

/// Makes a raw disk, an overlay of it with data, and an empty overlay of another size.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_disk(&path.join("base"), 3 << 20, 5);
    fs::create_dir(path.join("sub")).unwrap();
    for args in [
        "create -q -f qcow2 -b base -F raw top",
        "create -q -f qcow2 -o cluster_size=4k short 1M",
    ] {
        let args: Vec<_> = args.split(' ').collect();
        qemu_img(path, &args).ok();
    }
    let write = "write -q -P 9 100k 300k";
    let args = ["-c", write, "-c", "write -q -z 1M 1M", "top"];
    run(path, "qemu-io", args).ok();
    folder
}

fn create() {
    let folder = folder();
    let folder = folder.path();
    for args in [
        "-b base -F raw new",
        "-b top -F qcow2 new 5M",
        "-b base -o backing_fmt=raw,cluster_size=512,compat=0.10 new",
        "-o backing_file=short,backing_fmt=qcow2,extended_l2=on,preallocation=metadata new",
        "-u -b missing -F qcow2 new 1M",
        "-b ../base -F raw sub/new",
    ] {
        let mut seen = Vec::new();
        for tool in [qemu_img as Tool, ours] {
            let all = [&["create", "-f", "qcow2"][..], &split(args)].concat();
            let created = tool(folder, &all).ok();
            let name = if args.ends_with("sub/new") {
                "sub/new"
            } else {
                "new"
            };
            let info = qemu_img(folder, &["info", "--output=json", name]).ok();
            let info: Vec<_> = info
                .lines()
                .filter(|line| !line.contains("actual-size") && !line.contains("virtual-size"))
                .map(str::to_owned)
                .collect();
            let size = qemu_img(folder, &["info", "-U", name]).ok();
            let size = size.lines().nth(2).unwrap().to_owned();
            seen.push((created, info, size));
            if !args.contains("missing") {
                assert!(
                    qemu_img(folder, &["check", name])
                        .ok()
                        .starts_with("No err")
                );
                qemu_img(folder, &["convert", "-O", "raw", name, "back"]).ok();
                fs::rename(folder.join("back"), folder.join(seen.len().to_string())).unwrap();
            }
        }
        assert_eq!(seen[0], seen[1], "{args}");
        if !args.contains("missing") {
            assert!(
                same_contents(&folder.join("1"), &folder.join("2")),
                "{args}"
            );
        }
    }
}

fn split(args: &str) -> Vec<&str> {
    args.split(' ').collect()
}

fn create_is_refused() {
    let folder = folder();
    let folder = folder.path();
    for args in [
        "-f qcow2 -b base new",
        "-f qcow2 -u -b base new 1M",
        "-f qcow2 -b base -F qcow9 new",
        "-f qcow2 -b missing -F raw new",
        "-f qcow2 -b top -F raw top",
        "-f qcow2 -u -b missing -F raw new",
        "-f qcow2 -b base -F raw sub/new",
        "-f raw -b base new 1M",
        "-f raw -F raw new 1M",
    ] {
        refused_alike(folder, &[&["create"][..], &split(args)].concat());
        assert!(!folder.join("new").exists() && !folder.join("sub/new").exists());
    }
    let args = ["create", "-f", "qcow2", "-b", "", "new", "1M"];
    refused_alike(folder, &args);
}

/// Asserts that both tools end with the same status and the same message, except for their names.
fn refused_alike(folder: &Path, args: &[&str]) {
    let theirs = qemu_img(folder, args);
    let ours = ours(folder, args);
    assert_eq!(theirs.status, Some(1), "{theirs:?}");
    assert_eq!(ours.status, Some(1), "{ours:?}");
    assert_eq!(ours.stdout, theirs.stdout, "{args:?}");
    let words = ours.stderr.replacen("cowhide: ", "qemu-img: ", 1);
    assert_eq!(
        without_help(&words, &theirs.stderr),
        theirs.stderr,
        "{args:?}"
    );
}

fn convert() {
    let folder = folder();
    let folder = folder.path();
    for args in [
        "-B base -F raw",
        "-B base -F raw -c",
        "-B base -F raw -o cluster_size=4k,extended_l2=off,compat=0.10",
        "-o backing_file=base,backing_fmt=raw,extended_l2=on",
        "-B base -F raw -S 0",
    ] {
        let mut maps = Vec::new();
        for tool in [qemu_img as Tool, ours] {
            let args = [
                &["convert", "-O", "qcow2"][..],
                &split(args),
                &["top", "new"],
            ]
            .concat();
            tool(folder, &args).ok();
            assert!(
                qemu_img(folder, &["check", "new"])
                    .ok()
                    .starts_with("No err")
            );
            let compared = qemu_img(folder, &["compare", "top", "new"]).ok();
            assert_eq!(compared, "Images are identical.\n", "{args:?}");
            let map = qemu_img(folder, &["map", "--output=json", "new"]).ok();
            // Host offsets of clusters may differ.
            let map = map
                .lines()
                .map(|line| line.split(", \"offset\"").next().unwrap().to_owned());
            maps.push(map.collect::<Vec<_>>());
        }
        if !args.contains("-c") {
            assert_eq!(joined(&maps[1]), joined(&maps[0]), "{args}");
        }
    }
    // Data that is only in the source's backing file isn't written, even if the target's doesn't have it.
    ours(
        folder,
        &split("convert -O qcow2 -B short -F qcow2 top over_short"),
    )
    .ok();
    qemu_img(
        folder,
        &split("convert -O qcow2 -B short -F qcow2 top theirs"),
    )
    .ok();
    let compared = qemu_img(folder, &["compare", "over_short", "theirs"]).ok();
    assert_eq!(compared, "Images are identical.\n");
}

/// Joins adjacent runs of the same kind, since runs also end with a file's clusters, and the holes of the file in a
/// data cluster may differ.
fn joined(map: &[String]) -> Vec<(u64, String)> {
    let mut runs: Vec<(u64, String)> = Vec::new();
    for line in map {
        let number = |key: &str| -> u64 {
            let rest = line.split(key).nth(1).unwrap();
            rest.trim_start_matches([' ', ':'])
                .split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        let kind = line
            .split("\"depth\"")
            .nth(1)
            .unwrap()
            .trim_end_matches([',', ']', '}']);
        let kind = kind.replace(
            "\"zero\": true, \"data\": true",
            "\"zero\": false, \"data\": true",
        );
        let length = number("\"length\"");
        match runs.last_mut() {
            Some((total, last)) if *last == kind => *total += length,
            _ => runs.push((length, kind)),
        }
    }
    runs
}

fn convert_is_refused() {
    let folder = folder();
    let folder = folder.path();
    for args in [
        "-O qcow2 -B base top new",
        "-O qcow2 -o backing_file=base top new",
        "-O qcow2 -B base -F raw top short new",
        "-n -O qcow2 -B base -F raw short short top",
        "-O raw -B base top new",
        "-O qcow2 -n --target-is-zero -B base -F raw top short",
    ] {
        let args = [&["convert"][..], &split(args)].concat();
        let ours = ours(folder, &args);
        let theirs = qemu_img(folder, &args);
        let words = theirs.stderr.trim_start_matches("qemu-img: ").trim_end();
        ours.fails(1, words);
        assert!(!folder.join("new").exists());
    }
}

/// Checks that unallocated parts of a source without a backing file become zeroes, and aren't left to the target's
/// backing file.
fn alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &split("create -q -f qcow2 base 1M")).ok();
    qemu_io(folder, "qcow2", "base", &["write -P 7 0 1M"]);
    qemu_img(folder, &split("create -q -f qcow2 source 1M")).ok();
    qemu_io(folder, "qcow2", "source", &["write -P 9 0 64k"]);
    qemu_img(folder, &split("create -q -f qcow2 packed 1M")).ok();
    qemu_io(folder, "qcow2", "packed", &["write -c -P 9 64k 64k"]);
    let external = "create -q -f qcow2 -o data_file=external.data external 1M";
    qemu_img(folder, &split(external)).ok();
    qemu_io(folder, "qcow2", "external", &["write -P 9 0 64k"]);
    for source in ["source", "packed", "external"] {
        for how in [
            "-q",
            "-c",
            "-S 0",
            "-o compat=0.10",
            "-o extended_l2=on",
            "-o cluster_size=2M",
        ] {
            let args = format!("convert -O qcow2 {how} -B base -F qcow2 {source} new");
            ours(folder, &split(&args.replace("-q ", ""))).ok();
            assert!(
                qemu_img(folder, &["check", "new"])
                    .ok()
                    .starts_with("No err")
            );
            let compared = qemu_img(folder, &["compare", source, "new"]).ok();
            assert_eq!(compared, "Images are identical.\n", "{args}");
        }
        let full = "create -q -f qcow2 full 1M";
        qemu_img(folder, &split(full)).ok();
        qemu_io(folder, "qcow2", "full", &["write -P 5 0 1M"]);
        let args = format!("convert -n -O qcow2 -B base -F qcow2 {source} full");
        ours(folder, &split(&args)).ok();
        let compared = qemu_img(folder, &["compare", source, "full"]).ok();
        assert_eq!(compared, "Images are identical.\n", "{args}");
    }
}

/// The sizes of disks in bytes, some of which aren't multiples of a cluster.
const SIZES: [u64; 5] = [
    320 << 10,
    700 << 10,
    1 << 20,
    (1 << 20) + 7 * 512,
    1536 << 10,
];

/// Sources: their options, and their backing files (`base`, or separate images).
const SOURCES: &[(&str, &[&str])] = &[
    ("raw", &[]),
    ("cluster_size=4k", &[]),
    ("cluster_size=64k,compat=0.10", &[]),
    ("data_file=source.data", &[]),
    ("extended_l2=on", &[]),
    ("aes", &[]),
    ("cluster_size=512", &["base"]),
    ("cluster_size=16k,compat=0.10", &["base"]),
    ("data_file=source.data", &["base"]),
    ("extended_l2=on", &["base", "same size"]),
    ("aes", &["base"]),
    ("cluster_size=64k", &["own"]),
    ("cluster_size=4k", &["own", "own"]),
    ("extended_l2=on", &["own", "same size"]),
    ("aes,cluster_size=4k", &["own"]),
];

const TARGETS: [&str; 12] = [
    "",
    "-c",
    "-S 0",
    "-S 64k",
    "-o compat=0.10",
    "-o extended_l2=on",
    "-o extended_l2=on -S 0",
    "-o cluster_size=4k",
    "-o cluster_size=1M",
    "-o data_file=NAME.data",
    "-m 1 -W",
    "-c -o cluster_size=16k",
];

fn pick<'a, T>(noise: &mut Noise, from: &'a [T]) -> &'a T {
    &from[usize::try_from(noise.below(from.len() as u64)).unwrap()]
}

/// Writes to random parts: data, zeroes and, if allowed, compressed clusters.
fn scribble(folder: &Path, image: &str, size: u64, packs: bool, noise: &mut Noise) {
    let mut args = vec!["--object".to_owned(), SECRET.to_owned()];
    for place in 0..1 + noise.below(7) {
        let start = noise.below(size / 512) * 512;
        let start = match noise.below(2) {
            0 => start,
            _ => start / 65536 * 65536,
        };
        let length = [512, 4096, 65536, 131_072, (1 + noise.below(400)) * 512];
        let length = (*pick(noise, &length)).min(size - start);
        let cluster = start / 65536 * 65536;
        let write = match noise.below(10) {
            // Allocated clusters can't be overwritten compressed.
            _ if packs && place == 0 && cluster + 65536 <= size => {
                format!("write -c -P 3 {cluster} 64k")
            }
            1..=3 => format!("write -z {start} {length}"),
            _ => format!("write -P {} {start} {length}", 1 + noise.below(250)),
        };
        args.extend(["-c".to_owned(), write]);
    }
    args.extend(["--image-opts".to_owned(), image.to_owned()]);
    let ran = run(folder, "qemu-io", &args);
    assert_eq!(ran.status, Some(0), "{ran:?}");
}

/// Checks sources of all kinds that are converted over bases of all sizes, which needn't have the contents of the
/// source's backing file. Targets are of all kinds, new or existing. Those of both tools must read the same.
fn anything(seeds: std::ops::Range<u64>, existing: bool) {
    for seed in seeds {
        let folder = tempfile::tempdir().unwrap();
        one_of_anything(folder.path(), seed, existing);
    }
}

fn one_of_anything(folder: &Path, seed: u64, existing: bool) {
    let mut noise = Noise(seed);
    let noise = &mut noise;
    let create = |options: &str, below: &str, name: &str, size: u64| {
        let options = options.replace("aes", "encrypt.format=aes,encrypt.key-secret=s");
        let size = size.to_string();
        let mut args = vec!["create", "-q", "--object", SECRET, "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", &options]);
        }
        if !below.is_empty() {
            args.extend(["-b", below, "-F", "qcow2"]);
        }
        qemu_img(folder, &[&args[..], &[name, &size]].concat()).ok();
    };
    let plain = |name| spec(name, "qcow2", false);
    let base_size = *pick(noise, &SIZES);
    create("", "", "base", base_size);
    scribble(folder, &plain("base"), base_size, true, noise);
    let (options, below) = *pick(noise, SOURCES);
    let size = *pick(noise, &SIZES);
    let mut last = "";
    let own_size = match below.contains(&"same size") {
        true => size,
        false => *pick(noise, &SIZES),
    };
    for (layer, name) in below.iter().zip(["below0", "below1"]) {
        if *layer == "own" {
            create("", last, name, own_size);
            scribble(folder, &plain(name), own_size, true, noise);
            last = name;
        } else if *layer == "base" && (below.len() == 1 || base_size >= size) {
            last = "base";
        }
    }
    let source = if options == "raw" {
        let raw = fs::File::create(folder.join("source")).unwrap();
        raw.set_len(size).unwrap();
        spec("source", "raw", false)
    } else {
        create(options, last, "source", size);
        spec("source", "qcow2", options.contains("aes"))
    };
    let packs = options == "cluster_size=64k,compat=0.10" || options == "extended_l2=on";
    scribble(folder, &source, size, packs, noise);
    let mut how = *pick(noise, &TARGETS);
    let mut format = "qcow2";
    if existing {
        how = *pick(noise, &["", "-S 0", "-m 1 -W"]);
        let size = size.max(*pick(noise, &SIZES));
        if noise.below(4) == 0 {
            format = "raw";
            let raw = fs::File::create(folder.join("theirs")).unwrap();
            raw.set_len(size).unwrap();
        } else {
            let below = *pick(noise, &["", "base"]);
            let options = ["cluster_size=4k", "compat=0.10", "cluster_size=256k"];
            create(pick::<&str>(noise, &options), below, "theirs", size);
        }
        scribble(folder, &spec("theirs", format, false), size, false, noise);
        fs::copy(folder.join("theirs"), folder.join("ours")).unwrap();
    }
    for (tool, name) in [(qemu_img as Tool, "theirs"), (ours, "ours")] {
        let how = how.replace("NAME", name);
        let mut args = vec!["convert", "--object", SECRET];
        args.extend(how.split_whitespace());
        args.extend(if existing { &["-n"][..] } else { &[] });
        args.extend(["-O", format, "-B", "base", "-F", "qcow2"]);
        tool(
            folder,
            &[&args[..], &["--image-opts", &source, name]].concat(),
        )
        .ok();
    }
    let args = ["compare", "-f", format, "-F", format, "ours", "theirs"];
    let compared = qemu_img(folder, &args);
    let identical = compared.stdout == "Images are identical.\n";
    let what = format!("seed {seed}: {options} over {below:?}, {how} -n: {existing}");
    assert!(identical, "{what}: {compared:?}");
    if format == "qcow2" {
        let report = qemu_img(folder, &["check", "ours"]).ok();
        assert!(report.starts_with("No errors"), "{what}: {report}");
    }
}

/// Checks that a chain with a loop is refused, since it could never be opened. QEMU's tools follow it until they run
/// out of a resource.
fn ends_in_itself() {
    let folder = folder();
    let folder = folder.path();
    for args in [
        "create -q -u -f qcow2 -b two -F qcow2 one 1M",
        "create -q -u -f qcow2 -b one -F qcow2 two 1M",
        "create -q -u -f qcow2 -b ./self -F qcow2 self 1M",
    ] {
        qemu_img(folder, &split(args)).ok();
    }
    let prefix = "Could not open backing file: ".repeat(2);
    for (args, message) in [
        (
            "create -f qcow2 -b one -F qcow2 new",
            format!("new: {prefix}Backing file 'one' creates"),
        ),
        (
            "create -f qcow2 -b one -F qcow2 new 1M",
            format!("new: {prefix}Backing file 'one' creates"),
        ),
        (
            "convert -O qcow2 -B one -F qcow2 base new",
            format!(
                "Could not open 'new': Could not open backing file: {prefix}Backing file 'one'"
            ),
        ),
        (
            "convert -O qcow2 -B self -F qcow2 base new",
            "Backing file './self' creates an infinite loop.".to_owned(),
        ),
    ] {
        let ran = ours(folder, &split(args));
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(&message), "{ran:?}");
        assert!(!folder.join("new").exists());
    }
    // If the backing file isn't opened, or names aren't followed, the loop isn't found.
    for args in [
        "create -q -u -f qcow2 -b one -F qcow2 new 1M",
        "create -q --untrusted -f qcow2 -b one -F qcow2 new 1M",
        "convert --untrusted -O qcow2 -B one -F qcow2 base new",
    ] {
        ours(folder, &split(args)).ok();
        fs::remove_file(folder.join("new")).unwrap();
    }
}

/// Checks that the whole backing chain has to exist, unless it isn't opened.
fn missing_below() {
    let folder = folder();
    let folder = folder.path();
    let args = "create -q -u -f qcow2 -b missing -F raw above_missing 1M";
    qemu_img(folder, &split(args)).ok();
    let args = "create -q -f qcow2 -o data_file=missing.data external 1M";
    qemu_img(folder, &split(args)).ok();
    fs::remove_file(folder.join("missing.data")).unwrap();
    for args in [
        "create -f qcow2 -b above_missing -F qcow2 new",
        "create -f qcow2 -b above_missing -F qcow2 new 1M",
        "convert -O qcow2 -B above_missing -F qcow2 base new",
        "convert -O qcow2 -B missing -F qcow2 base new",
        "convert -O qcow2 -B base -F qcow2 top new",
        "convert -O qcow2 -B external -F qcow2 base new",
    ] {
        refused_alike(folder, &split(args));
        // qemu-img leaves the file.
        let _ = fs::remove_file(folder.join("new"));
        ours(folder, &split(args));
        assert!(!folder.join("new").exists(), "{args}");
    }
    for args in [
        "create -q -u -f qcow2 -b above_missing -F qcow2 new 1M",
        "create -q -f qcow2 -b external -F qcow2 new",
    ] {
        for tool in [qemu_img as Tool, ours] {
            tool(folder, &split(args)).ok();
            fs::remove_file(folder.join("new")).unwrap();
        }
    }
}

fn smaller_target() {
    let folder = folder();
    let folder = folder.path();
    let args = "bitmap --add top all";
    qemu_img(folder, &split(args)).ok();
    fs::write(folder.join("raw"), [0; 512]).unwrap();
    for args in [
        "convert -n -O qcow2 base short",
        "convert -n -c -O qcow2 base short",
        "convert -n -O qcow2 -B base -F raw top short",
        "convert -n --bitmaps -O qcow2 top short",
        "convert -n -O raw top raw",
        "convert -n -O raw -B base -F raw top raw",
    ] {
        refused_alike(folder, &split(args));
    }
}
