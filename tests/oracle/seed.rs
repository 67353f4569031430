//! What this project began with, literally: the command typed at a terminal, and its result
//! decrypted by the real qemu-img with the same password.

use std::time::Duration;

use libtest_mimic::Trial;
use rexpect::session::spawn_command;

use crate::common::{COWHIDE, real_disk, same_contents};
use crate::matrix::qemu_img;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("seed::typed_at_a_terminal", typed_at_a_terminal)]
}

fn typed_at_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::copy(real_disk(), folder.join("disk1.img")).unwrap();
    let mut command = std::process::Command::new(COWHIDE);
    command
        .args("convert -o encryption -O qcow2 disk1.img enc1.qcow2".split_whitespace())
        .current_dir(folder);
    let mut terminal = spawn_command(command, Some(20_000)).unwrap();
    terminal
        .exp_string("can't detect a wrong password")
        .unwrap();
    terminal
        .exp_string("New password for 'enc1.qcow2': ")
        .unwrap();
    terminal.send_line("correct horse").unwrap();
    terminal.exp_string("The same again: ").unwrap();
    terminal.send_line("correct horse").unwrap();
    let shown = terminal.exp_eof().unwrap();
    assert!(
        !shown.contains("correct"),
        "the password was echoed: {shown}"
    );
    std::thread::sleep(Duration::from_millis(10));

    let secret = "secret,id=s,data=correct horse";
    let image = "driver=qcow2,file.filename=enc1.qcow2,encrypt.key-secret=s";
    let args = ["check", "--object", secret, "--image-opts", image];
    assert!(qemu_img(folder, &args).ok().starts_with("No errors"));
    let args = [
        "convert",
        "--object",
        secret,
        "--image-opts",
        image,
        "-O",
        "raw",
        "back.img",
    ];
    qemu_img(folder, &args).ok();
    assert!(same_contents(
        &folder.join("disk1.img"),
        &folder.join("back.img")
    ));
}
