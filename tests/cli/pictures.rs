//! Tests of the picture that `map` draws of an image.

use std::fs;
use std::path::Path;

use crate::common::{COWHIDE, Noise, cowhide, run, type_at};

/// Creates an image of 16 MiB with 64 KiB clusters: data in the first eighth, zero clusters, and unallocated ones.
fn image(folder: &Path) {
    let mut disk = vec![0; 16 << 20];
    disk[..2 << 20].fill(7);
    fs::write(folder.join("disk.img"), disk).unwrap();
    cowhide(folder, "convert -f raw -O qcow2 disk.img x.qcow2").ok();
}

#[test]
fn a_picture_is_plain_text_where_nobody_sits_at_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    let text = cowhide(folder, "map --output=picture x.qcow2").ok();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("x.qcow2"));
    assert!(text.contains("\ndisk: 16 MiB, 25.6 KiB a cell\n"), "{text}");
    // The data is one of eight rows.
    assert!(
        text.contains(&format!("\n{}\n{}\n", "#".repeat(80), ".".repeat(80))),
        "{text}"
    );
    assert!(
        text.contains("# data 2 MiB   . not stored 14 MiB\n"),
        "{text}"
    );
    assert!(text.contains(", data in one piece\n"), "{text}");
    assert!(text.contains("T metadata "), "{text}");
    assert!(text.is_ascii(), "{text}");
    let unicode = [
        "LC_ALL=C.UTF-8",
        COWHIDE,
        "map",
        "--output=picture",
        "x.qcow2",
    ];
    assert!(run(folder, "env", unicode).ok().contains('█'));
}

#[test]
fn a_terminal_shows_colours_unless_they_are_unwanted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    let shown = type_at(folder, "map --output=picture x.qcow2")
        .exp_eof()
        .unwrap();
    assert!(shown.contains("\u{1b}[34m"), "{shown}");
    let plain = [
        "-c",
        &format!("NO_COLOR=1 exec {COWHIDE} map --output=picture x.qcow2"),
    ]
    .map(str::to_owned);
    let mut shell = std::process::Command::new("sh");
    shell.args(plain).current_dir(folder);
    let shown = rexpect::session::spawn_command(shell, Some(20_000))
        .unwrap()
        .exp_eof()
        .unwrap();
    assert!(
        !shown.contains('\u{1b}') && shown.contains("disk: 16 MiB"),
        "{shown}"
    );
}

#[test]
fn a_drawing_is_one_svg() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    fs::rename(folder.join("x.qcow2"), folder.join("a<&b")).unwrap();
    let text = cowhide(folder, "map --output=svg a<&b").ok();
    assert!(
        text.starts_with("<svg xmlns=") && text.ends_with("</svg>\n"),
        "{text}"
    );
    assert!(text.contains("a&lt;&amp;b"), "{text}");
    for element in ["rect", "text", "title"] {
        let opened = text.matches(&format!("<{element}")).count();
        let closed = text.matches(&format!("</{element}>")).count();
        let start = format!("<{element}");
        let empty = text.split(&start).skip(1);
        let empty = empty
            .filter(|rest| rest.split('>').next().unwrap().ends_with('/'))
            .count();
        assert!(opened > 0 && opened == closed + empty, "{element}: {text}");
    }
}

#[test]
fn a_part_of_the_disk_can_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    let text = cowhide(folder, "map --output=picture -s 1M -l 2M x.qcow2").ok();
    assert!(text.contains("disk: 2 MiB from byte 1048576 on"), "{text}");
    let wrong = cowhide(folder, "map --output=drawing x.qcow2");
    assert_eq!(wrong.status, Some(1));
    assert!(
        wrong
            .stderr
            .contains("--output expects 'human' or 'json' not 'drawing'"),
        "{wrong:?}"
    );
}

#[test]
fn the_file_is_drawn_with_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    let file = |image: &str| {
        let text = cowhide(folder, &format!("map --output=picture {image}")).ok();
        text.split_once("\nfile: ").unwrap().1.to_owned()
    };
    cowhide(folder, "convert -c -f raw -O qcow2 disk.img packed.qcow2").ok();
    let packed = file("packed.qcow2");
    assert!(
        packed.contains("C compressed ") && packed.contains("T metadata "),
        "{packed}"
    );
    // Data of a snapshot alone is neither data of the disk nor metadata.
    cowhide(folder, "snapshot -c s x.qcow2").ok();
    cowhide(folder, "convert -n -f raw -O qcow2 disk.img x.qcow2").ok();
    let kept = file("x.qcow2");
    assert!(kept.contains("O not used by the disk 2 MiB"), "{kept}");
}

/// Returns the picture of an image's file, after the heading of the picture.
fn drawn_file(folder: &Path, args: &str) -> String {
    let text = cowhide(folder, &format!("map --output=picture {args}")).ok();
    text.split_once("\nfile: ").unwrap().1.to_owned()
}

