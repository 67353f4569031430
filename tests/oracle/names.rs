//! Tests of names of images and secrets: every spelling has the same meaning in both tools.

#[path = "names/tables.rs"]
mod tables;

use std::path::Path;

use libtest_mimic::Trial;

use self::tables::{NAMES, OPTIONS};
use crate::common::write_disk;
use crate::tools::{SECRET, Tool, ours, qemu_img, without_help};
use crate::trial;

/// Names that both tools refuse, with only the beginning of their errors the same.
const REFUSED: &[(&[&str], &str)] = &[
    (&["json:{"], "Could not parse the JSON options: "),
    (&[r#"json:{"a":1} x"#], "Could not parse the JSON options: "),
    (
        &[r#"json:{"driver":"raw","driver":"raw","file.filename":"disk.raw"}"#],
        "Could not parse the JSON options: JSON parse error, duplicate key",
    ),
    (
        &["--image-opts", "driver=raw,offset=x,file.filename=disk.raw"],
        "Parameter 'offset' expects a non-negative number below 2^64",
    ),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("names::secrets", secrets),
        trial("names::option_strings", || {
            same_reports(OPTIONS, &["--object", SECRET, "--image-opts"]);
        }),
        trial("names::names", || {
            same_reports(NAMES, &["--object", SECRET])
        }),
        trial("names::formats_beside_names", formats_beside_names),
        trial("names::refused", refused),
        trial("names::nesting_without_end", nesting),
        trial("names::what_is_converted", what_is_converted),
        trial("names::backing_files_that_are_given", given_backing),
        trial("names::targets", targets),
        trial("names::encrypted_targets", encrypted_targets),
        trial("names::what_is_beside_a_target", beside_targets),
        trial("names::a_guessed_target", guessed_target),
    ];
    trials.push(trial("names::what_is_no_file", no_file));
    trials
}

fn files(folder: &Path) {
    disk(folder);
    let disk = std::fs::read(folder.join("disk.raw")).unwrap();
    std::fs::write(folder.join("a:b"), disk).unwrap();
    std::fs::write(folder.join("junk.dmg"), [7; 2000]).unwrap();
    let convert = ["convert", "-O", "qcow2", "disk.raw", "a.qcow2"];
    qemu_img(folder, &convert).ok();
    let encrypt = "encrypt.format=aes,encrypt.key-secret=s";
    let convert = ["convert", "--object", SECRET, "-O", "qcow2", "-o", encrypt];
    qemu_img(folder, &[&convert[..], &["disk.raw", "aes.qcow2"]].concat()).ok();
}

fn same_reports(names: &[&str], before: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    for name in names {
        for output in ["--output=human", "--output=json"] {
            let args = [&["info", output][..], before, &[name]].concat();
            let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
            assert_eq!(ours.status, theirs.status, "{name}: {ours:?} {theirs:?}");
            assert_eq!(ours.stdout, theirs.stdout, "{name}");
            let stderr = ours.stderr.replace("cowhide", "qemu-img");
            assert_eq!(
                without_help(&stderr, &theirs.stderr),
                theirs.stderr,
                "{name}"
            );
        }
    }
}

fn formats_beside_names() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    for (format, name) in [
        ("qcow2", r#"json:{"file.filename":"a.qcow2"}"#),
        ("raw", r#"json:{"file.filename":"a.qcow2"}"#),
        (
            "raw",
            r#"json:{"driver":"qcow2","file.filename":"a.qcow2"}"#,
        ),
        (
            "nope",
            r#"json:{"driver":"qcow2","file.filename":"a.qcow2"}"#,
        ),
        ("raw", "file:a.qcow2"),
        ("file", "a.qcow2"),
        ("host_device", "a.qcow2"),
        ("raw", "junk.dmg"),
        (
            "qcow2",
            r#"json:{"driver":"raw","file.filename":"disk.raw"}"#,
        ),
    ] {
        let args = ["info", "-f", format, name];
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(ours.status, theirs.status, "{format} {name}");
        assert_eq!(ours.stdout, theirs.stdout, "{format} {name}");
        let stderr = ours.stderr.replace("cowhide", "qemu-img");
        assert_eq!(
            without_help(&stderr, &theirs.stderr),
            theirs.stderr,
            "{format} {name}"
        );
    }
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    for (args, words) in REFUSED {
        let args = [&["info"][..], args].concat();
        for tool in [ours as Tool, qemu_img] {
            let ran = tool(folder, &args);
            assert_eq!(ran.status, Some(1), "{ran:?}");
            assert!(ran.stderr.contains(words), "{ran:?}");
            assert_eq!(ran.stdout, "");
        }
    }
}

fn nesting() {
    let folder = tempfile::tempdir().unwrap();
    let deep = format!("json:{}", r#"{"file":"#.repeat(10_000));
    let ran = ours(folder.path(), &["info", &deep]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("nesting depth limit exceeded"));
    // Nodes are nested as deeply as the command line allows.
    let mut tree = String::from("driver=raw");
    let mut key = String::new();
    for _ in 0..200 {
        key.push_str("file.");
        tree.push_str(&format!(",{key}driver=raw"));
    }
    let ran = ours(folder.path(), &["info", "--image-opts", &tree]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"));
}

/// Checks that disk contents are the same under every name.
fn what_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let overlay = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "over.qcow2",
    ];
    qemu_img(folder, &overlay).ok();
    let names: [&[&str]; 9] = [
        &["file:a.qcow2"],
        &[r#"json:{"driver":"raw","offset":3072,"size":"70k","file.filename":"disk.raw"}"#],
        &["--image-opts", "driver=raw,offset=5,file.filename=disk.raw"],
        &[
            "--image-opts",
            "driver=raw,offset=999424,file.filename=disk.raw",
        ],
        &[
            "--image-opts",
            "driver=raw,size=512,file.driver=raw,file.offset=512,file.file.filename=disk.raw",
        ],
        &[
            r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":0,"file":{"driver":"file","filename":"a.qcow2"}}}"#,
        ],
        &[r#"json:{"driver":"qcow2","backing":null,"file.filename":"over.qcow2"}"#],
        &["--image-opts", "file.filename=over.qcow2"],
        &[
            "--image-opts",
            "driver=qcow2,file.filename=over.qcow2,backing.file.filename=disk.raw,backing.driver=raw",
        ],
    ];
    for name in names {
        for (tool, out) in [(ours as Tool, "ours.raw"), (qemu_img, "theirs.raw")] {
            tool(
                folder,
                &[&["convert", "-O", "raw"][..], name, &[out]].concat(),
            )
            .ok();
        }
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
        assert!(read("ours.raw") == read("theirs.raw"), "{name:?}");
    }
}

/// Checks a backing file of an encrypted overlay with a different key.
fn given_backing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let overlay = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "aes.qcow2",
        "-F",
        "qcow2",
        "over.qcow2",
    ];
    qemu_img(folder, &overlay).ok();
    for name in [
        "driver=qcow2,file.filename=over.qcow2,backing.encrypt.key-secret=s",
        "file.filename=over.qcow2,backing.file.filename=aes.qcow2,backing.encrypt.key-secret=s",
        "file.filename=over.qcow2,backing.driver=qcow2,backing.file.filename=aes.qcow2,\
         backing.encrypt.format=aes,backing.encrypt.key-secret=s",
    ] {
        for tool in [ours as Tool, qemu_img] {
            let args = [
                "convert",
                "--object",
                SECRET,
                "--image-opts",
                name,
                "back.raw",
            ];
            tool(folder, &args).ok();
            let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
            assert!(read("back.raw") == read("disk.raw"), "{name}");
        }
    }
}

/// Checks that an existing target, named in every way, gets the same bytes from both tools.
fn targets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let names: [&[&str]; 6] = [
        &["-O", "raw", "disk.raw", "x.raw"],
        &["-O", "raw", "disk.raw", "file:x.raw"],
        &[
            "-O",
            "raw",
            "disk.raw",
            r#"json:{"driver":"raw","file.filename":"x.raw"}"#,
        ],
        &[
            "--target-image-opts",
            "disk.raw",
            "driver=raw,file.filename=x.raw",
        ],
        &[
            "--target-image-opts",
            "disk.raw",
            "driver=raw,offset=3000320,size=1000960,file.filename=x.raw",
        ],
        &[
            "--target-image-opts",
            "--image-opts",
            "driver=raw,file.filename=disk.raw",
            "driver=raw,size=2M,file.filename=x.raw",
        ],
    ];
    for name in names {
        let mut results = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            std::fs::write(folder.join("x.raw"), vec![9; 5 << 20]).unwrap();
            tool(folder, &[&["convert", "-n"][..], name].concat()).ok();
            results.push(std::fs::read(folder.join("x.raw")).unwrap());
        }
        assert!(results[0] == results[1], "{name:?}");
    }
    std::fs::write(folder.join("x.raw"), vec![9; 5 << 20]).unwrap();
    for (args, words) in [
        (
            "--target-image-opts disk.raw driver=raw,file.filename=x.raw",
            "requires use of -n flag",
        ),
        (
            "-n --target-image-opts disk.raw driver=raw,size=512,file.filename=x.raw",
            "output file is smaller than input file",
        ),
        (
            "-n --target-image-opts disk.raw driver=raw,offset=9M,file.filename=x.raw",
            "Offset (9437184) cannot be greater than size",
        ),
        ("-n -O raw disk.raw foo:x.raw", "Unknown protocol 'foo'"),
        ("-O raw disk.raw json:{}", "Unknown protocol 'json'"),
    ] {
        let args: Vec<&str> = ["convert"].into_iter().chain(args.split(' ')).collect();
        for tool in [ours as Tool, qemu_img] {
            let ran = tool(folder, &args);
            assert_eq!(ran.status, Some(1), "{ran:?}");
            assert!(ran.stderr.contains(words), "{ran:?}");
        }
        assert!(std::fs::read(folder.join("x.raw")).unwrap() == vec![9; 5 << 20]);
    }
}

/// Checks that options can name the backing file and the data file of an overwritten image.
fn beside_targets() {
    for tool in [qemu_img as Tool, ours] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        files(folder);
        let create = |args: &str| {
            let args: Vec<&str> = args.split(' ').collect();
            qemu_img(
                folder,
                &[&["create", "-q", "-f", "qcow2"], &args[..]].concat(),
            )
            .ok();
        };
        create("-u -b gone.raw -F raw o.qcow2 1M");
        create("-o data_file=old.data d.qcow2 1M");
        std::fs::rename(folder.join("old.data"), folder.join("new.data")).unwrap();
        for target in [
            "driver=qcow2,file.filename=o.qcow2,backing.driver=raw,backing.file.filename=disk.raw",
            "driver=qcow2,file.filename=d.qcow2,data-file.filename=new.data",
        ] {
            let convert = ["convert", "-n", "--target-image-opts", "a.qcow2", target];
            tool(folder, &convert).ok();
            let back = ["convert", "--image-opts", target, "back.raw"];
            qemu_img(folder, &back).ok();
            let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
            assert!(read("back.raw").starts_with(&read("disk.raw")), "{target}");
        }
        assert!(!folder.join("old.data").exists());
    }
}

