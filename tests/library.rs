//! Tests of the library that use only its public interface.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cowhide::{
    BitmapRanges, CheckSummary, ConvertOptions, CreateOptions, DiskBitmapChange, DiskImage,
    DiskReader, DiskStream, Error, ErrorKind, ExtentState, ImageExtents, ImageSummary, OpenOptions,
    WritableDisk,
};

/// The size of the disk of these tests, in bytes.
const SIZE: u64 = 8 << 20;

/// Makes a raw disk of [`SIZE`] bytes with data in the third MiB.
fn raw_disk(folder: &Path) -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    for (byte, value) in disk[2 << 20..3 << 20].iter_mut().zip((0..=250u8).cycle()) {
        *byte = value;
    }
    fs::write(folder.join("disk.img"), &disk).unwrap();
    disk
}

fn read_all(image: &DiskImage) -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(image.size()).unwrap()];
    image.read_at(0, &mut disk).unwrap();
    disk
}

fn refused<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    }
}

#[test]
fn a_disk_is_encrypted_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = raw_disk(folder);
    let image = folder.join("x.qcow2");
    let most = AtomicU64::new(0);
    let summary = ConvertOptions::new("qcow2")
        .source(OpenOptions::new().format("raw"))
        .option("encrypt.format", "luks")
        .option("encrypt.iter-time", "10")
        .password("secret")
        .threads(NonZeroUsize::new(2).unwrap())
        .verified()
        .on_progress(|done, total| {
            assert_eq!(total, SIZE);
            most.fetch_max(done, Ordering::Relaxed);
        })
        .convert(folder.join("disk.img"), &image)
        .unwrap();
    assert_eq!((summary.size, summary.stored), (SIZE, 1 << 20));
    assert_eq!(most.into_inner(), SIZE);

    let open = OpenOptions::new().format("qcow2");
    let error = refused(open.open(&image));
    assert_eq!(error.kind(), ErrorKind::MissingSecret, "{error}");
    let wrong = refused(open.password("wrong").open(&image));
    assert!(wrong.to_string().contains("Invalid password"), "{wrong}");
    let opened = OpenOptions::new().password("secret").open(&image).unwrap();
    assert_eq!(
        (opened.format(), opened.encryption()),
        ("qcow2", Some("luks"))
    );
    assert!(read_all(&opened) == disk);
}

#[test]
fn extents_tell_how_a_disk_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    raw_disk(folder);
    let image = folder.join("x.qcow2");
    let convert = ConvertOptions::new("qcow2").compressed();
    convert.convert(folder.join("disk.img"), &image).unwrap();
    let opened = OpenOptions::new().open(&image).unwrap();
    let extents: Vec<_> = opened.extents().map(Result::unwrap).collect();
    let compressed = extents
        .iter()
        .filter(|extent| extent.state == ExtentState::Compressed);
    assert_eq!(compressed.map(|extent| extent.length).sum::<u64>(), 1 << 20);
    let mut end = 0;
    for extent in &extents {
        assert_eq!(extent.start, end);
        end += extent.length;
    }
    assert_eq!(end, SIZE);
}

#[test]
fn a_disk_is_written_over_its_backing_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut disk = raw_disk(folder);
    let (base, top) = (folder.join("disk.img"), folder.join("top.qcow2"));
    CreateOptions::new("qcow2", SIZE)
        .option("backing_file", &base)
        .option("backing_fmt", "raw")
        .create(&top)
        .unwrap();
    let options = OpenOptions::new().format("qcow2");
    let open = options.open_to_write(&top).unwrap();
    open.write_at((2 << 20) + 100, b"changed").unwrap();
    open.write_zeroes(5 << 19, 1 << 16).unwrap();
    open.close().unwrap();
    disk[(2 << 20) + 100..][..7].copy_from_slice(b"changed");
    disk[5 << 19..][..1 << 16].fill(0);
    let opened = options.open(&top).unwrap();
    assert!(read_all(&opened) == disk);
    assert_eq!(opened.backing_files(), [base]);
    let untrusted = OpenOptions::new().format("qcow2").untrusted();
    let error = refused(untrusted.open(&top));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn damage_is_found_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("x.qcow2");
    CreateOptions::new("qcow2", SIZE).create(&image).unwrap();
    let options = OpenOptions::new().format("qcow2");
    assert!(options.check(&image).unwrap().unwrap().is_clean());
    let opened = options.open(&image).unwrap();
    assert_eq!(opened.cluster_size(), Some(1 << 16));
    drop(opened);
    // This leaks the fourth cluster: the third cluster is the first refcount block.
    let mut bytes = fs::read(&image).unwrap();
    bytes[(2 << 16) + 9] = 1;
    bytes.resize(5 << 16, 0);
    fs::write(&image, bytes).unwrap();
    let found = options.check(&image).unwrap().unwrap();
    assert_eq!(
        (found.leaks, found.corruptions, found.findings.len()),
        (1, 0, 1)
    );
    let repaired = options.repair(&image).unwrap().unwrap();
    assert!(
        repaired.is_clean() && repaired.leaks_fixed == 1,
        "{repaired:?}"
    );
    let raw = folder.path().join("raw");
    fs::write(&raw, [0; 512]).unwrap();
    assert_eq!(OpenOptions::new().format("raw").check(&raw).unwrap(), None);
}

