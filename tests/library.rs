//! A second consumer of the library, beside the program: it uses the public interface and nothing else.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use cowhide::{
    ConvertOptions, CreateOptions, DiskImage, Error, ErrorKind, ExtentState, OpenOptions,
};

/// The size of the disk of these tests, in bytes.
const SIZE: u64 = 8 << 20;

/// A raw disk of [`SIZE`] bytes, of which the third MiB holds data.
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
    // The refcount of the fourth cluster, which nothing uses: the first block of refcounts is the third cluster.
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
    assert_eq!(missing.io_kind(), Some(std::io::ErrorKind::NotFound));
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
