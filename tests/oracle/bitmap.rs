//! Tests of `bitmap`: the same changes by each tool, and by both alternately, give the same bitmaps and bits. Both
//! refuse the same calls with the same errors.

use std::path::Path;

use libtest_mimic::Trial;

use crate::bitmaps::bits;
use crate::common::{Noise, qemu_io};
use crate::tools::{Tool, assert_clean, ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for options in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=16k,extended_l2=on,lazy_refcounts=on",
        "data_file=data,cluster_size=4k",
    ] {
        let name = format!("bitmap::the_same_changes_{options}");
        trials.push(trial(name, move || the_same_changes(options)));
    }
    trials.push(trial("bitmap::of_another_image", of_another_image));
    trials.push(trial("bitmap::refused", refused));
    trials.push(trial("bitmap::usage", usage));
    trials.push(trial("bitmap::limits", limits));
    trials.push(trial("bitmap::the_last_one_goes", the_last_one_goes));
    trials.push(trial("bitmap::below_is_not_opened", below_is_not_opened));
    trials
}

/// Returns the bitmaps in the report of `info`.
fn described(folder: &Path, image: &str) -> serde_json::Value {
    let info = qemu_img(folder, &["info", "--output=json", image]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    info["format-specific"]["data"]["bitmaps"].clone()
}

fn names(folder: &Path, image: &str) -> Vec<String> {
    let bitmaps = described(folder, image);
    let bitmaps = bitmaps.as_array().into_iter().flatten();
    bitmaps
        .map(|bitmap| bitmap["name"].as_str().unwrap().to_owned())
        .collect()
}

fn the_same_changes(options: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let images = ["a", "b", "c"];
    for image in images {
        let options = options.replace("data_file=data", &format!("data_file={image}.data"));
        qemu_img(
            folder,
            &["create", "-q", "-f", "qcow2", "-o", &options, image, "3M"],
        )
        .ok();
    }
    let all = ["one", "two", "three"];
    let mut noise = Noise(options.len() as u64);
    let mut made = 0;
    for round in 0..40 {
        if noise.below(3) == 0 {
            let write = format!(
                "write -P 1 {}k {}k",
                noise.below(2800),
                1 + noise.below(200)
            );
            images
                .iter()
                .for_each(|image| qemu_io(folder, "qcow2", image, &[&write]));
            continue;
        }
        let existing = names(folder, "a");
        let name = all[noise.pick(3)];
        let mut args = vec!["bitmap".to_owned()];
        let mut exists = existing.iter().any(|one| one == name);
        for _ in 0..1 + noise.below(3) {
            let other = existing.iter().find(|one| *one != name);
            let step = match (exists, noise.pick(6), other) {
                (false, ..) => "--add",
                (true, 0, _) => "--remove",
                (true, 1, _) => "--clear",
                (true, 2, _) => "--enable",
                (true, 3, _) => "--disable",
                (true, _, None) => "--enable",
                (true, _, Some(other)) => {
                    args.extend(["--merge".to_owned(), other.clone()]);
                    continue;
                }
            };
            exists = step != "--remove";
            args.push(step.to_owned());
        }
        if args.iter().any(|arg| arg == "--add") {
            let granularity = ["0", "512", "4k", "64k", "1M", "2G"][noise.pick(6)];
            args.extend(["-g".to_owned(), granularity.to_owned()]);
        }
        made += 1;
        let tools = [ours as Tool, qemu_img, [ours as Tool, qemu_img][round % 2]];
        for (tool, image) in tools.into_iter().zip(images) {
            let args = args.iter().map(String::as_str).chain([image, name]);
            assert_eq!(tool(folder, &args.collect::<Vec<_>>()).ok(), "");
        }
        let expected = described(folder, "b");
        for image in images {
            assert_clean(folder, image);
            assert_eq!(
                described(folder, image),
                expected,
                "{image}, round {round}: {args:?}"
            );
        }
        if round % 8 == 0 || round > 36 {
            for name in names(folder, "a") {
                let [a, b, c] = images.map(|image| bits(folder, image, &name));
                assert!(
                    a == b && a == c,
                    "round {round}: {args:?}, {name}: {a} {b} {c}"
                );
            }
        }
    }
    assert!(made > 15, "{made}");
}

fn of_another_image() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for image in ["a", "b", "source"] {
        qemu_img(folder, &["create", "-q", "-f", "qcow2", image, "3M"]).ok();
    }
    qemu_img(folder, &["bitmap", "--add", "-g", "512", "source", "fine"]).ok();
    qemu_img(folder, &["bitmap", "--add", "-g", "1M", "source", "coarse"]).ok();
    qemu_io(
        folder,
        "qcow2",
        "source",
        &["write -P 1 5k 1k", "write -P 1 2M 3k"],
    );
    let before = std::fs::read(folder.join("source")).unwrap();
    for (granularity, name) in [("4k", "x"), ("512", "y"), ("2M", "z")] {
        for (tool, image) in [(ours as Tool, "a"), (qemu_img, "b")] {
            let merge = ["--merge", "fine", "--merge", "coarse", "-b", "source"];
            let args = [&["bitmap", "--add", "-g", granularity][..], &merge];
            tool(
                folder,
                &[&args.concat()[..], &["-F", "qcow2", image, name]].concat(),
            )
            .ok();
        }
        assert_clean(folder, "a");
        assert_eq!(
            bits(folder, "a", name),
            bits(folder, "b", name),
            "{granularity}"
        );
    }
    assert!(std::fs::read(folder.join("source")).unwrap() == before);
}