#[test]
fn mistakes_are_errors_that_can_be_matched_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("x");
    let missing = refused(OpenOptions::new().open(&path));
    assert_eq!(missing.kind(), ErrorKind::Io);
    assert_eq!(missing.io_kind(), Some(io::ErrorKind::NotFound));
    let format = refused(CreateOptions::new("qcow9", SIZE).create(&path));
    assert_eq!(format.kind(), ErrorKind::Invalid);
    let option = CreateOptions::new("qcow2", SIZE).option("clutter_size", "1M");
    assert_eq!(refused(option.create(&path)).kind(), ErrorKind::Invalid);
    raw_disk(folder);
    let compressed = ConvertOptions::new("raw").compressed();
    let error = refused(compressed.convert(folder.join("disk.img"), &path));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[test]
fn snapshots_are_taken_read_gone_back_to_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("x.qcow2");
    CreateOptions::new("qcow2", SIZE).create(&image).unwrap();
    let options = || OpenOptions::new().format("qcow2");
    let write = |byte: u8| {
        let disk = options().open_to_write(&image).unwrap();
        disk.write_at(1 << 20, &[byte; 4096]).unwrap();
        disk.close().unwrap();
    };
    let first_byte = |options: OpenOptions| {
        let mut byte = [0];
        let disk = options.open(&image).unwrap();
        disk.read_at(1 << 20, &mut byte).unwrap();
        byte[0]
    };
    write(1);
    options().take_snapshot(&image, "one").unwrap();
    write(2);
    assert_eq!(first_byte(options()), 2);
    assert_eq!(first_byte(options().snapshot("one")), 1);
    refused(options().snapshot("two").open(&image));
    options().apply_snapshot(&image, "one").unwrap();
    assert_eq!(first_byte(options()), 1);
    options().delete_snapshot(&image, "one").unwrap();
    assert!(options().open(&image).unwrap().snapshots().is_empty());
    let error = refused(options().delete_snapshot(&image, "one"));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(options().check(&image).unwrap().unwrap().is_clean());
}

#[test]
fn bitmaps_tell_what_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("x.qcow2");
    // The bitmap has 70 bits and a partial one.
    let size = 70 * 512 + 100 * 512;
    CreateOptions::new("qcow2", size).create(&image).unwrap();
    let options = OpenOptions::new().format("qcow2");
    let change = |name: &str, changes: &[DiskBitmapChange]| {
        options.change_bitmap(&image, name, changes).unwrap();
    };
    let ranges = |name: &str| {
        let disk = options.open(&image).unwrap();
        let ranges = disk.bitmap_ranges(name).unwrap();
        ranges.collect::<Result<Vec<_>, _>>().unwrap()
    };
    change("fine", &[DiskBitmapChange::Add(Some(512))]);
    change("coarse", &[DiskBitmapChange::Add(Some(1 << 16))]);
    assert_eq!(ranges("fine"), []);
    let disk = options.open_to_write(&image).unwrap();
    for (offset, length) in [(0, 512), (1024, 512), (4096, 9 * 512), (size - 512, 512)] {
        disk.write_at(offset, &vec![7; length]).unwrap();
    }
    disk.close().unwrap();
    let expected = [0..512, 1024..1536, 4096..4096 + 9 * 512, size - 512..size];
    assert_eq!(ranges("fine"), expected);
    assert_eq!(ranges("coarse"), [0..size]);
    change(
        "fine",
        &[DiskBitmapChange::Clear, DiskBitmapChange::Disable],
    );
    assert_eq!(ranges("fine"), []);
    change("fine", &[DiskBitmapChange::Merge("coarse".into())]);
    assert_eq!(ranges("fine"), [0..size]);
    change("fine", &[DiskBitmapChange::Remove]);
    let names: Vec<_> = options.open(&image).unwrap().bitmaps().to_vec();
    assert_eq!(names.len(), 1);
    assert_eq!((&*names[0].name, names[0].granularity), ("coarse", 1 << 16));
    refused(options.open(&image).unwrap().bitmap_ranges("fine"));
    let again = options.change_bitmap(&image, "coarse", &[DiskBitmapChange::Add(None)]);
    assert_eq!(refused(again).kind(), ErrorKind::Invalid);
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), vec![7; 64 << 20]).unwrap();
    let flag = AtomicBool::new(false);
    // Each worker sets the flag itself after its first chunk.
    let cancel = |done: u64, _: u64| flag.store(done > 0, Ordering::Relaxed);
    let convert = ConvertOptions::new("qcow2")
        .source(OpenOptions::new().format("raw"))
        .threads(NonZeroUsize::new(1).unwrap())
        .on_progress(cancel)
        .cancelled_by(&flag);
    let target = folder.join("x.qcow2");
    let error = refused(convert.convert(folder.join("disk.img"), &target));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(!target.exists());
    // The flag was set before the work began.
    let verified = ConvertOptions::new("raw").cancelled_by(&flag).verified();
    let error = refused(verified.convert(folder.join("disk.img"), &target));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(!target.exists());
}

