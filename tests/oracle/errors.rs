//! Tests of wrong calls and wrong input: the same exit status and the same message.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::tools::{SECRET, ours, qemu_img, same_answer, without_help};
use crate::trial;

/// Calls that fail, with the files of [`files`].
const CALLS: &[&str] = &[
    "",
    "foo",
    "-z",
    "-T",
    "-xyz",
    "--foo=bar",
    "--t",
    "--version=1",
    "-q info",
    "info",
    "info a b",
    "info -- a -- b",
    "info -- -x",
    "info -xyz disk.raw",
    "info --zz=1 disk.raw",
    "info --output",
    "info disk.raw -f",
    "info disk.raw --out",
    "info --image-opts=1 disk.raw",
    "check --quiet=1 disk.raw",
    "check -T foo disk.raw",
    "check -T none nope",
    "convert -pX disk.raw x",
    "convert -Wpm0 disk.raw x",
    "convert -m -1 disk.raw x",
    "convert -m 99999999999999999999 disk.raw x",
    "convert -m 4k disk.raw x",
    "convert -m 17 disk.raw x",
    "convert -S 99E disk.raw x",
    "convert -S -1 disk.raw x",
    "convert -S 513 disk.raw x",
    "convert -S x disk.raw x",
    "convert -r -5 disk.raw x",
    "convert -r 5x disk.raw x",
    "convert -t x disk.raw x",
    "convert -T x disk.raw x",
    "create -f nope -o help",
    "create x 10KB",
    "create x -- -5",
    "create x -1M",
    "create x 9223372036854775808",
    "info --output json disk.raw --output=xml",
    "convert -C -S 0 disk.raw x",
    "create -qfnope x 1M",
    "info -f vmdk large.raw",
    "info -z disk.raw",
    "info --zzz disk.raw",
    "info --format",
    "info --output=xml disk.raw",
    "info nope",
    "info .",
    "info -f qcow2 disk.raw",
    "info -f nope disk.raw",
    "info --image-opts -f raw driver=raw,file.filename=disk.raw",
    "info --image-opts driver=qcow9,file.filename=disk.raw",
    "info --image-opts driver=qcow2",
    "info --image-opts disk.raw",
    "info --image-opts driver=raw,file.driver=file",
    "info foo:bar",
    "check",
    "check nope",
    "check disk.raw",
    "check -f qcow2 disk.raw",
    "create",
    "create x",
    "create -f qcow2 x",
    "create -f nope x 1M",
    "create -f qcow2 x 1M 2M",
    "create -f qcow2 x 1Q",
    "create -f qcow2 -o foo=1 x 1M",
    "create -f raw -o cluster_size=1k x 1M",
    "create -f qcow2 -o cluster_size=3k x 1M",
    "create -f qcow2 -o cluster_size=4M x 1M",
    "create -f qcow2 -o cluster_size=256 x 1M",
    "create -f qcow2 -o compat=7 x 1M",
    "create -f qcow2 -o compat x 1M",
    "create -f qcow2 -o lazy_refcounts=maybe x 1M",
    "create -f qcow2 -o compat=v2,lazy_refcounts=on x 1M",
    "create -f qcow2 -o compat=v2,compression_type=zstd x 1M",
    "create -f qcow2 -o compression_type=lzma x 1M",
    "create -f qcow2 -o encrypt.key-secret=s x 1M",
    "create -f qcow2 -o encrypt.format=foo,encrypt.key-secret=s x 1M",
    "create -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s x 1M",
    "create -f qcow2 -o encryption=on,encrypt.format=aes,encrypt.key-secret=s x 1M",
    "create -f qcow2 -o compat=v3, x 1M",
    "create -f qcow2 -o size=2M x 1M",
    "create -f qcow2 x 129P",
    "create -f qcow2 /nonexistent/x 1M",
    "create -f qcow2 . 1M",
    "create -f raw . 1M",
    "create --object foo,id=s x 1M",
    "create --object secret,id=s x 1M",
    "create --object secret,data=a x 1M",
    "create --object id=s x 1M",
    "create --object secret,id=s,data=a,zz=1 x 1M",
    "create --object secret,id=s,file=nope x 1M",
    "create --object secret,id=a,data=%%%,format=base64 x 1M",
    "create --object secret,id=a,data=x,format=foo x 1M",
    "create --object secret,id=a,data=x,file=y x 1M",
    "create --object secret,id=a,data=x,keyid=m x 1M",
    "create --object secret,id=a,data=x --object secret,id=a,data=y x 1M",
    "create --object secret_keyring,id=a,serial=5 x 1M",
    "create --object secret_keyring,id=a x 1M",
    "create --object secret_keyring,id=a,serial=x x 1M",
    "create --object secret_keyring,id=a,serial=5,foo=1 x 1M",
    r#"create --object {"qom-type":"secret","id":"a","data":5} x 1M"#,
    r#"create --object {"qom-type":"secret","id":"a","data":"x","zz":"1"} x 1M"#,
    r#"create --object {"id":"a","data":"x"} x 1M"#,
    r#"create --object {"qom-type":"foo","id":"a"} x 1M"#,
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,data=x,keyid=m x 1M",
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,data=x,keyid=m,iv=AAAA x 1M",
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,data=x,keyid=m,iv=%% x 1M",
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,data=x,keyid=n,iv=AAAA x 1M",
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,data=xyz,keyid=m,iv=aWlpaWlpaWlpaWlpaWlpaQ== x 1M",
    "create --object secret,id=m,data=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk --object secret,id=a,format=base64,data=AAAAAAAAAAAAAAAAAAAAAA==,keyid=m,iv=aWlpaWlpaWlpaWlpaWlpaQ== x 1M",
    "create --object secret,id=m,data=k --object secret,id=a,data=xyz,keyid=m,iv=aWlpaWlpaWlpaWlpaWlpaQ== x 1M",
    "create -f qcow2 --object secret,id=a,data=/+8=,format=base64 -o encrypt.format=aes,encrypt.key-secret=a x 1M",
    "info --output=xml --output=json disk.raw",
    "info --object zoo,id=s --zz disk.raw",
    "info --zz --object zoo,id=s disk.raw",
    "check -r zoo -r all disk.raw",
    "check -r zoo",
    "map -s x -s 0 disk.raw",
    "map -l 1MB --output=xml disk.raw",
    "measure --size 1x --size 1M",
    "measure -o a=1, --output xml disk.raw",
    "measure -o zoo=1 disk.raw",
    "measure -O qcow2 -o cluster_size=x disk.raw",
    "measure -O qcow2 -o size=8191P disk.raw",
    "measure -O qcow2 -o size=9223372036854775808 disk.raw",
    "measure -O qcow2 --size 9223372036854775807",
    "create -f raw -o size=18446744073709551615 x",
    "create -f qcow2 -o size=18446744073709551615 x",
    "create -f raw -o size=18446744073709551615,preallocation=full x",
    "create -u -f qcow2 -b disk.raw -F raw -o size=18446744073709551615 x",
    "create -f raw -o size=18446744073709551104 x",
    "create -f raw -o size=9223372036854775808 x",
    "create -f raw x 9223372036854775807",
    "create -f raw x 9223372036854774784",
    "create -f qcow2 -o size=9223372036854775808 x",
    "create -f qcow2 x 9223372036854775807",
    "create -f qcow2 x 9223372036854774784",
    "create -f qcow2 -o cluster_size=18446744073709551615 x 1M",
    "create -f raw -o size=18446744073709551615 x 1M",
    "create -f qcow2 -u -b gone -F nope x 1M",
    "create -f qcow2 -F nope x 1M",
    "create -f qcow2 -o backing_fmt= x 1M",
    "create -f qcow2 -o backing_file=gone,backing_fmt=zz x 1M",
    "create -f qcow2 -o preallocation=x,backing_fmt=x x 1M",
    "create -f qcow2 -o preallocation=x,compression_type=x x 1M",
    "create -f qcow2 -o compression_type=9,encrypt.format=x x 1M",
    "create -f qcow2 -o preallocation=bogus,compat=9 x 1M",
    "create -f qcow2 -o encryption=yes x 1M",
    "create -f qcow2 -o encryption=no x 1M",
    "create -f qcow2 -o encryption=n,encrypt.key-secret=s x 1M",
    "create -f qcow2 -o encryption=no,encrypt.format=aes x 1M",
    "create -f raw -o preallocation=bogus x 1M",
    "convert -O raw -o preallocation=bogus disk.raw x",
    "convert -O qcow2 -o backing_fmt=zz disk.raw x",
    "convert -O qcow2 -B over.qcow2 -F zz disk.raw x",
    "convert -c -O qcow2 -o compat=9 disk.raw x",
    "convert -c -O qcow2 -o encrypt.format=zz disk.raw x",
    "convert -c -O qcow2 -o encryption=no disk.raw x",
    "convert -c -O qcow2 -o preallocation=zz disk.raw x",
    "convert -c -O qcow2 -o preallocation=metadata,compat=9 disk.raw x",
    "convert -c -O qcow2 -o compression_type=zz disk.raw x",
    "convert -c -O qcow2 -o encrypt.key-secret=zz disk.raw x",
    "create --object secret,id=a,data=x --object secret,id=a,data=x,file=y x 1M",
    "create --object secret,id=a,data=x --object secret,id=a,file=nope x 1M",
    "create --object secret,id=a,data=x --object secret,id=a,data=x,keyid=zz x 1M",
    "create --object secret,id=a,data=x --object secret,id=a,zz=1 x 1M",
    "create --object secret,id=a,data=x,keyid=nope x 1M",
    "create -f qcow2 --object secret,id=a,data=YQBi,format=base64 -o encrypt.format=aes,encrypt.key-secret=a x 1M",
    "convert --object secret,id=a,data=YQBi,format=base64 --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=a x",
    "convert -l snapshot.zz disk.raw x",
    "convert -l snapshot.id,snapshot.name=x disk.raw x",
    "info --image-opts driver=raw,file.filename=disk.raw,nozoo",
    "info junk.dmg",
    "convert junk.dmg x",
    "check junk.dmg",
    "compare junk.dmg disk.raw",
    "measure -O qcow2 junk.dmg",
    "info -f host_device disk.raw",
    "create -f qcow2 -o extent_size_hint=9223372036854775808 x 1M",
    "measure -l snapshot.zoo=1 disk.raw",
    "measure -O file disk.raw",
    "compare --object secret disk.raw",
    "compare --object iothread,id=i disk.raw disk.raw",
    "convert -m x -S 5",
    "convert -o , -r x",
    "convert -l snapshot.zoo=1 disk.raw x",
    "create --object secret,id=1,data=a x 1M",
    "create -f qcow2 -o cluster_size=abc x 1M",
    "create -o size=1e6 x",
    r#"info --object {"qom-type" disk.raw"#,
    "info --image-opts driver=raw,file.filename=disk.raw,size=x",
    "info json:{",
    "info json:{'driver':'raw'",
    "info json:{'driver':zoo}",
    "check -r leaks disk.raw",
    "check --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.format=aes",
    "info --image-opts driver=qcow2,file.filename=plain.qcow2,encrypt.format=aes",
    "info --image-opts driver=host_device,filename=disk.raw",
    "info --image-opts driver=raw,file.driver=host_device,file.filename=disk.raw",
    "map over.qcow2",
    "convert over.qcow2 x",
    "measure -l s disk.raw",
    "measure -l s plain.qcow2",
    "measure --size -5k",
    "create x -- -5k",
    "create x abc y",
    "create -f nope x abc",
    "create -o help -f nope x abc",
    "create -o help nope:x",
    "create -o zoo nope:x 1M",
    "create nope:x 1M",
    "create json:{} 1M",
    "create -f qcow2 -o nocow x 1M",
    "create -f qcow2 -o refcount_bits=x x 1M",
    "create -f qcow2 -o refcount_bits=99999999999999999999 x 1M",
    "create -f qcow2 -o refcount_bits=4294967312 x 1M",
    "compare -p nope disk.raw",
    "compare -p disk.raw nope",
    "compare nope json:{",
    "compare --image-opts -F raw file.filename=disk.raw file.filename=disk.raw",
    "convert --target-is-zero --target-image-opts x",
    "convert --target-is-zero -o help",
    "convert -T x disk.raw",
    "convert -p -T x disk.raw x",
    "convert -p -t x nope x",
    "convert -p -O nope nope x",
    "convert -p -o zoo=1 disk.raw x",
    "convert -p -l s disk.raw x",
    "convert -p -l s plain.qcow2 x",
    "convert -p disk.raw nope:x",
    "convert -p disk.raw json:{}",
    "convert -p -n disk.raw x",
    "convert -n disk.raw file:x",
    "convert -o size= disk.raw x",
    "convert -O qcow2 -o size disk.raw x",
    "convert -O qcow2 -o size=1x disk.raw x",
    "convert -o =3 disk.raw x",
    "convert -n -o size=5M disk.raw plain.qcow2",
    "convert -n --target-image-opts disk.raw driver=raw,file.filename=disk.raw,read-only=on",
    "convert -n --target-image-opts disk.raw driver=qcow2,file.filename=plain.qcow2,file.read-only=on",
    "convert -n --target-image-opts disk.raw driver=qcow2,file.filename=plain.qcow2,data-file.filename=disk.raw",
    "convert -n --target-image-opts disk.raw driver=qcow2,file.filename=plain.qcow2,backing.file.locking=off",
    "check -r all --image-opts driver=qcow2,file.filename=plain.qcow2,read-only=on",
    "map --image-opts driver=qcow2,file.filename=plain.qcow2,data-file.filename=disk.raw",
    "measure --image-opts driver=qcow2,file.filename=plain.qcow2,data-file.filename=disk.raw",
    "compare --image-opts file.filename=plain.qcow2 file.filename=plain.qcow2,backing.file.locking=off",
    "convert -n -O raw --target-image-opts disk.raw driver=zoo",
    "convert -n -O nope --target-image-opts disk.raw driver=zoo",
    "convert -n -O raw -t x --target-image-opts disk.raw driver=zoo",
    "convert -O nope -t x disk.raw x",
    "convert -n --target-image-opts disk.raw driver=raw,force-share=on,file.filename=x",
    "convert -O qcow2 -B disk.raw plain.qcow2 disk.raw x",
    "convert disk.raw",
    "convert -O qcow2 nope x",
    "convert -O nope disk.raw x",
    "convert -f nope disk.raw x",
    "convert -f qcow2 disk.raw x",
    "convert -O qcow2 . x",
    "convert -O qcow2 disk.raw .",
    "convert -O qcow2 disk.raw /nonexistent/x",
    "convert -O qcow2 -o encryption=on,encrypt.key-secret=u disk.raw x",
    "convert --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=u x",
    "convert --object secret,id=s,data=a --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.format=luks,encrypt.key-secret=s x",
    "convert --object secret,id=s,data=a --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=s,zoo=1 x",
];

