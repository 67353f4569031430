//! Tests of files that are being created: they are kept, undone, or removed.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;

use super::*;
use crate::error::ErrorKind;

fn accept(_: &dyn Storage) -> Result<()> {
    Ok(())
}

fn create(path: &Path) -> Result<UnfinishedFile> {
    UnfinishedFile::create(path, CacheMode::Unsafe, accept)
}

fn keep(file: UnfinishedFile) -> Result<()> {
    UnfinishedFile::keep(vec![file], true)
}

/// Creates a file as on a file system that has no unnamed files.
fn create_named(path: &Path) -> Result<UnfinishedFile> {
    UnfinishedFile::named(path, CacheMode::Unsafe, FolderEntry::of_new(path).unwrap())
}

#[test]
fn a_new_file_has_its_name_when_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n".repeat(255));
    let mut file = create(&path).unwrap();
    file.storage().unwrap().write_at(0, b"x").unwrap();
    drop(file.take_storage().unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(create(&path).unwrap());
    keep(file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn without_files_that_have_no_name_it_has_one_at_once_and_loses_it_unless_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let file = create_named(&path).unwrap();
    let other = create(&path).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Locked);
    assert!(path.exists());
    drop(file);
    assert!(!path.exists());
    keep(create_named(&path).unwrap()).unwrap();
    assert!(path.exists());
}

#[test]
fn a_name_that_somebody_took_meanwhile_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let files = ["image", "data"].map(|name| create(&path(name)).unwrap());
    fs::write(path("image"), b"theirs").unwrap();
    let message = UnfinishedFile::keep(files.into(), false).unwrap_err();
    let expected = format!(
        "Could not create '{}': File exists",
        path("image").display()
    );
    assert_eq!(message.to_string(), expected);
    assert_eq!(fs::read(path("image")).unwrap(), b"theirs");
    // The data file has no name either.
    assert!(!path("data").exists());
}

#[test]
fn a_file_that_was_there_is_emptied_but_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, b"old contents").unwrap();
    let mut file = create(&path).unwrap();
    let storage = file.take_storage().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    storage.write_at(0, b"half").unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    fs::write(&path, b"somebody else's").unwrap();
    drop(file);
    assert_eq!(fs::read(dir.path().join("moved")).unwrap(), b"");
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn a_refused_file_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, b"old contents").unwrap();
    let refused = UnfinishedFile::create(&path, CacheMode::Unsafe, |_| Err(Error::invalid("no")));
    assert!(refused.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old contents");
}

#[test]
fn a_file_in_use_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, b"old contents").unwrap();
    let user = FileStorage::open(&path, Access::ReadWrite, CacheMode::Writeback).unwrap();
    for claim in [Claim::READ, Claim::WRITE_SHARED, Claim::WRITE] {
        user.claim(claim).unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(fs::read(&path).unwrap(), b"old contents");
    }
}

#[test]
fn a_file_put_in_its_place_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let unfinished = create_named(&path).unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    fs::write(&path, b"somebody else's").unwrap();
    drop(unfinished);
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn a_link_to_nothing_is_followed_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink("target", &link).unwrap();
    drop(create(&link).unwrap());
    assert!(link.is_symlink());
    assert!(!dir.path().join("target").exists());
    keep(create(&link).unwrap()).unwrap();
    assert!(link.is_symlink());
    assert!(dir.path().join("target").is_file());
    symlink("circle", dir.path().join("circle")).unwrap();
    let message = create(&dir.path().join("circle")).unwrap_err().to_string();
    assert!(message.ends_with("symbolic links"), "{message}");
}

#[test]
fn a_file_without_a_name_is_opened_again_by_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let file = File::create_new(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let magic = format!("/dev/fd/{}", file.as_raw_fd());
    for cache in [CacheMode::Unsafe, CacheMode::None] {
        let mut unfinished = UnfinishedFile::create(Path::new(&magic), cache, accept).unwrap();
        let handle = unfinished.handle();
        let storage = unfinished.take_storage().unwrap();
        storage.write_at(0, &[7; 8192]).unwrap();
        drop(storage);
        let again = handle.reopen(Opening::new(Access::Read, cache)).unwrap();
        assert_eq!(again.len().unwrap(), 8192);
        drop(again);
        drop(unfinished);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