#[test]
fn an_image_is_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut disk = raw_disk(folder);
    let image = folder.join("x.qcow2");
    let convert = ConvertOptions::new("qcow2");
    convert.convert(folder.join("disk.img"), &image).unwrap();

    let mut stream = DiskStream::new(Box::new(OpenOptions::new().open_to_write(&image).unwrap()));
    // Neither the start nor the end is that of a sector.
    stream.seek(SeekFrom::Start((2 << 20) - 3)).unwrap();
    stream.write_all(b"written").unwrap();
    stream.seek(SeekFrom::Current(-7)).unwrap();
    let mut word = [0; 7];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"written");
    stream.seek(SeekFrom::End(-2)).unwrap();
    assert_eq!(stream.write(b"end").unwrap(), 2);
    assert_eq!(stream.write(b"d").unwrap(), 0);
    stream.flush().unwrap();
    stream.into_inner().close().unwrap();
    disk[(2 << 20) - 3..][..7].copy_from_slice(b"written");
    let end = disk.len() - 2;
    disk[end..].copy_from_slice(b"en");

    let opened = Arc::new(OpenOptions::new().open(&image).unwrap());
    let mut read = Vec::new();
    let mut reader = DiskReader::new(Arc::clone(&opened));
    reader.read_to_end(&mut read).unwrap();
    assert!(read == disk);
    assert_eq!(reader.seek(SeekFrom::End(5)).unwrap(), SIZE + 5);
    assert_eq!(reader.read(&mut word).unwrap(), 0);
    let before = reader.seek(SeekFrom::Current(-(SIZE as i64) - 6));
    assert_eq!(before.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(reader.stream_position().unwrap(), SIZE + 5);
}

#[test]
fn a_header_is_read_without_the_files_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("x.qcow2");
    CreateOptions::new("qcow2", SIZE)
        .option("cluster_size", "4k")
        .option("encrypt.format", "luks")
        .option("encrypt.iter-time", "10")
        .option("data_file", folder.path().join("data"))
        .password("secret")
        .create(&image)
        .unwrap();
    let options = OpenOptions::new();
    options.take_snapshot(&image, "one").unwrap_err();
    fs::remove_file(folder.path().join("data")).unwrap();
    let header = options.inspect(&image).unwrap();
    assert_eq!((&*header.format, header.size), ("qcow2", SIZE));
    assert_eq!(header.cluster_size, Some(4096));
    assert_eq!(header.encryption, Some("luks"));
    assert_eq!(header.other_files, [folder.path().join("data")]);
    assert_eq!((header.backing_file, header.backing_format), (None, None));
    assert!(header.allocated.is_some_and(|bytes| bytes > 0));

    let top = folder.path().join("top.qcow2");
    fs::write(folder.path().join("base"), [0; 512]).unwrap();
    CreateOptions::new("qcow2", SIZE)
        .option("backing_file", "base")
        .option("backing_fmt", "raw")
        .create(&top)
        .unwrap();
    options.take_snapshot(&top, "one").unwrap();
    fs::remove_file(folder.path().join("base")).unwrap();
    let header = options.inspect(&top).unwrap();
    assert_eq!(header.backing_file.unwrap(), "base");
    assert_eq!(header.backing_format.unwrap(), "raw");
    assert_eq!((header.snapshots, header.is_dirty), (1, false));
    assert_eq!(header.encryption, None);
    let raw = fs::read(&top).unwrap();
    fs::write(&top, &raw[..100]).unwrap();
    let error = refused(OpenOptions::new().format("qcow2").inspect(&top));
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn images_can_be_used_by_many_threads_and_shown() {
    fn assert_shared<T: Send + Sync + fmt::Debug>() {}
    assert_shared::<DiskImage>();
    assert_shared::<WritableDisk>();
    assert_shared::<OpenOptions>();
    assert_shared::<CreateOptions>();
    assert_shared::<ConvertOptions<'_>>();
    assert_shared::<ImageExtents<'_>>();
    assert_shared::<BitmapRanges>();
    assert_shared::<CheckSummary>();
    assert_shared::<ImageSummary>();
    assert_shared::<DiskReader<&DiskImage>>();
    assert_shared::<DiskStream<Arc<WritableDisk>>>();
    assert_shared::<Error>();

    let password = "correct horse";
    let open = format!("{:?}", OpenOptions::new().password(password));
    let create = CreateOptions::new("luks", SIZE).password(password);
    let convert = ConvertOptions::new("luks").password(password);
    for shown in [open, format!("{create:?}"), format!("{convert:?}")] {
        let bytes = format!("{:?}", password.as_bytes());
        assert!(
            !shown.contains(password) && !shown.contains(&bytes),
            "{shown}"
        );
        assert!(shown.contains("has_password: true"), "{shown}");
    }
}

