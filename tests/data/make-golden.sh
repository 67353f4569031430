#!/bin/sh
# Makes golden/*.qcow2 with qemu-img and qemu-io 10.0.2. What they hold is written in tests/golden.rs.
set -eu
cd "$(dirname "$0")/golden"
rm -f ./*.qcow2
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=512 v2.qcow2 100k
qemu-io -f qcow2 -c 'write -q -P 0x5a 0x1000 1024' -c 'write -q -P 0xa5 0x18e00 512' v2.qcow2

qemu-img create -q -f qcow2 -o compat=1.1,cluster_size=4k,lazy_refcounts=on v3.qcow2 8M
qemu-io -f qcow2 -c 'write -q -P 0x11 0 4k' -c 'write -q -P 0x22 3M 8k' -c 'write -q -z 3M 4k' \
    -c 'write -q -z -u 1M 4k' v3.qcow2

secret='secret,id=s,data=cowhide password beyond sixteen'
qemu-img create -q -f qcow2 --object "$secret" \
    -o compat=1.1,cluster_size=512,encrypt.format=aes,encrypt.key-secret=s aes.qcow2 64k
qemu-io --object "$secret" --image-opts driver=qcow2,file.filename=aes.qcow2,encrypt.key-secret=s \
    -c 'write -q -P 0x33 0x400 1024'
