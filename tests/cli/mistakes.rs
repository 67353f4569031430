//! Tests of common mistakes: the first line is that of `qemu-img`, and lines of help follow.

use std::fs;
use std::path::Path;

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
            "cowhide convert: unrecognized option '--encript'\nDid you mean '--encrypt'?\n\
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
             the suffixes k, M, G, T, P and E (powers of 1024), as in 1.5G.\n",
        ),
        (
            "create x -5G",
            "cowhide create: invalid option -- '5'\n'-5G' was read as options; write '-- -5G' for an \
             operand\nTry 'cowhide create --help' for more info\n",
        ),
        (
            "convert --encrypt disk.img y",
            "cowhide: --encrypt does not accept value 'disk.img': the formats of encryption are aes \
             and luks\nTry 'cowhide convert --help' for more info\n",
        ),
        // All are listed for a name without a similar one.
        (
            "create -f frob x 1M",
            "cowhide: x: Unknown file format 'frob'\n\
             The formats are luks, parallels, qcow, qcow2, qed, raw, vdi, vhdx, vmdk, vpc\n",
        ),
        (
            "create -f vhd x 1M",
            "cowhide: x: Unknown file format 'vhd'\nDid you mean 'vpc'?\n",
        ),
        (
            "info -f qcow3 disk.img",
            "cowhide: Could not open 'disk.img': Unknown driver 'qcow3'\nDid you mean 'qcow2'?\n",
        ),
        (
            "info --image-opts disk.img",
            "cowhide: Could not open 'disk.img': Cannot find device='disk.img' nor node-name='disk.img'\n\
             A file is named by driver=FORMAT,file.filename=NAME\n",
        ),
        (
            "info foo:bar",
            "cowhide: Could not open 'foo:bar': Unknown protocol 'foo'\n\
             The protocols are file, host_cdrom, host_device, null-co. A file with a colon in its name is \
             './NAME'\n",
        ),
        (
            "dd disk.img y",
            "cowhide: unrecognized operand disk.img\n\
             The operands are if=FILE, of=FILE, bs=SIZE, count=BLOCKS and skip=BLOCKS\n",
        ),
        (
            "convert -t writback disk.img y",
            "cowhide: Invalid cache option: writback\n\
             The cache modes are none, writeback, writethrough, directsync, unsafe, auto\n",
        ),
        (
            "convert -m x disk.img y",
            "cowhide: Invalid number of coroutines specified: 'x'.\nTry 'cowhide convert --help' for more info\n",
        ),
        (
            "convert",
            "cowhide: Must specify image file name\nTry 'cowhide convert --help' for more info\n",
        ),
        (
            "convert -O qcow2 -o preallocation=fulll disk.img y",
            "cowhide: y: error while converting qcow2: Parameter 'preallocation' does not accept value \
             'fulll'\nThe values of 'preallocation' are off, metadata, falloc, full\n",
        ),
        (
            "convert -O qcow2 --encrypt luks disk.img y",
            "cowhide: y: error while converting qcow2: Parameter 'encrypt.key-secret' is required for \
             cipher\nGive the password by --password-file FILE, --password-fd N, or --object \
             secret,id=ID,file=FILE and encrypt.key-secret=ID\n",
        ),
        (
            "info --object scret,id=s disk.img",
            "cowhide: Parameter 'qom-type' does not accept value 'scret'\n\
             The form is --object secret,id=ID,file=FILE; 'secret,help' lists what else there is\n",
        ),
    ] {
        complains(folder, args, expected);
    }
}

#[test]
fn a_format_that_was_not_given_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [0; 4096]).unwrap();
    for (args, message, option, able) in [
        (
            "convert -c disk.img y",
            "Compression not supported for this file format",
            "-O",
            "qcow, qcow2, vmdk",
        ),
        (
            "convert -o cluster_size=4k disk.img y",
            "Invalid parameter 'cluster_size'",
            "-O",
            "parallels, qcow2, qed",
        ),
        (
            "convert --encrypt luks disk.img y",
            "format 'raw' can't be encrypted",
            "-O",
            "qcow, qcow2",
        ),
        (
            "create -b disk.img -F raw y",
            "y: Backing file not supported for file format 'raw'",
            "-f",
            "qcow, qcow2, qed, vmdk",
        ),
    ] {
        let expected = format!(
            "cowhide: {message}\nThe format is raw, since there is no {option}; these can do it: {able}\n"
        );
        complains(folder, args, &expected);
    }
    complains(
        folder,
        "convert -O vdi -c disk.img y",
        "cowhide: Compression not supported for this file format\n\
         Formats that can do it: qcow, qcow2, vmdk\n",
    );
}

#[test]
fn sizes_and_names_in_each_others_place_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [0; 4096]).unwrap();
    for (args, help) in [
        ("create 10G y", "'y 10G'"),
        ("create -f qcow2 10G", "'NAME 10G'"),
        ("create y", "'y SIZE'"),
        ("resize +10G disk.img", "'disk.img +10G'"),
    ] {
        let ran = cowhide(folder, args);
        let help = format!("The size follows the name of the image: {help}");
        assert_eq!(ran.status, Some(1), "{args}");
        assert_eq!(ran.stderr.lines().nth(1), Some(&*help), "{args}: {ran:?}");
    }
}

#[test]
fn options_and_subcommands_of_another_name_or_place_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), [0; 4096]).unwrap();
    for (args, help) in [
        ("ls disk.img", "Did you mean 'info'?"),
        ("INFO disk.img", "Did you mean 'info'?"),
        ("help", "Did you mean '--help'?"),
        ("info --json disk.img", "Did you mean '--output=json'?"),
        ("convert -e disk.img y", "Did you mean '--encrypt'?"),
        (
            "convert -p=json disk.img y",
            "Only long options have a value after '='",
        ),
        (
            "-f raw info disk.img",
            "Options of a subcommand stand after its name",
        ),
        (
            "--quiet info disk.img",
            "Options of a subcommand stand after its name",
        ),
        (
            "info --error-format=json disk.img",
            "This option stands before the subcommand",
        ),
        ("info -V", "This option stands before the subcommand"),
        (
            "resize -10G disk.img",
            "'-10G' is read as a size only after the image's name",
        ),
    ] {
        let ran = cowhide(folder, args);
        assert_eq!(ran.status, Some(1), "{args}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.get(1), Some(&help), "{args}: {ran:?}");
        assert_eq!(lines.len(), 3, "{args}: {ran:?}");
    }
}

/// Asserts that a command fails with these lines, and changes nothing.
fn complains(folder: &Path, args: &str, expected: &str) {
    let ran = cowhide(folder, args);
    assert_eq!((ran.status, &*ran.stderr), (Some(1), expected), "{args}");
    let mut names = fs::read_dir(folder).unwrap();
    assert_eq!(names.by_ref().count(), 1, "{args} left something");
}
