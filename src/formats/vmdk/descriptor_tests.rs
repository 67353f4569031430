//! Tests of valid and invalid descriptors.

use super::*;

const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=633b8e65\nparentCID=ffffffff\n\
                    createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n\
                    RW 4194304 FLAT \"a.b-f001.vmdk\" 0\nRW 10 FLAT \"a.b-f002.vmdk\" 128\n\n\
                    # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\n";

fn parsed(text: &str) -> DiskDescriptor {
    DiskDescriptor::parse(text.as_bytes()).unwrap()
}

fn refused(text: &str) -> String {
    let error = DiskDescriptor::parse(text.as_bytes()).unwrap_err();
    error.to_string()
}

#[test]
fn a_descriptor_of_qemu_is_read() {
    let found = parsed(TEXT);
    assert_eq!((found.cid, found.parent_cid), (0x633b_8e65, NO_PARENT));
    assert_eq!(found.create_type, "twoGbMaxExtentFlat");
    assert_eq!(found.parent, None);
    assert_eq!(found.sectors(), Some(4_194_314));
    let [first, second] = &found.extents[..] else {
        panic!("{:?}", found.extents);
    };
    assert_eq!(first.name, b"a.b-f001.vmdk");
    assert_eq!((second.sectors, second.offset), (10, 128));
    found.check_separate().unwrap();
    // Bytes after a NUL are ignored.
    assert_eq!(parsed(&format!("{TEXT}\0\nRW 1 FLAT \"c\" 0\n")), found);
}

#[test]
fn case_blanks_line_ends_and_order_make_no_difference() {
    let found = parsed(TEXT);
    assert_eq!(parsed(&TEXT.replace('\n', "\r\n")), found);
    assert_eq!(parsed(&TEXT.replace('=', " = ")), found);
    assert_eq!(
        parsed(&TEXT.replace("RW 10 FLAT", "rw\t 10\tflat  ")),
        found
    );
    assert_eq!(
        parsed(
            &TEXT
                .replace("CID", "cid")
                .replace("createType", "CREATETYPE")
        ),
        found
    );
    assert_eq!(parsed(&TEXT.replace(" 128\n", " 128 and more \n")), found);
    // A blank line before an extent doesn't count it twice, and `parentCID` isn't taken for `CID`.
    assert_eq!(parsed(&TEXT.replace("\nRW", "\n\nRW")), found);
    let swapped = TEXT.replace(
        "CID=633b8e65\nparentCID=ffffffff",
        "parentCID=ffffffff\nCID=633b8e65",
    );
    assert_eq!(parsed(&swapped), found);
}

#[test]
fn every_extent_counts() {
    let lines = "RDONLY 5 FLAT \"r\" 0\nNOACCESS 6 ZERO\nRW 7 SPARSE \"s\"\nRW 8 VMFS \"v\"\n\
                 RW 9 VMFSSPARSE \"w\"\nRW 10 SESPARSE \"x\"\n";
    let found = parsed(&TEXT.replace("RW 10 FLAT \"a.b-f002.vmdk\" 128\n", lines));
    assert_eq!(found.sectors(), Some(4_194_304 + 45));
    let kinds: Vec<_> = found
        .extents
        .iter()
        .map(|extent| extent.kind.name())
        .collect();
    let expected = [
        "FLAT",
        "FLAT",
        "ZERO",
        "SPARSE",
        "VMFS",
        "VMFSSPARSE",
        "SESPARSE",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(found.extents[1].access, ExtentAccess::ReadOnly);
    assert_eq!(found.extents[2].access, ExtentAccess::None);
}

#[test]
fn wrong_lines_are_errors() {
    for line in [
        "RW x FLAT \"a\" 0",
        "RW 1 FLAT \"a\"",
        "RW 1 FLAT \"a\" -1",
        "RW 1 FLAT a 0",
        "RW 1 FLAT \"a",
        "RW 1 FLAT \"\" 0",
        "RW 1 SPARSE \"a\" 5",
        "RW 1 VMFSRDM \"a\"",
        "RW 1 BOGUS \"a\"",
        "RW 1",
        "RW",
    ] {
        let message = refused(&format!("{TEXT}{line}\n"));
        assert_eq!(message, format!("Invalid extent line: {line}"));
    }
}

#[test]
fn missing_keys_are_errors() {
    for key in ["CID=633b8e65\n", "createType=\"twoGbMaxExtentFlat\"\n"] {
        assert_eq!(
            refused(&TEXT.replacen(key, "", 1)),
            "invalid VMDK image descriptor"
        );
    }
    assert_eq!(
        refused(&TEXT.replace("633b8e65", "bogus")),
        "invalid VMDK image descriptor"
    );
    assert_eq!(refused("x"), "File is too small, not a valid image");
    let orphan = TEXT.replace("parentCID=ffffffff", "parentCID=12345678");
    assert!(refused(&orphan).contains("doesn't say its name"));
    assert!(refused(&TEXT.replace("version=1", "version=4")).contains("VMDK version 4"));
    let many = format!("{TEXT}{}", "RW 1 ZERO\n".repeat(MOST_EXTENTS));
    assert!(refused(&many).contains("more than 4096 extents"));
}

#[test]
fn a_parent_has_a_name() {
    let child = TEXT.replace("\n\n# Extent", "\nparentFileNameHint=\"a b\"\n\n# Extent");
    assert_eq!(parsed(&child).parent.as_deref(), Some(&b"a b"[..]));
}

#[test]
fn only_known_kinds_of_images_have_a_descriptor_of_their_own() {
    let check = |name: &str| {
        let checked = parsed(&TEXT.replace("twoGbMaxExtentFlat", name)).check_separate();
        checked.map_err(|error| error.to_string())
    };
    for name in [
        "monolithicFlat",
        "vmfs",
        "vmfsSparse",
        "seSparse",
        "twoGbMaxExtentSparse",
    ] {
        check(name).unwrap();
    }
    for name in ["custom", "monolithicSparse", "fullDevice"] {
        assert_eq!(
            check(name).unwrap_err(),
            format!("Unsupported image type '{name}'")
        );
    }
}

#[test]
fn a_file_is_taken_for_a_descriptor_as_by_qemu() {
    for text in [
        "version=1\n",
        "# a\n#b\r\nversion=3\r\n",
        "#\n  \nversion=2\n",
    ] {
        assert!(is_descriptor(text.as_bytes()), "{text:?}");
    }
    for text in [
        "",
        "#",
        "#\n\nversion=1\n",
        "\nversion=1\n",
        "version=1",
        "version=4\n",
        "encoding=\"x\"\nversion=1\n",
        "version = 1\n",
        "#\n\tversion=1\n",
    ] {
        assert!(!is_descriptor(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn the_digits_of_the_id_are_found() {
    for text in [
        TEXT.to_owned(),
        TEXT.replace('=', " = "),
        TEXT.replace("CID", "cid"),
    ] {
        let place = place_of_id(text.as_bytes(), "CID").unwrap();
        assert_eq!(text[place], *"633b8e65");
    }
    assert_eq!(place_of_id(b"parentCID=1\n", "CID"), None);
    let place = place_of_id(TEXT.as_bytes(), "parentCID").unwrap();
    assert_eq!(TEXT[place], *"ffffffff");
}
