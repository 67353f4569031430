//! Tests of names inside of images: external data files, and backing files that are trees of options.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{run, write_disk};
use crate::tools::{SECRET, Tool, ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("inside::data_files", data_files),
        trial("inside::data_files_where_they_are_made", new_data_files),
        trial("inside::trees", trees),
        trial("inside::trees_that_are_refused", refused_trees),
        trial("inside::trees_of_new_images", new_trees),
    ]
}

fn write(folder: &Path, image: &str) {
    let wrote = run(folder, "qemu-io", ["-c", "write -q -P 7 0 64k", image]);
    assert_eq!(wrote.status, Some(0), "{wrote:?}");
}

/// Changes the name of an image's external data file.
fn rename(path: &Path, name: &str) {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes
        .windows(4)
        .position(|window| window == b"DATA")
        .unwrap();
    let length = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap());
    let old_end = at + 8 + usize::try_from(length).unwrap().next_multiple_of(8);
    let length = u32::try_from(name.len()).unwrap();
    let mut extension = [b"DATA", &length.to_be_bytes()[..], name.as_bytes()].concat();
    extension.resize(extension.len().next_multiple_of(8), 0);
    let mut new = [&bytes[..at], &extension, &bytes[old_end..65536]].concat();
    new.resize(65536, 0);
    new.extend(&bytes[65536..]);
    std::fs::write(path, new).unwrap();
}

/// Checks that a data file's name is a path, relative to the current folder.
fn data_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("sub")).unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-o", "data_file=data"];
    qemu_img(folder, &[&create[..], &["sub/x", "1M"]].concat()).ok();
    write(folder, "sub/x");
    std::fs::copy(folder.join("data"), folder.join("a:b")).unwrap();
    std::fs::copy(folder.join("data"), folder.join("file:c")).unwrap();
    std::fs::copy(folder.join("data"), folder.join("c")).unwrap();
    let absolute = folder.join("data");
    let json = r#"json:{"driver":"file","filename":"data"}"#;
    for name in [
        "data",
        "a:b",
        "./a:b",
        "file:c",
        json,
        "nope:x",
        absolute.to_str().unwrap(),
    ] {
        rename(&folder.join("sub/x"), name);
        for (folder, image) in [(folder, "sub/x"), (&folder.join("sub"), "x")] {
            for call in ["info", "map"] {
                let args = [call, image];
                let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
                assert_eq!(ours.stdout, theirs.stdout, "{name} {call}: {ours:?}");
                assert_eq!(ours.status, theirs.status, "{name} {call}: {ours:?}");
            }
        }
        let found = qemu_img(folder, &["map", "sub/x"]).status == Some(0);
        assert_eq!(found, name != json && name != "nope:x", "{name}");
        // It isn't opened with `--untrusted`.
        ours(folder, &["map", "--untrusted", "sub/x"]).fails(1, "--untrusted");
    }
}

fn new_data_files() {
    for name in ["data", "sub/data", "file:data", "./a:b", "a:b"] {
        let mut seen = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            std::fs::create_dir(folder.join("sub")).unwrap();
            let option = format!("data_file={name}");
            let args = ["create", "-f", "qcow2", "-o", &option, "sub/x", "1M"];
            let created = tool(folder, &args);
            let info = qemu_img(folder, &["info", "sub/x"]).stdout;
            let line = info.lines().find(|line| line.contains("data file:"));
            let files = run(folder, "find", [".", "-type", "f"]).ok();
            let mut files: Vec<String> = files.lines().map(str::to_owned).collect();
            files.sort();
            let said = created.stderr.replace("cowhide", "qemu-img");
            seen.push((
                created.status,
                created.stdout,
                said,
                line.map(str::to_owned),
                files,
            ));
        }
        seen[0].2 = without_help(&seen[0].2, &seen[1].2);
        assert_eq!(seen[0], seen[1], "{name}");
    }
}

const TREE: &str = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_disk(&path.join("disk.raw"), 1 << 20, 5);
    qemu_img(path, &["convert", "-O", "qcow2", "disk.raw", "base.qcow2"]).ok();
    std::fs::create_dir(path.join("sub")).unwrap();
    folder
}

fn over(folder: &Path, name: &str, format: &str) {
    let args = [
        "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", format,
    ];
    qemu_img(folder, &[&args[..], &["sub/top", "1M"]].concat()).ok();
    write(folder, "sub/top");
}

