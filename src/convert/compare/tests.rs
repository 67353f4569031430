//! Tests of comparisons.

use std::sync::Arc;

use super::*;
use crate::convert::chunks::BLOCK_SIZE;
use crate::formats::raw::RawImage;
use crate::storage::MemoryStorage;

fn disk(bytes: Vec<u8>) -> RawImage {
    RawImage::open(Arc::new(MemoryStorage::new(bytes))).unwrap()
}

/// A disk with a sector that can't be read.
struct UnreadableDisk {
    disk: RawImage,
    at: u64,
}

impl Image for UnreadableDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        self.disk.extent_at(offset, limit)
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        if (offset.0..offset.0 + buf.len() as u64).contains(&self.at) {
            return Err(Error::invalid("a bad sector"));
        }
        self.disk.read_at(offset, buf)
    }
}

fn noise(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 31 % 251 + 1).unwrap())
        .collect()
}

fn outcome(one: &dyn Image, other: &dyn Image) -> Comparison {
    let side = |image, name| Side { image, name };
    let workers = NonZeroUsize::new(3).unwrap();
    compare(
        [side(one, "one"), side(other, "other")],
        false,
        workers,
        &(),
    )
}

fn difference(one: Vec<u8>, other: Vec<u8>) -> (bool, Option<u64>) {
    let outcome = outcome(&disk(one), &disk(other));
    let offset = match outcome.finding {
        Difference::Same => None,
        Difference::Content(offset) => Some(offset.0),
        other => panic!("{other:?}"),
    };
    (outcome.longer, offset)
}

#[test]
fn the_first_sector_that_differs_is_told() {
    let length = 5 * BLOCK_SIZE + 1536;
    let one = noise(length);
    assert_eq!(difference(one.clone(), one.clone()), (false, None));
    for at in [
        0,
        511,
        512,
        BLOCK_SIZE - 1,
        BLOCK_SIZE,
        3 * BLOCK_SIZE + 700,
        length - 1,
    ] {
        let mut other = one.clone();
        other[at] ^= 1;
        // Later differences don't count, whichever worker finds them.
        other[length - 1] ^= 2;
        let sector = at as u64 / 512 * 512;
        assert_eq!(difference(one.clone(), other), (false, Some(sector)));
    }
}

#[test]
fn beyond_the_shorter_disk_there_are_zeroes() {
    let one = noise(3 * BLOCK_SIZE);
    let mut other = one.clone();
    other.resize(6 * BLOCK_SIZE + 512, 0);
    assert_eq!(difference(one.clone(), other.clone()), (true, None));
    assert_eq!(difference(other.clone(), one.clone()), (true, None));
    other[5 * BLOCK_SIZE + 3] = 1;
    let expected = (true, Some(5 * BLOCK_SIZE as u64));
    assert_eq!(difference(one.clone(), other.clone()), expected);
    other[BLOCK_SIZE] ^= 1;
    assert_eq!(difference(one, other), (false, Some(BLOCK_SIZE as u64)));
}

#[test]
fn a_disk_that_can_not_be_read_is_an_error_unless_something_came_before() {
    let bytes = noise(4 * BLOCK_SIZE);
    let mut changed = bytes.clone();
    changed[700] ^= 1;
    for (other, is_content) in [(bytes.clone(), false), (changed, true)] {
        let broken = UnreadableDisk {
            disk: disk(bytes.clone()),
            at: 2 * BLOCK_SIZE as u64 + 512,
        };
        match outcome(&broken, &disk(other)).finding {
            Difference::Content(offset) => assert!(is_content && offset.0 == 512),
            Difference::NoData(error) => {
                assert!(!is_content);
                let start = format!("Error while reading offset {}", 2 * BLOCK_SIZE + 512);
                assert!(error.to_string().starts_with(&start), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}
