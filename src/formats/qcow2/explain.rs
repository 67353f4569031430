//! The explanation of a qcow2 header: every field and feature bit, and the size of the tables.

use super::geometry::ENTRY_SIZE;
use super::header::features::{
    BITMAPS, COMPRESSION, CORRUPT, DATA_FILE, DATA_FILE_RAW, DIRTY, EXTENDED_L2, LAZY_REFCOUNTS,
};
use super::header::{Header, Version, extensions};
use crate::formats::explanation::Statement;
use crate::units::human_size;

/// A feature bit, its name, and the meaning of the bit being set.
type KnownFeature = (u64, &'static str, &'static str);

const INCOMPATIBLE: &[KnownFeature] = &[
    (
        DIRTY,
        "dirty",
        "the image wasn't closed, and refcounts may be out of date; whoever writes to it repairs them first",
    ),
    (
        CORRUPT,
        "corrupt",
        "the metadata is damaged; the image may be read, and only a repair writes to it",
    ),
    (
        DATA_FILE,
        "external data file",
        "the guest's data is in another file; this one has the tables",
    ),
    (
        COMPRESSION,
        "compression type",
        "clusters are compressed otherwise than with deflate; QEMU before 5.1 can't read them",
    ),
    (
        EXTENDED_L2,
        "extended L2 entries",
        "each cluster has 32 subclusters that are allocated one by one; QEMU before 5.2 can't read them",
    ),
];

const COMPATIBLE: &[KnownFeature] = &[(
    LAZY_REFCOUNTS,
    "lazy refcounts",
    "refcounts are written late, which is faster; after a crash the image is repaired first",
)];

const AUTOCLEAR: &[KnownFeature] = &[
    (
        BITMAPS,
        "bitmaps",
        "the persistent bitmaps agree with the data: no program that doesn't know them wrote to the image",
    ),
    (
        DATA_FILE_RAW,
        "raw external data",
        "the data file by itself is the disk as a raw image",
    ),
];

/// Returns the explanation of a header.
pub(super) fn statements(header: &Header) -> Vec<Statement> {
    let mut all = vec![Statement::new("version", version(header))];
    all.push(Statement::new("header extensions", extension_names(header)));
    for (kind, bits, known) in [
        ("incompatible", header.incompatible(), INCOMPATIBLE),
        ("compatible", header.compatible(), COMPATIBLE),
        ("autoclear", header.autoclear(), AUTOCLEAR),
    ] {
        all.extend(features(kind, bits, known));
    }
    all.push(Statement::new("clusters", clusters(header)));
    all.push(Statement::new("L1 table", l1_table(header)));
    all.push(Statement::new("L2 tables", l2_tables(header)));
    all.push(Statement::new("refcounts", refcounts(header)));
    all.push(Statement::new("compression", compression(header)));
    all.push(Statement::new("snapshots", snapshots(header)));
    if let Some(bitmaps) = header.bitmaps() {
        let (count, host) = (bitmaps.count, bitmaps.directory.0);
        let text = format!("{count} persistent bitmaps; their directory is at byte {host}.");
        all.push(Statement::new("bitmaps", text));
    }
    if let Some(luks) = header.luks() {
        let (length, host) = (human_size(luks.length), luks.host.0);
        let text =
            format!("{length} at byte {host} of the file: key slots, and what the cipher is.");
        all.push(Statement::new("LUKS header", text));
    }
    all
}

fn version(header: &Header) -> String {
    let compat = header.version().compat();
    match header.version() {
        Version::V2 => format!(
            "2 (compat={compat}): no feature bits, no clusters that are known to be zero, refcounts of 16 \
             bits. Every QEMU reads it; version 3 is better for all uses since 2012."
        ),
        Version::V3 => format!(
            "3 (compat={compat}): feature bits, clusters that are known to be zero, refcounts of 1 to 64 \
             bits. QEMU 1.1 and later read it."
        ),
    }
}

