//! Tests of the LZFSE decoder with streams of Apple's encoder, and with streams made by hand.

use super::*;

/// Returns the pseudorandom numbers of `tests/data/make-lzfse.py`.
fn noise(count: usize, below: u64) -> Vec<u64> {
    let mut state = 7u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn noise_bytes(count: usize, below: u64) -> Vec<u8> {
    let numbers = noise(count, below).into_iter();
    numbers
        .map(|number| u8::try_from(number).unwrap())
        .collect()
}

fn text(length: usize) -> Vec<u8> {
    let words: [&[u8]; 8] = [
        b"block ",
        b"chunk ",
        b"a ",
        b"of zeroes, ",
        b"disk",
        b"\n",
        b"literals and ",
        b"Q",
    ];
    let numbers = noise(length, 8).into_iter();
    let mut text: Vec<u8> = numbers
        .flat_map(|number| words[usize::try_from(number).unwrap()])
        .copied()
        .collect();
    text.truncate(length);
    text
}

fn long() -> Vec<u8> {
    [
        text(60000),
        noise_bytes(12000, 40),
        text(60000),
        vec![0; 70000],
    ]
    .concat()
}

const LONG: &[u8] = include_bytes!("../../../../tests/data/lzfse/long.lzfse");
const SHORT: &[u8] = include_bytes!("../../../../tests/data/lzfse/short.lzfse");

/// The streams were made by Apple's encoder.
#[test]
fn streams_of_the_reference_are_decoded() {
    let samples: [(&[u8], Vec<u8>); 5] = [
        (SHORT, text(700)),
        (LONG, long()),
        (
            include_bytes!("../../../../tests/data/lzfse/noise.lzfse"),
            noise_bytes(5000, 256),
        ),
        (
            include_bytes!("../../../../tests/data/lzfse/one_byte.lzfse"),
            b"x".to_vec(),
        ),
        (
            include_bytes!("../../../../tests/data/lzfse/zeroes.lzfse"),
            vec![0; 100_000],
        ),
    ];
    for (stream, expected) in samples {
        let mut output = vec![1; expected.len()];
        assert_eq!(decode(stream, &mut output), Some(()));
        assert!(output == expected);
        let mut longer = vec![1; expected.len() + 1];
        assert_eq!(decode(stream, &mut longer), None);
        assert_eq!(decode(stream, &mut output[1..]), None);
        for cut in [1, 2, 4, stream.len() / 2, stream.len()] {
            assert_eq!(decode(&stream[..stream.len() - cut], &mut output), None);
        }
    }
}

/// The first block of a stream has a header as older encoders wrote it.
#[test]
fn tables_may_be_plain() {
    let (header, payload) = BlockHeader::parse(LONG).unwrap();
    let mut plain = mark::WITH_TABLES.to_vec();
    let stored = header.literals.1 + header.matches.1;
    for count in [
        header.stated,
        stored,
        header.literals.0,
        header.matches.0,
        header.literals.1,
        header.matches.1,
    ] {
        plain.extend(u32::try_from(count).unwrap().to_le_bytes());
    }
    let bits = |unused: usize| (-i32::try_from(unused).unwrap()).to_le_bytes();
    let short = |number: u32| u16::try_from(number).unwrap().to_le_bytes();
    plain.extend(bits(header.unused.0));
    plain.extend(header.literal_states.iter().flat_map(|state| short(*state)));
    plain.extend(bits(header.unused.1));
    plain.extend(header.match_states.iter().flat_map(|state| short(*state)));
    for kind in 0..4 {
        let frequencies = header.frequencies(kind).iter();
        plain.extend(frequencies.flat_map(|frequency| frequency.to_le_bytes()));
    }
    plain.extend([0; 2]);
    plain.extend(&payload[..stored]);
    plain.extend(mark::END);
    let mut output = vec![0; header.stated];
    assert_eq!(decode(&plain, &mut output), Some(()));
    assert!(output == long()[..header.stated]);
}

#[test]
fn every_instruction_of_lzvn() {
    let block = |payload: &[u8], length: u8| {
        let mut stream = mark::LZVN.to_vec();
        stream.extend([length, 0, 0, 0]);
        stream.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        stream.extend(payload);
        stream.extend(mark::END);
        let mut output = vec![0; length.into()];
        decode(&stream, &mut output).map(|()| output)
    };
    let end = [6, 0, 0, 0, 0, 0, 0, 0];
    let run = |parts: &[&[u8]], length| block(&[&parts.concat(), &end[..]].concat(), length);
    let expect = |parts: &[&[u8]], expected: &[u8]| {
        let length = u8::try_from(expected.len()).unwrap();
        assert_eq!(run(parts, length).as_deref(), Some(expected), "{parts:?}");
    };
    expect(&[], b"");
    expect(&[&[0xe3], b"abc", &[0x0e, 0x16]], b"abc");
    expect(&[&[0xe0, 1], &[7; 17]], &[7; 17]);
    // The instructions are a literal, and a match of three bytes with a short distance.
    expect(&[&[0xe1], b"a", &[0x40, 2], b"b"], b"ababa");
    // The match has a medium distance, and a long one.
    expect(&[&[0xe1], b"a", &[0xa8, 2 << 2, 0], b"b"], b"ababa");
    expect(&[&[0xe1], b"a", &[0x47, 2, 0], b"b"], b"ababa");
    // The length of a match with a medium distance has two parts.
    expect(&[&[0xe1], b"a", &[0xa1, 1 << 2 | 2, 0]], &[b'a'; 10]);
    // These matches have the distance of the one before: with literals, short, and long.
    let before: &[&[u8]] = &[&[0xe2], b"ab", &[0x00, 2]];
    expect(&[before, &[&[0x46], b"c"]].concat(), b"ababacaca");
    expect(&[before, &[&[0xf2]]].concat(), b"abababa");
    expect(&[before, &[&[0xf0, 0]]].concat(), b"ababababababababababa");
    for wrong in [0x1e, 0x26, 0x2e, 0x36, 0x3e, 0x70, 0x7f, 0xd0, 0xdf] {
        assert_eq!(run(&[&[0xe1], b"a", &[wrong, 1, 0]], 4), None);
    }
    // The errors are: a distance before the start, no earlier distance, too many bytes, too few, no end, a truncated
    // end.
    assert_eq!(run(&[&[0xe1], b"a", &[0x00, 2]], 4), None);
    assert_eq!(run(&[&[0xe1], b"a", &[0x00, 0]], 4), None);
    assert_eq!(run(&[&[0xe1], b"a", &[0xf3]], 4), None);
    assert_eq!(run(&[&[0xe3], b"abc"], 2), None);
    assert_eq!(run(&[&[0xe3], b"abc"], 4), None);
    assert_eq!(block(&[0xe1, b'a'], 1), None);
    assert_eq!(block(&[0xe1, b'a', 6, 0, 0], 1), None);
}

/// Decoding a damaged stream ends with a result, in a short time.
#[test]
fn damaged_streams_have_an_answer() {
    let mut output = long();
    let mut damaged = LONG.to_vec();
    let places = noise(600, LONG.len() as u64);
    for (at, bit) in places.into_iter().zip(noise(600, 8)) {
        let at = usize::try_from(at).unwrap() % if bit < 4 { 900 } else { LONG.len() };
        damaged[at] ^= 1 << bit;
        let _ = decode(&damaged, &mut output);
        if bit < 6 {
            damaged[at] ^= 1 << bit;
        }
    }
    for byte in 0..=u8::MAX {
        let mut damaged = SHORT.to_vec();
        damaged[12..]
            .iter_mut()
            .step_by(7)
            .for_each(|place| *place ^= byte);
        let _ = decode(&damaged, &mut output[..700]);
    }
}
