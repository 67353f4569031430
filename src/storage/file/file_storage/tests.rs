//! Tests of files as storage: holes, short reads, and paths that aren't files.

use super::*;

#[test]
fn holes_are_told_from_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    File::create_new(&path).unwrap();
    let file = FileStorage::open(&path, Access::ReadWrite, CacheMode::Writeback).unwrap();
    file.set_len(1 << 20).unwrap();
    // The first block of a file that was empty is allocated.
    let first = file.next_data(0).unwrap().unwrap();
    assert!(first.start == 0 && first.end <= 64 << 10, "{first:?}");
    assert_eq!(file.next_data(64 << 10).unwrap(), None);
    file.write_at(512 << 10, &[1; 4096]).unwrap();
    let data = file.next_data(64 << 10).unwrap().unwrap();
    assert!(data.start <= 512 << 10 && data.end >= (512 << 10) + 4096);
    assert!(data.end - data.start < 1 << 20);
    assert_eq!(file.next_data(1 << 20).unwrap(), None);
}

#[test]
fn reading_past_the_end_is_short_and_exact_reading_says_so() {
    let file = FileStorage::in_memory("x").unwrap();
    file.write_at(0, &[7; 100]).unwrap();
    let mut buf = [0; 200];
    assert_eq!(file.read_at(50, &mut buf).unwrap(), 50);
    let error = file.read_exact_at(50, &mut buf, "table").unwrap_err();
    assert!(error.to_string().contains("table at offset 0x32"));
}

/// A file that gives a few bytes for each read, and is interrupted or fails every second time.
struct Halting(std::cell::Cell<u64>, Option<ErrorKind>);

impl FileExt for Halting {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.set(self.0.get() + 1);
        if self.0.get().is_multiple_of(2) {
            return self.1.map_or(Ok(0), |kind| Err(kind.into()));
        }
        let part = buf.len().min(3);
        buf[..part].fill(u8::try_from(offset).unwrap());
        Ok(part)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unimplemented!()
    }
}

#[test]
fn a_read_that_is_cut_short_or_interrupted_goes_on() {
    let read = |kind| {
        let mut buf = [0; 8];
        let halting = Halting(std::cell::Cell::default(), kind);
        read_full(&halting, 10, &mut buf).map(|count| (count, buf))
    };
    let interrupted = read(Some(ErrorKind::Interrupted)).unwrap();
    assert_eq!(interrupted, (8, [10, 10, 10, 13, 13, 13, 16, 16]));
    assert_eq!(read(None).unwrap(), (3, [10, 10, 10, 0, 0, 0, 0, 0]));
    let (at, error) = read(Some(ErrorKind::PermissionDenied)).unwrap_err();
    assert_eq!((at, error.kind()), (13, ErrorKind::PermissionDenied));
}

#[test]
fn a_file_in_memory_is_a_file_like_any_other() {
    let file = FileStorage::in_memory("x").unwrap().checked().unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(1 << 20, &[7; 512]).unwrap();
    let mut buf = [0; 512];
    file.read_exact_at(1 << 20, &mut buf, "data").unwrap();
    assert_eq!(buf, [7; 512]);
    assert!(file.next_data(0).unwrap().unwrap().start >= 512 << 10);
}

#[test]
fn fifos_and_directories_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    for path in [fifo.as_path(), dir.path()] {
        let error = FileStorage::open(path, Access::Read, CacheMode::Writeback).unwrap_err();
        assert!(error.to_string().contains("regular file"), "{error}");
    }
}
