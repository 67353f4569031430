//! Tests of `cowhide speed`: it measures everything, and prints the documented fields. The figures aren't
//! judged, since they depend on the load of the machine.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::{COWHIDE, Ran, copy_program};
use cowhide::crypto::{BACKEND_VARIABLE, Backend};
use serde_json::Value;

fn speed(cipher: Option<&str>, args: &[&str]) -> Ran {
    let mut command = Command::new(COWHIDE);
    command.arg("speed").args(args).env_remove(BACKEND_VARIABLE);
    if let Some(cipher) = cipher {
        command.env(BACKEND_VARIABLE, cipher);
    }
    command.output().unwrap().into()
}

fn report(cipher: Option<&str>) -> Value {
    let args = ["--seconds", "0.2", "--output=json", "--threads", "2"];
    serde_json::from_str(&speed(cipher, &args).ok()).unwrap()
}

/// Returns a figure, which must have been measured.
fn measured(value: &Value) -> f64 {
    let figure = value.as_f64().unwrap_or_else(|| panic!("{value}"));
    assert!(figure.is_finite() && figure > 0.0, "{figure}");
    figure
}

#[test]
fn everything_is_measured() {
    let report = report(None);
    assert!(!report["cpu"]["model"].as_str().unwrap().is_empty());
    assert!(report["cpu"]["threads"].as_u64().unwrap() >= 1);
    assert!(report["cpu"]["virtualised"].is_boolean());
    for feature in report["cpu"]["features"].as_array().unwrap() {
        assert!(feature["name"].is_string() && feature["present"].is_boolean());
    }

    let best = Backend::detect();
    assert_eq!(report["backend"]["name"], best.name());
    let reason = report["backend"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("chosen automatically"), "{reason}");
    assert_eq!(report["backend"]["symbol"].as_str(), best.symbol());

    let ciphers = report["ciphers"].as_array().unwrap();
    let names: Vec<_> = ciphers.iter().map(|cipher| &cipher["name"]).collect();
    let available = Backend::available();
    assert_eq!(
        names,
        available.iter().map(|b| b.name()).collect::<Vec<_>>()
    );
    for (cipher, backend) in ciphers.iter().zip(available) {
        for key in [
            "encrypt-one-thread",
            "decrypt-one-thread",
            "encrypt-all-threads",
            "decrypt-all-threads",
            "times-cbc-crate-encrypt",
            "times-cbc-crate-decrypt",
        ] {
            measured(&cipher[key]);
        }
        let has_limit = backend.symbol().is_some();
        for key in ["limit", "share-of-limit"] {
            assert_eq!(cipher.get(key).map(measured).is_some(), has_limit, "{key}");
        }
        assert!(cipher["share-of-limit"].as_f64() <= Some(1.0));
    }
    let xts = report["xts"].as_array().unwrap();
    assert_eq!(xts.len(), 2 * ciphers.len());
    for (number, speed) in xts.iter().enumerate() {
        assert_eq!(speed["name"], ciphers[number / 2]["name"]);
        assert_eq!(speed["key-bits"], [128, 256][number % 2]);
        for key in [
            "encrypt-one-thread",
            "decrypt-one-thread",
            "encrypt-all-threads",
        ] {
            measured(&speed[key]);
        }
        let has_limit = ciphers[number / 2].get("limit").is_some();
        assert_eq!(speed.get("limit").map(measured).is_some(), has_limit);
    }
    measured(&report["cbc-crate"]["encrypt-one-thread"]);
    measured(&report["cbc-crate"]["decrypt-one-thread"]);
}

/// Returns the bytes of metadata of a qcow2 image, computed independently.
fn expected_metadata(cluster: u64, data: u64) -> u64 {
    let clusters = data.div_ceil(cluster);
    let l2 = clusters.div_ceil(cluster / 8);
    let l1 = (l2 * 8).div_ceil(cluster);
    let fixed = 1 + l1 + l2;
    // Refcount blocks count themselves, too.
    let (mut blocks, mut table) = (1, 1);
    loop {
        let all = clusters + fixed + blocks + table;
        let needed = all.div_ceil(cluster / 2);
        let needed = (needed, (needed * 8).div_ceil(cluster));
        if needed == (blocks, table) {
            return (fixed + blocks + table) * cluster;
        }
        (blocks, table) = needed;
    }
}

