//! The tables of a finite state entropy decoder: a symbol for each state, and the bits that select the next state.

use super::bits::BitsFromEnd;

/// A state of a decoder.
#[derive(Debug, Clone, Copy)]
struct CoderState {
    /// The number of bits that select the next state.
    bits: u32,
    /// The next state if those bits are 0.
    next: u32,
    /// The symbol, or its smallest value.
    base: u32,
    /// The number of extra bits, which are added to the value.
    more: u32,
}

/// A decoder and its present state.
pub(super) struct Coder<'t> {
    states: &'t StateTable,
    state: u32,
}

/// The states of a decoder.
pub(super) struct StateTable(Vec<CoderState>);

impl StateTable {
    /// Returns the table of `count` states, a power of two, for the frequencies of the symbols. `meaning` returns the
    /// smallest value of a symbol, and the number of its extra bits. Returns `None` if the sum of the frequencies
    /// exceeds `count`.
    pub(super) fn new(
        count: usize,
        frequencies: &[u16],
        meaning: impl Fn(u32) -> (u32, u32),
    ) -> Option<Self> {
        let mut states = Vec::with_capacity(count);
        for (symbol, frequency) in (0..).zip(frequencies) {
            let frequency = usize::from(*frequency);
            if frequency == 0 {
                continue;
            }
            if states.len() + frequency > count {
                return None;
            }
            let (base, more) = meaning(symbol);
            // With that number of bits, the states of the symbol cover all next states.
            let bits = frequency.leading_zeros() - count.leading_zeros();
            let longer = ((2 * count) >> bits) - frequency;
            for number in 0..frequency {
                let (bits, next) = match number.checked_sub(longer) {
                    None => (bits, ((frequency + number) << bits) - count),
                    Some(number) => (bits - 1, number << (bits - 1)),
                };
                let next = u32::try_from(next).ok()?;
                states.push(CoderState {
                    bits,
                    next,
                    base,
                    more,
                });
            }
        }
        Some(Self(states))
    }
}

impl<'t> Coder<'t> {
    /// Returns a decoder in an initial state.
    pub(super) fn new(states: &'t StateTable, state: u32) -> Self {
        Self { states, state }
    }

    /// Returns the next value. Returns `None` if no bits are left, or if there is no such state.
    pub(super) fn next(&mut self, bits: &mut BitsFromEnd<'_>) -> Option<u32> {
        let state = self.states.0.get(usize::try_from(self.state).ok()?)?;
        let taken = bits.take(state.bits + state.more)?;
        self.state = state.next + (taken >> state.more);
        Some(state.base + (taken & ((1 << state.more) - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_leads_to_states_that_there_are() {
        for frequencies in [&[8u16][..], &[1, 7], &[3, 0, 4, 1], &[1; 8], &[5, 3]] {
            let table = StateTable::new(8, frequencies, |symbol| (symbol, 0)).unwrap();
            assert_eq!(table.0.len(), 8);
            for state in &table.0 {
                assert!(state.next + (1 << state.bits) <= 8, "{state:?}");
            }
        }
        assert!(StateTable::new(8, &[5, 4], |symbol| (symbol, 0)).is_none());
        let few = StateTable::new(8, &[2], |symbol| (symbol, 0)).unwrap();
        let mut bits = BitsFromEnd::new(&[0xff; 8], 0).unwrap();
        assert_eq!(Coder::new(&few, 2).next(&mut bits), None);
    }
}
