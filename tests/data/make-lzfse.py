#!/usr/bin/env python3
"""Makes lzfse/ by the reference implementation of LZFSE: pip install pyliblzfse, of version 0.4.1.

What is compressed is made here, and in src/formats/dmg/lzfse/tests.rs once more.
"""

import pathlib
import liblzfse


def noise(count, below):
    """The same numbers everywhere, by a linear congruential generator."""
    state, numbers = 7, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        numbers.append((state >> 33) % below)
    return numbers


WORDS = [b"block ", b"chunk ", b"a ", b"of zeroes, ", b"disk", b"\n", b"literals and ", b"Q"]


def text(length):
    words = b"".join(WORDS[number] for number in noise(length, len(WORDS)))
    return words[:length]


SAMPLES = {
    # Too short for anything but LZVN.
    "short": text(700),
    # Several blocks, with matches across them.
    "long": text(60000) + bytes(noise(12000, 40)) + text(60000) + bytes(70000),
    # Nothing to be made smaller: one block as it is.
    "noise": bytes(noise(5000, 256)),
    "one_byte": b"x",
    # One symbol has all states.
    "zeroes": bytes(100000),
}

folder = pathlib.Path(__file__).parent / "lzfse"
for name, sample in SAMPLES.items():
    stream = liblzfse.compress(sample)
    assert liblzfse.decompress(stream) == sample
    marks = [mark for mark in (b"bvx-", b"bvx2", b"bvxn", b"bvx$") if mark in stream]
    print(name, len(sample), len(stream), marks)
    (folder / f"{name}.lzfse").write_bytes(stream)