/// Checks that options about the encryption of an existing target must be right.
fn encrypted_targets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let convert = |target: &str| {
        let args = ["convert", "-n", "--object", SECRET, "--target-image-opts"];
        ours(folder, &[&args[..], &["disk.raw", target]].concat())
    };
    for target in [
        "driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=s",
        "encrypt.format=aes,file.filename=aes.qcow2,encrypt.key-secret=s",
    ] {
        convert(target).ok();
        let back = [
            "convert",
            "--object",
            SECRET,
            "--image-opts",
            target,
            "b.raw",
        ];
        qemu_img(folder, &back).ok();
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
        assert!(read("b.raw") == read("disk.raw"), "{target}");
    }
    for (target, words) in [
        (
            "driver=qcow2,file.filename=a.qcow2,encrypt.format=aes,encrypt.key-secret=s",
            "No encryption in image header, but options specified format 'aes'",
        ),
        (
            "driver=qcow2,file.filename=aes.qcow2,encrypt.format=luks,encrypt.key-secret=s",
            "Header reported 'aes' encryption format but options specify 'luks'",
        ),
        (
            "driver=qcow2,file.filename=a.qcow2,backing.file.filename=disk.raw",
            "giving an image that is written a backing file, or taking it away, is not supported",
        ),
    ] {
        let ran = convert(target);
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
}

