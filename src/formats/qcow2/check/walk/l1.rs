//! The walk from the active L1 table, and those of the snapshots, to the L2 tables.
//!
//! Snapshots share L2 tables. A malicious image may have thousands of overlapping L1 tables, or one whose entries all
//! refer to the same L2 table. So no part of the file is read twice: overlapping bytes of L1 tables are read once,
//! and counted as often as there are tables. Each L2 table is listed once, with the number of references to it. The
//! time is thus limited by the length of the file.

use super::places::Walk;
use crate::error::Result;
use crate::formats::qcow2::check::finding::{EntryPlace, Finding, Problem};
use crate::formats::qcow2::entries::{EntryError, L1Entry};
use crate::formats::qcow2::geometry::ENTRY_SIZE;
use crate::formats::qcow2::header::TablePlace;
use crate::formats::qcow2::read::tables::decode;
use crate::storage::{Pace, Pieces};
use crate::units::HostOffset;

/// The length of the pieces in which an L1 table is read, in bytes.
const PIECE: usize = 64 << 10;

/// An L2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L2Place {
    /// Its host offset, aligned or not.
    pub host: HostOffset,
    /// The first active L1 entry that refers to it, or `None` if only snapshots do.
    pub l1_index: Option<u32>,
    /// The number of entries of the active L1 table that refer to it.
    pub active: u32,
    /// The number of entries of all L1 tables that refer to it.
    pub times: u64,
}

/// The L2 tables that the L1 tables refer to.
#[derive(Debug)]
pub struct L1Walked {
    /// The L2 tables, each once, sorted by host offset.
    pub l2_tables: Vec<L2Place>,
    /// True if a part of an L1 or L2 table isn't in the file.
    pub cut_off: bool,
}

/// A range of bytes of an L1 table.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
    active: bool,
}

/// A range of bytes that belong to the same set of L1 tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TablePiece {
    start: u64,
    end: u64,
    active: bool,
    times: u64,
}

/// Divides overlapping spans into disjoint pieces.
fn pieces(spans: &[Span]) -> Vec<TablePiece> {
    let mut edges: Vec<(u64, i64, i64)> = Vec::with_capacity(spans.len() * 2);
    for span in spans {
        let active = i64::from(span.active);
        edges.push((span.start, 1, active));
        edges.push((span.end, -1, -active));
    }
    edges.sort_unstable();
    let mut pieces = Vec::new();
    let (mut start, mut times, mut active) = (0, 0i64, 0);
    for (at, change, change_of_active) in edges {
        if at > start && times > 0 {
            pieces.push(TablePiece {
                start,
                end: at,
                active: active > 0,
                times: times.unsigned_abs(),
            });
        }
        start = at;
        times += change;
        active += change_of_active;
    }
    pieces
}

