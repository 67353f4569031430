//! Tests of images with random combinations of features, made by the real tools: they are read and overwritten here.
//!
//! The seed is the test's name, so that a failure can be reproduced. The results of both tools with copies of an
//! image must be the same. That includes the contents now and at its snapshot, the bits and extensions in the header,
//! and the result of qemu-img's `check`.
//!
//! Deliberate differences:
//!
//! - the set bits of a bitmap: those of all changes must be set, each tool sets those of its writes, and cowhide
//!   doesn't write zeroes over zeroes;
//! - the number of allocated clusters, for the same reason;
//! - a damaged image, to which cowhide doesn't write (see README.md);
//! - the messages of the repair of a dirty image, which cowhide doesn't have.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::common::{Noise, Ran, run, same_contents};
use crate::power_cut::kept::{self, Bits};
use crate::random_images::{Made, header, make_chain, make_image};
use crate::tools::{Tool, is_finding, ours, qemu_img, same_answer};
use crate::trial;

/// The number of images.
const IMAGES: u64 = 24;

pub fn trials() -> Vec<Trial> {
    (0..IMAGES)
        .map(|seed| {
            trial(format!("features::seed_{seed}"), move || {
                let folder = tempfile::tempdir().unwrap();
                let mut noise = noise(seed);
                let chain = make_chain(folder.path(), &mut noise);
                read(folder.path(), &chain);
                write_over(folder.path(), &mut noise, &chain);
            })
        })
        .collect()
}

/// Returns the noise of a seed. Small seeds give similar first numbers, which are skipped.
pub fn noise(seed: u64) -> Noise {
    let mut noise = Noise(seed);
    for _ in 0..10 {
        noise.next();
    }
    noise
}

fn read(folder: &Path, chain: &[Made]) {
    let top = &chain.last().unwrap().name;
    // The arguments read the disk, the snapshot, and two disks as one.
    for args in [&[][..], &["-l", "early"], &["layer0"]] {
        let args = [&["convert", "-O", "raw"], args, &[top]].concat();
        let theirs = qemu_img(folder, &[&args[..], &["theirs.raw"]].concat());
        if theirs.status == Some(0) {
            ours(folder, &[&args[..], &["ours.raw"]].concat()).ok();
            let same = same_contents(&folder.join("ours.raw"), &folder.join("theirs.raw"));
            assert!(same, "{args:?}: {}", description(folder, top));
        } else {
            // There is no such snapshot, or the tools have damaged their own image (a compressed cluster overwritten
            // after a snapshot), and it is unreadable for both. cowhide's error has the exact offset, after the start
            // of the read.
            let message = theirs.stderr.trim_start_matches("qemu-img: ").trim_end();
            let place = "error while reading at byte ";
            let message = message.find(place).map_or(message, |_| place);
            ours(folder, &[&args[..], &["ours.raw"]].concat()).fails(1, message);
        }
    }
    for options in [&["compare"][..], &["compare", "-s"]] {
        for names in [[top, "theirs.raw"], ["layer0", top]] {
            let args = [options, &names].concat();
            let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
            // Of an image that can't be read, the reason is told in other words.
            assert_eq!(ours.status, theirs.status, "{args:?}: {ours:?}");
            assert_eq!(ours.stdout, theirs.stdout, "{args:?}: {ours:?}");
        }
    }
    for output in ["--output=human", "--output=json"] {
        let args = ["info", "--backing-chain", output, top];
        assert_eq!(ours(folder, &args).ok(), qemu_img(folder, &args).ok());
        same_answer(folder, &["map", output, top]);
        same_answer(folder, &["measure", "-O", "qcow2", output, top]);
        // The findings have other words.
        let args = ["check", output, top];
        let (ours, theirs) = (ours(folder, &args), qemu_img(folder, &args));
        assert_eq!(ours.status, theirs.status, "{ours:?} {theirs:?}");
        assert_eq!(ours.stdout, theirs.stdout, "{ours:?} {theirs:?}");
    }
}

/// Returns the reports on an image, for messages.
fn description(folder: &Path, top: &str) -> String {
    let info = qemu_img(folder, &["info", "--backing-chain", top]);
    let map = qemu_img(folder, &["map", "--output=json", top]);
    format!("{}\n{}", info.stdout, map.stdout)
}

