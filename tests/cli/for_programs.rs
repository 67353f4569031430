//! Tests of output for programs: reports, progress, summaries and errors as JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{COWHIDE, Ran, cowhide, write_disk};

/// Parses the lines of a text as JSON.
fn objects(text: &str) -> Vec<Value> {
    let parsed = text.lines().map(serde_json::from_str);
    parsed
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs a command that reports a JSON value.
fn value(folder: &Path, args: &str) -> Value {
    let text = cowhide(folder, args).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args}: {error}: {text}"))
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
    let report = value(folder, &format!("{convert} --plan --output=json"));
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
    assert_eq!(report["measured"]["required"], length);
    assert_eq!(
        (&report["read"], &report["zeroes"]),
        (&json!(1 << 20), &json!(7 << 20))
    );
    let source = json!({ "filename": "disk.img", "format": "raw", "encryption": null });
    assert_eq!(report["sources"], json!([source]));
    assert_eq!(report["target"]["encryption"], "aes");
    assert_eq!(report["target-exists"], false);
    let over = format!("{convert} --plan")
        .replace("-O", "-n -O")
        .replace("--encrypt aes ", "");
    let text = cowhide(folder, &over).ok();
    assert!(text.contains("which exists and is written over"), "{text}");
    let report = value(folder, &format!("{over} --output=json"));
    assert_eq!(
        (&report["target-exists"], &report["measured"]),
        (&json!(true), &Value::Null)
    );
    for options in [
        "-O qcow2 --encrypt luks -o encrypt.iter-time=10",
        "-O luks -o iter-time=10",
    ] {
        let convert = format!("convert -f raw {options} --password-file pw disk.img luks");
        let report = value(folder, &format!("{convert} --plan --output=json"));
        cowhide(folder, &convert).ok();
        let length = fs::metadata(folder.join("luks")).unwrap().len();
        assert_eq!(report["target"]["encryption"], "luks");
        let required = report["measured"]["required"].as_u64();
        assert!(required >= Some(length), "{length}: {report}");
    }
    let without = cowhide(folder, "convert --output=json -O qcow2 disk.img y");
    assert_eq!(without.status, Some(1), "{without:?}");
    assert!(
        without.stderr.contains("--output=json is only for --plan"),
        "{without:?}"
    );
    cowhide(
        folder,
        "convert --plan -O qcow2 -o cluster_size=3 disk.img y",
    )
    .fails(1, "Cluster size must be");
}

#[test]
fn a_plan_fails_where_the_conversion_would() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.img"), 1 << 20, 5);
    fs::create_dir(folder.join("folder")).unwrap();
    cowhide(folder, "create -q -f qcow2 small.qcow2 64k").ok();
    for arguments in [
        "disk.img nowhere/x",
        "disk.img folder",
        "disk.img disk.img",
        "disk.img /dev/null",
        "-O qcow2 -B missing -F raw disk.img x",
        "-O qcow2 -B small.qcow2 -F qcow2 disk.img small.qcow2",
        "-O qcow2 -o cluster_size=3 disk.img x",
        "-n -O qcow2 disk.img missing",
        "-n -O qcow2 disk.img disk.img",
        "-n -O qcow2 disk.img small.qcow2",
        "-n -O raw disk.img disk.img",
    ] {
        let planned = cowhide(folder, &format!("convert -f raw --plan {arguments}"));
        let converted = cowhide(folder, &format!("convert -f raw {arguments}"));
        assert_eq!(planned.status, Some(1), "{arguments}: {planned:?}");
        assert_eq!(planned.stderr, converted.stderr, "{arguments}");
    }
    // An existing file is named, and left as it is.
    fs::write(folder.join("old"), "old").unwrap();
    let plan = "convert -f raw --plan disk.img old";
    let text = cowhide(folder, plan).ok();
    assert!(
        text.contains("'old', raw, which replaces an existing file\n"),
        "{text}"
    );
    let report = value(folder, &format!("{plan} --output=json"));
    assert_eq!(report["replaces-file"], true);
    assert_eq!(fs::read(folder.join("old")).unwrap(), b"old");
}

