//! The test of the original command of this project, typed at a terminal, whose result qemu-img decrypts with
//! the same password.

use libtest_mimic::Trial;

use crate::common::{real_disk, same_contents, type_new_password};
use crate::tools::qemu_img;
use crate::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("seed::typed_at_a_terminal", typed_at_a_terminal)]
}

fn typed_at_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::copy(real_disk(), folder.join("disk1.img")).unwrap();
    let shown = type_new_password(folder, "correct horse", "correct horse");
    assert!(
        !shown.contains("correct"),
        "the password was echoed: {shown}"
    );

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
