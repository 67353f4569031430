//! How images and secrets are named: every spelling means the same to both tools.

use std::path::Path;

use libtest_mimic::Trial;

use crate::common::write_disk;
use crate::matrix::{Tool, ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("names::secrets", secrets)]
}

fn disk(folder: &Path) {
    write_disk(&folder.join("disk.raw"), 1_000_960, 5);
}

/// An image that one tool encrypts under one spelling of a password is read by the other under
/// another.
fn secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    std::fs::write(folder.join("plain"), "secret").unwrap();
    std::fs::write(folder.join("base64"), "c2Vj\ncmV0\n").unwrap();
    std::fs::write(folder.join("sealed"), "SzSzroeOvT55AkwGz7RGWg==\n").unwrap();
    let master = "secret,id=m,data=a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=,format=base64";
    let iv = "keyid=m,iv=aWlpaWlpaWlpaWlpaWlpaQ==";
    let spellings = [
        "secret,id=s,data=secret".to_owned(),
        "secret,id=s,file=plain".to_owned(),
        "secret,id=s,format=base64,file=base64".to_owned(),
        r#"{"qom-type":"secret","id":"s","format":"raw","data":"secret"}"#.to_owned(),
        format!("secret,id=s,format=base64,file=sealed,{iv}"),
        format!("secret,id=s,format=base64,data=SzSzroeOvT55AkwGz7RGWg==,{iv}"),
    ];
    let tools: [Tool; 2] = [ours, qemu_img];
    for (number, spelling) in spellings.iter().enumerate() {
        let image = format!("{number}.qcow2");
        let keys = ["--object", master, "--object", spelling];
        let options = ["-o", "encrypt.format=aes,encrypt.key-secret=s"];
        let convert = [
            &["convert", "-O", "qcow2"][..],
            &keys,
            &options,
            &["disk.raw", &image],
        ]
        .concat();
        tools[number % 2](folder, &convert).ok();
        let image = format!("driver=qcow2,file.filename={image},encrypt.key-secret=s");
        for tool in tools {
            let other = spellings.iter().nth_back(number).unwrap();
            let keys = ["--object", master, "--object", other];
            let back = [
                &["convert"][..],
                &keys,
                &["--image-opts", &image, "back.raw"],
            ]
            .concat();
            tool(folder, &back).ok();
            let same = std::fs::read(folder.join("back.raw")).unwrap()
                == std::fs::read(folder.join("disk.raw")).unwrap();
            assert!(same, "{spelling} {other}");
        }
    }
}
