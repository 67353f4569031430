//! Property tests of the basic parts, which compare them with simple models for random values. The parts are table
//! entries, refcounts of every width, the division of offsets, and the parsing of sizes.
//!
//! The masks are repeated here from the specification, so that a mistake in the library's masks is found. Random
//! values are nearly valid, since almost no random number of 64 bits is.
#![allow(clippy::unwrap_used, reason = "tests")]

use cowhide::formats::qcow2::Geometry;
use cowhide::formats::qcow2::entries::{
    BitmapTableEntry, BitmapTarget, EntryError, L1Entry, L1Target, L2Entry, L2Lead, L2Target,
    RefcountTableEntry, Subcluster, SubclusterBitmap, refcount_at, set_bitmap_bits, set_refcount,
};
use cowhide::units::{GuestOffset, HostOffset, parse_size};
use proptest::prelude::*;

/// Bits 9 to 55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn geometry() -> impl Strategy<Value = Geometry> {
    (9..=21u32, any::<bool>(), 0..=6u32).prop_map(|(bits, extended, order)| {
        // The subclusters of the smallest clusters would be less than a sector.
        Geometry::new(bits, extended && bits >= 14, order).unwrap()
    })
}

/// Returns a strategy for entries: aligned or nearly, with or without flags, and sometimes with a reserved bit.
fn entry() -> impl Strategy<Value = u64> {
    let host = prop_oneof![
        Just(0),
        any::<u64>(),
        (0..1u64 << 40).prop_map(|cluster| cluster << 9),
        (9..=21u32, any::<u64>()).prop_map(|(bits, host)| host >> bits << bits & OFFSET),
    ];
    let flags = prop::sample::select(vec![0, 1, COPIED, COPIED | 1]);
    let more = prop_oneof![
        4 => Just(0),
        1 => (0..64u32).prop_map(|bit| 1 << bit),
    ];
    (host, flags, more).prop_map(|(host, flags, more)| host | flags | more)
}

