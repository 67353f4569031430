//! Tests of the requirements on every format of the list, compared with the real tools.
//!
//! No format is named here. The expectations come from its driver: if it can be created and overwritten, if it has a
//! check, and its options. So a line in the list is enough to test a format. Features of a single format are tested
//! in its own file.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::driver::{Load, NewDisk, Plan, WriteParts};
use cowhide::formats::info::ImageInfo;
use cowhide::formats::{self, FORMATS, FormatDriver, ImageFile, OverwriteOptions};
use cowhide::options::{Kind, Values};
use cowhide::storage::MemoryStorage;
use libtest_mimic::Trial;

use crate::common::{Ran, run, same_contents, write_disk};
use crate::tools::{Tool, ours, qemu_img, same, without_help, words};
use crate::trial;

/// Sizes of disks in bytes, including odd ones and 0.
const SIZES: [u64; 6] = [0, 1, 513, (1 << 20) + 1, 3 << 20, (5 << 20) + 1536];

/// The length of a cylinder of small disks in bytes. One format has only whole cylinders.
const CYLINDER: u64 = 4 * 17 * 512;
/// A size of disks in bytes that every format has, and that isn't a whole number of clusters.
const EXACT: u64 = 91 * CYLINDER;

/// A format as the checks see it.
type Driver = &'static dyn FormatDriver;

/// A comparison of a format with the real tools, which panics if they differ.
type Check = fn(Driver);

pub fn trials() -> Vec<Trial> {
    let checks: [(&str, Check); 10] = [
        ("options", options),
        ("creation", creation),
        ("conversion", conversion),
        ("same_bytes", same_bytes),
        ("over_what_exists", over_what_exists),
        ("reports", reports),
        ("check", check),
        ("comparison", comparison),
        ("measure", measure),
        ("reading", reading),
    ];
    let trials = FORMATS.iter().flat_map(|format| {
        let driver: Driver = &**format;
        // Images that always have a password need more options, so those formats have their own file.
        let has_password = plan(driver, 1 << 20, "").is_ok_and(|plan| plan.encryption().is_some());
        let checks = checks
            .iter()
            .filter(move |(name, _)| !has_password || *name == "options");
        let trials = checks.map(move |(name, check)| {
            let check = *check;
            trial(format!("every_format::{format}::{name}"), move || {
                check(driver);
            })
        });
        trials.collect::<Vec<_>>()
    });
    trials.collect()
}

/// Returns the plan of a new image, if the driver can create it.
fn plan(driver: Driver, size: u64, options: &str) -> Result<Box<dyn Plan>> {
    let lists = (!options.is_empty()).then(|| OsString::from(options));
    let lists: Vec<OsString> = lists.into_iter().collect();
    driver.plan(&NewDisk {
        size,
        options: &Values::of_lists(&[driver.create_options()], &lists)?,
        backing_size: None,
        base: None,
        path: Path::new("image"),
        compressed: false,
        align: None,
        path_of: |name| Ok(name.into()),
    })
}

/// Returns lists of options that every image can have: none, and each switch that needs no password.
fn switches(driver: Driver) -> Vec<String> {
    let specs = driver.create_options().iter();
    let switches = specs.filter(|spec| spec.kind == Kind::Switch);
    let lists =
        std::iter::once(String::new()).chain(switches.map(|spec| format!("{}=on", spec.name)));
    lists
        .filter(|list| plan(driver, 1 << 20, list).is_ok_and(|plan| plan.encryption().is_none()))
        .collect()
}

fn load(driver: Driver, image: &Path) -> Box<dyn ImageFile> {
    let storage = MemoryStorage::new(fs::read(image).unwrap());
    driver.load(Arc::new(storage), Load::Use).unwrap()
}

fn cluster_size(driver: Driver, image: &Path) -> u64 {
    let mut info = ImageInfo::new(String::new(), driver.name(), 0, None);
    load(driver, image).describe(&mut info).unwrap();
    info.cluster_size.unwrap_or(1)
}

/// Runs a tool, which must succeed.
fn done(tool: Tool, folder: &Path, line: &str) -> String {
    tool(folder, &words(line)).ok()
}

