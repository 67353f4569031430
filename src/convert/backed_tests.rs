//! Tests of targets with a backing file: data, zeroes and unallocated parts of the source, in every kind of image.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::*;
use crate::crypto::Backend;
use crate::for_tests::RandomNumbers;
use crate::formats::encryption::{Cipher, EncryptionFormat, LegacyAes};

use crate::formats::qcow2::{
    Backing, Header, NewFiles, NewQcow2, NewQcow2Options, Qcow2Image, ReadOptions, Version,
};
use crate::formats::raw::RawImage;
use crate::formats::{Chain, Extent, ExtentKind, Preallocation, Run};
use crate::storage::MemoryStorage;
use crate::units::{GuestOffset, HostOffset};

/// The disk's size in bytes, which isn't a multiple of most cluster sizes.
const SIZE: usize = (3 << 20) + 1536;

/// A disk of pieces with different kinds of extents.
struct Mosaic {
    bytes: Vec<u8>,
    /// The end of each piece in bytes, and the kind of its extent.
    pieces: Vec<(usize, ExtentKind)>,
}

const DATA: ExtentKind = ExtentKind::Data(HostOffset(0));
const ZERO: ExtentKind = ExtentKind::Zero { kept: None };
const NOTHING: ExtentKind = ExtentKind::Unallocated { kept: None };

impl Mosaic {
    /// Makes pieces of 512 bytes to 512 KiB over `backing`. Unallocated ones read as the backing file.
    fn new(backing: &[u8], seed: u64) -> Self {
        let mut noise = RandomNumbers(seed);
        let mut bytes = backing.to_vec();
        bytes.resize(SIZE, 0);
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < SIZE {
            let longest = 1 << noise.below(11);
            let end = (start + (1 + noise.below(longest)) * 512).min(SIZE);
            let kind = [DATA, ZERO, NOTHING][noise.below(3)];
            match kind {
                ZERO => bytes[start..end].fill(0),
                DATA => {
                    noise.fill(&mut bytes[start..end]);
                    // Some of the data is zero nevertheless.
                    let middle = (start + end) / 2;
                    if noise.below(2) == 0 {
                        bytes[start..middle].fill(0);
                    }
                }
                _ => {}
            }
            pieces.push((end, kind));
            start = end;
        }
        Self { bytes, pieces }
    }

    /// Makes zero and unallocated pieces of 192 KiB over `backing` alternately, and no data.
    fn without_data(backing: &[u8]) -> Self {
        let mut bytes = backing.to_vec();
        let mut pieces = Vec::new();
        for (number, piece) in bytes.chunks_mut(192 << 10).enumerate() {
            let kind = [ZERO, NOTHING][number % 2];
            if kind == ZERO {
                piece.fill(0);
            }
            let start = pieces.last().map_or(0, |(end, _)| *end);
            pieces.push((start + piece.len(), kind));
        }
        Self { bytes, pieces }
    }

    /// Returns true if all of a part is unallocated.
    fn has_nothing(&self, part: Run) -> bool {
        let mut start = 0;
        self.pieces.iter().all(|(end, kind)| {
            let piece = start..*end;
            start = *end;
            *kind == NOTHING || piece.end <= part.start || piece.start >= part.end
        })
    }
}

impl Image for Mosaic {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let place = usize::try_from(offset.0).unwrap();
        let (end, kind) = self.pieces.iter().find(|(end, _)| *end > place).unwrap();
        Ok(Extent {
            start: offset,
            length: limit.min((end - place) as u64),
            kind: *kind,
            depth: 0,
        })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset.0).unwrap();
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

fn cipher() -> Cipher {
    LegacyAes::with_key(b"0123456789abcdef", Backend::detect())
}

/// The way in which an image is made, besides its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    With(Preallocation),
    Compressed,
}

/// Returns all kinds of images that store data or zeroes differently.
fn kinds() -> Vec<(NewQcow2Options, Made)> {
    let plain = |cluster_size| NewQcow2Options {
        cluster_size,
        ..NewQcow2Options::new(SIZE as u64)
    };
    let mut kinds = Vec::new();
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        let version_2 = NewQcow2Options {
            version: Version::V2,
            ..plain(cluster_size)
        };
        let encrypted = NewQcow2Options {
            encryption: Some(EncryptionFormat::Aes),
            ..plain(cluster_size)
        };
        let external = NewQcow2Options {
            data_file: Some(b"data".to_vec()),
            ..plain(cluster_size)
        };
        for options in [plain(cluster_size), version_2, encrypted, external] {
            kinds.push((options.clone(), Made::With(Preallocation::Off)));
            let compresses = NewQcow2::check_compression(&options).is_ok();
            if compresses {
                kinds.push((options.clone(), Made::Compressed));
            }
            if cluster_size >= 16384 && options.version == Version::V3 {
                let extended = NewQcow2Options {
                    extended_l2: true,
                    ..options
                };
                for mode in [
                    Preallocation::Off,
                    Preallocation::Metadata,
                    Preallocation::Full,
                ] {
                    kinds.push((extended.clone(), Made::With(mode)));
                }
                if compresses {
                    kinds.push((extended, Made::Compressed));
                }
            }
        }
    }
    kinds
}