/// Returns a message without the generated node name of `qemu-img`.
fn without_node(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        let is_node =
            word.contains("#block") || word.trim_matches(['\'', ':']) == "v2" || word == "raw:";
        if is_node { "NODE" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let qemu = |args: &str| qemu_img(folder, &args.split(' ').collect::<Vec<_>>()).ok();
    qemu("create -q -f qcow2 a 1M");
    qemu("create -q -f qcow2 large 2M");
    qemu("create -q -f qcow2 -o compat=0.10 v2 1M");
    qemu("create -q -f raw raw 1M");
    qemu("bitmap --add a b0");
    qemu("bitmap --add a bad");
    qemu("bitmap --add large b0");
    qemu("create -q -f qcow2 corrupt 1M");
    let mut bytes = std::fs::read(folder.join("corrupt")).unwrap();
    bytes[79] = 2;
    std::fs::write(folder.join("corrupt"), bytes).unwrap();
    // The bitmap is left in use.
    let mut bytes = std::fs::read(folder.join("a")).unwrap();
    let name = bytes
        .windows(3)
        .rposition(|window| window == b"bad")
        .unwrap();
    bytes[name - 24 + 15] |= 1;
    std::fs::write(folder.join("a"), bytes).unwrap();
    let files = ["a", "large", "v2", "raw", "corrupt"];
    let contents = || files.map(|file| std::fs::read(folder.join(file)).unwrap());
    let before = contents();
    let long = format!("bitmap --add a {}", "n".repeat(1024));
    for line in [
        "bitmap --add a b0",
        "bitmap --remove a nope",
        "bitmap --clear a nope",
        "bitmap --enable a nope",
        "bitmap --disable a nope",
        "bitmap --merge b0 a nope",
        "bitmap --merge nope a b0",
        "bitmap --clear a bad",
        "bitmap --enable a bad",
        "bitmap --disable a bad",
        "bitmap --merge b0 a bad",
        "bitmap --merge bad a b0",
        "bitmap --add -g 100 a x",
        "bitmap --add -g 3000 a x",
        "bitmap --add -g 4G a x",
        "bitmap --merge b0 -b large a b0",
        "bitmap --merge nope -b large -F qcow2 a b0",
        "bitmap --merge b0 -b raw -F raw a b0",
        "bitmap --merge b0 -b nope a b0",
        "bitmap --merge b0 -b a a b0",
        "bitmap --clear -f raw raw x",
        "bitmap --add corrupt x",
        "bitmap --add nope x",
        "bitmap --add --image-opts -f qcow2 driver=qcow2,file.filename=a x",
        "bitmap --add --image-opts driver=qcow2,file.filename=a b0",
        "bitmap --clear --add --disable a b0",
    ] {
        // cowhide makes all of several changes or none. qemu-img keeps those before a failed one.
        let copy = std::fs::read(folder.join("a")).unwrap();
        let args: Vec<&str> = line.split(' ').collect();
        let answer = ours(folder, &args);
        assert!(contents() == before, "{line}");
        let theirs = qemu_img(folder, &args);
        std::fs::write(folder.join("a"), copy).unwrap();
        assert_eq!(answer.status, theirs.status, "{line}");
        assert_eq!(answer.status, Some(1), "{line}");
        let complaint = theirs.stderr.replace("qemu-img", "cowhide");
        assert_eq!(
            without_help(&answer.stderr, &complaint),
            complaint,
            "{line}"
        );
    }
    for line in ["bitmap --add v2 b", "bitmap --add -f raw raw b", &long] {
        let args: Vec<&str> = line.split(' ').collect();
        let answer = ours(folder, &args);
        assert!(contents() == before, "{line}");
        let theirs = qemu_img(folder, &args);
        for (file, bytes) in files.iter().zip(&before) {
            std::fs::write(folder.join(file), bytes).unwrap();
        }
        let own = answer.stderr.replace("in 'a'", "in NODE");
        let theirs = theirs.stderr.replace("qemu-img", "cowhide");
        let masked = |text: &str| without_node(text).replace("NODE:", "NODE");
        assert_eq!(masked(&own), masked(&theirs), "{line}");
        assert_eq!(answer.status, Some(1), "{line}");
    }
}

fn usage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "a", "1M"]).ok();
    for line in [
        "bitmap",
        "bitmap a",
        "bitmap a x",
        "bitmap --add a",
        "bitmap --add a x y",
        "bitmap --add -g foo a x",
        "bitmap --add -g -1 a x",
        "bitmap --remove -g 512 a x",
        "bitmap --remove -g 512 -F qcow2 a x",
        "bitmap --remove -F qcow2 a x",
        "bitmap --remove -F qcow2 -b y a x",
        "bitmap --add -b y -g 512 a x",
        "bitmap --bogus a x",
        "bitmap --add=3 a x",
        "bitmap --merge",
    ] {
        same_answer(folder, &line.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(names(folder, "a"), [""; 0]);
}

/// Checks the largest bitmaps, and the default granularities.
fn limits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (image, options, size) in [
        ("small", "cluster_size=512", "10M"),
        ("middle", "cluster_size=8k", "10M"),
        ("large", "cluster_size=2M", "10M"),
        ("huge", "cluster_size=64k", "100T"),
    ] {
        for copy in ["a", "b"] {
            let name = format!("{image}.{copy}");
            qemu_img(
                folder,
                &["create", "-q", "-f", "qcow2", "-o", options, &name, size],
            )
            .ok();
        }
        let images = [format!("{image}.a"), format!("{image}.b")];
        for granularity in ["512", "4096", "32k", "0", "2G"] {
            let name = format!("g{granularity}");
            let [a, b] =
                [(ours as Tool, &images[0]), (qemu_img, &images[1])].map(|(tool, image)| {
                    let ran = tool(
                        folder,
                        &["bitmap", "--add", "-g", granularity, image, &name],
                    );
                    (ran.status, ran.stderr)
                });
            assert_eq!(a.0, b.0, "{image} {granularity}: {a:?} {b:?}");
            assert_eq!(a.1.is_empty(), a.0 == Some(0), "{a:?}");
        }
        assert_eq!(described(folder, &images[0]), described(folder, &images[1]));
        assert_clean(folder, &images[0]);
    }
}

fn the_last_one_goes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "a", "1M"]).ok();
    let header = || std::fs::read(folder.join("a")).unwrap()[..65536].to_vec();
    let before = header();
    for add in [ours as Tool, qemu_img] {
        add(folder, &["bitmap", "--add", "a", "x"]).ok();
        assert_eq!(names(folder, "a"), ["x"]);
        ours(folder, &["bitmap", "--remove", "a", "x"]).ok();
        // QEMU would warn of an empty extension.
        assert_eq!(
            qemu_img(folder, &["bitmap", "--add", "--remove", "a", "y"]).ok(),
            ""
        );
        assert!(header() == before);
        assert_clean(folder, "a");
    }
}

fn below_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "base", "1M"]).ok();
    let args = [
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over",
    ];
    qemu_img(folder, &args).ok();
    std::fs::remove_file(folder.join("base")).unwrap();
    for tool in [ours as Tool, qemu_img] {
        tool(folder, &["bitmap", "--add", "over", "x"]).ok();
        tool(folder, &["bitmap", "--remove", "over", "x"]).ok();
    }
}
