#!/bin/sh
# The main job on a real image: encrypt, check, decrypt, compare. Builds cowhide first, or takes the program that
# COWHIDE names.
# Usage: [COWHIDE=PROGRAM] tests/roundtrip.sh [DISK]          (default: tests/data/disk1.img)
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
disk=${1:-$here/tests/data/disk1.img}
cowhide=${COWHIDE:-}
if [ -z "$cowhide" ]; then
    echo "build    cowhide (this takes minutes the first time)"
    cargo build --release --manifest-path "$here/Cargo.toml"
    cowhide=${CARGO_TARGET_DIR:-$here/target}/release/cowhide
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'correct horse battery\n' > "$work/password"

echo "encrypt  $disk"
"$cowhide" convert --encrypt aes --password-file "$work/password" -O qcow2 "$disk" "$work/enc1.qcow2"
"$cowhide" info "$work/enc1.qcow2"
echo "check"
"$cowhide" check "$work/enc1.qcow2"
echo "decrypt"
"$cowhide" convert --password-file "$work/password" "$work/enc1.qcow2" "$work/back.img"
echo "compare"
cmp "$disk" "$work/back.img"
echo "The decrypted image equals the source."