/// Calls that fail in both tools, for which cowhide's message has more or is on one line.
const OTHER_WORDS: &[(&str, &str)] = &[
    (
        "convert aes.qcow2 x",
        "Parameter 'encrypt.key-secret' is required for cipher",
    ),
    (
        "convert -O qcow2 -o encryption disk.raw x",
        "Parameter 'encrypt.key-secret' is required for cipher",
    ),
    (
        "create -f qcow2 -o encryption x 1M",
        "Parameter 'encrypt.key-secret' is required for cipher",
    ),
    ("convert -O qcow2 disk.raw disk.raw", "are the same file"),
    ("convert -O qcow2 disk.raw hard.raw", "are the same file"),
    ("convert -O qcow2 disk.raw soft.raw", "are the same file"),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for call in CALLS {
        trials.push(trial(format!("errors::[{call}]"), move || {
            compare(call, None)
        }));
    }
    for (call, words) in OTHER_WORDS {
        trials.push(trial(format!("errors::[{call}]"), move || {
            compare(call, Some(words))
        }));
    }
    trials.push(trial("errors::help_on_objects", help_on_objects));
    trials.push(trial("errors::no_name", no_name));
    trials.push(trial("errors::headers", headers));
    trials
}

fn files(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 100_000, 2);
    std::fs::hard_link(folder.join("disk.raw"), folder.join("hard.raw")).unwrap();
    std::os::unix::fs::symlink("disk.raw", folder.join("soft.raw")).unwrap();
    std::fs::write(folder.join("junk.dmg"), [7; 2000]).unwrap();
    let large = std::fs::File::create(folder.join("large.raw")).unwrap();
    large.set_len(2 << 20).unwrap();
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    let args = [
        "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", options,
    ];
    qemu_img(folder, &[&args[..], &["aes.qcow2", "1M"]].concat()).ok();
    qemu_img(
        folder,
        &["create", "-q", "-f", "qcow2", "plain.qcow2", "1M"],
    )
    .ok();
    let over = ["-u", "-b", "gone.raw", "-F", "raw", "over.qcow2", "1M"];
    qemu_img(
        folder,
        &[&["create", "-q", "-f", "qcow2"][..], &over].concat(),
    )
    .ok();
}