/// Runs both tools in separate folders with the same files, where each makes the file `x`. Returns both folders if
/// they succeed.
fn both_make(disk: u64, line: &str) -> Option<[tempfile::TempDir; 2]> {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tools: [Tool; 2] = [ours, qemu_img];
    let [ours, theirs] = [0, 1].map(|number| {
        let folder = folders[number].path();
        write_disk(&folder.join("disk.raw"), disk, 3);
        let ran = tools[number](folder, &words(line));
        (
            ran.status,
            ran.stdout,
            ran.stderr.replace("qemu-img", "cowhide"),
        )
    });
    let is_too_large = ours.2.contains("too large for file format");
    // If its tables can't have the size, qemu-img makes files with other tables.
    if !(is_too_large && ours.0 == Some(1) && theirs.0 == Some(0)) {
        let said = without_help(&ours.2, &theirs.2);
        assert_eq!(
            (ours.0, &ours.1, said),
            (theirs.0, &theirs.1, theirs.2),
            "{line}"
        );
    }
    let made = folders[0].path().join("x").exists();
    assert!(ours.0 == Some(0) || !made, "{line}: something is left");
    (ours.0 == Some(0)).then_some(folders)
}

/// Makes an image of a raw disk.
fn make(tool: Tool, folder: &Path, driver: Driver, more: &str, image: &str) {
    let format = driver.name();
    let line = format!("convert -q -f raw -O {format} {more} disk.raw {image}");
    done(tool, folder, &line);
}

/// Returns true if qemu-img can read its own new image. It can't read some of 0 bytes.
fn is_readable_by_theirs(folder: &Path, driver: Driver, image: &str) -> bool {
    let line = format!("info -f {} {image}", driver.name());
    qemu_img(folder, &words(&line)).status == Some(0)
}

/// Makes a folder with `disk.raw` and `image`, which qemu-img makes of it. Returns `None` if the format has no new
/// images, or none of that size that qemu-img can read.
fn folder_with_image(driver: Driver, size: u64, options: &str) -> Option<tempfile::TempDir> {
    plan(driver, size, options).ok()?;
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), size, size ^ 7);
    let options = match options {
        "" => String::new(),
        list => format!("-o {list}"),
    };
    let line = format!(
        "convert -q -f raw -O {} {options} disk.raw image",
        driver.name()
    );
    let made = qemu_img(folder.path(), &words(&line));
    // A conversion opens its own target.
    if size > 0 {
        made.ok();
    }
    is_readable_by_theirs(folder.path(), driver, "image").then_some(folder)
}

/// Asserts that both tools read the disk from an image, and that qemu-img finds no damage in it.
fn assert_holds_disk(folder: &Path, driver: Driver, image: &str, why: &str) {
    let format = driver.name();
    let file = load(driver, &folder.join(image));
    let expected = folder.join("expected.raw");
    fs::copy(folder.join("disk.raw"), &expected).unwrap();
    let disk = fs::File::options().write(true).open(&expected).unwrap();
    disk.set_len(file.size()).unwrap();
    for (number, tool) in [ours as Tool, qemu_img].into_iter().enumerate() {
        let back = format!("back{number}.raw");
        let _ = fs::remove_file(folder.join(&back));
        done(
            tool,
            folder,
            &format!("convert -f {format} -O raw {image} {back}"),
        );
        assert!(
            same_contents(&expected, &folder.join(&back)),
            "{format}: {why}: {image}"
        );
    }
    if file.check().is_some() {
        let said = done(qemu_img, folder, &format!("check -f {format} {image}"));
        assert!(
            said.starts_with("No errors"),
            "{format}: {why}: {image}: {said}"
        );
    }
}

/// Asserts that both tools give the same reports on an image.
fn same_reports(folder: &Path, driver: Driver, image: &str) {
    let format = driver.name();
    for line in ["info", "info --output=json"] {
        same(folder, &format!("{line} -f {format} {image}"));
    }
    for line in ["map --output=json", "map"] {
        let line = format!("{line} -f {format} {image}");
        match is_mapped(folder, driver, image) {
            true => same(folder, &line),
            false => drop(done(ours, folder, &line)),
        }
    }
}

