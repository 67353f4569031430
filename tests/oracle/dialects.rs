//! Tests of every option with every name that it has in QEMU 10.0.2 and 10.2, each in a call that works. None is
//! missing, and none has another meaning.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::tools::{Tool, ours, qemu_img};
use crate::trial;

/// Calls with `@` in place of the option, and the names of the option: those of all versions, and those that only
/// later versions of the oracle have. `_` in a name stands for a space.
const OPTIONS: &[(&str, &str, &str)] = &[
    (
        "create @ x 1M",
        "-fqcow2 -f_qcow2 --format=qcow2 --format_raw",
        "",
    ),
    (
        "create -f qcow2 @ x 1M",
        "-o_compat=v2 -ocompat=v2 --options=compat=v2",
        "",
    ),
    (
        "create -f qcow2 -F raw @ x",
        "-b_disk.raw -bdisk.raw --backing=disk.raw",
        "",
    ),
    (
        "create -f qcow2 -b disk.raw @ x",
        "-F_raw --backing-format=raw --backing-format_raw",
        "-B_raw -Braw",
    ),
    (
        "create -f qcow2 -F raw -b gone @ x 1M",
        "-u --backing-unsafe",
        "",
    ),
    (
        "create @ x 1M",
        "-q --quiet --object=secret,id=s,data=a",
        "",
    ),
    (
        "convert @ -O qcow2 disk.raw x",
        "-f_raw -fraw --source-format=raw",
        "",
    ),
    (
        "convert @ driver=raw,file.filename=disk.raw x",
        "--source-image-opts --image-opts",
        "",
    ),
    (
        "convert @ disk.raw x",
        "-T_none -Tunsafe --source-cache=writeback -O_qcow2 -Oqcow2 --output-format=qcow2 \
         -p -q --quiet -S_64k -S0 --sparse-size=0 -t_none --output-cache=writeback \
         -r_9G --rate=9G -m_4 -m4 --parallel=4 -C --copy-range-offloading --salvage -W --oob-writes \
         -U --force-share --object=secret,id=s,data=a",
        "--target-format=qcow2 --target-cache=writeback --rate-limit=9G --progress",
    ),
    (
        "convert -O qcow2 @ disk.raw x",
        "-o_compat=v2 -ocompat=v2 --options=compat=v2 -c",
        "--target-format-options=compat=v2 --compress",
    ),
    (
        "convert -O qcow2 @ snap.qcow2 x",
        "-l_s -ls --snapshot=s --bitmaps",
        "--source-snapshot=s",
    ),
    (
        "convert -O qcow2 --bitmaps @ snap.qcow2 x",
        "--skip-broken-bitmaps",
        "",
    ),
    (
        "convert -O qcow2 -F raw @ over.qcow2 x",
        "-B_disk.raw -Bdisk.raw --backing=disk.raw",
        "-b_disk.raw",
    ),
    (
        "convert -O qcow2 -B disk.raw @ over.qcow2 x",
        "-F_raw --backing-format=raw",
        "",
    ),
    ("convert -O qcow2 @ disk.raw old.qcow2", "-n", "--no-create"),
    (
        "convert -n -O qcow2 @ disk.raw old.qcow2",
        "--target-is-zero",
        "",
    ),
    (
        "convert -n @ disk.raw driver=qcow2,file.filename=old.qcow2",
        "--target-image-opts",
        "",
    ),
    (
        "info @ over.qcow2",
        "-f_qcow2 -fqcow2 --format=qcow2 -b --backing-chain -U --force-share --output=json \
         --output_human --object=secret,id=s,data=a",
        "-t_none --cache=none --limits",
    ),
    (
        "info @ driver=raw,file.filename=disk.raw",
        "--image-opts",
        "",
    ),
    (
        "check @ old.qcow2",
        "-q --quiet -f_qcow2 --format=qcow2 -T_none --cache=none -U --force-share --output=json \
         -r_leaks -rall --repair=all --object=secret,id=s,data=a",
        "",
    ),
    (
        "check @ driver=qcow2,file.filename=old.qcow2",
        "--image-opts",
        "",
    ),
    (
        "compare @ disk.raw same.qcow2",
        "-q --quiet -p --progress -f_raw --a-format=raw -F_qcow2 --b-format=qcow2 -T_none \
         --cache=none -U --force-share --object=secret,id=s,data=a",
        "",
    ),
    ("compare @ same.qcow2 same.qcow2", "-s --strict", ""),
    (
        "compare @ file.filename=disk.raw file.filename=same.qcow2",
        "--image-opts",
        "",
    ),
    (
        "map @ over.qcow2",
        "-f_qcow2 --format=qcow2 -s_64k -s64k --start-offset=64k -l_64k --max-length=64k \
         --output=json -U --force-share --object=secret,id=s,data=a",
        "",
    ),
    (
        "map @ driver=raw,file.filename=disk.raw",
        "--image-opts",
        "",
    ),
    (
        "measure @ snap.qcow2",
        "-O_qcow2 --target-format=qcow2 -f_qcow2 --format=qcow2 -l_s --snapshot=s --output=json -U \
         --force-share --object=secret,id=s,data=a",
        "",
    ),
    (
        "measure -O qcow2 @ snap.qcow2",
        "-o_cluster_size=4k --options=cluster_size=4k",
        "--target-format-options=cluster_size=4k",
    ),
    ("measure -O qcow2 @", "--size=5M", "-s_5M"),
    (
        "measure @ driver=raw,file.filename=disk.raw",
        "--image-opts",
        "--source-image-opts",
    ),
    ("measure @ snap.qcow2", "", "--source-format=qcow2"),
];

pub fn trials() -> Vec<Trial> {
    let trials = OPTIONS.iter().map(|(call, both, later)| {
        trial(format!("dialects::[{call}]"), move || {
            let made = tempfile::tempdir().unwrap();
            files(made.path());
            for option in both.split_whitespace() {
                same(made.path(), call, option, &[ours, qemu_img]);
            }
            for option in later.split_whitespace() {
                same(made.path(), call, option, &[ours]);
            }
        })
    });
    trials.collect()
}

fn files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 1_000_448, 21);
    for line in [
        "convert -O qcow2 disk.raw same.qcow2",
        "convert -O qcow2 disk.raw snap.qcow2",
        "snapshot -c s snap.qcow2",
        "create -q -f qcow2 -b disk.raw -F raw over.qcow2",
        "create -q -f qcow2 old.qcow2 1000448",
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        qemu_img(folder, &args).ok();
    }
}

/// Asserts that the call succeeds with each tool on copies of the files, with the same output.
fn same(made: &Path, call: &str, option: &str, tools: &[Tool]) {
    let line = call.replace('@', &option.replace('_', " "));
    // Names of options have an underscore, too.
    let line = line.replace("cluster size", "cluster_size");
    let args: Vec<&str> = line.split_whitespace().collect();
    let printed = tools.iter().map(|tool| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(made).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let ran = tool(folder.path(), &args);
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{line}");
        let made = folder.path().join("x");
        // Progress steps and sizes on the disk may differ.
        let lines = ran.stdout.lines().filter(|line| {
            !line.contains("disk size") && !line.contains("actual-size") && !line.contains("/100%")
        });
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        (lines, made.exists())
    });
    let printed: Vec<_> = printed.collect();
    assert!(
        printed.windows(2).all(|two| two[0] == two[1]),
        "{line}: {printed:?}"
    );
}
