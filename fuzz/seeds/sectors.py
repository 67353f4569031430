#!/usr/bin/env python3
"""Writes the sectors of an image that hold anything, in the form that fuzz/lib.rs reads: sectors.py IMAGE SEED

The last sector is there whatever it holds, so that the image keeps its length.
"""
import struct
import sys

SECTOR = 512

with open(sys.argv[1], "rb") as image:
    data = image.read()
sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
used = [index for index, sector in enumerate(sectors) if any(sector) or index == len(sectors) - 1]
with open(sys.argv[2], "wb") as seed:
    seed.write(b"sectors\n")
    for index in used:
        seed.write(struct.pack("<IH", index, 1) + sectors[index].ljust(SECTOR, b"\0"))
