//! Tests of rows of zeroes. The cost of a huge disk is counted in calls, since time depends on the machine.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

use crate::formats::{Backed, Extent, ExtentKind, Reservation, ZeroImage};

/// A target that stores nothing and counts the calls.
#[derive(Default)]
struct Counting {
    size: u64,
    /// True if it stores zeroes of many blocks at once.
    takes_rows: bool,
    chunks: AtomicU64,
    rows: AtomicU64,
    zeroes: AtomicU64,
}

impl NewImage for Counting {
    fn allocation_unit(&self) -> usize {
        65536
    }

    fn zero_unit(&self) -> usize {
        65536
    }

    fn starts_as_zeroes(&self) -> bool {
        false
    }

    fn backed(&self) -> Option<Backed> {
        Some(Backed {
            size: self.size,
            unit: 65536,
            copies_ends: false,
        })
    }

    fn reserve(
        &self,
        guest: GuestOffset,
        _chunk: usize,
        _runs: &[Run],
        zeroes: &[Run],
    ) -> Result<Reservation> {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.zeroes.fetch_add(lengths(zeroes), Ordering::Relaxed);
        Ok(Reservation {
            guest,
            pieces: Vec::new(),
            metadata: Vec::new(),
        })
    }

    fn reserve_zeroes(&self, _guest: GuestOffset, zeroes: &[Run]) -> Result<bool> {
        if self.takes_rows {
            self.rows.fetch_add(1, Ordering::Relaxed);
            self.zeroes.fetch_add(lengths(zeroes), Ordering::Relaxed);
        }
        Ok(self.takes_rows)
    }

    fn encode(&self, _reservation: &Reservation, _chunk: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn write(&self, _reservation: &Reservation, _chunk: &[u8]) -> Result<()> {
        Ok(())
    }

    fn writes_serially(&self) -> bool {
        false
    }

    fn plain_storage(&self) -> Option<&dyn Storage> {
        None
    }

    fn write_metadata(&self, _reservation: &Reservation) -> Result<()> {
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// The same disk with zero extents instead of unallocated ones.
struct Zeroes(ZeroImage);

impl Image for Zeroes {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn extent_at(&self, offset: GuestOffset, limit: u64) -> Result<Extent> {
        let kind = ExtentKind::Zero { kept: None };
        let extent = self.0.extent_at(offset, limit)?;
        Ok(Extent { kind, ..extent })
    }

    fn read_at(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
}

#[test]
fn a_row_is_one_call_where_the_target_takes_rows() {
    let size = 1 << 36;
    for (takes_rows, rows, chunks) in [(true, 1024, 0), (false, 0, 1 << 18)] {
        let target = Counting {
            size,
            takes_rows,
            ..Counting::default()
        };
        copy(&Zeroes(ZeroImage { size }), &target, workers(2), &()).unwrap();
        assert_eq!(target.rows.into_inner(), rows);
        assert_eq!(target.chunks.into_inner(), chunks);
        assert_eq!(target.zeroes.into_inner(), size);
    }
}
