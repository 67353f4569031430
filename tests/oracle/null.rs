//! Tests of the protocol `null-co`, which has a size and no data.

use std::fs;

use libtest_mimic::Trial;

use crate::common::{Ran, write_disk};
use crate::tools::{ours, qemu_img};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("null::answers", answers),
        trial("null::is_converted", is_converted),
    ]
}

fn said(ran: &Ran) -> (Option<i32>, String, String) {
    let stderr = ran.stderr.replace("qemu-img: ", "cowhide: ");
    (ran.status, ran.stdout.clone(), stderr)
}

/// Checks that reports, refusals and discarded writes are the same.
fn answers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_032, 5);
    fs::write(folder.join("zeroes.raw"), [0; 8192]).unwrap();
    for call in [
        "info null-co://",
        "info -f raw null-co://",
        "info -f null-co null-co://",
        "info null-co://x",
        "info null-co:",
        "info -f null-co disk.raw",
        "convert -f null-co disk.raw x",
        "info --output=json null-co://",
        "info --image-opts driver=null-co",
        "info --image-opts driver=null-co,size=1M",
        "info --image-opts driver=null-co,size=0",
        "info --image-opts driver=null-co,size=9223372035781033984",
        "info --image-opts driver=null-co,size=9223372036854774784",
        "info --image-opts driver=null-co,size=9223372036854775807",
        "info --image-opts driver=null-co,size=1M,read-zeroes=off,latency-ns=5",
        "info --image-opts driver=null-co,latency-ns=-1",
        "info --image-opts driver=null-co,latency-ns=9223372036854775808",
        "info --image-opts driver=null-co,zoo=1",
        "info --image-opts driver=null-co,filename=x",
        "info --image-opts driver=null-co,size=1k,locking=on",
        "info --image-opts driver=raw,offset=1k,file.driver=null-co,file.size=1M",
        "info --image-opts driver=qcow2,file.driver=null-co,file.size=1M",
        "info --output=json --image-opts driver=raw,file.driver=null-co,file.size=1M,\
         file.read-zeroes=on",
        r#"info json:{"driver":"null-co","size":"1M"}"#,
        r#"info json:{"driver":"null-co","size":1048577,"read-zeroes":true,"latency-ns":5}"#,
        r#"info json:{"driver":"null-co","latency-ns":-1}"#,
        r#"info json:{"driver":"raw","file":{"driver":"null-co","size":4096}}"#,
        "map --output=json --image-opts driver=null-co,size=1M,read-zeroes=on",
        "map --image-opts driver=null-co,size=1M,read-zeroes=on",
        "check --image-opts driver=null-co,size=1M",
        "compare --image-opts driver=null-co,size=8k,read-zeroes=on driver=null-co,size=8k,\
         read-zeroes=on",
        "compare --image-opts driver=null-co,size=8k,read-zeroes=on driver=null-co,size=16k,\
         read-zeroes=on",
        "compare --image-opts driver=null-co,size=8k,read-zeroes=on driver=file,\
         filename=zeroes.raw",
        "compare --image-opts driver=null-co,size=8k,read-zeroes=on driver=file,filename=disk.raw",
        "measure --image-opts -O qcow2 driver=null-co,size=1M,read-zeroes=on",
        "convert -n -O null-co disk.raw null-co://",
        "convert -n -O raw disk.raw null-co://",
        "convert -n -O qcow2 disk.raw null-co://",
        "convert -n --target-image-opts disk.raw driver=null-co,size=1M",
        "convert -n --target-image-opts disk.raw driver=null-co,size=1k",
        "convert -n --target-image-opts disk.raw driver=raw,file.driver=null-co,file.size=1M",
        "convert -O raw disk.raw null-co://",
        "convert -O qcow2 disk.raw null-co://",
        "convert -O null-co disk.raw null-co://",
        "create -f null-co null-co:// 1M",
        "create -f raw null-co:// 1M",
    ] {
        let call = call.replace(", read", ",read");
        let words: Vec<&str> = call.split(' ').collect();
        assert_eq!(
            said(&ours(folder, &words)),
            said(&qemu_img(folder, &words)),
            "{call}"
        );
    }
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["disk.raw", "zeroes.raw"]);
}

/// Checks that it is a disk of zeroes, also as the file of another image, and with a latency.
fn is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("zeroes.raw"), vec![0; 1 << 20]).unwrap();
    for source in [
        "driver=null-co,size=1M",
        "driver=null-co,size=1M,read-zeroes=on,latency-ns=1000",
        "driver=raw,size=1M,offset=512,file.driver=null-co",
    ] {
        for format in ["raw", "qcow2"] {
            ours(
                folder,
                &["convert", "--image-opts", "-O", format, source, "x"],
            )
            .ok();
            let args = ["compare", "-f", "raw", "-F", format, "zeroes.raw", "x"];
            qemu_img(folder, &args).ok();
        }
    }
    qemu_img(
        folder,
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            "null-co://",
            "-F",
            "raw",
            "over",
        ],
    )
    .ok();
    ours(folder, &["compare", "over", "null-co://"]).ok();
}
