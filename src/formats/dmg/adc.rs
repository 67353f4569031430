//! A decoder for Apple Data Compression: literals, and copies of earlier bytes.

/// Decodes `input` until `output` is full. Returns `None` if the input ends before, or refers to bytes before the
/// start.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Option<()> {
    let mut input = input.iter().copied().map(usize::from);
    let mut done = 0;
    while done < output.len() {
        let word = input.next()?;
        if word & 0x80 != 0 {
            for _ in 0..=word & 0x7f {
                let byte = u8::try_from(input.next()?).ok()?;
                // A run of literals may extend beyond the end of the output.
                if let Some(to) = output.get_mut(done) {
                    *to = byte;
                    done += 1;
                }
            }
            continue;
        }
        let (length, distance) = if word & 0x40 == 0 {
            ((word >> 2) + 3, (word & 3) << 8 | input.next()?)
        } else {
            let high = input.next()?;
            ((word & 0x3f) + 4, high << 8 | input.next()?)
        };
        for _ in 0..length {
            let from = done.checked_sub(distance + 1)?;
            let byte = *output.get(from)?;
            let Some(to) = output.get_mut(done) else {
                break;
            };
            *to = byte;
            done += 1;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_copies() {
        // These are three literals, a short copy that overlaps itself, a long copy, and a literal.
        let input = [0x82, b'a', b'b', b'c', 0x04, 2, 0x41, 0, 3, 0x80, b'z'];
        let mut output = [0; 13];
        assert_eq!(decode(&input, &mut output), Some(()));
        assert_eq!(&output, b"abcabcaabcaaz");
        // The output is never longer than its buffer.
        assert_eq!(decode(&input, &mut output[..5]), Some(()));
        for wrong in [
            &input[..3],
            &input[..5],
            &[0x00, 9],
            &[0x40, 0xff, 0xff],
            &[],
        ] {
            assert_eq!(decode(wrong, &mut output), None);
        }
    }
}