/// Checks that a target that was probed as raw gives a warning, and can't get a header at its start.
fn guessed_target() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    for source in ["disk.raw", "a.qcow2"] {
        let mut results = Vec::new();
        for tool in [ours as Tool, qemu_img] {
            std::fs::write(folder.join("x.raw"), vec![0; 2 << 20]).unwrap();
            let args = ["convert", "-n", "-f", "raw", "--target-image-opts", source];
            let ran = tool(folder, &[&args[..], &["file.filename=x.raw"]].concat());
            let start = std::fs::read(folder.join("x.raw")).unwrap()[..4].to_vec();
            let stderr = ran.stderr.replace("cowhide", "qemu-img");
            results.push((ran.status, ran.stdout, stderr, start));
        }
        assert_eq!(results[0], results[1], "{source}");
        assert!(
            results[0]
                .2
                .starts_with("WARNING: Image format was not specified")
        );
        assert_eq!(results[0].0, Some(i32::from(source == "a.qcow2")));
        assert_ne!(results[0].3, b"QFI\xfb");
    }
}

/// Checks that FIFOs and folders are refused at once, and devices like `/dev/null` as targets.
fn no_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    files(folder);
    let made = std::process::Command::new("mkfifo")
        .arg(folder.join("fifo"))
        .status();
    assert!(made.unwrap().success());
    std::fs::create_dir(folder.join("folder")).unwrap();
    for (name, looked_at) in [("fifo", 0), ("folder", 0), ("/dev/null", 6)] {
        let json = format!(r#"json:{{"driver":"raw","file.filename":"{name}"}}"#);
        let options = format!("driver=raw,file.filename={name}");
        let calls: [&[&str]; 11] = [
            &["info", name],
            &["info", &json],
            &["info", "--image-opts", &options],
            &["check", name],
            &["check", "-f", "qcow2", name],
            &["convert", name, "x.raw"],
            &["create", "-q", "-f", "raw", name, "1M"],
            &["create", "-q", "-f", "qcow2", name, "1M"],
            &["convert", "disk.raw", name],
            &["convert", "-n", "disk.raw", name],
            &["convert", "-n", "--target-image-opts", "disk.raw", &options],
        ];
        for call in &calls[looked_at..] {
            let ran = ours(folder, call);
            assert_eq!(ran.status, Some(1), "{call:?}: {ran:?}");
            assert!(!ran.stderr.is_empty());
            assert!(!folder.join("x.raw").exists());
        }
    }
}