/// Returns true if qemu-img maps the data of an image. For some formats it treats all of the disk as data without an
/// offset.
fn is_mapped(folder: &Path, driver: Driver, image: &str) -> bool {
    let line = format!("map --output=json -f {} {image}", driver.name());
    let map = done(qemu_img, folder, &line);
    !map.contains("\"data\": true") || map.contains("\"offset\"")
}

/// Checks help, and mistakes in every option.
fn options(driver: Driver) {
    let format = driver.name();
    if driver.create_options().is_empty() {
        return no_options(format);
    }
    for line in [
        "create -f FORMAT -o help",
        "create -f FORMAT -o help x",
        "create -f FORMAT -o ? x",
        "convert -O FORMAT -o help",
        "convert -O FORMAT -o help disk.raw x",
    ] {
        same_help(driver, &line.replace("FORMAT", format));
    }
    // A new image that needs a password gets one.
    let has_password = plan(driver, 1 << 20, "").is_ok_and(|plan| plan.encryption().is_some());
    let format = match has_password {
        true => &format!("{format} --object secret,id=s,data=x -o key-secret=s,iter-time=0"),
        false => format,
    };
    for line in [
        "create -f FORMAT -o bogus=1 x 1M",
        "create -f FORMAT -o size=bogus x",
        "create -f FORMAT x",
        "create -f FORMAT x 1bogus",
        "create -f FORMAT x 99E",
        "create -f FORMAT -o size=1M x 2M",
        "convert -O FORMAT -o bogus=1 disk.raw x",
    ] {
        both_make(1 << 20, &line.replace("FORMAT", format));
    }
    too_large(format);
    for spec in driver.create_options() {
        let wrong: &[&str] = match spec.kind {
            Kind::Text => continue,
            Kind::Switch => &["perhaps", "1", ""],
            Kind::Size | Kind::Number => &["many", "-1", "1X", ""],
        };
        for value in wrong {
            let name = spec.name;
            // The error about a number that is too large has a measurement in it.
            if has_password && spec.kind == Kind::Number && *value == "-1" {
                continue;
            }
            both_make(
                1 << 20,
                &format!("create -f {format} -o {name}={value} x 1M"),
            );
        }
    }
}

/// Checks that a format without new images has no help about options.
fn no_options(format: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), 512, 3);
    for line in [
        "create -f FORMAT -o help",
        "create -f FORMAT -o help x",
        "create -f FORMAT x",
        "create -f FORMAT x 1bogus",
        "create -f FORMAT -o bogus=1 x 1M",
        "convert -O FORMAT -o help",
        "convert -O FORMAT -o help disk.raw x",
        "convert -O FORMAT nofile x",
        "convert -O FORMAT disk.raw x",
        "dd -O FORMAT if=disk.raw of=x",
        "measure -O FORMAT disk.raw",
        "amend -f FORMAT -o help disk.raw",
    ] {
        same(folder.path(), &line.replace("FORMAT", format));
    }
    assert!(!folder.path().join("x").exists());
}

/// Checks a disk that is too large. For some formats qemu-img makes a file that it doesn't open.
fn too_large(format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("create -f {format} x 7E");
    let theirs = qemu_img(folder.path(), &words(&line));
    let name = format.split(' ').next().unwrap_or_default();
    let is_broken = theirs.status == Some(0) && {
        let info = qemu_img(folder.path(), &["info", "-f", name, "x"]);
        info.status != Some(0)
    };
    if !is_broken {
        both_make(1 << 20, &line);
        return;
    }
    fs::remove_file(folder.path().join("x")).unwrap();
    assert_eq!(ours(folder.path(), &words(&line)).status, Some(1), "{line}");
    assert!(!folder.path().join("x").exists());
}

