//! Tests of `snapshot`: the same steps by each tool, and by both alternately, give the same disks, snapshots and
//! lists. Both refuse the same calls with the same errors.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, qemu_io, run};
use crate::tools::{SECRET, Tool, assert_clean, ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for options in [
        "",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=64",
        "cluster_size=4k,refcount_bits=4",
        "cluster_size=16k,extended_l2=on,refcount_bits=8",
        "cluster_size=2k,lazy_refcounts=on",
        "cluster_size=1k,compat=0.10",
        "cluster_size=4k,backing_file=base,backing_fmt=qcow2",
    ] {
        let name = format!("snapshot::the_same_steps_{options}");
        trials.push(trial(name, move || the_same_steps(options)));
    }
    for format in ["aes", "luks"] {
        let name = format!("snapshot::of_an_image_encrypted_with_{format}");
        trials.push(trial(name, move || encrypted(format)));
    }
    trials.push(trial("snapshot::of_another_size", of_another_size));
    trials.push(trial("snapshot::with_a_machine_s_state", with_state));
    trials.push(trial("snapshot::space_is_given_back", space_is_given_back));
    trials.push(trial("snapshot::names", names));
    trials.push(trial("snapshot::refused", refused));
    trials.push(trial("snapshot::overflow_changes_nothing", overflow));
    trials.push(trial("snapshot::usage", usage));
    trials.push(trial("snapshot::locked", locked));
    trials
}

/// Returns the list without dates and times, which differ.
fn list(tool: Tool, folder: &Path, image: &str) -> String {
    let text = tool(folder, &["snapshot", "-l", image]).ok();
    let mask = |word: &str| {
        let is_date = word.len() == 10 && word.matches('-').count() == 2;
        let is_time = word.len() == 8 && word.matches(':').count() == 2;
        if is_date || is_time {
            "?".to_owned()
        } else {
            word.to_owned()
        }
    };
    let words = text.split(' ').map(mask).collect::<Vec<_>>();
    words.join(" ")
}

/// Returns the ids of the snapshots, in order.
fn ids(folder: &Path, image: &str) -> Vec<String> {
    let text = qemu_img(folder, &["snapshot", "-l", image]).ok();
    let lines = text.lines().skip(2);
    let id = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    lines.map(id).collect()
}

/// Returns the disk, and that of each snapshot.
fn disks(folder: &Path, image: &str) -> Vec<Vec<u8>> {
    let read = |args: &[&str]| {
        qemu_img(
            folder,
            &[&["convert", "-O", "raw"], args, &[image, "disk.raw"]].concat(),
        )
        .ok();
        std::fs::read(folder.join("disk.raw")).unwrap()
    };
    let mut disks = vec![read(&[])];
    for id in ids(folder, image) {
        disks.push(read(&["-l", &format!("snapshot.id={id}")]));
    }
    disks
}

/// Asserts that images are the same, except for host offsets.
fn assert_same(folder: &Path, images: &[&str], when: &str) {
    let first = (disks(folder, images[0]), list(qemu_img, folder, images[0]));
    for image in images {
        assert_clean(folder, image);
        assert_eq!(list(ours, folder, image), first.1, "{image}, {when}");
        assert_eq!(list(qemu_img, folder, image), first.1, "{image}, {when}");
        assert!(disks(folder, image) == first.0, "{image}, {when}");
    }
}

fn create(folder: &Path, options: &str, size: &str) {
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "base", size]).ok();
    qemu_io(folder, "qcow2", "base", &["write -P 7 100k 50k"]);
    for image in ["a", "b", "c"] {
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([image, size]);
        qemu_img(folder, &args).ok();
    }
}

