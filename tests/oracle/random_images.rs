//! Images with random combinations of features, made by the real tools, and the parsing of their headers.
//!
//! Features that the tools can't make are added to the header here: unknown bits and an unknown extension, and the
//! dirty and corrupt bits. A killed writer leaves bitmaps in use, and images with lazy refcounts dirty.
//!
//! Damaged tables are omitted, since they are handled differently on purpose (see docs/from-qemu-img.md).
//! Inconsistent bitmaps are in [`crate::snapshots`].

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::common::{Noise, run, write_disk};
use crate::tools::qemu_img;

/// A generated image.
#[derive(Debug, Clone)]
pub struct Made {
    pub name: String,
    pub format: &'static str,
    pub size: u64,
    /// True if it is a qcow2 image of version 3, which can have bitmaps.
    pub version_3: bool,
    pub is_backed: bool,
    /// The name of its external data file, if that is a raw image of the disk.
    pub raw_data: Option<String>,
}

/// The options of a generated image, and their properties.
struct Options {
    text: String,
    cluster_bits: u64,
    version_3: bool,
    data_file: bool,
    raw: bool,
}

/// Makes an image with up to two backing files. Returns all of them, with the top image last.
pub fn make_chain(folder: &Path, noise: &mut Noise) -> Vec<Made> {
    let layers = 1 + noise.below(3);
    let mut made: Vec<Made> = Vec::new();
    for number in 0..layers {
        let name = format!("layer{number}");
        if number == 0 && layers > 1 && noise.below(3) == 0 {
            // The size isn't always a whole number of sectors.
            let size = 512 * (1 + noise.below(6000)) - [0, noise.below(512)][noise.pick(2)];
            write_disk(&folder.join(&name), size, noise.next());
            made.push(Made {
                name,
                format: "raw",
                size,
                version_3: false,
                is_backed: false,
                raw_data: None,
            });
            continue;
        }
        let size = 512 * (1 + noise.below(6000));
        let layer = make_image(folder, noise, &name, size, made.last());
        made.push(layer);
    }
    made
}

/// Makes a qcow2 image, writes into it, and adds features that the tools can't make.
pub fn make_image(
    folder: &Path,
    noise: &mut Noise,
    name: &str,
    size: u64,
    below: Option<&Made>,
) -> Made {
    let options = choose_options(noise, name, below.is_some());
    let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options.text];
    if let Some(below) = below {
        args.extend(["-b", &below.name, "-F", below.format]);
    }
    let size_text = size.to_string();
    args.extend([name, &size_text]);
    qemu_img(folder, &args).ok();

    if options.version_3 {
        for number in 0..noise.below(3) {
            add_bitmap(folder, noise, name, &format!("{name}-{number}"));
        }
    }
    write_at_random(folder, noise, name, size, &options);
    if noise.below(3) == 0 {
        // A snapshot needs refcounts of 2, which the narrowest can't hold.
        qemu_img(folder, &["snapshot", "-c", "early", name]);
        write_at_random(folder, noise, name, size, &options);
    }
    if options.version_3 && noise.below(4) == 0 {
        add_bitmap(folder, noise, name, "late");
    }
    if noise.below(6) == 0 {
        let commands = ["-c", "write -P 77 0 512", "-c", "flush", "-c", "abort"];
        let args = [&["-f", "qcow2"][..], &commands, &[name]].concat();
        let killed = run(folder, "qemu-io", args);
        assert_eq!(killed.status, None, "{killed:?}");
    }
    touch_up(&folder.join(name), noise);
    Made {
        name: name.to_owned(),
        format: "qcow2",
        size,
        version_3: options.version_3,
        is_backed: below.is_some(),
        raw_data: options.raw.then(|| format!("{name}.data")),
    }
}

fn choose_options(noise: &mut Noise, name: &str, is_backed: bool) -> Options {
    let version_3 = noise.below(4) != 0;
    let extended = version_3 && noise.below(2) == 0;
    let cluster_bits = if extended {
        14 + noise.below(4)
    } else {
        9 + noise.below(9)
    };
    let mut text = format!("cluster_size={}", 1u64 << cluster_bits);
    if version_3 {
        let width = 1 << noise.below(7);
        write!(text, ",refcount_bits={width}").unwrap();
        for (option, odds) in [("lazy_refcounts=on", 3), ("compression_type=zstd", 2)] {
            if noise.below(odds) == 0 {
                write!(text, ",{option}").unwrap();
            }
        }
    } else {
        text.push_str(",compat=0.10");
    }
    if extended {
        text.push_str(",extended_l2=on");
    }
    let data_file = version_3 && noise.below(5) == 0;
    let raw = data_file && !is_backed && noise.below(2) == 0;
    if data_file {
        write!(text, ",data_file={name}.data").unwrap();
    }
    if raw {
        text.push_str(",data_file_raw=on");
    }
    Options {
        text,
        cluster_bits,
        version_3,
        data_file,
        raw,
    }
}

