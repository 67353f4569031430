#!/bin/sh
# Makes those images of `image` that come from qemu-img and qemu-io 10.0.2: consistent ones of all kinds,
# as small as they can be. (plain, compressed, extended, snapshot and bitmap are made by hand; the last two
# are damaged.) The password of the encrypted one is "cowhide"; the data file is named "data", the backing
# file "base", and neither is here.
#
# What has subclusters can't be below 80 KiB, since its clusters have 16 KiB each: header, refcount
# table, refcount block, L1 table and L2 table need one each.
set -eu
cd "$(dirname "$0")/image"
make() {
    rm -f "$1"
    qemu-img create -q -f qcow2 -o "$2" "$1" 32k
    qemu-io -f qcow2 -c 'write -q -P 0xda 512 1k' -c 'write -q -z 8k 1k' "$1"
}
make v2 cluster_size=512,compat=0.10
make lazy cluster_size=512,lazy_refcounts=on
# The dirty bit, as it is while the image is written to.
printf '\001' | dd of=lazy bs=1 seek=79 conv=notrunc status=none
make narrow cluster_size=512,refcount_bits=1
make wide cluster_size=512,refcount_bits=64
make data-file cluster_size=512,data_file=data
truncate -s 32k base
make backing cluster_size=512,backing_file=base,backing_fmt=raw
rm data base

secret='secret,id=s,data=cowhide'
rm -f aes
qemu-img create -q -f qcow2 --object "$secret" \
    -o cluster_size=512,encrypt.format=aes,encrypt.key-secret=s aes 32k
qemu-io --object "$secret" --image-opts driver=qcow2,file.filename=aes,encrypt.key-secret=s \
    -c 'write -q -P 0xda 512 1k' -c 'write -q -z 8k 1k'

seq 600 >text
truncate -s 32k text
rm -f zstd zlib
qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k,compression_type=zstd text zstd
qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k text zlib
rm text

# A snapshot that shares one cluster of two with the disk, and a bitmap with bits.
make all cluster_size=512
qemu-img snapshot -c before all
qemu-img bitmap --add -g 512 all bits
qemu-io -f qcow2 -c 'write -q -P 0xad 1k 1k' -c 'write -q -z 9k 1k' all

# Blocks have 1 MiB; of the last one only the 4 KiB are there that the disk has. Identifiers are fixed.
make_vdi() {
    rm -f "$1"
    qemu-img create -q -f vdi -o "static=$2" "$1" "$3"
    printf '0123456789abcdef0123456789ABCDEF' | dd of="$1" bs=1 seek=392 conv=notrunc status=none
}
make_vdi vdi off 3149824
qemu-io -f vdi -c 'write -q -P 0xda 3145728 4k' vdi
# The second block was given back.
printf '\376' | dd of=vdi bs=1 seek=516 conv=notrunc status=none
truncate -s 5120 vdi
make_vdi vdi-static on 4k
qemu-io -f vdi -c 'write -q -P 0xda 512 1k' vdi-static
truncate -s 5120 vdi-static

# Blocks have 4 KiB instead of 2 MiB, which the table has room for: 9 of them make the smallest disk, 34 KiB.
rm -f vpc vpc-fixed
qemu-img create -q -f vpc vpc 34k
printf '\0\0\0\011\0\0\020\0' | dd of=vpc bs=1 seek=540 conv=notrunc status=none
qemu-io -f vpc -c 'write -q -P 0xda 8k 5k' vpc
qemu-img create -q -f vpc -o subformat=fixed,force_size=on vpc-fixed 4k
qemu-io -f vpc -c 'write -q -P 0xda 512 1k' vpc-fixed
# QED's smallest tables that QEMU opens have two clusters; the last cluster of the disk is short.
make_qed() {
    rm -f "$1"
    qemu-img create -q -f qed -o "cluster_size=4k,table_size=2$3" "$1" "$2"
    qemu-io -f qed -c 'write -q -P 0xda 512 1k' -c 'write -q -z 8k 4k' "$1"
}
truncate -s 32k base
make_qed qed 33280 ""
make_qed qed-backing 32k ,backing_file=base,backing_fmt=raw
# The mark of an image that has to be checked.
printf '\007' | dd of=qed-backing bs=1 seek=16 conv=notrunc status=none

rm -f qcow qcow-zlib qcow-backing qcow-aes
qemu-img create -q -f qcow qcow 33280
qemu-io -f qcow -c 'write -q -P 0xda 512 1k' qcow
seq 600 >text
truncate -s 8k text
# It ends with an error, and the image is whole.
qemu-img convert -c -f raw -O qcow text qcow-zlib || true
rm text
qemu-img create -q -f qcow -o backing_file=base,backing_fmt=raw qcow-backing 32k
rm base
qemu-img create -q -f qcow --object "$secret" \
    -o encrypt.format=aes,encrypt.key-secret=s qcow-aes 32k
qemu-io --object "$secret" --image-opts driver=qcow,file.filename=qcow-aes,encrypt.key-secret=s \
    -c 'write -q -P 0xda 512 1k'

rm -f parallels parallels-old
qemu-img create -q -f parallels -o cluster_size=1k parallels 32256
qemu-io -f parallels -c 'write -q -P 0xda 512 1k' -c 'write -q -P 0xad 31k 512' parallels
# The older form, which counts sectors, in use.
cp parallels parallels-old
printf 'WithoutFreeSpace' | dd of=parallels-old bs=1 conv=notrunc status=none
printf 'Yont' | dd of=parallels-old bs=1 seek=44 conv=notrunc status=none