fn the_same_steps(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, options, "1M");
    let images = ["a", "b", "c"];
    let mut noise = Noise(5 + options.len() as u64);
    let mut done = [0; 4];
    for round in 0..24 {
        let existing = ids(folder, "a");
        let pick = |noise: &mut Noise| existing[noise.pick(existing.len())].clone();
        let (kind, step) = match noise.pick(4) {
            0 if existing.len() < 6 => (0, ["-c".to_owned(), format!("{}", 100 + round)]),
            1 if !existing.is_empty() => (1, ["-a".to_owned(), pick(&mut noise)]),
            2 if existing.len() > 2 => {
                // The snapshot is named by its name, which is a number too, but not an id.
                let text = qemu_img(folder, &["snapshot", "-l", "a"]).ok();
                let line = text.lines().nth(2 + noise.pick(existing.len())).unwrap();
                let name = line.split_whitespace().nth(1).unwrap();
                (2, ["-d".to_owned(), name.to_owned()])
            }
            _ => {
                done[3] += 1;
                let start = noise.below(900);
                let length = 1 + noise.below(100);
                let byte = 1 + noise.below(250);
                let zero = format!("write -z {}k 40k", noise.below(980));
                let write = format!("write -P {byte} {start}k {length}k");
                let is_old = options.contains("0.10");
                let commands = if is_old {
                    vec![write]
                } else {
                    vec![write, zero]
                };
                for image in images {
                    qemu_io(folder, "qcow2", image, &commands);
                }
                continue;
            }
        };
        done[kind] += 1;
        let tools = [ours as Tool, qemu_img, [ours as Tool, qemu_img][round % 2]];
        for (tool, image) in tools.into_iter().zip(images) {
            let said = tool(folder, &["snapshot", &step[0], &step[1], image]).ok();
            assert_eq!(said, "", "{step:?}");
        }
        assert_same(folder, &images, &format!("round {round}: {step:?}"));
    }
    assert!(done.iter().all(|count| *count > 0), "{done:?}");
}

fn encrypted(format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Key derivation has the lowest cost, since it is done many times.
    let work = if format == "luks" {
        ",encrypt.iter-time=10"
    } else {
        ""
    };
    let options = format!("encrypt.format={format},encrypt.key-secret=s{work}");
    let args = [
        "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", &options, "x", "1M",
    ];
    qemu_img(folder, &args).ok();
    let image = "driver=qcow2,file.filename=x,encrypt.key-secret=s";
    let io = |command: &str| {
        let args = ["--object", SECRET, "-c", command, "--image-opts", image];
        let ran = run(folder, "qemu-io", args);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(!ran.stdout.contains("failed"), "{ran:?}");
    };
    io("write -P 1 0 1M");
    // One call has the password, as qemu-img needs it, and the other doesn't.
    let with = [
        "snapshot",
        "--object",
        SECRET,
        "--image-opts",
        "-c",
        "one",
        image,
    ];
    ours(folder, &with).ok();
    io("write -P 2 0 512k");
    ours(folder, &["snapshot", "-c", "two", "x"]).ok();
    ours(folder, &["snapshot", "-a", "one", "x"]).ok();
    io("read -P 1 0 1M");
    ours(folder, &["snapshot", "-a", "two", "x"]).ok();
    io("read -P 2 0 512k");
    ours(folder, &["snapshot", "-d", "one", "x"]).ok();
    let args = ["check", "--object", SECRET, "--image-opts", image];
    assert!(qemu_img(folder, &args).ok().starts_with("No errors"));
}

/// Checks that applying a snapshot restores the size of the disk.
fn of_another_size() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "cluster_size=4k", "1M");
    for (tool, image) in [(ours as Tool, "a"), (qemu_img, "b")] {
        qemu_io(folder, "qcow2", image, &["write -P 1 0 1M"]);
        tool(folder, &["snapshot", "-c", "one", image]).ok();
        qemu_img(folder, &["resize", "-q", image, "600M"]).ok();
        qemu_io(folder, "qcow2", image, &["write -P 2 500M 1M"]);
        tool(folder, &["snapshot", "-c", "five", image]).ok();
        qemu_img(folder, &["resize", "-q", "--shrink", image, "512k"]).ok();
    }
    for (name, size) in [("one", 1u64 << 20), ("five", 600 << 20), ("one", 1 << 20)] {
        let mut maps = Vec::new();
        for (tool, image) in [(ours as Tool, "a"), (qemu_img, "b")] {
            tool(folder, &["snapshot", "-a", name, image]).ok();
            assert_clean(folder, image);
            let info = qemu_img(folder, &["info", "--output=json", image]).ok();
            assert!(
                info.contains(&format!("\"virtual-size\": {size},")),
                "{info}"
            );
            maps.push(qemu_img(folder, &["map", "--output=json", image]).ok());
        }
        let without_places = |map: &String| {
            let lines = map
                .lines()
                .map(|line| line.split(", \"offset\"").next().unwrap().to_owned());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(without_places(&maps[0]), without_places(&maps[1]), "{name}");
        let args = ["compare", "-s", "a", "b"];
        assert_eq!(qemu_img(folder, &args).status, Some(0), "{name}");
    }
}