/// Asserts that the help about options is the same, except for options that the driver doesn't have.
fn same_help(driver: Driver, line: &str) {
    let folder = tempfile::tempdir().unwrap();
    write_disk(&folder.path().join("disk.raw"), 512, 3);
    let [ours, theirs] = [ours as Tool, qemu_img].map(|tool| done(tool, folder.path(), line));
    let is_known = |line: &&str| match line
        .strip_prefix("  ")
        .and_then(|line| line.split_once('='))
    {
        Some((name, _)) => {
            let known = driver.create_options().iter().any(|spec| spec.name == name);
            known || ours.contains(&format!("  {name}="))
        }
        None => true,
    };
    let expected: Vec<&str> = theirs.lines().filter(is_known).collect();
    assert!(expected.len() > 2, "{line}: {theirs}");
    assert_eq!(ours.lines().collect::<Vec<_>>(), expected, "{line}");
}

/// Checks that new images of all sizes with each switch have the same length as those of qemu-img, and that both
/// tools give the same reports on both.
fn creation(driver: Driver) {
    let format = driver.name();
    if plan(driver, 1 << 20, "").is_err() {
        both_make(512, &format!("create -f {format} x 1M"));
        return;
    }
    for options in switches(driver) {
        for size in ["0", "1", "1000", "3M"] {
            let options = match &*options {
                "" => String::new(),
                list => format!("-o {list}"),
            };
            let line = format!("create -f {format} {options} x {size}");
            let Some(folders) = both_make(512, &line) else {
                // Some formats have no disks of 0 bytes.
                assert!(size == "0", "{line}: both fail");
                continue;
            };
            let [ours, theirs] = folders.each_ref().map(|folder| folder.path());
            if !is_readable_by_theirs(theirs, driver, "x") {
                assert_eq!(size, "0", "{line}");
                continue;
            }
            let length = |folder: &Path| fs::metadata(folder.join("x")).unwrap().len();
            // Some drivers of qemu-img leave a partial cluster at the end.
            let full = length(theirs).next_multiple_of(cluster_size(driver, &theirs.join("x")));
            assert!([length(theirs), full].contains(&length(ours)), "{line}");
            for folder in [ours, theirs] {
                same_reports(folder, driver, "x");
            }
            // The map of a transparent image depends on the file system.
            if !driver.capabilities().transparent {
                let map = format!("map --output=json -f {format} x");
                let maps = [ours, theirs].map(|folder| done(qemu_img, folder, &map));
                assert_eq!(maps[0], maps[1], "{line}");
            }
            fs::write(ours.join("disk.raw"), "").unwrap();
            assert_holds_disk(ours, driver, "x", &line);
        }
    }
}

/// Checks that disks with holes, of odd sizes, and with data at their ends are unchanged by conversions in both
/// directions.
fn conversion(driver: Driver) {
    for size in SIZES {
        let Some(folder) = folder_with_image(driver, size, "") else {
            continue;
        };
        let folder = folder.path();
        make(ours, folder, driver, "", "ours");
        for image in ["image", "ours"] {
            assert_holds_disk(folder, driver, image, &format!("{size}"));
        }
        let length = |image: &str| fs::metadata(folder.join(image)).unwrap().len();
        assert_eq!(length("ours"), length("image"), "{size}");
    }
    for options in switches(driver) {
        let Some(folder) = folder_with_image(driver, (3 << 20) + 512, &options) else {
            continue;
        };
        let folder = folder.path();
        let given = match &*options {
            "" => String::new(),
            list => format!("-o {list}"),
        };
        make(ours, folder, driver, &given, "ours");
        make(ours, folder, driver, &format!("{given} -S 0"), "dense");
        for image in ["image", "ours", "dense"] {
            assert_holds_disk(folder, driver, image, &options);
        }
        make(
            qemu_img,
            folder,
            driver,
            &format!("{given} -S 0"),
            "their_dense",
        );
        let line = format!("measure -O raw -f {}", driver.name());
        assert_eq!(
            done(qemu_img, folder, &format!("{line} dense")),
            done(qemu_img, folder, &format!("{line} their_dense")),
            "{options}: -S 0 leaves out as much"
        );
    }
}

