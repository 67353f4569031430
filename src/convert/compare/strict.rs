//! The question if two disks of the same size are stored in the same way.
//!
//! The answer is `qemu-img`'s, which asks several things of every step. Does the image store anything? Are
//! there zeroes, data, compressed data, or an offset? It also asks if the step reaches the disk's end. The
//! length of the steps depends on how the formats' drivers look things up. The answer to the last question
//! depends on that length, so the steps here are the same
//! ([`status_in_step`](crate::formats::Image::status_in_step)).

use super::difference::{Difference, Side, no_status};
use crate::formats::Status;
use crate::units::GuestOffset;

/// The length that `qemu-img` compares at a time, in bytes.
const STEP: u64 = 2 << 20;

/// The first place where they aren't, or where that can't be told.
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
