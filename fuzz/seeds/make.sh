#!/bin/sh
# Makes those images of `image` that come from qemu-img and qemu-io 10.0.2: consistent ones of all kinds,
# as small as they can be. (plain, compressed, extended, snapshot and bitmap are made by hand, and so are
# bochs, cloop, dmg, dmg-lzfse and parallels-extension, which the tools only read; snapshot and bitmap are
# damaged.) The password of the encrypted ones is "cowhide"; the data file is named "data", the backing file
# "base", and neither is here.
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
# The smallest there can be, with grains of one sector: qemu-img makes none below 64 KiB. Grain 0 is data, grain 1
# absent, grain 2 zero, and grain 3 data. The stream has its tables at the end.
put() {
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
make_vmdk() {
    rm -f "$1"
    truncate -s "$3" "$1"
    put "$1" 0 "KDMV$2"
    put "$1" 12 '\010\0\0\0\0\0\0\0\001\0\0\0\0\0\0\0\001\0\0\0\0\0\0\0\001\0\0\0\0\0\0\0\010\0\0\0'
    put "$1" 64 '\004\0\0\0\0\0\0\0\0\n \r\n'
    put "$1" 512 '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="'"$4"'"\nRW 8 SPARSE "x"\n'
}
make_vmdk vmdk '\002\0\0\0\005\0\0\0' 3072 monolithicSparse
put vmdk 56 '\002\0\0\0\0\0\0\0'
put vmdk 1024 '\003\0\0\0'
put vmdk 1536 '\004\0\0\0\0\0\0\0\001\0\0\0\005\0\0\0'
# Not by qemu-io, which writes over all that is behind the descriptor.
head -c 512 /dev/zero | tr '\0' '\332' | dd of=vmdk bs=512 seek=4 conv=notrunc status=none
head -c 512 /dev/zero | tr '\0' '\255' | dd of=vmdk bs=512 seek=5 conv=notrunc status=none
make_vmdk vmdk-stream '\003\0\0\0\001\0\003\0' 6656 streamOptimized
put vmdk-stream 77 '\001'
put vmdk-stream 2048 '\0\0\0\0\0\0\0\0\016\0\0\0\170\234\273\165\153\024\214\144\0\0\365\214\264\020'
put vmdk-stream 2560 '\001\0\0\0\0\0\0\0\0\0\0\0\001'
put vmdk-stream 3072 '\004\0\0\0'
put vmdk-stream 3584 '\001\0\0\0\0\0\0\0\0\0\0\0\002'
put vmdk-stream 4096 '\006\0\0\0'
put vmdk-stream 4608 '\001\0\0\0\0\0\0\0\0\0\0\0\003'
dd if=vmdk-stream of=vmdk-stream bs=512 seek=10 count=1 conv=notrunc status=none
put vmdk-stream 56 '\377\377\377\377\377\377\377\377'
put vmdk-stream 5176 '\010\0\0\0\0\0\0\0'
truncate -s 6144 vmdk-stream
rm -f vmdk-extents
put vmdk-extents 0 '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 8 FLAT "a" 0\nRDONLY 8 ZERO\nRW 8 VMFS "b"\n'

# Those of megabytes, of which a few sectors hold anything.
qemu-img create -q -f vhdx -o block_size=1M,log_size=1M whole 2M
qemu-io -f vhdx -c 'write -q -P 0xda 512 1k' whole
../sectors.py whole vhdx
# The key material is left out: nobody asks for the password.
qemu-img create -q -f luks --object "$secret" -o key-secret=s,iter-time=10 whole 4k
dd if=/dev/zero of=whole bs=4096 seek=1 count=504 conv=notrunc status=none
../sectors.py whole luks
rm whole