fn disk(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 1_000_960, 5);
}

/// Checks that an image that one tool encrypts with one spelling of a password is read by the other with another
/// spelling.
fn secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    std::fs::write(folder.join("plain"), "secret").unwrap();
    std::fs::write(folder.join("base64"), "c2Vj\ncmV0\n").unwrap();
    std::fs::write(folder.join("sealed"), "SzSzroeOvT55AkwGz7RGWg==\n").unwrap();
    let master = "secret,id=m,data=a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=,format=base64";
    let iv = "keyid=m,iv=aWlpaWlpaWlpaWlpaWlpaQ==";
    let spellings = [
        "secret,id=s,data=secret".to_owned(),
        "secret,id=s,file=plain".to_owned(),
        "secret,id=s,format=base64,file=base64".to_owned(),
        r#"{"qom-type":"secret","id":"s","format":"raw","data":"secret"}"#.to_owned(),
        format!("secret,id=s,format=base64,file=sealed,{iv}"),
        format!("secret,id=s,format=base64,data=SzSzroeOvT55AkwGz7RGWg==,{iv}"),
    ];
    let tools: [Tool; 2] = [ours, qemu_img];
    for (number, spelling) in spellings.iter().enumerate() {
        let image = format!("{number}.qcow2");
        let keys = ["--object", master, "--object", spelling];
        let options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"];
        let convert = [
            &["convert", "-O", "qcow2"][..],
            &keys,
            &options,
            &["disk.raw", &image],
        ]
        .concat();
        tools[number % 2](folder, &convert).ok();
        let image = format!("driver=qcow2,file.filename={image},encrypt.key-secret=s");
        for tool in tools {
            let other = spellings.iter().nth_back(number).unwrap();
            let keys = ["--object", master, "--object", other];
            let back = [
                &["convert"][..],
                &keys,
                &["--image-opts", &image, "back.raw"],
            ]
            .concat();
            tool(folder, &back).ok();
            let same = std::fs::read(folder.join("back.raw")).unwrap()
                == std::fs::read(folder.join("disk.raw")).unwrap();
            assert!(same, "{spelling} {other}");
        }
    }
}