/// Returns the unit in bytes in which a kind of image can be unallocated.
fn unit_of((options, made): &(NewQcow2Options, Made)) -> usize {
    let geometry = options.check().unwrap();
    match made {
        Made::With(_) => geometry.subcluster_len(),
        Made::Compressed => geometry.cluster_len(),
    }
}

/// Copies `source` into a new image over `backing`, and returns its chain.
fn copied(
    source: &Mosaic,
    backing: &[u8],
    (options, made): (NewQcow2Options, Made),
    settings: Settings,
    device: bool,
) -> Chain {
    let new = || {
        let storage = MemoryStorage::new(if device { vec![0xaa; 24 << 20] } else { vec![] });
        Arc::new(if device { storage.as_device() } else { storage })
    };
    let (file, data) = (new(), new());
    let options = NewQcow2Options {
        backing: Some(Backing {
            name: b"backing".to_vec(),
            format: Some("raw".to_owned()),
            size: backing.len() as u64,
        }),
        ..options
    };
    let is_external = options.data_file.is_some();
    let key = (options.encryption == Some(EncryptionFormat::Aes)).then(cipher);
    let files = NewFiles {
        image: Arc::<MemoryStorage>::clone(&file),
        data: is_external.then(|| Arc::<MemoryStorage>::clone(&data) as _),
        encryption_header: Vec::new(),
    };
    let target = match made {
        Made::Compressed => NewQcow2::create_compressed(files, options, true),
        Made::With(Preallocation::Off) => NewQcow2::create(files, options, key, true),
        Made::With(mode) => NewQcow2::create_preallocated(files, options, key, mode, true),
    };
    let target = target.unwrap();
    copy(source, &target, settings, &()).unwrap();
    let header = Header::read(file.as_ref()).unwrap();
    assert_eq!(header.backing_file(), Some(&b"backing"[..]));
    let options = ReadOptions {
        cipher: (header.encryption() == Some(EncryptionFormat::Aes)).then(cipher),
        data: is_external.then_some(data as _),
        salvage: false,
    };
    let top = Qcow2Image::open_with(file, &header, options);
    let below = RawImage::open(Arc::new(MemoryStorage::new(backing.to_vec()))).unwrap();
    Chain::new(Arc::new(top.unwrap()), vec![Arc::new(below)])
}

/// Asserts that a chain's disk equals the mosaic, and that its top image is unallocated where the mosaic is.
fn assert_same(chain: &Chain, source: &Mosaic, unit: usize, leaves: bool, made: Made, what: &str) {
    let size = source.bytes.len();
    let mut bytes = vec![1; size];
    chain.read_at(GuestOffset(0), &mut bytes).unwrap();
    let first = bytes
        .iter()
        .zip(&source.bytes)
        .position(|(one, other)| one != other);
    assert_eq!(first, None, "{what}: the first byte that differs");
    let top = chain.layer(0).unwrap();
    for start in (0..size).step_by(unit) {
        let end = (start + unit).min(size);
        let extent = top
            .extent_at(GuestOffset(start as u64), unit as u64)
            .unwrap();
        let left = matches!(extent.kind, ExtentKind::Unallocated { .. });
        if source.has_nothing(start..end) {
            // A last partial cluster of a compressed image is always copied.
            let copied = made == Made::Compressed && end - start < unit;
            assert_eq!(left, leaves && !copied, "{what}: at {start}");
        } else if left {
            panic!("{what}: at {start} something is stored in the source");
        }
    }
}

#[test]
fn a_disk_over_a_backing_file_comes_out_as_it_was() {
    let mut backing = vec![0; SIZE];
    RandomNumbers(1).fill(&mut backing);
    let source = Mosaic::new(&backing, 2);
    for kind in kinds() {
        let unit = unit_of(&kind);
        for (leaves, sparse) in [(true, 4096), (true, 0), (true, 512), (false, 4096)] {
            let settings = Settings {
                workers: NonZeroUsize::new(2).unwrap(),
                leave_unallocated: leaves,
                sparse: NonZeroUsize::new(sparse),
                ..Settings::default()
            };
            let what = format!("{kind:?}, {leaves}, {sparse}");
            // A copy that leaves nothing unallocated takes unallocated parts for zeroes.
            let mut source = Mosaic {
                bytes: source.bytes.clone(),
                pieces: source.pieces.clone(),
            };
            if !leaves {
                let mut start = 0;
                for (end, kind) in &source.pieces {
                    if *kind == NOTHING {
                        source.bytes[start..*end].fill(0);
                    }
                    start = *end;
                }
            }
            let chain = copied(&source, &backing, kind.clone(), settings, false);
            assert_same(&chain, &source, unit, leaves, kind.1, &what);
        }
    }
}