#[test]
fn signals_and_attributes_of_the_process_stay_as_they_are() {
    let handled = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let lines = status.lines().filter(|line| line.starts_with("Sig"));
        // Blocked signals are those of each thread.
        let lines = lines.filter(|line| !line.starts_with("SigB") && !line.starts_with("SigP"));
        (
            lines.map(str::to_owned).collect::<Vec<_>>(),
            rustix::process::dumpable_behavior().unwrap(),
        )
    };
    let before = handled();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    raw_disk(folder);
    let image = folder.join("x.qcow2");
    ConvertOptions::new("qcow2")
        .option("encrypt.format", "aes")
        .password("secret")
        .convert(folder.join("disk.img"), &image)
        .unwrap();
    let options = OpenOptions::new().password("secret");
    let disk = options.open_to_write(&image).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| disk.write_at(0, b"x").unwrap());
        scope.spawn(|| disk.write_at(1 << 20, b"x").unwrap());
    });
    disk.close().unwrap();
    assert_eq!(handled(), before);
}

/// Returns the program of an example, which `cargo test` has built unless only this file is tested.
fn example(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap().parent().unwrap();
    let example = folder.join("examples").join(name);
    if !example.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--example", name]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success(), "{name}");
    }
    example
}

#[test]
fn the_examples_work() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = raw_disk(folder);
    let run = |name: &str, args: &[&str]| {
        let input = fs::File::open(folder.join("password")).unwrap();
        let mut command = Command::new(example(name));
        let ran = command.args(args).current_dir(folder).stdin(input);
        let ran = ran.stderr(Stdio::piped()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ran.status.success(), text(ran.stdout), text(ran.stderr))
    };
    fs::write(folder.join("password"), "secret\n").unwrap();
    let (done, _, said) = run("encrypt_disk", &["disk.img", "disk.qcow2"]);
    assert!(done && said.contains("100 %"), "{said}");
    assert!(
        said.ends_with("1048576 of 8388608 bytes are stored\n"),
        "{said}"
    );
    let opened = OpenOptions::new().password("secret");
    assert!(read_all(&opened.open(folder.join("disk.qcow2")).unwrap()) == disk);

    let (done, said, _) = run("dump_range", &["disk.img", "2097150", "18"]);
    let lines = "00001ffffe  00 00 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d\n000020000e  0e 0f\n";
    assert!(done && said == lines, "{said}");
    let (done, _, said) = run("dump_range", &["disk.qcow2", "0", "1"]);
    assert!(!done && said.contains("MissingSecret"), "{said}");

    let images = folder.join("images");
    fs::create_dir(&images).unwrap();
    fs::rename(folder.join("disk.qcow2"), images.join("disk.qcow2")).unwrap();
    let (done, said, _) = run("verify_folder", &["images"]);
    assert!(done && said == "images/disk.qcow2: clean\n", "{said}");
    // A header without the tables that it names.
    let image = fs::read(images.join("disk.qcow2")).unwrap();
    fs::write(images.join("disk.qcow2"), &image[..1024]).unwrap();
    let (done, said, problem) = run("verify_folder", &["images"]);
    assert!(!done && said.starts_with("images/disk.qcow2: "), "{said}");
    assert!(problem.contains("1 images aren't clean"), "{problem}");
}