#[test]
fn every_cluster_size_is_converted_and_its_overhead_is_right() {
    let report = report(None);
    let data = report["measurement"]["data-bytes"].as_u64().unwrap();
    let sizes = report["cluster-sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 13);
    measured(&report["aes-takes-times"]);
    assert!(report["measurement"]["spread"].as_f64().unwrap() >= 0.0);
    let mut most_above_the_least = u64::MAX;
    for (number, size) in sizes.iter().enumerate() {
        let cluster = size["cluster-size"].as_u64().unwrap();
        assert_eq!(cluster, 512 << number);
        measured(&size["plain"]);
        measured(&size["aes"]);
        let metadata = size["metadata-bytes"].as_u64().unwrap();
        assert_eq!(size["file-bytes"].as_u64().unwrap(), data + metadata);
        assert_eq!(metadata, expected_metadata(cluster, data), "{cluster}");
        // Every image has at least a cluster each for the header, an L1 table, an L2 table, a refcount block
        // and the refcount table. That part grows with the cluster size, and the rest falls.
        let above_the_least = metadata - 5 * cluster;
        assert!(above_the_least <= most_above_the_least, "{cluster}");
        most_above_the_least = above_the_least;
    }
    assert_eq!(most_above_the_least, 0);
}

#[test]
fn a_forced_backend_is_named_with_who_forced_it() {
    let report = report(Some("soft"));
    assert_eq!(report["backend"]["name"], "soft");
    let reason = report["backend"]["reason"].as_str().unwrap();
    assert!(reason.contains(BACKEND_VARIABLE), "{reason}");
    assert!(report["backend"].get("symbol").is_none());
    // The others are measured nevertheless.
    let ciphers = report["ciphers"].as_array().unwrap();
    assert_eq!(ciphers.len(), Backend::available().len());
}

#[test]
fn people_get_tables_in_a_hundred_columns() {
    let text = speed(None, &["--seconds", "0.1", "--threads", "1"]).ok();
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for part in ["CPU ", "backend ", "cbc crate", " *", "512 B", "2 MiB", "█"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    if let Some(symbol) = Backend::detect().symbol() {
        assert!(text.contains(&format!("break {symbol}'")), "{text}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = Path::new(".");
    speed(Some("enigma"), &["--seconds", "0.1"]).fails(1, "COWHIDE_CIPHER: unknown cipher");
    for (args, message) in [
        ("speed --seconds 0", "--seconds expects a number"),
        ("speed --seconds -1", "--seconds expects a number"),
        ("speed --seconds nan", "--seconds expects a number"),
        ("speed --threads 0", "--threads expects a number"),
        ("speed --threads 100000", "--threads expects a number"),
    ] {
        crate::common::cowhide(folder, args).fails(1, message);
    }
    for (args, message) in [
        ("speed disk.img", "Unexpected argument: disk.img"),
        ("speed --output=xml", "--output expects"),
        ("speed --seconds soon", "invalid value 'soon'"),
    ] {
        let ran = crate::common::cowhide(folder, args);
        assert_eq!(ran.status, Some(1));
        assert!(ran.stderr.starts_with("cowhide"), "{ran:?}");
        assert!(ran.stderr.contains(message), "{ran:?}");
    }
}

/// Checks that one thread is measured under a limit on processes, which counts threads and doesn't apply to
/// root.
#[test]
fn without_more_threads_one_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    copy_program(&folder.path().join("program"));
    let mut command = Command::new("bash");
    let script = "ulimit -u 1; exec ./program speed --seconds 0.1 --threads 3 --output=json";
    command.args(["-c", script]).current_dir(folder.path());
    // This user has no other processes.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(54_321).gid(54_321);
    }
    let ran: Ran = command
        .env_remove(BACKEND_VARIABLE)
        .output()
        .unwrap()
        .into();
    let report: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_eq!(report["measurement"]["threads"], 1);
    assert_eq!(report["measurement"]["conversion-threads"], 1);
}

#[test]
fn a_storage_is_measured_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let args = ["--seconds", "0.3", "--storage", path];
    let report = speed(None, &[&args[..], &["--output=json"]].concat()).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    let requests = report["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 16);
    for request in requests {
        measured(&request["per-second"]);
        measured(&request["median-milliseconds"]);
    }
    assert!(report["bypasses-cache"].is_boolean());
    let text = speed(None, &args).ok();
    assert_eq!(
        text.lines().filter(|line| line.contains("MiB  ")).count(),
        8
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    let missing = format!("{path}/missing");
    speed(None, &["--storage", &missing]).fails(1, "missing");
}