/// Returns the error of an entry if all bits but `known` are reserved.
fn wrong(entry: u64, known: u64, geometry: Geometry) -> Option<EntryError> {
    let host = entry & OFFSET;
    if entry & !known != 0 {
        Some(EntryError::Reserved)
    } else if !host.is_multiple_of(geometry.cluster_size()) {
        Some(EntryError::Unaligned(HostOffset(host)))
    } else {
        None
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn l1_entries(stored in entry(), geometry in geometry()) {
        let entry = L1Entry(stored);
        let target = entry.target(geometry);
        prop_assert_eq!(target.err(), wrong(stored, OFFSET | COPIED, geometry));
        match target {
            Ok(L1Target::Unallocated) => prop_assert_eq!(stored & !COPIED, 0),
            Ok(L1Target::Table { host, copied }) => {
                prop_assert_ne!(host.0, 0);
                prop_assert_eq!(L1Entry::to_table(host).with_copied(copied), entry);
            }
            Err(_) => {}
        }
        prop_assert_eq!(entry.host().0, stored & OFFSET);
        prop_assert_eq!(entry.is_copied(), stored >> 63 == 1);
        prop_assert_eq!(entry.has_reserved_bits(), target == Err(EntryError::Reserved));
    }

    #[test]
    fn l2_entries(stored in entry(), geometry in geometry(), zero_flag: bool, external: bool) {
        let entry = L2Entry(stored);
        let target = if external {
            entry.target_in_data_file(geometry, zero_flag)
        } else {
            entry.target(geometry, zero_flag)
        };
        let lead = entry.lead(geometry, external);
        if stored & COMPRESSED != 0 {
            let Ok(L2Target::Compressed(range)) = target else {
                return Err(TestCaseError::fail(format!("{target:?}")));
            };
            prop_assert_eq!(lead, L2Lead::Compressed(range));
            // The offset has 62 − (bits − 8) bits, and above them is the number of additional sectors.
            let x = 70 - geometry.cluster_bits();
            let host = stored & ((1 << x) - 1);
            let sectors = 1 + (stored & (COMPRESSED - 1)) / (1 << x);
            prop_assert_eq!(range.host.0, host);
            prop_assert_eq!((host + range.length).next_multiple_of(512), host + range.length);
            prop_assert_eq!(host / 512 + sectors, (host + range.length) / 512);
            // A cluster that ends beyond the last representable offset is never written.
            let again = L2Entry::to_compressed(geometry, range.host, range.length);
            let fits = host + range.length <= 1 << x;
            prop_assert_eq!(again, fits.then_some(entry.with_copied(false)));
            return Ok(());
        }
        // Bit 0 means zeroes, and is reserved with subclusters.
        let mut expected = wrong(stored, OFFSET | COPIED | 1, geometry);
        let is_zero = stored & 1 != 0 && !geometry.has_subclusters();
        if expected.is_none() && is_zero && !zero_flag {
            expected = Some(EntryError::ZeroFlagInVersion2);
        }
        prop_assert_eq!(target.err(), expected);
        // In an external data file offset 0 is valid if the flag is set.
        let kept = stored & OFFSET != 0 || (external && stored & COPIED != 0);
        let place = (HostOffset(stored & OFFSET), stored & COPIED != 0);
        match target {
            Ok(L2Target::Unallocated) => {
                prop_assert!(!kept && !is_zero && stored & !(COPIED | 1) == 0);
                prop_assert_eq!(lead, L2Lead::Nothing);
            }
            Ok(L2Target::Data { host, copied }) => {
                prop_assert!(kept && !is_zero && (host, copied) == place);
                let again = L2Entry::to_data(host).with_copied(copied);
                prop_assert_eq!(again.0 | stored & 1, stored);
                prop_assert_eq!(lead, L2Lead::Stored { host, copied, zero: false });
            }
            Ok(L2Target::Zero { kept: found }) => {
                prop_assert!(is_zero);
                prop_assert_eq!(found, kept.then_some(place));
                let host = found.map(|(host, _)| host);
                let again = L2Entry::to_zero(host);
                prop_assert_eq!(again.with_copied(false), entry.with_copied(false));
            }
            Ok(L2Target::Compressed(_)) => prop_assert!(false, "not compressed"),
            Err(_) => {}
        }
    }

    /// Checks every length of a compressed cluster, at every representable offset.
    #[test]
    fn compressed_clusters(
        geometry in geometry(),
        host in prop_oneof![any::<u64>(), 0..1u64 << 30],
        length in 1..1u64 << 21,
        near_end in prop::option::of(0..1u64 << 22),
    ) {
        let x = 70 - geometry.cluster_bits();
        let host = near_end.map_or(host, |back| (1 << x) - back.min(1 << x));
        let length = 1 + length % (geometry.cluster_size() - 1);
        let entry = L2Entry::to_compressed(geometry, HostOffset(host), length);
        let fits = host < 1 << x && host + length <= 1 << x;
        prop_assert_eq!(entry.is_some(), fits);
        let Some(entry) = entry else { return Ok(()) };
        prop_assert!(!entry.is_copied());
        let Ok(L2Target::Compressed(range)) = entry.target(geometry, true) else {
            return Err(TestCaseError::fail("not compressed"));
        };
        prop_assert_eq!(range.host.0, host);
        prop_assert_eq!(range.length, (host + length).next_multiple_of(512) - host);
        prop_assert_eq!(L2Entry::to_compressed(geometry, HostOffset(0), 0), None);
    }

    #[test]
    fn refcount_table_entries(stored in entry(), geometry in geometry()) {
        let entry = RefcountTableEntry(stored);
        let block = entry.block(geometry);
        let reserved = stored & 0x1ff != 0;
        let aligned = stored.is_multiple_of(geometry.cluster_size());
        prop_assert_eq!(entry.has_reserved_bits(), reserved);
        prop_assert_eq!(block.is_ok(), aligned);
        prop_assert_eq!(block == Err(EntryError::Reserved), reserved);
        if let Ok(block) = block {
            prop_assert_eq!(block.map_or(0, |host| RefcountTableEntry::to_block(host).0), stored);
        }
        prop_assert_eq!(entry.host().0, stored & !0x1ff);
    }

    #[test]
    fn bitmap_table_entries(stored in entry(), geometry in geometry()) {
        let target = BitmapTableEntry(stored).target(geometry);
        // The entry means all ones or a cluster, and not both.
        let known = if stored & OFFSET == 0 { 1 } else { OFFSET };
        prop_assert_eq!(target.err(), wrong(stored, known, geometry));
        match target {
            Ok(BitmapTarget::Uniform(ones)) => prop_assert_eq!(u64::from(ones), stored),
            Ok(BitmapTarget::Stored(host)) => {
                prop_assert_eq!(BitmapTableEntry::to_cluster(host).0, stored);
            }
            Err(_) => {}
        }
    }

    #[test]
    fn guest_offsets(offset in prop_oneof![0..1u64 << 62, 0..1u64 << 35], geometry in geometry()) {
        let guest = GuestOffset(offset);
        let l1 = geometry.l1_index(guest);
        let l2 = geometry.l2_index(guest) as u64;
        let within = geometry.within_cluster(offset);
        prop_assert!(l2 < geometry.l2_entries() && within < geometry.cluster_size());
        let entry_size = if geometry.has_subclusters() { 16 } else { 8 };
        prop_assert_eq!(geometry.l2_entry_size(), entry_size);
        prop_assert_eq!(geometry.l2_entries() * entry_size, geometry.cluster_size());
        let start = geometry.guest_start_of_l1(l1).0;
        prop_assert_eq!(start + l2 * geometry.cluster_size() + within, offset);
        let cluster = geometry.guest_cluster(guest);
        prop_assert_eq!(cluster, l1 * geometry.l2_entries() + l2);
        prop_assert_eq!(geometry.l2_index_of_cluster(cluster) as u64, l2);
        let number = u64::from(geometry.subcluster_index(guest));
        let size = geometry.subcluster_size();
        prop_assert!(number * size <= within && within < (number + 1) * size);
        // A disk that ends after this byte has an L1 entry for it, and none after that.
        prop_assert_eq!(geometry.l1_entries(offset + 1), l1 + 1);
        prop_assert_eq!(geometry.clusters(offset + 1), cluster + 1);
        let host = HostOffset(offset - within);
        prop_assert!(geometry.is_aligned(host));
        prop_assert_eq!(geometry.host_offset(geometry.host_cluster(HostOffset(offset))), Some(host));
    }

    #[test]
    fn subclusters(stored: u64, changes in prop::collection::vec((0..32u32, 0..3usize), 0..80)) {
        let states = [Subcluster::Unallocated, Subcluster::Zero, Subcluster::Data];
        let mut bitmap = SubclusterBitmap(stored);
        let both = (0..32).any(|bit| stored >> bit & 1 == 1 && stored >> (bit + 32) & 1 == 1);
        prop_assert_eq!(bitmap.contradicts_itself(), both);
        let of = |bitmap: SubclusterBitmap| (0..32).map(|n| bitmap.get(n)).collect::<Vec<_>>();
        let mut model = of(bitmap);
        for (number, state) in changes {
            bitmap = bitmap.with(number, states[state]);
            model[number as usize] = Ok(states[state]);
            prop_assert_eq!(&of(bitmap), &model);
        }
        let stays = |number: u32| match model[number as usize] {
            Ok(Subcluster::Unallocated) => Subcluster::Unallocated,
            _ => Subcluster::Zero,
        };
        let zeroed = bitmap.without_data();
        prop_assert!(!zeroed.has_data());
        for number in 0..32 {
            prop_assert_eq!(zeroed.get(number), Ok(stays(number)));
        }
    }

    #[test]
    fn sizes(bytes: u64, suffix in 0..7usize, digits in "[0-9]{0,6}") {
        prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        prop_assert_eq!(parse_size(&format!(" +{bytes}b")), Ok(bytes));
        prop_assert_eq!(parse_size(&format!("{bytes:#x}")), Ok(bytes));
        let negative = parse_size(&format!("-{bytes}"));
        prop_assert!(negative.is_err());
        let unit = 1u64 << (10 * suffix);
        let letter = ["", "k", "M", "G", "T", "P", "E"][suffix];
        let size = parse_size(&format!("{bytes}{letter}")).ok();
        prop_assert_eq!(size, bytes.checked_mul(unit));
        // A fraction is at most one unit, and increases with its digits.
        if suffix > 0 {
            let whole = bytes % 8;
            let size = parse_size(&format!("{whole}.{digits}{letter}")).unwrap();
            prop_assert!(whole * unit <= size && size <= (whole + 1) * unit);
            let more = parse_size(&format!("{whole}.{digits}9{letter}")).unwrap();
            prop_assert!(size <= more);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..config() })]

    /// Compares a refcount block with a list of numbers.
    #[test]
    fn refcounts(
        order in 0..=6u32,
        length in 1..80usize,
        changes in prop::collection::vec((0..700usize, any::<u64>(), 0..64u32), 0..100),
    ) {
        let bits = 1u32 << order;
        let mut block = vec![0; length * 8];
        let mut model = vec![0; length * 64 / bits as usize];
        for (index, value, narrower) in changes {
            let value = value >> narrower;
            let fits = bits == 64 || value >> bits == 0;
            let stored = set_refcount(&mut block, bits, index, value);
            prop_assert_eq!(stored.is_some(), fits && index < model.len());
            if stored.is_some() {
                model[index] = value;
            }
            let now: Vec<u64> = (0..).map_while(|index| refcount_at(&block, bits, index)).collect();
            prop_assert_eq!(&now, &model);
        }
    }

    /// Compares the bits of a bitmap with a list.
    #[test]
    fn bits_of_bitmaps(
        length in 0..40usize,
        ranges in prop::collection::vec((0..400u64, 0..200u64), 0..20),
    ) {
        let mut bytes = vec![0u8; length];
        let mut model = vec![false; length * 8];
        for (start, count) in ranges {
            set_bitmap_bits(&mut bytes, start..start + count);
            for bit in model.iter_mut().skip(start as usize).take(count as usize) {
                *bit = true;
            }
            let now: Vec<bool> = (0..length * 8).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect();
            prop_assert_eq!(&now, &model);
        }
    }
}