#[test]
fn snapshots_are_listed_as_in_info() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    cowhide(folder, "create -q -f qcow2 x.qcow2 1M").ok();
    let list = "snapshot -l --output=json x.qcow2";
    assert_eq!(value(folder, list), json!([]));
    for name in ["before", "after"] {
        cowhide(folder, &format!("snapshot -c {name} x.qcow2")).ok();
    }
    let listed = value(folder, list);
    assert_eq!(
        listed,
        value(folder, "info --output=json x.qcow2")["snapshots"]
    );
    assert_eq!(
        (&listed[0]["name"], &listed[1]["id"]),
        (&json!("before"), &json!("2"))
    );
    let text = cowhide(folder, "snapshot -l x.qcow2").ok();
    assert!(text.starts_with("Snapshot list:\n"), "{text}");
    let change = cowhide(folder, "snapshot --output=json -c third x.qcow2");
    assert_eq!(change.status, Some(1), "{change:?}");
    assert!(
        change.stderr.contains("--output=json is only for -l"),
        "{change:?}"
    );
    assert_eq!(value(folder, list), listed);
}

#[test]
fn comparisons_say_what_differs_first() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a"), [1; 8192]).unwrap();
    fs::write(folder.join("same"), [1; 8192]).unwrap();
    fs::write(folder.join("other"), [[1; 4096], [2; 4096]].concat()).unwrap();
    fs::write(folder.join("long"), [[1; 8192], [0; 8192]].concat()).unwrap();
    fs::File::create(folder.join("hole"))
        .unwrap()
        .set_len(8192)
        .unwrap();
    fs::write(folder.join("zeroes"), [0; 8192]).unwrap();
    let result = |args: &str, status: i32| {
        let ran = cowhide(folder, &format!("compare --output=json {args}"));
        assert_eq!((ran.status, &*ran.stderr), (Some(status), ""), "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let expected = |difference: Option<&str>, offset: Option<u64>, longer: bool| {
        let identical = difference.is_none();
        json!({ "identical": identical, "difference": difference, "offset": offset, "longer": longer })
    };
    assert_eq!(result("a same", 0), expected(None, None, false));
    assert_eq!(
        result("a other", 1),
        expected(Some("content"), Some(4096), false)
    );
    assert_eq!(result("a long", 0), expected(None, None, true));
    assert_eq!(result("-s a long", 1), expected(Some("size"), None, false));
    assert_eq!(
        result("-s hole zeroes", 1),
        expected(Some("status"), Some(0), false)
    );
    assert_eq!(cowhide(folder, "compare -q --output=json a same").ok(), "");
}

#[test]
fn benchmarks_are_objects_with_their_requests() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [1; 65536]).unwrap();
    let mut report = value(
        folder,
        "bench -c 10 -d 2 -s 1k -S 4k -o 512 --output=json disk.img",
    );
    let seconds = report["seconds"].take();
    assert!(seconds.as_f64().unwrap() > 0.0, "{seconds}");
    let expected = json!({
        "filename": "disk.img", "operation": "read", "requests": 10, "length": 1024, "in-flight": 2,
        "offset": 512, "step": 4096, "flush-interval": 0, "seconds": null,
    });
    assert_eq!(report, expected);
    let writes = "bench -w -c 10 -d 2 --flush-interval 5 --output=json -f raw disk.img";
    let report = value(folder, writes);
    assert_eq!(
        (&report["operation"], &report["flush-interval"]),
        (&json!("write"), &json!(5))
    );
}

/// Checks messages that have a text of their own, and findings.
#[test]
fn every_line_of_standard_error_is_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [1; 8192]).unwrap();
    cowhide(folder, "convert -q -O qcow2 disk.img x.qcow2").ok();
    cowhide(folder, "convert -q -O qcow2 disk.img bad.qcow2").ok();
    let bad = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("bad.qcow2"))
        .unwrap();
    // An entry of the L2 table, in cluster 2, that refers to cluster 1.
    let entry = [0, 0, 0, 0, 0, 1, 0, 0];
    std::os::unix::fs::FileExt::write_all_at(&bad, &entry, (2 << 16) + 8).unwrap();
    for (args, what, message) in [
        ("check disk.img", "error", "does not support checks"),
        ("check bad.qcow2", "finding", "ERROR cluster 1 "),
        ("resize x.qcow2 4096", "error", "Use the --shrink option"),
        ("resize x.qcow2 4096", "warning", "Shrinking an image"),
        (
            "resize disk.img 16k",
            "warning",
            "Image format was not specified",
        ),
        ("dd if=disk.img of=y skip=100", "error", "cannot skip to"),
    ] {
        let ran = cowhide(folder, &format!("--error-format=json {args}"));
        let lines = objects(&ran.stderr);
        assert!(lines.iter().all(Value::is_object), "{args}: {ran:?}");
        let of_kind = lines.iter().filter(|line| line[what].is_object());
        let texts: Vec<_> = of_kind
            .map(|line| line[what]["message"].to_string())
            .collect();
        assert!(
            texts.iter().any(|text| text.contains(message)),
            "{args}: {ran:?}"
        );
    }
}
