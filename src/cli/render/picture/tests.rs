//! Tests of pictures, as characters and as SVG.

use super::{Picture, Terminal, svg, terminal};
use crate::commands::map::MapRun;
use crate::formats::{FileUse, Status};
use crate::units::{GuestOffset, HostOffset};

const PLAIN: Terminal = Terminal {
    width: 16,
    colours: false,
    unicode: false,
};

fn run(start: u64, length: u64, status: Status) -> MapRun {
    MapRun {
        start: GuestOffset(start),
        status: Status { length, ..status },
        file: None,
    }
}

fn data(start: u64, length: u64, host: u64) -> MapRun {
    let status = Status {
        present: true,
        data: true,
        offset: Some(HostOffset(host)),
        ..Status::default()
    };
    run(start, length, status)
}

/// Returns the picture of an image of 32 KiB in a file of 16 KiB: data, compressed data, zeroes, data of a backing
/// file, and unallocated space.
fn picture() -> Picture {
    let mut picture = Picture::new("a<b>.qcow2".into(), 0..32 << 10, 16 << 10, 32);
    let compressed = Status {
        present: true,
        data: true,
        compressed: true,
        ..Status::default()
    };
    let zero = Status {
        present: true,
        zero: true,
        ..Status::default()
    };
    let backing = Status {
        present: true,
        data: true,
        depth: 1,
        offset: Some(HostOffset(0)),
        ..Status::default()
    };
    let nothing = Status {
        zero: true,
        ..Status::default()
    };
    for run in [
        data(0, 4 << 10, 4 << 10),
        data(4 << 10, 2 << 10, 12 << 10),
        run(6 << 10, 4 << 10, compressed),
        run(10 << 10, 4 << 10, zero),
        run(14 << 10, 4 << 10, backing),
        run(18 << 10, 14 << 10, nothing),
    ] {
        picture.add(&run);
    }
    picture.add_hole(15 << 10..16 << 10);
    picture
}

/// Returns the same picture, finished, of a format that tells where its metadata is.
fn detailed() -> Picture {
    let mut picture = picture();
    assert!(picture.has_compressed());
    picture.add_part(0..2 << 10, FileUse::Metadata);
    picture.add_part((8 << 10) + 256..11 << 10, FileUse::Compressed);
    picture.finish(true);
    picture
}

#[test]
fn the_file_is_drawn_with_metadata_and_compressed_data() {
    let text = terminal(&detailed(), PLAIN);
    let (_, file) = text.split_once("\n\nfile").unwrap();
    assert_eq!(
        file,
        ": 16 KiB, 512 B a cell, data in 2 pieces with one jump\n\
         TTTTOOOO########\n\
         CCCCCCOO####OO..\n\
         # data 6 KiB\n\
         C compressed 2.75 KiB\n\
         T metadata 2 KiB\n\
         O not used by the disk 4.25 KiB\n\
         . holes 1 KiB\n"
    );
    assert!(svg(&detailed()).contains("metadata 2 KiB"));
}

#[test]
fn the_disk_and_the_file_are_drawn_with_what_they_hold() {
    let mut picture = picture();
    picture.finish(false);
    assert_eq!(
        terminal(&picture, PLAIN),
        "a<b>.qcow2\n\
         \n\
         disk: 32 KiB, 1 KiB a cell\n\
         ######CCCC0000BB\n\
         BB..............\n\
         # data 6 KiB\n\
         C compressed 4 KiB\n\
         B in a backing file 4 KiB\n\
         0 zeroes 4 KiB\n\
         . not stored 14 KiB\n\
         \n\
         file: 16 KiB, 512 B a cell, data in 2 pieces with one jump\n\
         TTTTTTTT########\n\
         TTTTTTTT####TT..\n\
         # data 6 KiB\n\
         T metadata or unused 9 KiB\n\
         . holes 1 KiB\n"
    );
}

#[test]
fn kinds_differ_without_colours_too() {
    let file = |colours| {
        let terminal_of = Terminal {
            colours,
            unicode: true,
            ..PLAIN
        };
        let text = terminal(&detailed(), terminal_of);
        text.split_once("\n\nfile").unwrap().1.to_owned()
    };
    let plain = file(false);
    assert!(
        plain.contains("\nTTTTOOOO████████\nCCCCCCOO████OO··\n"),
        "{plain}"
    );
    assert!(file(true).contains("\u{1b}[32m▒\u{1b}[0m metadata"));
}

#[test]
fn a_little_data_is_seen_among_nothing() {
    let mut picture = Picture::new("x".into(), 0..1 << 30, 0, 16);
    picture.add(&run(0, 1 << 29, Status::default()));
    picture.add(&data(1 << 29, 512, 0));
    picture.add(&run((1 << 29) + 512, (1 << 29) - 512, Status::default()));
    picture.finish(false);
    let text = terminal(&picture, PLAIN);
    assert!(text.contains("\n........+.......\n"), "{text}");
}

#[test]
fn a_drawing_is_xml_whatever_the_name() {
    let text = svg(&detailed());
    assert!(text.contains("a&lt;b&gt;.qcow2"), "{text}");
    assert_eq!(text.matches("<rect").count(), text.matches("fill=").count());
    assert_eq!(
        text.matches("<title>").count(),
        text.matches("</title></rect>").count()
    );
}

#[test]
fn nothing_at_all_has_a_picture_too() {
    let mut picture = Picture::new("x".into(), 0..0, 0, 16);
    picture.finish(false);
    assert!(terminal(&picture, PLAIN).starts_with("x\n"));
    assert!(svg(&picture).ends_with("</svg>\n"));
}
