//! Tests with headers in memory: the choice between the two copies, and the errors for invalid fields.

use serde_json::{Value, json};

use super::*;
use crate::crypto::HashAlgorithm;
use crate::storage::MemoryStorage;

/// The length of a header with its text, the smallest one.
const LENGTH: usize = 16 << 10;

/// The offset of the disk.
const PAYLOAD: usize = 1 << 20;

fn text() -> Value {
    let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": 64,
            "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {
                "type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64",
                "key_size": 64
            },
            "kdf": {"type": "argon2id", "time": 4, "memory": 32, "cpus": 1, "salt": salt}
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": PAYLOAD.to_string(), "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": 512
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
            "salt": salt, "digest": salt
        }},
        "config": {"json_size": "12288", "keyslots_size": "524288"}
    })
}

/// Changes the value at a JSON pointer; `null` removes it.
fn with(pointer: &str, value: Value) -> Value {
    let mut text = text();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = text.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => assert!(parent.remove(name).is_some(), "{pointer}"),
        value => drop(parent.insert(name.to_owned(), value)),
    }
    text
}

/// Returns one of the two headers, with its checksum.
fn header(text: &str, at: usize, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH];
    let magic = if at == 0 {
        b"LUKS\xba\xbe"
    } else {
        b"SKUL\xba\xbe"
    };
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, magic);
    put(6, &[0, 2]);
    put(8, &(LENGTH as u64).to_be_bytes());
    put(16, &sequence.to_be_bytes());
    put(24, b"a label");
    put(72, b"sha256");
    put(168, b"e1e2e3e4-0000-4000-8000-000000000000");
    put(256, &(at as u64).to_be_bytes());
    put(4096, text.as_bytes());
    summed(&mut bytes);
    bytes
}

/// Sets the checksum of a header.
fn summed(header: &mut [u8]) {
    header[448..512].fill(0);
    let sum = HashAlgorithm::Sha256.digest(&[header]);
    header[448..480].copy_from_slice(&sum);
}