/// Checks a snapshot with a VM state, which is stored beyond the end of the disk.
fn with_state() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "cluster_size=64k", "1M");
    qemu_io(
        folder,
        "qcow2",
        "a",
        &["write -P 1 0 1M", "write -b -P 0x5a 0 300k"],
    );
    ours(folder, &["snapshot", "-c", "one", "a"]).ok();
    assert_clean(folder, "a");
    qemu_io(folder, "qcow2", "a", &["write -b -P 0x33 0 400k"]);
    ours(folder, &["snapshot", "-a", "one", "a"]).ok();
    assert_clean(folder, "a");
    let read = run(
        folder,
        "qemu-io",
        ["-f", "qcow2", "-c", "read -b -P 0x5a 0 300k", "a"],
    );
    assert!(!read.stdout.contains("failed"), "{read:?}");
    ours(folder, &["snapshot", "-d", "one", "a"]).ok();
    assert_clean(folder, "a");
}

fn space_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "", "64M");
    let blocks = |image: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(folder.join(image)).unwrap().blocks() * 512
    };
    for (tool, image) in [(ours as Tool, "a"), (qemu_img, "b")] {
        qemu_io(folder, "qcow2", image, &["write -P 1 0 32M"]);
        tool(folder, &["snapshot", "-c", "one", image]).ok();
        qemu_io(folder, "qcow2", image, &["write -P 2 0 32M"]);
        assert!(blocks(image) > 64 << 20, "{image}");
        tool(folder, &["snapshot", "-d", "one", image]).ok();
        assert!(blocks(image) < 40 << 20, "{image}: {}", blocks(image));
    }
    ours(folder, &["snapshot", "-c", "two", "a"]).ok();
    qemu_io(folder, "qcow2", "a", &["write -P 3 0 32M"]);
    ours(folder, &["snapshot", "-a", "two", "a"]).ok();
    assert!(blocks("a") < 40 << 20, "{}", blocks("a"));
    assert_clean(folder, "a");
}

fn names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "", "1M");
    let long = "n".repeat(300);
    for step in [
        ["-c", "same"],
        ["-c", "same"],
        ["-c", "1"],
        ["-c", ""],
        ["-c", "é \u{1b}[2J"],
        ["-c", &long],
        ["-d", "1"],
        ["-d", "same"],
        ["-d", ""],
        ["-a", "2"],
        ["-a", &long[..255]],
        ["-c", "-x"],
        ["-d", &long[..255]],
    ] {
        for (tool, image) in [(ours as Tool, "a"), (qemu_img, "b")] {
            tool(folder, &["snapshot", step[0], step[1], image]).ok();
        }
        assert_eq!(ids(folder, "a"), ids(folder, "b"), "{step:?}");
    }
    assert_eq!(list(qemu_img, folder, "a"), list(qemu_img, folder, "b"));
    let dates = qemu_img(folder, &["info", "--output=json", "a"]).ok();
    assert!(!dates.contains("\"date-sec\": 0"), "{dates}");
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "", "1M");
    let qemu = |args: &str| qemu_img(folder, &args.split(' ').collect::<Vec<_>>()).ok();
    qemu("create -q -f raw raw 1M");
    qemu("create -q -f vdi vdi 1M");
    qemu("create -q -f qcow2 -o data_file=data external 1M");
    qemu("snapshot -c one a");
    qemu("snapshot -c one c");
    qemu("bitmap --add c b0");
    qemu("create -q -f qcow2 corrupt 1M");
    let mut bytes = std::fs::read(folder.join("corrupt")).unwrap();
    bytes[79] = 2;
    std::fs::write(folder.join("corrupt"), bytes).unwrap();
    let files = ["a", "b", "c", "raw", "vdi", "external", "corrupt"];
    let contents = || files.map(|file| std::fs::read(folder.join(file)).unwrap());
    let before = contents();
    for line in [
        "snapshot -a nope a",
        "snapshot -d nope a",
        "snapshot -d 1 a",
        "snapshot -d one b",
        "snapshot -a one c",
        "snapshot -a nope c",
        "snapshot -c x raw",
        "snapshot -f raw -c x raw",
        "snapshot -f raw -a x raw",
        "snapshot -f raw -d x raw",
        "snapshot -f raw -l raw",
        "snapshot -l raw",
        "snapshot -c x vdi",
        "snapshot -a x vdi",
        "snapshot -d x vdi",
        "snapshot -l vdi",
        "snapshot -c x external",
        "snapshot -a x external",
        "snapshot -d x external",
        "snapshot -l external",
        "snapshot -c x corrupt",
        "snapshot -l corrupt",
        "snapshot -l nope",
        "snapshot -c x nope",
        "snapshot -f qcow2 -l raw",
        "snapshot -U -c x a",
        "snapshot -U -d one a",
        "snapshot --image-opts -f qcow2 -l driver=qcow2,file.filename=a",
        "snapshot --image-opts -a nope driver=qcow2,file.filename=a",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let answer = ours(folder, &args);
        assert!(contents() == before, "{line}");
        // QEMU sets and clears the in-use flag of bitmaps when it opens the image.
        let theirs = qemu_img(folder, &args);
        for (file, bytes) in files.iter().zip(&before) {
            std::fs::write(folder.join(file), bytes).unwrap();
        }
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        let said = without_help(&answer.stderr, &complaint);
        let answers = (answer.status, answer.stdout, said);
        assert_eq!(answers, (theirs.status, theirs.stdout, complaint), "{line}");
    }
}

