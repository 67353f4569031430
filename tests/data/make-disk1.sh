#!/bin/sh
# Makes disk1.img: an ext4 file system with directories, text, a sparse file and random bytes.
# Needs mke2fs and debugfs of e2fsprogs 1.47 or later. Random bytes come from a fixed cipher stream.
set -eu
cd "$(dirname "$0")"
export E2FSPROGS_FAKE_TIME=1767225600 TZ=UTC LC_ALL=C
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/etc" "$tree/home/user/notes" "$tree/var/log" "$tree/boot"
cp ../../LICENSE "$tree/etc/LICENSE"
printf 'cowhide\n' > "$tree/etc/hostname"
i=0
while [ $i -lt 40 ]; do
    printf 'Note %s\n\nA disk image is a file that stands for a disk.\n' $i > "$tree/home/user/notes/$i.txt"
    i=$((i + 1))
done
seq 1 20000 | sed 's/^/2026-01-01T00:00:00Z event /' > "$tree/var/log/events.log"
openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c 200000 > "$tree/boot/random.bin"
truncate -s 300000 "$tree/var/sparse.dat"
printf 'end' >> "$tree/var/sparse.dat"
find "$tree" -exec touch -h -d @1767225600 {} +
rm -f disk1.img
mke2fs -q -t ext4 -b 1024 -N 96 -O ^has_journal,^metadata_csum_seed -L cowhide \
    -U 6f0c5a2e-58a1-4d0e-9a53-0d6b3c1f7e11 -E hash_seed=6f0c5a2e-58a1-4d0e-9a53-0d6b3c1f7e12,root_owner=0:0 \
    -d "$tree" disk1.img 1440
e2fsck -fn disk1.img >/dev/null 2>&1
