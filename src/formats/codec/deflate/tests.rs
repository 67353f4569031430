//! Tests that decode streams with another implementation, whose window is only 4 KiB.

use flate2::{Decompress, FlushDecompress, Status};

use super::*;

/// Decodes a stream in small pieces, since the window's size matters only then.
fn inflate(mut stream: &[u8], length: usize) -> Vec<u8> {
    let mut inflate = Decompress::new_with_window_bits(false, 12);
    let mut back = Vec::with_capacity(length);
    loop {
        let mut piece = [0; 509];
        let (before, after) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(stream, &mut piece, FlushDecompress::None);
        let status = status.unwrap();
        stream = &stream[usize::try_from(inflate.total_in() - before).unwrap()..];
        let made = usize::try_from(inflate.total_out() - after).unwrap();
        back.extend_from_slice(&piece[..made]);
        if status == Status::StreamEnd {
            assert!(stream.is_empty(), "something behind the end");
            return back;
        }
        assert!(made > 0, "no end after {} of {length} bytes", back.len());
    }
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[1]).collect()
    }

    /// Returns bytes of which small ones are far more frequent, for codes of very different lengths.
    fn skewed(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| u8::try_from(self.next().trailing_zeros() * 8 % 256).unwrap())
            .collect()
    }

    /// Returns copies of earlier bytes, with any length and distance, and noise between them.
    fn copies(&mut self, length: usize) -> Vec<u8> {
        let mut data = self.bytes(16);
        while data.len() < length {
            let far = 1 + usize::try_from(self.next()).unwrap() % data.len().min(6000);
            let count = usize::try_from(self.next()).unwrap() % 300;
            for _ in 0..count {
                data.push(data[data.len() - far]);
            }
            let some = usize::try_from(self.next()).unwrap() % 8;
            data.extend(self.bytes(some));
        }
        data.truncate(length);
        data
    }
}

/// The encoder with the smaller window, which QEMU's readers of qcow2 have.
type Small = Deflate<{ 1 << 12 }>;

fn compressed<const WINDOW: usize>(encoder: &mut Deflate<WINDOW>, data: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![7; 3];
    let smaller = encoder.compress(data, data.len() - 1, &mut out);
    smaller.then_some(out)
}

#[test]
fn all_kinds_of_data_come_back() {
    let mut noise = Noise(1);
    let mut encoder = Small::default();
    for length in [1, 2, 3, 4, 5, 100, 512, 4096, 65_536, 300_000] {
        let mut mixed = noise.copies(length / 3);
        mixed.extend(noise.bytes(length / 3));
        mixed.extend(noise.skewed(length - mixed.len()));
        for data in [
            vec![0; length],
            vec![0xff; length],
            noise.skewed(length),
            noise.copies(length),
            mixed,
            (0..length).map(|n| (n % 251).to_le_bytes()[0]).collect(),
            (0..length)
                .map(|n| (n * n / 1000).to_le_bytes()[0])
                .collect(),
        ] {
            let stream = compressed(&mut encoder, &data);
            if let Some(stream) = &stream {
                assert!(stream.len() < length);
                assert!(inflate(stream, length) == data);
            } else {
                assert!(length < 512, "{length} bytes get no smaller");
            }
            // Data that was compressed before makes no difference.
            assert!(compressed(&mut Small::default(), &data) == stream);
        }
    }
}

#[test]
fn noise_does_not_get_smaller() {
    let mut encoder = Small::default();
    for length in [1, 512, 65_536, 200_000] {
        let data = Noise(2).bytes(length);
        assert_eq!(compressed(&mut encoder, &data), None);
    }
}

#[test]
fn noise_beside_something_else_is_stored_as_it_is() {
    let mut data = Noise(3).bytes(150_000);
    data.extend([0; 20_000]);
    data.extend(Noise(4).bytes(30_000));
    let stream = compressed(&mut Small::default(), &data).unwrap();
    assert!(stream.len() < 180_000 + 500, "{}", stream.len());
    assert!(inflate(&stream, data.len()) == data);
}

#[test]
fn matches_reach_back_over_the_whole_window_and_no_further() {
    for (distance, is_found) in [(4095, true), (4096, true), (4097, false)] {
        let mut data = Noise(5).bytes(distance);
        data.extend_from_within(..200);
        let stream = compressed(&mut Small::default(), &data);
        assert_eq!(stream.is_some(), is_found, "{distance}");
        if let Some(stream) = stream {
            assert!(inflate(&stream, data.len()) == data);
        }
    }
}

#[test]
fn the_large_window_reaches_back_32_kib() {
    for (distance, is_found) in [
        (4097, true),
        (32_767, true),
        (32_768, true),
        (32_769, false),
    ] {
        let mut data = Noise(5).bytes(distance);
        data.extend_from_within(..200);
        let mut encoder = Deflate::<{ 1 << 15 }>::default();
        let stream = compressed(&mut encoder, &data);
        assert_eq!(stream.is_some(), is_found, "{distance}");
        if let Some(stream) = stream {
            let mut back = vec![0; data.len()];
            let mut inflate = Decompress::new(false);
            let status = inflate.decompress(&stream, &mut back, FlushDecompress::Finish);
            assert_eq!(status.unwrap(), Status::StreamEnd);
            assert!(back == data);
        }
    }
}

#[test]
fn even_what_suits_a_deep_search_is_about_as_small_as_with_zlib() {
    let mut noise = Noise(6);
    let words: Vec<Vec<u8>> = (0..400)
        .map(|_| {
            let length = 3 + usize::try_from(noise.next() % 7).unwrap();
            noise.skewed(length)
        })
        .collect();
    let mut text = Vec::new();
    while text.len() < 65_536 {
        let one = noise.next() % 400;
        let other = noise.next() % 400;
        text.extend(&words[usize::try_from(one.min(other)).unwrap()]);
    }
    text.truncate(65_536);
    let theirs = {
        let level = flate2::Compression::new(6);
        let mut out = Vec::with_capacity(text.len() * 2);
        flate2::Compress::new_with_window_bits(level, false, 12)
            .compress_vec(&text, &mut out, flate2::FlushCompress::Finish)
            .unwrap();
        out.len()
    };
    let ours = compressed(&mut Small::default(), &text).unwrap().len();
    assert!(ours * 100 <= theirs * 107, "{ours} against {theirs}");
}