/// Checks that the number of workers has no effect: the disk, the length of the file and its holes are the same.
fn same_bytes(driver: Driver) {
    let Some(folder) = folder_with_image(driver, (9 << 20) + 512, "") else {
        return;
    };
    let folder = folder.path();
    let images = ["-m 1", "-m 8", "-m 16 -W"].map(|workers| {
        make(ours, folder, driver, workers, "ours");
        assert_holds_disk(folder, driver, "ours", workers);
        let map = format!("map --output=json -f {} ours", driver.name());
        let bytes = fs::read(folder.join("ours")).unwrap();
        (done(qemu_img, folder, &map), bytes)
    });
    for (map, bytes) in &images[1..] {
        assert_eq!(*map, images[0].0);
        assert_eq!(bytes.len(), images[0].1.len());
        // Identifiers in the header may be random.
        let differ = bytes
            .iter()
            .zip(&images[0].1)
            .filter(|(one, other)| one != other);
        assert!(differ.count() <= 128, "more than identifiers differs");
    }
}

/// Checks that `convert -n` overwrites noise and empty images, and doesn't change data beyond the source's end.
fn over_what_exists(driver: Driver) {
    let format = driver.name();
    let size = (5 << 20) + 512;
    let Some(folder) = folder_with_image(driver, size, "") else {
        return;
    };
    let folder = folder.path();
    let can_be = load(driver, &folder.join("image"))
        .write_over(WriteParts::default(), size, OverwriteOptions::default())
        .is_ok();
    let noise = usize::try_from(180 * CYLINDER).unwrap();
    fs::write(folder.join("noise.raw"), vec![0xa5; noise]).unwrap();
    for options in ["", "-S 0", "-m 8 -W", "-m 1"] {
        let noise = format!("convert -f raw -O {format} noise.raw noise");
        let fresh = format!("create -q -f {format} fresh {}", 6 << 20);
        let empty = format!("create -q -f {format} small {}", 1 << 20);
        for line in [&noise, &fresh, &empty] {
            done(qemu_img, folder, line);
        }
        let into =
            |target: &str| format!("convert -n {options} -f raw -O {format} disk.raw {target}");
        if !can_be {
            assert_eq!(ours(folder, &words(&into("fresh"))).status, Some(1));
            continue;
        }
        let before = fs::read(folder.join("small")).unwrap();
        if !driver.capabilities().transparent {
            same(folder, &into("small"));
            assert!(fs::read(folder.join("small")).unwrap() == before);
        }
        for target in ["noise", "fresh"] {
            done(ours, folder, &into(target));
            let line = format!("convert -f {format} -O raw {target} {target}.back");
            done(qemu_img, folder, &line);
            let back = fs::read(folder.join(format!("{target}.back"))).unwrap();
            let disk = fs::read(folder.join("disk.raw")).unwrap();
            let (start, rest) = back.split_at(disk.len());
            assert!(start == disk, "{format}: {options} {target}");
            let kept = if target == "noise" { 0xa5 } else { 0 };
            assert!(
                rest.iter().all(|byte| *byte == kept),
                "{format}: {options} {target}"
            );
            same(folder, &format!("check -f {format} {target}"));
        }
    }
}

/// Checks `info` and `map`, in both formats, for images of both tools, and that the format is probed.
fn reports(driver: Driver) {
    for options in switches(driver) {
        for size in [0, 513, (3 << 20) + 512] {
            let Some(folder) = folder_with_image(driver, size, &options) else {
                continue;
            };
            let folder = folder.path();
            let given = match &*options {
                "" => String::new(),
                list => format!("-o {list}"),
            };
            make(ours, folder, driver, &given, "ours");
            for image in ["image", "ours"] {
                same_reports(folder, driver, image);
                same(folder, &format!("info {image}"));
                let found =
                    formats::probe(&MemoryStorage::new(fs::read(folder.join(image)).unwrap()));
                assert_eq!(found.unwrap().name(), driver.name());
            }
        }
    }
}