impl Walk<'_> {
    /// Counts the L1 tables, and lists the L2 tables that they refer to, sorted by host offset. If the file ends
    /// inside a table, its part inside the file is counted and followed.
    ///
    /// # Errors
    /// Returns the system's error.
    pub(super) fn l1_tables(
        &self,
        active: TablePlace,
        snapshots: &[TablePlace],
        found: &mut dyn FnMut(Finding),
    ) -> Result<L1Walked> {
        let mut spans = Vec::new();
        let mut cut_off = false;
        for (index, place) in std::iter::once(&active).chain(snapshots).enumerate() {
            let bytes = place.entries * ENTRY_SIZE;
            if bytes == 0 {
                continue;
            }
            let starts_inside = place.host.0 < self.length;
            if !self.is_inside(place.host, bytes) || !starts_inside {
                let host = place.host;
                let words = self.missing(host, bytes).cut_off();
                let what = words.unwrap_or_else(|| {
                    format!("L1 table at {host} ({bytes} bytes) is beyond the end of the file")
                });
                found(Finding::Structure { what, times: 1 });
                cut_off = true;
            }
            if starts_inside {
                let end = place.host.0.saturating_add(bytes);
                spans.push(Span {
                    start: place.host.0,
                    end: end.min(self.length.next_multiple_of(ENTRY_SIZE)),
                    active: index == 0,
                });
            }
        }
        // Whole clusters are counted, but only the entries are read.
        let cluster_size = self.geometry.cluster_size();
        let clusters: Vec<_> = spans
            .iter()
            .map(|span| Span {
                end: span.end.next_multiple_of(cluster_size),
                ..*span
            })
            .collect();
        for piece in pieces(&clusters) {
            self.count(
                HostOffset(piece.start),
                piece.end - piece.start,
                piece.times,
            );
        }
        let l2_tables = merged(self.l1_pieces(&pieces(&spans), active.host, found)?);
        cut_off |= l2_tables.iter().any(|table| !self.is_whole(table.host));
        Ok(L1Walked { l2_tables, cut_off })
    }

    /// Returns true if all of an L2 table is in the file, since every program writes L2 tables as a whole.
    fn is_whole(&self, l2_table: HostOffset) -> bool {
        l2_table.0.saturating_add(self.geometry.cluster_size()) <= self.length
    }

    /// Reads the entries of pieces, many at once if the storage is slow.
    fn l1_pieces(
        &self,
        pieces: &[TablePiece],
        active: HostOffset,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Vec<L2Place>> {
        let mut places = Vec::new();
        let parts = |piece: &TablePiece| {
            let (piece, end) = (*piece, piece.end.min(self.length));
            (piece.start..end)
                .step_by(PIECE)
                .map(move |at| (piece, at..end.min(at + PIECE as u64)))
        };
        let parts: Vec<_> = pieces.iter().flat_map(parts).collect();
        let pace = Pace::default();
        // The part of a table beyond the file's end reads as zeroes.
        Pieces::new(self.storage, self.length, PIECE, &pace).each(
            &parts,
            |(_, range)| range.start,
            |(piece, range), bytes| {
                let entries = (range.start..range.end).step_by(8).map(HostOffset);
                let entries = entries.zip(decode(bytes)).filter(|(_, entry)| *entry != 0);
                Ok((*piece, entries.collect::<Vec<_>>()))
            },
            |(piece, entries)| {
                for (host, entry) in entries {
                    let place = if piece.active {
                        let index = (host.0 - active.0) / ENTRY_SIZE;
                        EntryPlace::L1 { index }
                    } else {
                        EntryPlace::SnapshotL1 { host }
                    };
                    self.l1_entry(L1Entry(entry), place, piece.times, &mut places, found)?;
                }
                Ok(())
            },
        )?;
        Ok(places)
    }

    fn l1_entry(
        &self,
        entry: L1Entry,
        place: EntryPlace,
        times: u64,
        places: &mut Vec<L2Place>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<()> {
        let mut bad = |problem| {
            found(Finding::BadEntry {
                place,
                entry: entry.0,
                problem,
                times,
            });
        };
        let host = entry.host();
        // An entry without an offset is unallocated, but its flag is an error.
        if entry.has_reserved_bits() || host.0 == 0 {
            bad(Problem::Bits(EntryError::Reserved));
        }
        if host.0 == 0 {
            return Ok(());
        }
        if !self.geometry.is_aligned(host) {
            bad(Problem::Bits(EntryError::Unaligned(host)));
        }
        let inside = self.is_inside(host, self.geometry.cluster_size());
        if !self.is_whole(host) {
            bad(Problem::BeyondTheEnd(
                self.missing(host, self.geometry.cluster_size()),
            ));
        }
        let l1_index = match place {
            EntryPlace::L1 { index } => u32::try_from(index).ok(),
            _ => None,
        };
        if l1_index.is_some() {
            let one = self.stored.is_one(self.geometry.host_cluster(host));
            self.note_copied(entry.is_copied(), one);
        }
        if inside {
            places.push(L2Place {
                host,
                l1_index,
                active: u32::from(l1_index.is_some()),
                times,
            });
        }
        Ok(())
    }
}

/// Lists each L2 table once.
fn merged(mut places: Vec<L2Place>) -> Vec<L2Place> {
    places.sort_unstable_by_key(|place| (place.host, place.l1_index.is_none(), place.l1_index));
    places.dedup_by(|next, kept| {
        if next.host != kept.host {
            return false;
        }
        kept.active = kept.active.saturating_add(next.active);
        kept.times = kept.times.saturating_add(next.times);
        true
    });
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_tables_are_read_once() {
        let span = |start, end, active| Span { start, end, active };
        let piece = |start, end, active, times| TablePiece {
            start,
            end,
            active,
            times,
        };
        let spans = [span(10, 20, false), span(0, 16, true), span(12, 20, false)];
        assert_eq!(
            pieces(&spans),
            [
                piece(0, 10, true, 1),
                piece(10, 12, true, 2),
                piece(12, 16, true, 3),
                piece(16, 20, false, 2)
            ]
        );
        assert_eq!(pieces(&[]), []);
        let spans = [span(0, 8, false), span(16, 24, true)];
        let apart = [piece(0, 8, false, 1), piece(16, 24, true, 1)];
        assert_eq!(pieces(&spans), apart);
    }

    #[test]
    fn shared_tables_are_listed_once() {
        let place = |host, l1_index: Option<u32>, times| L2Place {
            host: HostOffset(host),
            l1_index,
            active: u32::from(l1_index.is_some()),
            times,
        };
        let list = merged(vec![
            place(8, None, 3),
            place(4, Some(2), 1),
            place(8, Some(7), 2),
            place(8, Some(5), 1),
        ]);
        let shared = L2Place {
            active: 2,
            ..place(8, Some(5), 6)
        };
        assert_eq!(list, [place(4, Some(2), 1), shared]);
    }
}
