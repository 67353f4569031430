//! Tests of single system calls, which strace counts or lets fail. They are listed as ignored if strace is missing or
//! may not trace.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Noise, Ran, run};
use crate::tools::qemu_img;
use crate::{system_calls, trial};

pub fn trials() -> Vec<Trial> {
    let works = system_calls::can_be_traced();
    [
        (
            "traced::a_new_file_that_cant_be_inspected",
            inspected as fn(),
        ),
        ("traced::findings_are_written_together", findings),
        ("traced::files_that_cant_be_named_later", named_later),
        ("traced::directories_of_new_names_are_flushed", directories),
    ]
    .map(|(name, test)| trial(name, test).with_ignored_flag(!works))
    .into()
}

/// Runs cowhide under strace, which writes to `trace`.
fn traced(folder: &Path, expression: &str, line: &str) -> Ran {
    let mut args = vec!["-f", "-y", "-o", "trace", "-e", expression, COWHIDE];
    args.extend(line.split_whitespace());
    run(folder, "strace", args)
}

fn inspected() {
    for line in [
        "create -q x 1M",
        "create -q -f qcow2 x 1M",
        "create -q -f qcow2 -o data_file=y x 1M",
    ] {
        let mut failed = 0;
        for nth in 1..40 {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let ran = traced(
                folder,
                &format!("inject=statx,fstat:error=EIO:when={nth}+"),
                line,
            );
            if ran.status == Some(0) {
                continue;
            }
            failed += 1;
            for name in ["x", "y"] {
                let left = folder.join(name).exists();
                assert!(!left, "{name} of {line} at {nth}: {ran:?}");
            }
        }
        assert!(failed > 0, "{line}");
    }
}

/// Checks that an unnamed file is copied to a named one if `linkat` is forbidden.
fn named_later() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = Noise(6).bytes(3 << 20);
    fs::write(folder.join("disk.raw"), &disk).unwrap();
    let convert = "convert -t writeback -O qcow2 -o data_file=x.data,data_file_raw=on disk.raw x";
    for (linking, copying, is_made) in [
        ("linkat:error=EPERM", "copy_file_range:error=ENOSYS", true),
        (
            "linkat:error=ENOENT",
            "copy_file_range:signal=WINCH:when=1",
            true,
        ),
        // Only naming the image fails, after its data file has its name.
        (
            "linkat:error=EPERM:when=2",
            "copy_file_range:signal=WINCH:when=1",
            true,
        ),
        ("linkat:error=EPERM", "ftruncate:error=EIO:when=3", false),
        (
            "linkat:error=EEXIST",
            "copy_file_range:signal=WINCH:when=1",
            false,
        ),
    ] {
        let injections = format!("-f -o trace -e inject={linking} -e inject={copying}");
        let words = injections.split(' ').chain([COWHIDE]);
        let ran = run(folder, "strace", words.chain(convert.split(' ')));
        let trace = fs::read_to_string(folder.join("trace")).unwrap();
        assert!(trace.contains("linkat("), "{injections}: {ran:?}");
        if is_made {
            ran.ok();
            qemu_img(folder, &["compare", "-q", "disk.raw", "x"]).ok();
            assert!(fs::read(folder.join("x.data")).unwrap() == disk);
        } else {
            ran.fails(1, "Could not create 'x");
        }
        for name in ["x", "x.data"] {
            assert_eq!(folder.join(name).exists(), is_made, "{injections}: {name}");
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

/// Checks that only the directory of a new name is flushed. A directory that can't be flushed is no error, and a
/// failed medium is one.
fn directories() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    fs::create_dir(folder.join("A")).unwrap();
    std::os::unix::fs::symlink("A/new", folder.join("lk")).unwrap();
    fs::write(folder.join("old"), "old").unwrap();
    for (line, flushed) in [
        ("create -q -f qcow2 lk 1M", Some(folder.join("A"))),
        ("create -q -f qcow2 x 1M", Some(folder.clone())),
        ("create -q -f qcow2 old 1M", None),
        ("create -q -f qcow2 lk 1M", None),
    ] {
        let ran = traced(&folder, "trace=fsync", line);
        assert_eq!(ran.status, Some(0), "{line}: {ran:?}");
        let trace = fs::read_to_string(folder.join("trace")).unwrap();
        let calls = trace.lines().filter(|line| line.contains("fsync("));
        let calls: Vec<&str> = calls.collect();
        assert_eq!(calls.len(), usize::from(flushed.is_some()), "{calls:?}");
        if let Some(flushed) = flushed {
            assert!(
                calls[0].contains(&format!("<{}>", flushed.display())),
                "{calls:?}"
            );
        }
    }
    for (error, status) in [("EINVAL", 0), ("EACCES", 0), ("EIO", 1), ("ENOSPC", 1)] {
        fs::remove_file(folder.join("x")).unwrap();
        let expression = format!("inject=fsync:error={error}");
        let ran = traced(&folder, &expression, "create -q -f qcow2 x 1M");
        assert_eq!(ran.status, Some(status), "{error}: {ran:?}");
        assert_eq!(folder.join("x").exists(), status == 0, "{error}");
        fs::write(folder.join("x"), "").unwrap();
    }
}

fn findings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.raw"), Noise(5).bytes(1 << 20)).unwrap();
    let convert = "convert -O qcow2 -o cluster_size=512 disk.raw x.qcow2";
    let words: Vec<&str> = convert.split(' ').collect();
    qemu_img(folder, &words).ok();
    let mut bytes = fs::read(folder.join("x.qcow2")).unwrap();
    let l1 = usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    bytes[l1..l1 + 256].fill(0);
    fs::write(folder.join("x.qcow2"), bytes).unwrap();
    let ran = traced(folder, "trace=write", "check x.qcow2");
    assert_eq!(ran.status, Some(3));
    let found = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("Leaked cluster"));
    let found = found.count();
    assert!(found > 2000, "{found}");
    let trace = fs::read_to_string(folder.join("trace")).unwrap();
    let writes = trace
        .lines()
        .filter(|line| line.contains("write(2<"))
        .count();
    assert!(
        (1..20).contains(&writes),
        "{found} findings in {writes} writes"
    );
}