/// Returns the names and the bytes of a folder's files.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn compare(call: &str, words: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let before = snapshot(folder);
    let args: Vec<&str> = call.split_whitespace().collect();
    let ours = ours(folder, &args);
    assert!(
        snapshot(folder) == before,
        "files were changed, left or lost"
    );
    let theirs = qemu_img(folder, &args);
    assert_eq!(ours.status, theirs.status, "{ours:?} {theirs:?}");
    assert_eq!(ours.stdout, theirs.stdout);
    match words {
        None => {
            let said = ours.stderr.replace("cowhide", "qemu-img");
            assert_eq!(without_help(&said, &theirs.stderr), theirs.stderr);
        }
        Some(words) => ours.fails(theirs.status.unwrap(), words),
    }
}

/// An image that is named by nothing at all.
fn no_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    for call in [
        &["info", ""][..],
        &["check", ""],
        &["map", ""],
        &["measure", ""],
        &["compare", "disk.raw", ""],
        &["convert", "", "x"],
        &["convert", "-n", "disk.raw", ""],
        &["resize", "", "1M"],
        &["snapshot", "-l", ""],
        &["amend", "-o", "size=1M", ""],
        &["bitmap", "--add", "", "b"],
        &["dd", "if=", "of=x"],
        &["bench", ""],
        &["info", "--image-opts", "driver=raw,file.filename="],
    ] {
        same_answer(folder, call);
    }
}