/// Checks that the unallocated parts of every block of a chunk stay unallocated. A chunk has several blocks if
/// requests wait.
#[test]
fn chunks_without_data_leave_what_is_left_in_each_of_their_blocks() {
    let mut backing = vec![0; (8 << 20) + 1536];
    RandomNumbers(5).fill(&mut backing);
    let source = Mosaic::without_data(&backing);
    let settings = Settings {
        leave_unallocated: true,
        requests: NonZeroUsize::new(16),
        ..Settings::default()
    };
    for (mut options, made) in kinds() {
        options.size = backing.len() as u64;
        let kind = (options, made);
        let unit = unit_of(&kind);
        let what = format!("{kind:?}");
        let chain = copied(&source, &backing, kind, settings, false);
        assert_same(&chain, &source, unit, true, made, &what);
    }
}

#[test]
fn nothing_old_shows_through_on_devices() {
    let mut backing = vec![0; SIZE];
    RandomNumbers(3).fill(&mut backing);
    let source = Mosaic::new(&backing, 4);
    let settings = Settings {
        leave_unallocated: true,
        copy_offload: true,
        ..Settings::default()
    };
    for kind in kinds() {
        if !matches!(kind.1, Made::With(Preallocation::Off) | Made::Compressed) {
            continue;
        }
        let unit = unit_of(&kind);
        let what = format!("{kind:?}");
        let chain = copied(&source, &backing, kind.clone(), settings, true);
        assert_same(&chain, &source, unit, true, kind.1, &what);
    }
}

#[test]
fn beyond_the_end_of_the_backing_file_zeroes_need_not_be_stored() {
    let mut source = Mosaic {
        bytes: vec![0; SIZE],
        pieces: vec![(SIZE, ZERO)],
    };
    source.bytes[..4096].fill(7);
    source.pieces.insert(0, (4096, DATA));
    let off = Made::With(Preallocation::Off);
    let kind = (NewQcow2Options::new(SIZE as u64), off);
    for (size, zero_until) in [
        (0, 65536),
        (4096, 65536),
        (300_000, 327_680),
        (4 << 20, SIZE),
    ] {
        let chain = copied(
            &source,
            &vec![9; size],
            kind.clone(),
            Settings::default(),
            false,
        );
        let mut bytes = vec![1; SIZE];
        chain.read_at(GuestOffset(0), &mut bytes).unwrap();
        assert!(bytes == source.bytes, "backing file of {size} bytes");
        let top = chain.layer(0).unwrap();
        for start in (65536..SIZE).step_by(65536) {
            let extent = top.extent_at(GuestOffset(start as u64), 1).unwrap();
            let kind = if start < zero_until { ZERO } else { NOTHING };
            assert_eq!(
                extent.kind, kind,
                "backing file of {size} bytes, at {start}"
            );
        }
    }
}

/// Checks that terabytes of zeroes over a backing file are handed out as rows of blocks, and that none is skipped.
#[test]
fn zeroes_come_in_rows() {
    use super::chunks::{Chunks, Wanted};
    const CHUNK: usize = 65536;
    let source = Mosaic {
        bytes: vec![0; SIZE],
        pieces: vec![
            (512, DATA),
            (2 << 20, ZERO),
            (SIZE - 512, DATA),
            (SIZE, ZERO),
        ],
    };
    let wanted = Wanted::DataAndZeroes {
        below: crate::formats::Backed {
            size: u64::MAX,
            unit: 512,
            copies_ends: false,
        },
        leave_unallocated: false,
        write_zeroes: false,
    };
    let size = SIZE as u64;
    let mut chunks = Chunks::new(size, CHUNK, wanted, false).with_rows_of_zeroes(20);
    let mut rows = Vec::new();
    let mut next = 0;
    while let Some(chunk) = chunks.next(&source, 0).unwrap() {
        assert_eq!(chunk.guest.0, next);
        next += chunk.length as u64;
        if chunk.length > CHUNK {
            assert!(chunk.data.is_empty() && chunk.left.is_empty());
            rows.push((chunk.guest.0 / CHUNK as u64, chunk.length / CHUNK));
        }
    }
    assert_eq!(next, size);
    assert_eq!(rows, [(1, 20), (21, 11)]);
}
