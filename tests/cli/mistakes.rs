//! Tests of common mistakes: the first line is that of `qemu-img`, and lines of help follow.

use std::fs;

use crate::common::cowhide;

#[test]
fn a_mistake_is_answered_in_three_lines_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [0; 4096]).unwrap();
    for (args, expected) in [
        (
            "convrt a b",
            "cowhide: Command not found: convrt\nDid you mean 'convert'?\n\
             Try 'cowhide --help' for more info\n",
        ),
        (
            "info --encript x",
            "cowhide info: unrecognized option '--encript'\nTry 'cowhide info --help' for more info\n",
        ),
        (
            "convert --encript aes a b",
            "cowhide convert: unrecognized option '--encript'\nDid you mean 'encrypt'?\n\
             Try 'cowhide convert --help' for more info\n",
        ),
        (
            "create -f vhdxx x 1M",
            "cowhide: x: Unknown file format 'vhdxx'\nDid you mean 'vhdx'?\n",
        ),
        (
            "convert -O vhdxx disk.img y",
            "cowhide: Unknown file format 'vhdxx'\nDid you mean 'vhdx'?\n",
        ),
        (
            "create -f qcow2 -o clustersize=64k x 1M",
            "cowhide: x: Invalid parameter 'clustersize'\nDid you mean 'cluster_size'?\n",
        ),
        (
            "create x 10GB",
            "cowhide: Invalid image size specified: '10GB'.\nA size is a number of bytes, or has one of \
             the suffixes k, M, G, T, P and E (powers of 1024).\n",
        ),
        (
            "create x -5G",
            "cowhide create: invalid option -- '5'\n'-5G' was read as options; write '-- -5G' for an \
             operand\nTry 'cowhide create --help' for more info\n",
        ),
        (
            "convert --encrypt disk.img y",
            "cowhide: --encrypt does not accept value 'disk.img': the formats of encryption are aes and luks\n",
        ),
        // Nothing is suggested for a name without a similar one.
        (
            "create -f frob x 1M",
            "cowhide: x: Unknown file format 'frob'\n",
        ),
    ] {
        let ran = cowhide(folder, args);
        assert_eq!((ran.status, &*ran.stderr), (Some(1), expected), "{args}");
        let mut names = fs::read_dir(folder).unwrap();
        assert_eq!(names.by_ref().count(), 1, "{args} left something");
    }
}
