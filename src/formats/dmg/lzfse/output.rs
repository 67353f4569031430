//! The output of a decoder: the bytes so far, and the space for more.

/// A buffer that is filled from its start.
pub(super) struct DecodedBytes<'a> {
    bytes: &'a mut [u8],
    done: usize,
}

impl<'a> DecodedBytes<'a> {
    /// Returns an empty output in a buffer.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, done: 0 }
    }

    /// Returns the number of bytes in the output.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Returns true if the output has no space left.
    pub(super) fn is_full(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Appends bytes. Returns `None` if there is no space for them.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.done.checked_add(bytes.len())?;
        self.bytes.get_mut(self.done..end)?.copy_from_slice(bytes);
        self.done = end;
        Some(())
    }

    /// Appends a copy of `length` bytes that starts `distance` bytes before the end. If `distance` is less than
    /// `length`, the bytes repeat. Returns `None` if there aren't as many bytes before, or if there is no space.
    pub(super) fn repeat(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.done.checked_sub(distance).filter(|_| distance > 0)?;
        let end = self.done.checked_add(length)?;
        if end > self.bytes.len() {
            return None;
        }
        while self.done < end {
            // The appended bytes repeat with the same distance, so each step may copy all of them.
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
