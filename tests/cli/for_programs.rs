//! Tests of output for programs: progress, summaries and errors as JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::{COWHIDE, Ran, cowhide, write_disk};

/// Parses the lines of a text as JSON.
fn objects(text: &str) -> Vec<Value> {
    let parsed = text.lines().map(serde_json::from_str);
    parsed
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn shell(folder: &Path, command: &str) -> Ran {
    let ran = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .output();
    ran.unwrap().into()
}

#[test]
fn new_images_and_checksums_are_objects() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let options = "-o cluster_size=4k,lazy_refcounts=on";
    let create = format!("create -f qcow2 {options} --output=json x.qcow2 1M");
    let created: Value = serde_json::from_str(&cowhide(folder, &create).ok()).unwrap();
    assert_eq!(created["filename"], "x.qcow2");
    assert_eq!(created["format"], "qcow2");
    assert_eq!(created["virtual-size"], 1 << 20);
    assert_eq!(created["options"]["cluster_size"], "4096");
    assert_eq!(created["options"]["lazy_refcounts"], "on");
    let quiet = cowhide(folder, &create.replace("--output", "-q --output"));
    assert_eq!(quiet.ok(), "");
    let line = cowhide(folder, "checksum x.qcow2").ok();
    let summed = cowhide(folder, "checksum --output=json x.qcow2").ok();
    let summed: Value = serde_json::from_str(&summed).unwrap();
    let digest = summed["digest"].as_str().unwrap();
    assert_eq!(line, format!("{digest}  x.qcow2\n"));
    assert_eq!(summed["algorithm"], "sha256");
    assert_eq!(summed["filename"], "x.qcow2");
    for command in [
        "create --output=xml x.qcow2 1M",
        "checksum --output=xml x.qcow2",
    ] {
        let ran = cowhide(folder, command);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        let words = "--output expects 'human' or 'json' not 'xml'";
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
}

#[test]
fn progress_and_the_summary_are_lines_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.img"), 4 << 20, 3);
    fs::write(folder.join("pw"), "secret").unwrap();
    let convert = "convert -f raw -O qcow2 --encrypt aes --password-file pw disk.img x.qcow2";
    let ran = cowhide(folder, &format!("{convert} --progress=json"));
    assert_eq!((ran.status, &*ran.stdout), (Some(0), ""), "{ran:?}");
    let lines = objects(&ran.stderr);
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(progress.last().unwrap()["done"], 4 << 20);
    for line in progress {
        assert_eq!(line["total"], 4 << 20, "{line}");
    }
    let summary = &last["finished"];
    assert_eq!(summary["virtual-size"], 4 << 20);
    assert_eq!(summary["target-encryption"], "aes");
    assert_eq!(summary["source-encryption"], Value::Null);
    assert!(summary["cipher-backend"].is_string(), "{summary}");
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(number("stored") + number("zeroes"), 4 << 20);
    assert!(number("written") >= number("stored"), "{summary}");
    assert!(number("read") > 0 && summary["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn progress_goes_to_the_descriptor_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.img"), 1 << 20, 3);
    let convert = format!("{COWHIDE} convert -O qcow2 disk.img x.qcow2");
    shell(folder, &format!("{convert} --progress=json:5 5>lines")).ok();
    let lines = fs::read_to_string(folder.join("lines")).unwrap();
    assert!(
        objects(&lines).last().unwrap()["finished"].is_object(),
        "{lines}"
    );
    let closed = cowhide(folder, "convert --progress=json:77 -O qcow2 disk.img y");
    closed.fails(1, "Could not write to descriptor 77: Bad file descriptor");
    let unknown = cowhide(folder, "convert --progress=xml -O qcow2 disk.img y");
    assert_eq!(unknown.status, Some(1));
    let words = "--progress expects 'lines', 'json' or 'json:DESCRIPTOR' not 'xml'";
    assert!(unknown.stderr.contains(words), "{unknown:?}");
    assert!(!folder.join("y").exists());
}

#[test]
fn errors_and_warnings_are_objects_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (args, kind, message, hint) in [
        ("info missing", "io", "Could not open 'missing'", ""),
        (
            "create -f vhdxx x 1M",
            "invalid",
            "Unknown file format 'vhdxx'",
            "Did you mean 'vhdx'?",
        ),
        (
            "convrt a b",
            "usage",
            "Command not found: convrt",
            "Did you mean 'convert'?",
        ),
        (
            "info",
            "usage",
            "Expecting one image file name",
            "Try 'cowhide info --help'",
        ),
    ] {
        for form in ["--error-format=json", "--error-format json"] {
            let ran = cowhide(folder, &format!("{form} {args}"));
            assert_eq!(ran.status, Some(1), "{ran:?}");
            let [object] = objects(&ran.stderr).try_into().unwrap();
            let error = &object["error"];
            assert_eq!(error["kind"], kind, "{error}");
            assert!(
                error["message"].as_str().unwrap().contains(message),
                "{error}"
            );
            let hints = error["hint"].to_string();
            assert!(hints.contains(hint), "{error}");
        }
    }
    let hostile = cowhide(folder, "--error-format=json info a\u{202e}\u{7}b");
    let [object] = objects(&hostile.stderr).try_into().unwrap();
    assert!(object["error"]["message"].is_string());
}

#[test]
fn a_plan_tells_what_would_be_done_and_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = fs::File::create(folder.join("disk.img")).unwrap();
    disk.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, &[7; 1 << 20], 1 << 20).unwrap();
    fs::write(folder.join("pw"), "secret").unwrap();
    let convert = "convert -f raw -O qcow2 --encrypt aes --password-file pw disk.img x.qcow2";
    let plan = cowhide(folder, &format!("{convert} --plan")).ok();
    assert!(!folder.join("x.qcow2").exists());
    for line in [
        "source: 'disk.img', raw\n",
        "target: 'x.qcow2', qcow2, encrypted (aes), which is made\n",
        "to read: 1 MiB (1048576 bytes)\n",
        "known to be zero: 7 MiB (7340032 bytes)\n",
        "cipher: ",
    ] {
        assert!(plan.contains(line), "no {line:?} in {plan}");
    }
    // The reported size is that of the file.
    cowhide(folder, convert).ok();
    let length = fs::metadata(folder.join("x.qcow2")).unwrap().len();
    assert!(
        plan.contains(&format!("({length} bytes), with data")),
        "{length}: {plan}"
    );
    let over = cowhide(
        folder,
        &format!("{convert} --plan")
            .replace("-O", "-n -O")
            .replace("--encrypt aes ", ""),
    )
    .ok();
    assert!(over.contains("which exists and is written over"), "{over}");
    cowhide(
        folder,
        "convert --plan -O qcow2 -o cluster_size=3 disk.img y",
    )
    .fails(1, "Cluster size must be");
}