/// Checks that help ends the program at once, whatever follows or is missing.
fn help_on_objects() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for call in [
        "compare --object secret,help",
        "create --object secret,id=s,data=x,? --output",
        "info --object secret_keyring,help --zz",
    ] {
        let args: Vec<&str> = call.split_whitespace().collect();
        assert_eq!(ours(folder, &args).ok(), qemu_img(folder, &args).ok());
    }
    for kind in ["help", "?", "zoo,help"] {
        let told = ours(folder, &["info", "--object", kind]).ok();
        let known = qemu_img(folder, &["info", "--object", kind]).ok();
        assert!(told.lines().count() == 3, "{told}");
        assert!(told.lines().all(|line| known.contains(line)), "{told}");
    }
    let later = ["info", "--zz", "--object", "help"];
    assert_eq!(ours(folder, &later).status, Some(1));
}

/// Header fields that are refused with the oracle's error: offset and bytes.
const HEADERS: &[(u64, &[u8])] = &[
    (4, &[0, 0, 0, 5]),
    (20, &[0, 0, 0, 5]),
    (20, &[0, 0, 0, 22]),
    (20, &[0xff; 4]),
    (24, &[0xff]),
    (32, &[0, 0, 0, 7]),
    (36, &[0, 0, 0, 0]),
    (36, &[0xff, 0, 0, 0]),
    (40, &[0, 0, 0, 0, 0, 1, 1, 0]),
    (48, &[0, 0, 0, 0, 0, 1, 1, 0]),
    (56, &[0, 0, 0, 0]),
    (56, &[0, 0xff, 0, 0]),
    (60, &[0, 0xff, 0, 0]),
    (64, &[0, 0, 0, 0, 0, 1, 1, 0]),
    (72, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
    (72, &[0, 0, 0, 0, 0, 0, 0, 0x20]),
    (72, &[0, 0, 0, 0, 0, 0, 0, 0x08]),
    (96, &[0, 0, 0, 7]),
    (100, &[0, 0, 0, 7]),
    (100, &[0, 1, 0, 0x6c]),
    (104, &[1]),
    (8, &[0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 5]),
    (8, &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 7, 0]),
];

fn headers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(
        folder,
        &["create", "-q", "-f", "qcow2", "good.qcow2", "10M"],
    )
    .ok();
    let good = std::fs::read(folder.join("good.qcow2")).unwrap();
    for (offset, bytes) in HEADERS {
        let mut bad = good.clone();
        let start = usize::try_from(*offset).unwrap();
        bad[start..start + bytes.len()].copy_from_slice(bytes);
        std::fs::write(folder.join("bad.qcow2"), &bad).unwrap();
        for args in [
            &["info", "bad.qcow2"][..],
            &["convert", "bad.qcow2", "x.raw"],
        ] {
            let (ours, theirs) = (ours(folder, args), qemu_img(folder, args));
            assert_eq!(
                theirs.status,
                Some(1),
                "the oracle, {offset} {bytes:?}: {theirs:?}"
            );
            assert_eq!(ours.status, Some(1), "{offset} {bytes:?}: {ours:?}");
            assert_eq!(ours.stderr.replace("cowhide", "qemu-img"), theirs.stderr);
            assert!(!folder.join("x.raw").exists());
        }
    }
}