fn add_bitmap(folder: &Path, noise: &mut Noise, image: &str, bitmap: &str) {
    let granularity = (512 << noise.below(12)).to_string();
    let mut args = vec!["bitmap", "--add", "-g", &granularity];
    if noise.below(3) == 0 {
        args.push("--disable");
    }
    args.extend([image, bitmap]);
    // It may not fit into a small header cluster, and then both tools get an image without it.
    let added = qemu_img(folder, &args);
    assert!(added.status.is_some(), "{added:?}");
}

/// Writes data, zeroes and compressed clusters into an image, and discards some of it.
fn write_at_random(folder: &Path, noise: &mut Noise, name: &str, size: u64, options: &Options) {
    let mut commands = Vec::new();
    for _ in 0..2 + noise.below(12) {
        let start = 512 * noise.below(size / 512);
        let length = 512 * (1 + noise.below(300));
        let length = length.min(size - start);
        let pattern = 1 + noise.below(255);
        let command = match noise.below(7) {
            0 => format!("write -z {start} {length}"),
            1 => format!("write -z -u {start} {length}"),
            2 => format!("discard {start} {length}"),
            // Compressed clusters are written whole, or at the disk's end.
            3 if !options.data_file => {
                let cluster = 1 << options.cluster_bits;
                let start = start / cluster * cluster;
                let length = cluster.min(size - start);
                format!("write -c -P {pattern} {start} {length}")
            }
            _ => format!("write -P {pattern} {start} {length}"),
        };
        commands.extend(["-c".to_owned(), command]);
    }
    commands.push(name.to_owned());
    let args = ["-f".to_owned(), "qcow2".to_owned()];
    let wrote = run(folder, "qemu-io", args.iter().chain(&commands));
    // Operations that a version doesn't have (such as discarding into a hole) fail without any harm.
    assert!(wrote.status.is_some(), "{wrote:?}");
}

/// Adds features to the header that the tools never write.
fn touch_up(path: &Path, noise: &mut Noise) {
    let mut bytes = fs::read(path).unwrap();
    if bytes[7] == 3 {
        let mut set = |noise: &mut Noise, odds, number: u64, from: usize| {
            if noise.below(odds) == 0 {
                bytes[from + 7 - (number / 8) as usize] |= 1 << (number % 8);
            }
        };
        let number = 2 + noise.below(62);
        set(noise, 4, number, 80); // compatible; bit 0 is known
        set(noise, 4, number, 88); // autoclear; bits 0 and 1 are known
        set(noise, 8, 0, 72); // dirty
        set(noise, 10, 1, 72); // corrupt
    }
    if noise.below(3) == 0 {
        let length = usize::try_from(noise.below(20)).unwrap();
        insert_extension(&mut bytes, &noise.bytes(length));
    }
    fs::write(path, bytes).unwrap();
}

fn field(bytes: &[u8], at: usize, length: usize) -> usize {
    let bytes = &bytes[at..at + length];
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// Returns the header extensions, the offset of the first one, and the end of the end marker.
fn extensions_of(bytes: &[u8]) -> (Vec<(usize, Vec<u8>)>, usize, usize) {
    let start = if bytes[7] == 3 {
        field(bytes, 100, 4)
    } else {
        72
    };
    let mut extensions = Vec::new();
    let mut at = start;
    loop {
        let (kind, length) = (field(bytes, at, 4), field(bytes, at + 4, 4));
        if kind == 0 {
            return (extensions, start, at + 8);
        }
        extensions.push((kind, bytes[at + 8..at + 8 + length].to_vec()));
        at += 8 + length.next_multiple_of(8);
    }
}

/// Inserts an unknown extension in front of the others, if there is space.
fn insert_extension(bytes: &mut Vec<u8>, data: &[u8]) {
    let (_, start, end) = extensions_of(bytes);
    let name = field(bytes, 8, 8);
    let end = end.max(name + field(bytes, 16, 4));
    let mut extension = [
        &[0x6d, 0x6f, 0x6f, 0x21][..],
        &(data.len() as u32).to_be_bytes(),
    ]
    .concat();
    extension.extend(data);
    extension.resize(extension.len().next_multiple_of(8), 0);
    let cluster = 1 << field(bytes, 20, 4);
    if end + extension.len() > cluster {
        return;
    }
    if name > 0 {
        let moved = (name + extension.len()) as u64;
        bytes[8..16].copy_from_slice(&moved.to_be_bytes());
    }
    let rest = bytes[start..end].to_vec();
    bytes.splice(start..end + extension.len(), [extension, rest].concat());
}

/// Returns the parts of a header that both tools must leave the same. They are the feature bits, and the extensions
/// by type, without the feature name table and the offset of bitmaps.
pub fn header(path: &Path) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
    let bytes = fs::read(path).unwrap();
    let bits = if bytes[7] == 3 {
        bytes[72..96].to_vec()
    } else {
        Vec::new()
    };
    let (mut extensions, ..) = extensions_of(&bytes);
    extensions.retain(|(kind, _)| *kind != 0x6803_f857);
    for (kind, data) in &mut extensions {
        if *kind == 0x2385_2875 {
            data.truncate(16);
        }
    }
    extensions.sort();
    (bits, extensions)
}
