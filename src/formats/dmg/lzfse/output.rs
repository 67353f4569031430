//! The bytes that were decoded, and the room for those to come.

/// A buffer that is filled from its start.
pub(super) struct DecodedBytes<'a> {
    bytes: &'a mut [u8],
    done: usize,
}

impl<'a> DecodedBytes<'a> {
    /// Makes it of a buffer whose contents don't count.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, done: 0 }
    }

    /// The number of bytes that are there.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Returns true if there is no room left.
    pub(super) fn is_full(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Adds bytes; returns `None` if there is no room for them.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.done.checked_add(bytes.len())?;
        self.bytes.get_mut(self.done..end)?.copy_from_slice(bytes);
        self.done = end;
        Some(())
    }

    /// Adds `length` bytes that are there already, from `distance` bytes before the end on. Where that is less than
    /// the length, they repeat. Returns `None` if there are none so far back, or no room.
    pub(super) fn repeat(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.done.checked_sub(distance).filter(|_| distance > 0)?;
        let end = self.done.checked_add(length)?;
        if end > self.bytes.len() {
            return None;
        }
        while self.done < end {
            // The added bytes repeat with the same distance, so that each step may take all of them.
            let step = (end - self.done).min(self.done - from);
            self.bytes.copy_within(from..from + step, self.done);
            self.done += step;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_may_overlap_themselves() {
        let mut bytes = [0; 12];
        let mut output = DecodedBytes::new(&mut bytes);
        output.append(b"ab").unwrap();
        output.repeat(2, 7).unwrap();
        output.repeat(9, 3).unwrap();
        assert!(output.is_full());
        for (distance, length) in [(0, 0), (13, 0), (1, 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(output.repeat(distance, length), None);
        }
        assert_eq!(output.append(b"x"), None);
        assert_eq!(&bytes, b"ababababaaba");
    }
}
