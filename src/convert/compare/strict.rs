//! The comparison of the allocation status of two disks of the same size, for `compare -s`.
//!
//! It follows `qemu-img`, which compares all flags of the block status in steps: allocated, zero, data, compressed, a
//! valid offset, and the end of the disk. The last flag depends on the length of the step, which depends on the
//! look-ups of the format's driver. So the steps here are the same
//! ([`status_in_step`](crate::formats::Image::status_in_step)).

use super::difference::{Difference, Side, no_status};
use crate::formats::Status;
use crate::units::GuestOffset;

/// The most bytes that `qemu-img` compares in a step.
const STEP: u64 = 2 << 20;

/// Returns the first offset where the status differs, or where it can't be determined.
pub(super) fn first_mismatch(sides: [Side<'_>; 2]) -> Option<(u64, Difference)> {
    let size = sides[0].image.size();
    let mut position = 0;
    while position < size {
        let mut statuses = [Status::default(); 2];
        for (side, status) in sides.into_iter().zip(&mut statuses) {
            let asked = side
                .image
                .status_in_step(GuestOffset(position), size - position);
            *status = match asked {
                Ok(status) => status,
                Err(error) => return Some((position, no_status(side, error))),
            };
        }
        let told = statuses.map(|status| {
            let reaches_end = position + status.length == size;
            let kind = (status.present, status.zero, status.data, status.compressed);
            (kind, status.offset.is_some(), reaches_end)
        });
        if told[0] != told[1] {
            return Some((position, Difference::Status(GuestOffset(position))));
        }
        let [one, other] = statuses;
        let length = one.length.min(other.length);
        let skipped = one.zero && other.zero;
        position += if skipped { length } else { length.min(STEP) };
    }
    None
}