fn extension_names(header: &Header) -> String {
    let names = header.extensions().iter().map(|extension| {
        let name = match extension.kind {
            extensions::BACKING_FORMAT => "format of the backing file",
            extensions::FEATURE_NAMES => "names of feature bits",
            extensions::CRYPTO => "place of the LUKS header",
            extensions::BITMAPS => "bitmaps",
            extensions::DATA_FILE => "name of the data file",
            _ => "unknown, kept as it is",
        };
        format!("{name} ({:#010x})", extension.kind)
    });
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return "None.".to_owned();
    }
    names.join(", ") + "."
}

/// Explains each feature bit that is set.
fn features(kind: &str, bits: u64, known: &[KnownFeature]) -> Vec<Statement> {
    let subject = format!("{kind} features");
    if bits == 0 {
        return vec![Statement::new(subject, "None.")];
    }
    let set = (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1);
    set.map(|bit| {
        let found = known.iter().find(|(mask, ..)| *mask == 1 << bit);
        let text = match found {
            Some((_, name, meaning)) => format!("Bit {bit}, {name}: {meaning}."),
            None => format!("Bit {bit}, which this version doesn't know."),
        };
        Statement::new(subject.clone(), text)
    })
    .collect()
}

fn clusters(header: &Header) -> String {
    let geometry = header.geometry();
    let cluster = human_size(geometry.cluster_size());
    let bits = geometry.cluster_bits();
    let mut text = format!(
        "{cluster} (2^{bits} bytes), the unit in which the file takes room: the first byte that is written to \
         one takes all of it."
    );
    if geometry.has_subclusters() {
        let part = human_size(geometry.subcluster_size());
        text += &format!(" Subclusters of {part} are written and copied one by one.");
    }
    text
}

fn l1_table(header: &Header) -> String {
    let l1 = header.l1();
    let bytes = human_size(l1.entries.saturating_mul(ENTRY_SIZE));
    let (entries, host) = (entry_count(l1.entries), l1.host.0);
    format!(
        "{entries} ({bytes}) at byte {host}. Each leads to an L2 table, or says that there is none."
    )
}

/// Returns a number of entries in words.
fn entry_count(count: u64) -> String {
    match count {
        1 => "1 entry".to_owned(),
        _ => format!("{count} entries"),
    }
}

fn l2_tables(header: &Header) -> String {
    let geometry = header.geometry();
    let tables = geometry.l1_entries(header.size());
    let all = tables.saturating_mul(geometry.cluster_size());
    format!(
        "One cluster each, of {} entries of {} bytes: one maps {} of the disk. A disk that is full has {tables} of \
         them, {} together.",
        geometry.l2_entries(),
        geometry.l2_entry_size(),
        human_size(geometry.l2_coverage()),
        human_size(all)
    )
}

fn refcounts(header: &Header) -> String {
    let geometry = header.geometry();
    let counted = geometry
        .refcount_block_entries()
        .saturating_mul(geometry.cluster_size());
    let table = header.refcount_table();
    format!(
        "{} bits wide, so that a cluster can be shared {} times. A block of them is one cluster and counts for {} \
         of the file. The table of blocks has {} at byte {}.",
        geometry.refcount_bits(),
        geometry.max_refcount(),
        human_size(counted),
        entry_count(table.entries),
        table.host.0
    )
}

fn compression(header: &Header) -> String {
    let name = header.compression().name();
    format!("{name}, for clusters that are compressed; the header doesn't say if any are.")
}

fn snapshots(header: &Header) -> String {
    match header.snapshots() {
        0 => "None.".to_owned(),
        count => format!(
            "{count}; their table is at byte {}. Clusters that they share with the disk are copied when they are \
             written to.",
            header.snapshots_offset().0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_bit_has_a_name_and_others_are_told_by_number() {
        let all = features(
            "incompatible",
            super::super::header::features::KNOWN_INCOMPATIBLE,
            INCOMPATIBLE,
        );
        assert_eq!(all.len(), 5);
        assert!(
            all.iter().all(|one| !one.text.contains("doesn't know")),
            "{all:?}"
        );
        let odd = features("compatible", 1 << 63 | 1, COMPATIBLE);
        assert_eq!(odd[1].text, "Bit 63, which this version doesn't know.");
        assert_eq!(features("autoclear", 0, AUTOCLEAR)[0].text, "None.");
    }
}
