//! Tests of files that are truncated during a check or a repair: each read ends early once, or gives nothing. The
//! length was read before, so the missing part isn't zeroes: the result is an error, or the same as with the whole
//! file. In particular, a repair must never treat unread parts as empty and free used clusters.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowhide::error::Result;
use cowhide::formats::qcow2::check::Event;
use cowhide::formats::qcow2::{CheckReport, Header, Repair, check, repair};
use cowhide::storage::{MemoryStorage, Operation, ShortRead};
use libtest_mimic::Trial;

use crate::bases::{Base, KINDS};
use crate::common::Noise;
use crate::mutants::{disk, mutant, same_where_readable};
use crate::trial;

/// The number of mutants of each kind, besides the image itself.
const MUTANTS: usize = 10;

pub fn trials(bases: &Arc<BTreeMap<&'static str, Base>>) -> Vec<Trial> {
    let kinds = KINDS.into_iter().map(|kind| {
        let bases = Arc::clone(bases);
        let name = if kind.is_empty() { "plain" } else { kind };
        trial(format!("short_reads/{name}"), move || cut(&bases[kind]))
    });
    kinds.collect()
}

/// Returns the report of a check or a repair, and all findings that it printed.
fn look(storage: &MemoryStorage, what: Option<Repair>) -> Result<(CheckReport, Vec<String>)> {
    let header = Header::read_for_check(storage)?;
    let mut told = Vec::new();
    let mut tell = |event: Event<'_>| told.push(event.to_string());
    let report = match what {
        None => check(storage, &header, &mut tell)?,
        Some(what) => repair(storage, &header, what, &mut tell)?,
    };
    Ok((report, told))
}

fn cut(base: &Base) {
    let mut noise = Noise(7);
    let mut images = vec![base.bytes.clone()];
    let mut tries = 0;
    while images.len() <= MUTANTS {
        tries += 1;
        assert!(tries < 1000, "no damage that can be repaired");
        let bytes = mutant(base, &mut noise);
        let storage = MemoryStorage::new(bytes.clone());
        let repaired = look(&storage, Some(Repair::All));
        if repaired.is_ok_and(|(report, _)| report.corruptions == 0) && storage.contents() != bytes
        {
            images.push(bytes);
        }
    }
    let mut noticed = 0;
    for bytes in images {
        for what in [None, Some(Repair::Leaks), Some(Repair::All)] {
            let whole = MemoryStorage::new(bytes.clone());
            let right = look(&whole, what);
            let repaired = whole.contents();
            for nth in 1..=whole.count(Operation::Read) {
                for count in [0, 1, 8, 500] {
                    let short = ShortRead { nth, bytes: count };
                    let storage = MemoryStorage::new(bytes.clone()).with_short_read(short);
                    let seen = look(&storage, what);
                    let when = format!("{what:?}: {short:?}: {seen:?}");
                    let after = storage.contents();
                    match (seen, &right) {
                        (Ok(seen), Ok(right)) => {
                            assert_eq!(seen, *right, "{when}");
                            assert!(after == repaired, "{when}");
                        }
                        (Ok(_), Err(_)) => panic!("{when}"),
                        (Err(_), _) => {
                            noticed += 1;
                            keeps(base, &bytes, after, &when);
                        }
                    }
                }
            }
        }
    }
    assert!(noticed > 20, "{noticed} noticed");
}

/// Asserts that the disk is unchanged after an error, and that the image can still be repaired.
fn keeps(base: &Base, before: &[u8], after: Vec<u8>, when: &str) {
    if before == after {
        return;
    }
    let old = disk(base, before).ok();
    let keeps = |bytes: &[u8]| {
        let kept = old
            .as_ref()
            .is_none_or(|old| disk(base, bytes).is_ok_and(|new| same_where_readable(old, &new)));
        assert!(kept, "{when}: the disk has changed");
    };
    keeps(&after);
    let storage = MemoryStorage::new(after);
    let (report, _) = look(&storage, Some(Repair::All)).expect(when);
    assert_eq!(report.corruptions, 0, "{when}");
    keeps(&storage.contents());
}