/// Returns a file with both headers and an empty disk of 4096 bytes.
fn container(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut bytes = [first, second].concat();
    bytes.resize(PAYLOAD + 4096, 0);
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Option<Luks2Header>> {
    Luks2Header::read(Arc::new(MemoryStorage::new(bytes)), false)
}

/// Returns the result of reading a text as a message.
fn said(text: &str) -> String {
    let both = container(&header(text, 0, 5), &header(text, LENGTH, 5));
    match read(both) {
        Ok(header) => format!("fine: {}", header.is_some()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_good_header_is_reported() {
    let text = text().to_string();
    let bytes = container(&header(&text, 0, 5), &header(&text, LENGTH, 5));
    let length = bytes.len() as u64;
    let header = read(bytes).unwrap().unwrap();
    assert_eq!(header.payload_offset(), PAYLOAD as u64);
    assert_eq!(header.size(length).unwrap(), 4096);
    assert!(!header.is_half_damaged());
    let info = serde_json::to_value(header.info()).unwrap();
    for (name, value) in [
        ("version", json!(2)),
        ("label", json!("a label")),
        ("cipher-alg", json!("aes-256")),
        ("sector-size", json!(512)),
        ("sequence", json!(5)),
    ] {
        assert_eq!(info[name], value, "{name}");
    }
    assert!(header.size(length - 4097).is_err());
    assert!(header.size(length - 1).is_err());
}

#[test]
fn the_newer_of_two_headers_counts_if_it_is_whole() {
    let text = text().to_string();
    let counts = |first: &[u8], second: &[u8]| {
        let header = read(container(first, second)).unwrap().unwrap();
        (header.fields.sequence, header.one_is_damaged)
    };
    let headers = |one, two| (header(&text, 0, one), header(&text, LENGTH, two));
    let (first, second) = headers(7, 6);
    assert_eq!(counts(&first, &second), (7, false));
    let (first, second) = headers(6, 7);
    assert_eq!(counts(&first, &second), (7, false));
    // The offsets are those of every field, the text, the bytes after it, and the checksum itself.
    for at in [
        0,
        7,
        8,
        16,
        24,
        72,
        104,
        168,
        208,
        256,
        300,
        448,
        600,
        4096,
        9000,
        LENGTH - 1,
    ] {
        let mut damaged = second.clone();
        damaged[at] ^= 1;
        assert_eq!(counts(&first, &damaged), (6, true), "{at}");
        let mut damaged = first.clone();
        damaged[at] ^= 1;
        assert_eq!(counts(&damaged, &second), (7, true), "{at}");
    }
    let gone = vec![0; LENGTH];
    assert_eq!(counts(&gone, &second), (7, true));
    assert_eq!(counts(&first, &gone), (6, true));
    assert!(read(container(&gone, &gone)).unwrap().is_none());
    let mut damaged = (first.clone(), second.clone());
    damaged.0[5000] ^= 1;
    damaged.1[5000] ^= 1;
    let error = read(container(&damaged.0, &damaged.1)).unwrap_err();
    let wrong = "LUKS2 header is damaged: its checksum is wrong";
    assert_eq!(
        error.to_string(),
        format!("{wrong} (and the second header: {wrong})")
    );
}

#[test]
fn files_that_are_cut_off() {
    let text = text().to_string();
    let (first, second) = (header(&text, 0, 7), header(&text, LENGTH, 6));
    let whole = container(&first, &second);
    for length in [8, 511, 4095, 4096, 4097, LENGTH - 1] {
        let error = read(whole[..length].to_vec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Unable to read LUKS2 header: it is cut off"
        );
    }
    assert!(read(whole[..7].to_vec()).unwrap().is_none());
    for length in [LENGTH, LENGTH + 100, LENGTH + 5000, 2 * LENGTH - 1] {
        let header = read(whole[..length].to_vec()).unwrap().unwrap();
        assert!(header.one_is_damaged);
        let error = header.size(length as u64).unwrap_err();
        assert_eq!(error.to_string(), "LUKS2 disk is cut off");
    }
    // The file has the disk, but not the key slots.
    let mut slots = whole.clone();
    slots.truncate(2 * LENGTH);
    let header = read(slots).unwrap().unwrap();
    let error = header.unlock(&Secret::new(b"pw".to_vec())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Unable to read key material: it is cut off"
    );
}

#[test]
fn fields_of_the_binary_header() {
    let text = text().to_string();
    for (at, field, message) in [
        (
            8,
            &[0, 0, 0, 0, 0, 0, 0, 1][..],
            "an invalid length of 1 bytes",
        ),
        (
            8,
            &[0, 0, 0, 0, 0, 0, 0x50, 0],
            "an invalid length of 20480",
        ),
        (
            8,
            &[0, 0, 0, 0, 0, 0x80, 0, 0],
            "an invalid length of 8388608",
        ),
        (8, &[0xff; 8], "an invalid length of 18446744073709551615"),
        (
            256,
            &[0, 0, 0, 0, 0, 0, 0, 1],
            "header at 0 says that it is at 1",
        ),
        (72, b"crc32\0", "a checksum by 'crc32', which isn't known"),
    ] {
        let mut damaged = header(&text, 0, 1);
        damaged[at..at + field.len()].copy_from_slice(field);
        summed(&mut damaged);
        let error = read(container(&damaged, &[])).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn fields_of_the_text() {
    assert_eq!(said(&text().to_string()), "fine: true");
    let slot = text()["keyslots"]["0"].clone();
    for (pointer, value, message) in [
        ("/config", json!(null), "missing field `config`"),
        ("/config/json_size", json!("12287"), "a text of 12287 bytes"),
        (
            "/config/json_size",
            json!("18446744073709551615"),
            "a text of 18446744073709551615",
        ),
        ("/config/json_size", json!(12288), "expected a string"),
        (
            "/config/keyslots_size",
            json!("4097"),
            "an area of 4097 bytes",
        ),
        (
            "/config/keyslots_size",
            json!("134221824"),
            "an area of 134221824 bytes",
        ),
        (
            "/config/keyslots_size",
            json!("-4096"),
            "no decimal number: '-4096'",
        ),
        ("/config/keyslots_size", json!("+4096"), "no decimal number"),
        ("/config/keyslots_size", json!(""), "no decimal number"),
        (
            "/config/requirements",
            json!({"mandatory": ["offline-reencrypt"]}),
            "reencryption is in progress",
        ),
        (
            "/config/requirements",
            json!({"mandatory": ["online-reencrypt-v2"]}),
            "reencryption is in progress",
        ),
        (
            "/config/requirements",
            json!({"mandatory": ["inline-hw-opal"]}),
            "requirement 'inline-hw-opal' isn't",
        ),
        (
            "/config/requirements",
            json!({"mandatory": "x"}),
            "expected a sequence",
        ),
        ("/segments/0", json!(null), "there is no segment"),
        (
            "/segments/1",
            text()["segments"]["0"].clone(),
            "several segments",
        ),
        ("/segments/x", json!({}), "no decimal number: 'x'"),
        (
            "/segments/0/type",
            json!("linear"),
            "segments of type 'linear' aren't supported",
        ),
        ("/segments/0/type", json!(null), "an object without a type"),
        (
            "/segments/0/offset",
            json!("528384"),
            "starts inside of the header",
        ),
        (
            "/segments/0/offset",
            json!("1048577"),
            "isn't a whole number of sectors",
        ),
        (
            "/segments/0/offset",
            json!("18446744073709551104"),
            "ends where no file does",
        ),
        ("/segments/0/offset", json!(1_048_576), "expected a string"),
        (
            "/segments/0/size",
            json!("513"),
            "isn't a whole number of sectors",
        ),
        (
            "/segments/0/size",
            json!("18446744073709551104"),
            "ends where no file does",
        ),
        ("/segments/0/size", json!("all"), "no decimal number: 'all'"),
        ("/segments/0/iv_tweak", json!(0), "expected a string"),
        ("/segments/0/sector_size", json!(0), "sectors of 0 bytes"),
        (
            "/segments/0/sector_size",
            json!(8192),
            "sectors of 8192 bytes",
        ),
        ("/segments/0/sector_size", json!("512"), "expected u64"),
        (
            "/segments/0/encryption",
            json!("aes"),
            "Unexpected cipher mode string format ''",
        ),
        (
            "/segments/0/encryption",
            json!("aes-xts-eboiv"),
            "IV generator 'eboiv' not supported",
        ),
        (
            "/segments/0/encryption",
            json!("cipher_null-ecb"),
            "Unexpected cipher mode string format 'ecb'",
        ),
        (
            "/segments/0/encryption",
            json!("capi:xts(aes)-plain64"),
            "Unexpected cipher mode string",
        ),
        (
            "/segments/0/encryption",
            json!("rot13-xts-plain64"),
            "Algorithm 'rot13' with key size 32",
        ),
        (
            "/segments/0/integrity",
            json!({"type": "hmac(sha256)"}),
            "with integrity (dm-integrity) aren't",
        ),
        ("/keyslots/32", slot.clone(), "a key slot 32"),
        ("/keyslots/1", slot.clone(), "key slots overlap"),
        ("/keyslots/0/type", json!(7), "an object without a type"),
        (
            "/keyslots/0/key_size",
            json!(0),
            "a key of an invalid length",
        ),
        (
            "/keyslots/0/key_size",
            json!(65),
            "a key of an invalid length",
        ),
        ("/keyslots/0/key_size", json!(1.5), "expected u32"),
        (
            "/keyslots/0/key_size",
            json!(20),
            "Algorithm 'aes' with key size 10 bytes",
        ),
        ("/keyslots/0/priority", json!(3), "an invalid priority"),
        (
            "/keyslots/0/af/stripes",
            json!(4001),
            "has 4001 stripes, not 4000",
        ),
        (
            "/keyslots/0/af/type",
            json!("none"),
            "keeps its key in a way that isn't supported (raw, none)",
        ),
        (
            "/keyslots/0/area/type",
            json!("journal"),
            "(journal, luks1)",
        ),
        (
            "/keyslots/0/area/offset",
            json!("28672"),
            "lies outside of the area of key slots",
        ),
        (
            "/keyslots/0/area/offset",
            json!("401408"),
            "lies outside of the area of key slots",
        ),
        (
            "/keyslots/0/area/offset",
            json!("18446744073709551615"),
            "ends where no file does",
        ),
        (
            "/keyslots/0/area/size",
            json!("253952"),
            "is too short for its stripes",
        ),
        (
            "/keyslots/0/area/key_size",
            json!(4_294_967_295_u32),
            "a key of an invalid length",
        ),
        (
            "/keyslots/0/kdf/type",
            json!("scrypt"),
            "unknown variant `scrypt`",
        ),
        (
            "/keyslots/0/kdf/time",
            json!(4_294_967_296_u64),
            "expected u32",
        ),
        ("/keyslots/0/kdf/salt", json!("?"), "Invalid symbol"),
        (
            "/digests/0",
            json!(null),
            "the disk has no digest of its key",
        ),
        (
            "/digests/1",
            text()["digests"]["0"].clone(),
            "the disk has several digests",
        ),
        (
            "/digests/0/type",
            json!("none"),
            "digests of type 'none' aren't supported",
        ),
        ("/digests/0/digest", json!(""), "is no digest"),
        ("/digests/0/iterations", json!(0), "is no digest"),
        ("/digests/0/segments", json!([0]), "expected a string"),
        (
            "/digests/0/segments",
            json!(["1"]),
            "the disk has no digest of its key",
        ),
    ] {
        let said = said(&with(pointer, value.clone()).to_string());
        assert!(said.contains(message), "{pointer} {value}: {said}");
    }
    for (text, message) in [
        ("", "EOF while parsing"),
        ("[]", "invalid length 0"),
        ("{}{}", "missing field"),
        (
            &format!("{{\"keyslots\": {{\"0\": {}", "[".repeat(10_000)),
            "recursion limit exceeded",
        ),
    ] {
        let said = said(text);
        assert!(said.contains(message), "{said}");
    }
}

/// Costs are checked before the key derivation starts, and a slot that is refused doesn't prevent the use of another.
#[test]
fn costs_have_bounds() {
    for (pointer, value, message) in [
        (
            "/keyslots/0/kdf/memory",
            json!(4_194_305),
            "takes 4194305 KiB of memory for Argon2, more than the 4194304",
        ),
        (
            "/keyslots/0/kdf/time",
            json!(4_294_967_295_u32),
            "takes 4294967295 passes of Argon2 over 32 KiB",
        ),
        ("/keyslots/0/kdf/time", json!(0), "key slot 0: Argon2: "),
        ("/keyslots/0/kdf/memory", json!(7), "key slot 0: Argon2: "),
        ("/keyslots/0/kdf/cpus", json!(5), "key slot 0: Argon2: "),
        (
            "/keyslots/0/kdf/salt",
            json!("c2FsdA=="),
            "key slot 0: Argon2: salt",
        ),
        (
            "/keyslots/0/kdf",
            json!({
                "type": "pbkdf2", "hash": "sha256", "iterations": 4_000_000_000_u32, "salt": ""
            }),
            "takes 4000000000 iterations of PBKDF2",
        ),
        (
            "/keyslots/0/kdf",
            json!({
                "type": "pbkdf2", "hash": "whirlpool", "iterations": 1000, "salt": ""
            }),
            "Hash algorithm 'whirlpool' not supported",
        ),
        (
            "/keyslots/0/af/hash",
            json!("whirlpool"),
            "Hash algorithm 'whirlpool' not supported",
        ),
        (
            "/keyslots/0/area/encryption",
            json!("aes-xts"),
            "Unexpected cipher mode string format 'xts'",
        ),
        (
            "/digests/0/iterations",
            json!(4_000_000_000_u32),
            "the digest of the LUKS2 disk's key takes",
        ),
        (
            "/digests/0/hash",
            json!("whirlpool"),
            "Hash algorithm 'whirlpool' not supported",
        ),
        ("/keyslots/0", json!(null), "LUKS2 disk has no key slot"),
        (
            "/keyslots/0/type",
            json!("reencrypt"),
            "LUKS2 disk has no key slot",
        ),
        (
            "/digests/0/keyslots",
            json!([]),
            "LUKS2 disk has no key slot",
        ),
        (
            "/keyslots/0/priority",
            json!(0),
            "Invalid password, cannot unlock any keyslot",
        ),
    ] {
        let text = with(pointer, value).to_string();
        let bytes = container(&header(&text, 0, 1), &header(&text, LENGTH, 1));
        let header = read(bytes).unwrap().unwrap();
        let error = header
            .unlock(&Secret::new(b"pw".to_vec()))
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{pointer}: {error}");
    }
}
