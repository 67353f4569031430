//! Tests of the drivers `file` and `host_device` in place of a format: `-O host_device`, `create -f file`.

use std::fs;

use libtest_mimic::Trial;

use crate::common::{Ran, same_contents, write_disk};
use crate::devices::Device;
use crate::tools::{ours, qemu_img, same_answer, without_help};
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("drivers::file", file),
        trial("drivers::host_device", host_device).with_ignored_flag(!Device::are_possible()),
    ]
}

fn file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 300_032, 5);
    ours(
        folder,
        &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"],
    )
    .ok();
    for call in [
        "create -f file x 1M",
        "create -f file -o size=1M,nocow=on x",
        "create -f file -o preallocation=full x 1M",
        "create -f file -o preallocation=bogus x 1M",
        "create -f file -o preallocation=metadata x 1M",
        "create -f file -o help",
        "create -f file -o help x",
        "create -f file -o encrypt.format=aes x 1M",
        "create -f file -b disk.raw -F raw x 1M",
        "create -f file -F raw x 1M",
        "create -f file x",
        "convert -O file disk.qcow2 x",
        "convert -O file -S 0 -W disk.qcow2 x",
        "convert -O file -n disk.qcow2 disk.raw",
        "convert -O file -o preallocation=falloc disk.qcow2 x",
        "convert -O file -c disk.qcow2 x",
        "convert -O file -B disk.raw -F raw disk.qcow2 x",
        "convert -O file -o encryption=on disk.qcow2 x",
        "measure -O file disk.raw",
        "create -f host_device x 1M",
        "create -f host_device disk.raw 1M",
        "create -f host_device -o help",
        "convert -O host_device disk.qcow2 x",
        "convert -O host_device disk.qcow2 disk.raw",
        "convert -O host_device -n disk.qcow2 disk.raw",
        "convert -O host_device disk.qcow2 /dev/null",
    ] {
        // Each tool starts without the files of the other.
        let clean = || drop(fs::remove_file(folder.join("x")));
        let words: Vec<&str> = call.split(' ').collect();
        clean();
        let mut theirs = qemu_img(folder, &words);
        theirs.stderr = theirs.stderr.replace("qemu-img: ", "cowhide: ");
        // cowhide leaves no file after a failure.
        let made = fs::read(folder.join("x")).ok();
        let made = made.filter(|_| theirs.status == Some(0));
        clean();
        let mut ours = ours(folder, &words);
        ours.stderr = without_help(&ours.stderr, &theirs.stderr);
        assert_eq!(fs::read(folder.join("x")).ok(), made, "{call}");
        let said = |ran: &Ran| (ran.status, ran.stdout.clone(), ran.stderr.clone());
        assert_eq!(said(&ours), said(&theirs), "{call}");
    }
}

fn host_device() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_disk(&folder.join("disk.raw"), 1 << 20, 6);
    write_disk(&folder.join("big.raw"), 3 << 20, 6);
    ours(
        folder,
        &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"],
    )
    .ok();
    fs::write(folder.join("held"), vec![7; 2 << 20]).unwrap();
    let held = Device::new(&folder.join("held")).unwrap();
    let device = held.name();
    for call in [
        "create -f host_device -o help DEVICE",
        "create -f host_device DEVICE 1M",
        "create -f host_device -o size=4k DEVICE",
        "create -f host_device DEVICE",
        "create -f host_device DEVICE 3M",
        "create -f raw DEVICE 3M",
        "create -f file DEVICE 1M",
        "create -f host_device -o nocow=on DEVICE 1M",
        "convert -O host_device big.raw DEVICE",
        "convert -O raw big.raw DEVICE",
        "convert -O host_device -n big.raw DEVICE",
        "convert -O file disk.qcow2 DEVICE",
        "convert -O file -n disk.qcow2 DEVICE",
    ] {
        let call = call.replace("DEVICE", device);
        same_answer(folder, &call.split(' ').collect::<Vec<_>>());
    }
    // These are the options of bare metal provisioning.
    for options in ["-t directsync -S 0 -W", "-t none", "-n", "-C", "--verify"] {
        fs::write(device, vec![9; 2 << 20]).unwrap();
        let call = format!("convert -O host_device {options} disk.qcow2 {device}");
        let ran = ours(folder, &call.split(' ').collect::<Vec<_>>());
        assert_eq!((ran.status, ran.stderr.as_str()), (Some(0), ""), "{call}");
        let mut written = fs::read(device).unwrap();
        assert!(written.split_off(1 << 20) == vec![9; 1 << 20], "{call}");
        fs::write(folder.join("written"), written).unwrap();
        assert!(
            same_contents(&folder.join("written"), &folder.join("disk.raw")),
            "{call}"
        );
    }
}