/// Converts the chain into another random image, with each tool in a separate folder.
fn write_over(folder: &Path, noise: &mut Noise, chain: &[Made]) {
    let source = chain.last().unwrap();
    let larger = [0, 512 * (1 + noise.below(300))][noise.pick(2)];
    let below = (noise.below(3) == 0).then(|| &chain[0]);
    let size = source.size.next_multiple_of(512) + larger;
    let target = make_image(folder, noise, "target", size, below);
    let mut args = vec!["convert", "-n", "-O", "qcow2"];
    let both = source.version_3 && target.version_3;
    if noise.below(if both { 2 } else { 8 }) == 0 {
        args.push("--bitmaps");
        if noise.below(2) == 0 {
            args.push("--skip-broken-bitmaps");
        }
    }
    args.extend([&source.name, "target"]);
    // The real tools sometimes leave a wrong COPIED flag. (An image of version 3 may only be dirty, which is repaired
    // when it is opened.)
    let is_damaged = qemu_img(folder, &["check", "target"]).status == Some(2);
    if is_damaged && !target.version_3 {
        ours(folder, &args).fails(1, "the image is damaged in ");
        return;
    }
    let before = contents(folder, &[]);

    let [(our, our_run), (their, their_run)] =
        [("ours", ours as Tool), ("theirs", qemu_img)].map(|(name, tool)| {
            let copy = copy_of(folder, name);
            let ran = tool(&copy, &args);
            (copy, ran)
        });
    if our_run.stderr.contains("the image is damaged") {
        // The tools have damaged the target, so cowhide doesn't write to it.
        let report = qemu_img(folder, &["check", "target"]);
        assert_eq!(report.status, Some(2), "{our_run:?} {report:?}");
        let [before, after] = [folder, &our].map(|folder| fs::read(folder.join("target")).unwrap());
        assert!(before == after, "{our_run:?}");
        return;
    }
    assert_eq!(
        our_run.status, their_run.status,
        "{args:?}: {our_run:?} {their_run:?}"
    );
    let said = our_run.stderr.replace("cowhide", "qemu-img");
    let their_words = without_repairs(&their_run.stderr);
    if their_run.status != Some(0) {
        // Of a source that is damaged, the reason is told in other words.
        let unreadable = before_reading_failed(&their_run);
        assert!(
            unreadable || said == their_words,
            "{args:?}: {our_run:?} {their_run:?}"
        );
        return;
    }
    assert_eq!(said, their_words, "{args:?}");
    let what = || format!("{args:?}: {}", description(folder, "target"));
    let [our_check, their_check] = [&our, &their].map(|folder| checked(folder));
    assert_eq!(our_check, their_check, "{}", what());
    let now = contents(&our, &[]);
    assert!(now == contents(&their, &[]), "{}", what());
    assert_eq!(
        header(&our.join("target")),
        header(&their.join("target")),
        "{}",
        what()
    );
    let early = ["-l", "early"];
    assert!(
        contents(&our, &early) == contents(folder, &early),
        "{}",
        what()
    );
    if let (Some(raw), Some(now)) = (&target.raw_data, &now) {
        let mut raw = fs::read(our.join(raw)).unwrap();
        raw.resize(now.len(), 0);
        assert!(raw == *now, "raw: {}", what());
    }
    let changed: Option<Vec<bool>> = before.zip(now).map(|(before, now)| {
        let sectors = before.chunks(512).zip(now.chunks(512));
        sectors.map(|(before, now)| before != now).collect()
    });
    bitmaps_agree(&our, &their, folder, &changed.unwrap_or_default());
}

/// Returns text without the findings of the repair of a dirty image.
fn without_repairs(text: &str) -> String {
    let said = text.lines().filter(|line| !is_finding(line));
    said.fold(String::new(), |text, line| text + line + "\n")
}

/// Returns true if reading the source has failed.
fn before_reading_failed(ran: &Ran) -> bool {
    ran.stderr.contains("error while reading")
}

fn copy_of(folder: &Path, name: &str) -> std::path::PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.path().extension() != Some("raw".as_ref())
        {
            let args = [
                "--sparse=always".into(),
                entry.path(),
                copy.join(entry.file_name()),
            ];
            let copied = run(folder, "cp", &args);
            assert_eq!(copied.status, Some(0), "{copied:?}");
        }
    }
    copy
}

/// Returns the contents of the target by qemu-img, or `None` if it can't be read.
fn contents(folder: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let args = [&["convert", "-O", "raw"], args, &["target", "contents"]].concat();
    let ran = qemu_img(folder, &args);
    let read = || fs::read(folder.join("contents")).unwrap();
    (ran.status == Some(0)).then(read)
}

/// Returns the result of qemu-img's check, without fields that depend on host offsets.
fn checked(folder: &Path) -> serde_json::Value {
    let ran = qemu_img(folder, &["check", "--output=json", "target"]);
    let mut report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let fields = report.as_object_mut().unwrap();
    fields.retain(|name, _| ["leaks", "corruptions", "check-errors"].contains(&name.as_str()));
    report
}

/// Returns the bitmaps of an image, by name.
pub fn bitmaps(path: &Path) -> Vec<Bits> {
    let mut bitmaps = kept::bitmaps(&fs::read(path).unwrap());
    bitmaps.sort_by(|one, other| one.bitmap.name.cmp(&other.bitmap.name));
    bitmaps
}

/// Asserts that both tools leave the same bitmaps. Those that must not change equal the old ones, or those of the
/// source. In the others all old bits and those of all changes are set.
fn bitmaps_agree(our: &Path, their: &Path, before: &Path, changed: &[bool]) {
    let before = bitmaps(&before.join("target"));
    let (ours, theirs) = (bitmaps(&our.join("target")), bitmaps(&their.join("target")));
    let flags = |all: &[Bits]| -> Vec<_> {
        let of = |bits: &Bits| {
            let bitmap = &bits.bitmap;
            (
                bitmap.name.clone(),
                bitmap.granularity,
                bitmap.in_use,
                bitmap.auto,
            )
        };
        all.iter().map(of).collect()
    };
    assert_eq!(flags(&ours), flags(&theirs));
    for (our, their) in ours.iter().zip(&theirs) {
        let bitmap = &our.bitmap;
        let name = String::from_utf8_lossy(&bitmap.name);
        let old = before.iter().find(|bits| bits.bitmap.name == bitmap.name);
        match old {
            Some(old) if bitmap.auto && !bitmap.in_use => {
                let per_bit = usize::try_from(bitmap.granularity / 512).unwrap();
                let changed = changed.chunks(per_bit).map(|part| part.contains(&true));
                let changed = changed.chain(std::iter::repeat(false));
                for (number, ((bit, old), changed)) in
                    our.bits.iter().zip(&old.bits).zip(changed).enumerate()
                {
                    assert!(*bit || (!old && !changed), "{name}: bit {number}");
                }
            }
            Some(old) => assert!(our.bits == old.bits, "{name}"),
            // Copied.
            None => assert!(our.bits == their.bits, "{name}"),
        }
    }
}