fn overflow() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "refcount_bits=2", "1M");
    qemu_io(folder, "qcow2", "a", &["write -P 1 0 64k"]);
    for name in ["one", "two"] {
        ours(folder, &["snapshot", "-c", name, "a"]).ok();
    }
    let before = std::fs::read(folder.join("a")).unwrap();
    let args = ["snapshot", "-c", "three", "a"];
    let message = "Could not create snapshot 'three': Invalid argument";
    ours(folder, &args).fails(1, message);
    assert!(std::fs::read(folder.join("a")).unwrap() == before);
    let theirs = qemu_img(folder, &args);
    assert_eq!(theirs.status, Some(1));
    assert!(theirs.stderr.contains(message), "{theirs:?}");
}

fn usage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "", "1M");
    qemu_img(folder, &["snapshot", "-c", "one", "a"]).ok();
    for line in [
        "snapshot",
        "snapshot a",
        "snapshot -q a",
        "snapshot -lU a",
        "snapshot --list a",
        "snapshot a b",
        "snapshot -l -c x a",
        "snapshot -c x -l a",
        "snapshot -a x -d y a",
        "snapshot -c x -c y a",
        "snapshot -l -l a",
        "snapshot -c x",
        "snapshot -c",
        "snapshot -x a",
    ] {
        same_answer(folder, &line.split(' ').collect::<Vec<_>>());
    }
}

fn locked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    create(folder, "", "1M");
    qemu_img(folder, &["snapshot", "-c", "one", "a"]).ok();
    let before = std::fs::read(folder.join("a")).unwrap();
    let mut io = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", "a"])
        .current_dir(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // qemu-io answers once it has opened the image.
    let mut stdin = io.stdin.take().unwrap();
    let mut answers = std::io::BufReader::new(io.stdout.take().unwrap());
    std::io::Write::write_all(&mut stdin, b"length\n").unwrap();
    std::io::BufRead::read_line(&mut answers, &mut String::new()).unwrap();
    for line in [
        "snapshot -l a",
        "snapshot -c x a",
        "snapshot -d one a",
        "snapshot -l -U a",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let (answer, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        let answers = (answer.status, &answer.stdout);
        assert_eq!(answers, (theirs.status, &theirs.stdout), "{line}");
        // cowhide adds the process that has the image open.
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        assert!(answer.stderr.starts_with(&complaint), "{line}: {answer:?}");
    }
    assert!(std::fs::read(folder.join("a")).unwrap() == before);
    drop(stdin);
    io.wait().unwrap();
}
