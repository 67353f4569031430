//! Tests of Ctrl-C at the system calls by which `rebase` and `commit` change files. The disk is unchanged, over the
//! old or the new backing file, and the same call can be repeated.
//!
//! Both may take hours, and change images in place. Nothing has to be undone if they are stopped: a part of the disk
//! is only dropped, or left to another backing file, after that has the data.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{COWHIDE, Ran, run, same_contents};
use crate::rebase::{copy, scribble, theirs, words};
use crate::signals::counts;
use crate::system_calls::can_be_traced;
use crate::tools::qemu_img;
use crate::trial;

/// The number of calls of each kind that get the signal, spread over all of them.
const SAMPLE: usize = 5;

/// The works: their names, the calls, and the backing file of `top` afterwards.
const WORKS: [(&str, &str, Option<&str>); 6] = [
    ("rebase", "rebase -b other -F qcow2 top", Some("other")),
    ("rebase_to_none", "rebase -b '' top", None),
    ("rebase_compressed", "rebase -c -b '' top", None),
    ("commit", "commit -q top", Some("mid")),
    ("commit_and_keep", "commit -q -d top", Some("mid")),
    ("commit_to_the_bottom", "commit -q -b base top", Some("mid")),
];

pub fn trials() -> Vec<Trial> {
    let works = can_be_traced();
    let trials = WORKS.map(|(name, call, backing)| {
        let name = format!("stopped::{name}");
        trial(name, move || sweep(call, backing)).with_ignored_flag(!works)
    });
    trials.into()
}

/// Makes `top` over `mid` over `base`, and `other` of the same size.
fn make(folder: &Path) {
    let create = "create -q -f qcow2 -o cluster_size=4k";
    for (name, over) in [
        ("base", ""),
        ("mid", "-b base -F qcow2"),
        ("top", "-b mid -F qcow2"),
        ("other", ""),
    ] {
        theirs(folder, &format!("{create} {over} {name} 700K"));
        scribble(folder, "qcow2", name, 700 << 10, name.len() as u64 + 7);
    }
    theirs(folder, "convert -f qcow2 -O raw top disk.raw");
}

/// Runs a command under strace, which sends the signal.
fn trace(folder: &Path, call: &str, expression: &str) -> (Ran, String) {
    // The process that starts the tests may ignore SIGINT, and its children inherit that.
    let tool = "--default-signal=INT strace -f -o trace -e";
    let args = tool.split(' ').chain([expression, COWHIDE]);
    let ran = run(folder, "env", args.chain(words(call)));
    (ran, fs::read_to_string(folder.join("trace")).unwrap())
}

/// Returns the name of the backing file of `top`.
fn backing(folder: &Path) -> Option<String> {
    let info = qemu_img(folder, &["info", "-f", "qcow2", "--output=json", "top"]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["backing-filename"].as_str().map(str::to_owned)
}

/// Asserts that `top` has its old disk, and no damage but leaks.
fn is_whole(folder: &Path, when: &str) {
    let compare = "compare -q -f qcow2 -F raw top disk.raw";
    let compared = qemu_img(folder, &words(compare));
    assert_eq!(compared.status, Some(0), "{when}: {compared:?}");
    for image in ["top", "mid", "base"] {
        let check = qemu_img(folder, &["check", "-q", "-f", "qcow2", image]);
        assert!(matches!(check.status, Some(0 | 3)), "{when}: {check:?}");
    }
}

fn sweep(call: &str, expected: Option<&str>) {
    let original = tempfile::tempdir().unwrap();
    let original = original.path();
    make(original);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy(original, folder);
    let (ran, calls) = trace(folder, call, "trace=all");
    assert_eq!(ran.status, Some(0), "{call}: {ran:?}");
    is_whole(folder, call);
    let mut stopped = 0;
    for (name, count) in counts(&calls) {
        let step = count.div_ceil(SAMPLE).max(1);
        for nth in (1..=count).step_by(step) {
            copy(original, folder);
            let expression = format!("inject={name}:signal=INT:when={nth}");
            let (ran, trace) = trace(folder, call, &expression);
            let when = format!("{call}: {expression}: {ran:?}");
            assert_eq!(ran.stderr, "", "{when}");
            is_whole(folder, &when);
            let now = backing(folder);
            if !trace.contains("+++ killed by SIGINT") {
                assert_eq!(ran.status, Some(0), "{when}");
                assert_eq!(now.as_deref(), expected, "{when}");
                continue;
            }
            stopped += 1;
            let is_known = now.as_deref() == Some("mid") || now.as_deref() == expected;
            assert!(is_known, "{when}: over {now:?}");
            let other = same_contents(&original.join("other"), &folder.join("other"));
            assert!(other, "{when}: the new backing file has changed");
            let again = run(folder, COWHIDE, words(call));
            assert_eq!(again.status, Some(0), "{when}: then {again:?}");
            assert_eq!(backing(folder).as_deref(), expected, "{when}");
            is_whole(folder, &when);
        }
    }
    assert!(stopped >= 3, "{call}: stopped {stopped} times");
}
