//! Tests of requests in flight: their number, the same result for any number, and one error for one failure among
//! many.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::formats::Extent;
use crate::formats::encryption::EncryptionFormat;
use crate::storage::NotShared;

/// Memory like storage on a network: every read and write takes a while, and any number can be in flight.
#[derive(Debug)]
struct Slow {
    memory: Arc<MemoryStorage>,
    delay: Duration,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    fn new(memory: MemoryStorage, milliseconds: u64) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::new(memory),
            delay: Duration::from_millis(milliseconds),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn wait<T>(&self, length: usize, request: impl FnOnce() -> T) -> T {
        // Headers and small tables are read one after the other on any storage.
        if length < 4096 {
            return request();
        }
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        let done = request();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// Returns the most requests that were in flight at once.
    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl crate::storage::Filter for Slow {
    fn inner(&self) -> &dyn Storage {
        self.memory.as_ref()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.wait(buf.len(), || self.memory.read_at(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.wait(data.len(), || self.memory.write_at(offset, data))
    }

    fn may_share_with(&self, _: &dyn Storage) -> bool {
        true
    }

    fn share_from(&self, _: u64, _: &dyn Storage, _: u64, _: u64) -> Result<(), NotShared> {
        let why = Error::unsupported("memory has no blocks");
        Err(NotShared { ever: true, why })
    }

    /// Returns true, as for a file, to which only one thread at a time can write through the page cache.
    fn writes_serially(&self) -> bool {
        true
    }
}

fn in_flight(requests: usize) -> Settings {
    Settings {
        requests: NonZeroUsize::new(requests),
        ..Settings::default()
    }
}

fn convert(source: &Arc<Slow>, target: &Arc<Slow>, size: usize, settings: Settings) -> Result<()> {
    let source = RawImage::open(Arc::<Slow>::clone(source))?;
    let options = NewQcow2Options::new(size as u64);
    let target = NewQcow2::create(Arc::<Slow>::clone(target), options, None, true)?;
    copy(&source, &target, settings, &())
}

#[test]
fn the_number_of_requests_in_flight_does_not_show_in_the_result() {
    let disk = disk((9 << 20) + 512);
    for cluster_size in [512, 65536, 2 << 20] {
        for encryption in [None, Some(EncryptionFormat::Aes)] {
            let mut first = None;
            for requests in [1, 2, 16, 256] {
                let source = Arc::new(MemoryStorage::new(disk.clone()));
                let target = Arc::new(MemoryStorage::default());
                let options = options(&disk, cluster_size, encryption);
                to_qcow2(source, Arc::clone(&target), options, in_flight(requests)).unwrap();
                let contents = target.contents();
                let first = first.get_or_insert_with(|| contents.clone());
                assert!(
                    *first == contents,
                    "{requests} in flight, {cluster_size} {encryption:?}"
                );
            }
        }
    }
}

#[test]
fn many_are_in_flight_where_they_wait_and_the_result_is_the_same() {
    let disk = disk(24 << 20);
    let at_once = Slow::new(MemoryStorage::default(), 0);
    let source = Slow::new(MemoryStorage::new(disk.clone()), 0);
    convert(&source, &at_once, disk.len(), in_flight(1)).unwrap();
    assert_eq!((source.most(), at_once.most()), (1, 1));

    let source = Slow::new(MemoryStorage::new(disk.clone()), 20);
    let target = Slow::new(MemoryStorage::default(), 20);
    convert(&source, &target, disk.len(), Settings::default()).unwrap();
    let threads = Settings::default().threads();
    assert!(source.most() > threads + 4, "{}", source.most());
    assert!(target.most() > 4, "{}", target.most());
    assert!(target.memory.contents() == at_once.memory.contents());
}

#[test]
fn no_more_are_in_flight_than_are_allowed() {
    let disk = disk(8 << 20);
    for requests in [1, 3, 8] {
        let source = Slow::new(MemoryStorage::new(disk.clone()), 1);
        let target = Slow::new(MemoryStorage::default(), 1);
        convert(&source, &target, disk.len(), in_flight(requests)).unwrap();
        assert!(source.most() <= requests, "{requests}");
        assert!(target.most() <= requests, "{requests}");
    }
}

/// An image whose reads take 15 MiB besides the buffer.
struct Hungry(RawImage);

impl Image for Hungry {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.0.extent_at(offset, limit)
    }

    fn memory_to_read(&self) -> usize {
        15 << 20
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
}

#[test]
fn fewer_are_in_flight_where_each_takes_much_memory() {
    let disk = disk(16 << 20);
    let slow = Slow::new(MemoryStorage::new(disk.clone()), 1);
    let source = Hungry(RawImage::open(Arc::<Slow>::clone(&slow)).unwrap());
    let options = NewQcow2Options::new(disk.len() as u64);
    let target = NewQcow2::create(Arc::new(MemoryStorage::default()), options, None, true);
    copy(&source, &target.unwrap(), in_flight(40), &()).unwrap();
    assert!(
        slow.most() <= Settings::default().threads().max(4),
        "{}",
        slow.most()
    );
}

#[test]
fn one_failure_among_many_requests_is_one_error() {
    let disk = disk(32 << 20);
    for (operation, nth) in [
        (Operation::Read, 1),
        (Operation::Read, 20),
        (Operation::Write, 2),
        (Operation::Write, 15),
    ] {
        let fault = Fault {
            operation,
            nth,
            errno: 5,
        };
        let (source, target) = (MemoryStorage::new(disk.clone()), MemoryStorage::default());
        let (source, target) = match operation {
            Operation::Read => (source.with_fault(fault), target),
            _ => (source, target.with_fault(fault)),
        };
        let (source, target) = (Slow::new(source, 2), Slow::new(target, 2));
        let done = convert(&source, &target, disk.len(), in_flight(60));
        let message = done.unwrap_err().to_string();
        assert!(message.ends_with("Input/output error"), "{message}");
        assert!(Header::read(target.as_ref()).is_err());
    }
}