/// Checks that every command follows trees of options as qemu-img does, relative to the current folder.
fn trees() {
    let folder = folder();
    let folder = folder.path();
    for (name, format) in [
        (TREE, "qcow2"),
        (
            r#"json:{"file":{"driver":"file","filename":"base.qcow2"}}"#,
            "qcow2",
        ),
        (
            r#"json:{"driver":"raw","file.filename":"base.qcow2"}"#,
            "qcow2",
        ),
        (TREE, "raw"),
        (
            r#"json:{"driver":"raw","size":65536,"file.filename":"disk.raw"}"#,
            "raw",
        ),
    ] {
        over(folder, name, format);
        for call in [
            &["info", "sub/top"][..],
            &["info", "--backing-chain", "sub/top"],
            &["info", "--backing-chain", "--output=json", "sub/top"],
            &["map", "sub/top"],
            &["map", "--output=json", "sub/top"],
            &["measure", "-O", "qcow2", "sub/top"],
        ] {
            same_answer(folder, call);
        }
        ours(folder, &["convert", "sub/top", "ours.raw"]).ok();
        qemu_img(folder, &["convert", "sub/top", "theirs.raw"]).ok();
        let [ours, theirs] = ["ours.raw", "theirs.raw"].map(|raw| std::fs::read(folder.join(raw)));
        assert!(ours.unwrap() == theirs.unwrap(), "{name}");
    }
    // It can be overwritten, too.
    over(folder, TREE, "qcow2");
    std::fs::write(folder.join("some.raw"), vec![3; 100 << 10]).unwrap();
    ours(
        folder,
        &["convert", "-n", "-O", "qcow2", "some.raw", "sub/top"],
    )
    .ok();
    let report = qemu_img(folder, &["check", "sub/top"]).ok();
    assert!(report.starts_with("No errors"), "{report}");
}

/// Checks that nothing is followed with `--untrusted`, that no name inside of an image can use a secret, and that
/// mistakes are reported.
fn refused_trees() {
    let folder = folder();
    let folder = folder.path();
    let calls = [
        "info --backing-chain",
        "map",
        "convert -O raw",
        "measure -O qcow2",
        "compare",
    ];
    let call = |call: &str, options: &[&str]| {
        let mut args: Vec<&str> = call.split_whitespace().collect();
        args.extend(options);
        args.push("sub/top");
        if call.starts_with("convert") {
            args.push("y.raw");
        } else if call == "compare" {
            args.push("disk.raw");
        }
        ours(folder, &args)
    };
    over(folder, TREE, "qcow2");
    for name in calls {
        let refused = call(name, &["--untrusted"]);
        assert!(refused.status != Some(0), "{name}");
        assert!(
            refused.stderr.contains("--untrusted"),
            "{name}: {refused:?}"
        );
    }
    let some = [
        "convert",
        "--untrusted",
        "-n",
        "-O",
        "qcow2",
        "disk.raw",
        "sub/top",
    ];
    ours(folder, &some).fails(1, "--untrusted");
    let aes = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        SECRET,
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s",
    ];
    qemu_img(folder, &[&aes[..], &["aes.qcow2", "1M"]].concat()).ok();
    let secret = r#"json:{"driver":"qcow2","encrypt.key-secret":"s","file.filename":"aes.qcow2"}"#;
    for (name, words) in [
        (secret, "No secret with id 's'"),
        (
            r#"json:{"driver":"qcow2""#,
            "Could not parse the JSON options",
        ),
        (
            r#"json:{"driver":"nbd","host":"localhost"}"#,
            "A block device must be specified for",
        ),
        (
            r#"json:{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}"#,
            "nbd",
        ),
        (
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"nope"}}"#,
            "'nope'",
        ),
    ] {
        qemu_img(
            folder,
            &[
                "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", "sub/top", "1M",
            ],
        )
        .ok();
        let refused = call("convert -O raw", &["--object", SECRET]);
        refused.fails(1, words);
    }
    // This name leads back to the image.
    let name = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"sub/top"}}"#;
    qemu_img(
        folder,
        &[
            "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", "sub/top", "1M",
        ],
    )
    .ok();
    call("convert -O raw", &[]).fails(1, "infinite loop");
}

/// Checks trees of options in `create -b` and `convert -B`.
fn new_trees() {
    let folder = folder();
    let folder = folder.path();
    let missing = TREE.replace("base.qcow2", "nope");
    for (args, name) in [
        (&["create", "-f", "qcow2", "-F", "qcow2"][..], TREE),
        (&["create", "-f", "qcow2", "-F", "raw"], TREE),
        (&["create", "-f", "qcow2"], TREE),
        (&["create", "-f", "qcow2", "-F", "qcow2"], &missing),
    ] {
        let mut seen = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            let created = tool(folder, &[args, &["-b", name, "sub/new"]].concat());
            let info = qemu_img(folder, &["info", "--backing-chain", "sub/new"]).stdout;
            let info: Vec<String> = info
                .lines()
                .filter(|line| !line.contains("size:") && !line.contains("length:"))
                .map(str::to_owned)
                .collect();
            let _ = std::fs::remove_file(folder.join("sub/new"));
            seen.push((created.status, created.stdout, info));
        }
        assert_eq!(seen[0], seen[1], "{args:?}");
    }
    let args = [
        "convert", "-O", "qcow2", "-B", TREE, "-F", "qcow2", "disk.raw", "sub/new",
    ];
    ours(folder, &args).ok();
    let args = ["compare", "disk.raw", "sub/new"];
    assert_eq!(qemu_img(folder, &args).ok(), "Images are identical.\n");
}