/// Checks that a clean image has a clean check, or that the format reports that it has none.
fn check(driver: Driver) {
    let format = driver.name();
    for size in [0, (3 << 20) + 512] {
        let Some(folder) = folder_with_image(driver, size, "") else {
            continue;
        };
        let folder = folder.path();
        make(ours, folder, driver, "", "ours");
        for image in ["image", "ours"] {
            let file = load(driver, &folder.join(image));
            let before = fs::read(folder.join(image)).unwrap();
            let repairs = file.check().is_some_and(|check| check.repairs());
            for (line, is_there) in [
                ("check", file.check().is_some()),
                ("check --output=json", file.check().is_some()),
                ("check -r leaks", repairs),
                ("check -r all", repairs),
                ("check -r all --output=json", repairs),
            ] {
                let line = format!("{line} -f {format} {image}");
                // qemu-img can repair fewer formats.
                let theirs = qemu_img(folder, &words(&line));
                if !(is_there && line.contains("-r ") && theirs.status == Some(63)) {
                    same(folder, &line);
                }
                let status = if is_there { 0 } else { 63 };
                let Ran { status: found, .. } = ours(folder, &words(&line));
                assert_eq!(found, Some(status), "{line}");
            }
            assert!(fs::read(folder.join(image)).unwrap() == before);
        }
    }
}

/// Checks `compare` with the same disk, with another one and with a longer one.
fn comparison(driver: Driver) {
    let format = driver.name();
    let Some(folder) = folder_with_image(driver, 3 << 20, "") else {
        return;
    };
    let folder = folder.path();
    let mut disk = fs::read(folder.join("disk.raw")).unwrap();
    fs::write(folder.join("longer.raw"), [&disk[..], &[0; 1024]].concat()).unwrap();
    disk[2_000_000] ^= 1;
    fs::write(folder.join("other.raw"), &disk).unwrap();
    for raw in ["disk.raw", "longer.raw", "other.raw"] {
        for strict in ["", "-s"] {
            // qemu-img treats all of the disk as data.
            if !strict.is_empty() && !is_mapped(folder, driver, "image") {
                continue;
            }
            same(
                folder,
                &format!("compare {strict} -f {format} -F raw image {raw}"),
            );
            same(
                folder,
                &format!("compare {strict} -f raw -F {format} {raw} image"),
            );
        }
    }
}

/// Checks `measure` with the format as the target and as the source, with every other one.
fn measure(driver: Driver) {
    let format = driver.name();
    let folder = folder_with_image(driver, (3 << 20) + 512, "");
    for output in ["human", "json"] {
        for size in ["0", "1", "3M"] {
            let folder = tempfile::tempdir().unwrap();
            let line = format!("measure --output={output} -O {format} --size {size}");
            same(folder.path(), &line);
        }
        let Some(folder) = &folder else {
            continue;
        };
        for other in FORMATS {
            for line in [
                format!("-O {other} -f {format} image"),
                format!("-O {format} -f raw disk.raw"),
            ] {
                let line = format!("measure --output={output} {line}");
                match is_mapped(folder.path(), driver, "image") {
                    true => same(folder.path(), &line),
                    // qemu-img counts all that it treats as data.
                    false => {
                        let folder = folder.path();
                        let status = |tool: Tool| tool(folder, &words(&line)).status;
                        assert_eq!(status(ours), status(qemu_img), "{line}");
                    }
                }
            }
        }
    }
}

/// Checks other ways of reading: `checksum`, `--salvage` and `--untrusted`.
fn reading(driver: Driver) {
    let format = driver.name();
    let Some(folder) = folder_with_image(driver, EXACT, "") else {
        return;
    };
    let folder = folder.path();
    let line = run(folder, "sha256sum", ["disk.raw"]).ok();
    let expected = line.split(' ').next().unwrap();
    let said = done(ours, folder, &format!("checksum -f {format} image"));
    assert_eq!(said, format!("{expected}  image\n"));
    for more in ["--salvage", "--untrusted", "--verify -q", "-r 64M"] {
        let _ = fs::remove_file(folder.join("back.raw"));
        done(
            ours,
            folder,
            &format!("convert {more} -f {format} -O raw image back.raw"),
        );
        assert!(
            same_contents(&folder.join("disk.raw"), &folder.join("back.raw")),
            "{more}"
        );
    }
    for line in ["info", "map", "check"] {
        let line = format!("{line} -f {format} image");
        let said = |ran: Ran| (ran.status, ran.stdout, ran.stderr);
        assert_eq!(
            said(ours(folder, &words(&format!("{line} --untrusted")))),
            said(ours(folder, &words(&line))),
        );
    }
}