#[test]
fn the_tables_of_other_formats_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), Noise(61).bytes(64 << 10)).unwrap();
    cowhide(folder, "convert -f raw -O qcow disk.img x.qcow").ok();
    // The header and the L1 table in 56 bytes, unused space, an L2 table of 4 KiB, and 16 clusters.
    let data = "#".repeat(64);
    assert_eq!(
        drawn_file(folder, "x.qcow"),
        format!(
            "72 KiB, 512 B a cell, data in one piece\n\
             OOOOOOOOTTTTTTTT{data}\n\
             {data}\n\
             # data 64 KiB   T metadata 4.05 KiB   O not used by the disk 3.95 KiB\n"
        )
    );
    // The footer follows the disk.
    let fixed = "convert -f raw -O vpc -o subformat=fixed,force_size=on disk.img x.vpc";
    cowhide(folder, fixed).ok();
    assert_eq!(
        drawn_file(folder, "-f vpc x.vpc"),
        format!(
            "64.5 KiB, 512 B a cell, data in one piece\n\
             {}\n{}T\n\
             # data 64 KiB   T metadata 512 B\n",
            "#".repeat(80),
            "#".repeat(48)
        )
    );
    // Grains that don't get smaller, each with a marker, between the tables.
    let stream = "convert -f raw -O vmdk -o subformat=streamOptimized disk.img x.vmdk";
    cowhide(folder, stream).ok();
    let vmdk = drawn_file(folder, "x.vmdk");
    assert!(
        vmdk.contains("C compressed 64.5 KiB   T metadata "),
        "{vmdk}"
    );
    assert!(!vmdk.contains("unused"), "{vmdk}");
}

/// Encrypted data has no offset in the other reports, since the bytes there aren't those that the guest sees.
#[test]
fn encrypted_data_is_drawn_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    fs::write(folder.join("password"), "correct horse").unwrap();
    for (format, options) in [
        ("luks", "key-secret=s,iter-time=10"),
        (
            "qcow2",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ),
        ("qcow2", "encrypt.format=aes,encrypt.key-secret=s"),
    ] {
        let line = format!(
            "convert -q -f raw -O {format} --object secret,id=s,file=password -o {options} disk.img x"
        );
        // The other one warns.
        assert_eq!(cowhide(folder, &line).status, Some(0));
        let args = format!("-f {format} --password-file password x");
        let drawn = drawn_file(folder, &args);
        assert!(drawn.contains("# data "), "{options}: {drawn}");
        assert!(!drawn.contains("unused"), "{options}: {drawn}");
        assert!(drawn.contains("T metadata "), "{options}: {drawn}");
    }
}

/// The picture is that of the file with the data, and of several such files that of the last one.
#[test]
fn of_several_files_the_one_with_data_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("disk.img"), Noise(62).bytes(4 << 20)).unwrap();
    for (format, options) in [
        ("qcow2", "data_file=x.data"),
        ("vmdk", "subformat=monolithicFlat"),
    ] {
        let line = format!("convert -f raw -O {format} -o {options} disk.img x.{format}");
        cowhide(folder, &line).ok();
        let drawn = drawn_file(folder, &format!("x.{format}"));
        assert!(drawn.starts_with("4 MiB, "), "{drawn}");
        assert!(drawn.ends_with("\n# data 4 MiB\n"), "{drawn}");
    }
    // Two extents.
    let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                createType=\"twoGbMaxExtentFlat\"\n";
    let extents = "RW 4096 FLAT \"one\" 0\nRW 2048 FLAT \"other\" 0\nRW 2048 FLAT \"other\" 2048\n";
    fs::write(folder.join("two.vmdk"), format!("{head}{extents}")).unwrap();
    for name in ["one", "other"] {
        fs::write(folder.join(name), Noise(63).bytes(2 << 20)).unwrap();
    }
    let drawn = drawn_file(folder, "two.vmdk");
    assert!(drawn.starts_with("2 MiB, "), "{drawn}");
    assert!(drawn.ends_with("\n# data 2 MiB\n"), "{drawn}");
}

#[test]
fn a_detached_header_is_not_drawn_as_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    image(folder);
    fs::write(folder.join("password"), "correct horse").unwrap();
    let object = "--object secret,id=s,file=password";
    let line = format!(
        "create -q {object} -f luks -o key-secret=s,iter-time=10,detached-header=on head 0"
    );
    cowhide(folder, &line).ok();
    let opts = "driver=luks,key-secret=s,file.filename=disk.img,header.filename=head";
    let drawn = drawn_file(folder, &format!("{object} --image-opts {opts}"));
    assert!(drawn.starts_with("16 MiB, "), "{drawn}");
    assert!(drawn.ends_with("\n# data 16 MiB\n"), "{drawn}");
}
