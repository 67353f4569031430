//! A compact encoding of sparse images as fuzzing inputs: the smallest VHDX has megabytes, and a fuzzer changes a few
//! kilobytes.

/// The magic number of such an input. Runs follow: the number of the first sector (32 bits), the number of sectors
/// (16 bits), both little-endian, and their bytes. Any other input is an image itself.
const MARK: &[u8] = b"sectors\n";
/// The length of a sector in bytes.
const SECTOR: usize = 512;
/// The greatest length of an image of runs, in bytes.
const LONGEST: usize = 16 << 20;

/// Returns the image that an input encodes.
pub fn image(input: &[u8]) -> Vec<u8> {
    let Some(mut rest) = input.strip_prefix(MARK) else {
        return input.to_vec();
    };
    let mut image = Vec::new();
    while let Some(([a, b, c, d, e, f], runs)) = rest.split_first_chunk() {
        let start = u32::from_le_bytes([*a, *b, *c, *d]) as usize % (LONGEST / SECTOR) * SECTOR;
        let length = usize::from(u16::from_le_bytes([*e, *f])) * SECTOR;
        let (run, behind) = runs.split_at(length.min(runs.len()));
        let run = &run[..run.len().min(LONGEST - start)];
        let end = start + run.len();
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(run);
        rest = behind;
    }
    image
}
