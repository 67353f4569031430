//! Tests of work on backing chains in memory. The contents of disks must be right even if a power cut or a system
//! error ends the work.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/power_cut.rs"]
mod power_cut;

mod commit;
mod rebase;

use std::sync::Arc;

use cowhide::formats::driver::{Backing, Load, Parts, WriteParts};
use cowhide::formats::qcow2::{NewQcow2, NewQcow2Options, Qcow2, Version};
use cowhide::formats::{Chain, FormatDriver as _, Image, ImageFile, NewImage as _};
use cowhide::storage::{MemoryStorage, Storage};
use cowhide::units::GuestOffset;

use common::Noise;

/// A kind of image: cluster size, version and subclusters.
#[derive(Debug, Clone, Copy)]
struct Kind {
    cluster_size: u64,
    version: Version,
    extended_l2: bool,
}

const KINDS: [Kind; 5] = [
    kind(512, Version::V3, false),
    kind(4096, Version::V3, false),
    kind(4096, Version::V2, false),
    kind(65536, Version::V3, false),
    kind(16384, Version::V3, true),
];

const fn kind(cluster_size: u64, version: Version, extended_l2: bool) -> Kind {
    Kind {
        cluster_size,
        version,
        extended_l2,
    }
}

fn load<S: Storage + 'static>(storage: &Arc<S>) -> Box<dyn ImageFile> {
    let storage: Arc<dyn Storage> = Arc::<S>::clone(storage);
    Qcow2.load(storage, Load::Use).unwrap()
}

/// Makes an image, optionally with a backing file, with data, zeroes, and discarded data.
fn image(
    kind: Kind,
    size: u64,
    below: Option<(&str, Arc<dyn Image>)>,
    noise: &mut Noise,
) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::default());
    let options = NewQcow2Options {
        version: kind.version,
        cluster_size: kind.cluster_size,
        extended_l2: kind.extended_l2,
        backing: below.as_ref().map(|(name, _)| backing(name)),
        ..NewQcow2Options::new(size)
    };
    let target: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(&storage);
    let new = NewQcow2::create(target, options, None, true).unwrap();
    new.finish().unwrap();
    let parts = WriteParts {
        backing: below.map(|(_, below)| below),
        flush: true,
        ..WriteParts::default()
    };
    let image = load(&storage).open_writable(parts).unwrap();
    for _ in 0..12 {
        let start = noise.below(size / 512) * 512;
        let length = (1 + noise.below(40)) * 512;
        let length = length.min(size - start);
        let offset = GuestOffset(start);
        match noise.below(5) {
            0 => image
                .write_zeroes(offset, length, noise.below(2) == 0)
                .unwrap(),
            1 => {
                let zeroes = vec![0; usize::try_from(length).unwrap()];
                image.write_at(offset, &zeroes).unwrap();
            }
            2 => {
                // Every image has the same bytes.
                let bytes: Vec<u8> = (start..start + length).map(|at| (at / 512) as u8).collect();
                image.write_at(offset, &bytes).unwrap();
            }
            _ => {
                let bytes = noise.bytes(usize::try_from(length).unwrap());
                image.write_at(offset, &bytes).unwrap();
            }
        }
    }
    image.close().unwrap();
    storage.contents()
}

fn backing(name: &str) -> Backing {
    Backing {
        name: name.as_bytes().to_vec(),
        format: Some("qcow2".into()),
        size: u64::MAX,
    }
}

/// Opens an image without its backing file.
fn open(bytes: &[u8]) -> Arc<dyn Image> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    load(&storage).open(Parts::default()).unwrap()
}

/// Makes a backing chain of images of these sizes, top first.
fn chain(sizes: &[u64], noise: &mut Noise) -> Option<Arc<Chain>> {
    let mut images = sizes.iter().map(|size| {
        let kind = KINDS[noise.pick(KINDS.len())];
        open(&image(kind, *size, None, noise))
    });
    let top = images.next()?;
    let below = images.collect();
    Some(Arc::new(Chain::new(top, below)))
}

/// Reads the disk of an image over a backing chain.
fn read(bytes: &[u8], below: Option<&Arc<Chain>>) -> Vec<u8> {
    let below = below.map(|below| Arc::<Chain>::clone(below) as Arc<dyn Image>);
    let chain = Chain::new(open(bytes), below.into_iter().collect());
    let mut disk = vec![0; usize::try_from(chain.size()).unwrap()];
    chain.read_at(GuestOffset(0), &mut disk).unwrap();
    disk
}
