//! Tests against the real `qemu-img` and `qemu-io` in both directions. They check and read the images of cowhide,
//! cowhide reads theirs, and the reports of both are the same.
//!
//! The tests are generated at run time. Without qemu-img 10 or later they are listed as ignored, so that a user sees
//! what was skipped. With `CI` or `COWHIDE_REQUIRE_ORACLE` set, its absence is a failure.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/covered.rs"]
mod covered;
#[path = "../common/parallels.rs"]
mod parallels_extension;
#[path = "../common/power_cut.rs"]
mod power_cut;
#[path = "../common/schemas.rs"]
mod schemas;

mod accelerations;
mod access;
mod amend;
mod argv;
mod backing;
mod bench;
mod bitmap;
mod bitmaps;
mod bochs;
mod bytes;
mod check;
mod check_damage;
mod checksum;
mod cloop;
mod commit;
mod compare;
mod compressed;
mod create;
mod created;
mod cryptsetup;
mod damage;
mod dd;
mod descriptors;
mod devices;
mod dialects;
mod differencing;
mod dmg;
mod drivers;
mod errors;
mod every_format;
mod features;
mod file_parts;
mod inside;
mod interrupted;
mod into;
mod json_schemas;
mod limits;
mod locks;
mod long_chains;
mod luks;
mod luks2;
mod map;
mod matrix;
mod measure;
mod names;
mod nested;
mod null;
mod options;
mod other_readers;
mod over;
mod parallels;
mod progress;
mod qcow;
mod qcow2_luks;
mod qed;
mod qemu_io;
mod random_images;
mod rebase;
mod reports;
mod resize;
mod same_bytes;
mod seed;
mod shared_blocks;
mod signals;
mod snapshot;
mod snapshots;
mod sparse_size;
mod stable;
mod stopped;
mod system_calls;
mod timed;
mod tools;
mod traced;
mod vdi;
mod vhdx;
mod vhdx_logs;
mod vmdk;
mod vpc;
mod warnings;
mod write;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use timed::trial;

/// The oldest version of qemu-img whose behaviour the tests expect.
const OLDEST: u32 = 10;

/// Returns the major version of the qemu-img in PATH.
fn oracle_version() -> Result<u32, String> {
    for tool in ["qemu-img", "qemu-io"] {
        let output = std::process::Command::new(tool)
            .arg("--version")
            .output()
            .map_err(|error| format!("{tool}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .split("version ")
            .nth(1)
            .and_then(|rest| rest.split('.').next())
            .and_then(|major| major.parse::<u32>().ok())
            .ok_or_else(|| format!("{tool}: no version in {text:?}"))?;
        if version < OLDEST {
            return Err(format!("{tool} is version {version}, needed is {OLDEST}"));
        }
    }
    Ok(OLDEST)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most trials wait for the disk and for other programs half of the time.
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * processors);
    let required = common::others::are_required();
    let missing = oracle_version().err();
    let mut trials = Vec::new();
    trials.extend(map::trials());
    trials.extend(matrix::trials());
    trials.extend(measure::trials());
    trials.extend(parallels::trials());
    trials.extend(qcow::trials());
    trials.extend(bochs::trials());
    trials.extend(cloop::trials());
    trials.extend(dmg::trials());
    trials.extend(qed::trials());
    trials.extend(qemu_io::trials());
    trials.extend(reports::trials());
    trials.extend(rebase::trials());
    trials.extend(resize::trials());
    trials.extend(accelerations::trials());
    trials.extend(access::trials());
    trials.extend(amend::trials());
    trials.extend(argv::trials());
    trials.extend(backing::trials());
    trials.extend(bitmap::trials());
    trials.extend(bench::trials());
    trials.extend(bitmaps::trials());
    trials.extend(bytes::trials());
    trials.extend(check::trials());
    trials.extend(check_damage::trials());
    trials.extend(commit::trials());
    trials.extend(compare::trials());
    trials.extend(checksum::trials());
    trials.extend(compressed::trials());
    trials.extend(create::trials());
    trials.extend(created::trials());
    trials.extend(damage::trials());
    trials.extend(dd::trials());
    trials.extend(descriptors::trials());
    trials.extend(devices::trials());
    trials.extend(differencing::trials());
    trials.extend(drivers::trials());
    trials.extend(dialects::trials());
    trials.extend(errors::trials());
    trials.extend(every_format::trials());
    trials.extend(features::trials());
    trials.extend(file_parts::trials());
    trials.extend(names::trials());
    trials.extend(inside::trials());
    trials.extend(interrupted::trials());
    trials.extend(json_schemas::trials());
    trials.extend(limits::trials());
    trials.extend(locks::trials());
    trials.extend(long_chains::trials());
    trials.extend(nested::trials());
    trials.extend(null::trials());
    trials.extend(options::trials());
    trials.extend(progress::trials());
    trials.extend(same_bytes::trials());
    trials.extend(seed::trials());
    trials.extend(shared_blocks::trials());
    trials.extend(signals::trials());
    trials.extend(snapshot::trials());
    trials.extend(snapshots::trials());
    trials.extend(sparse_size::trials());
    trials.extend(stable::trials());
    trials.extend(stopped::trials());
    trials.extend(system_calls::trials());
    trials.extend(other_readers::trials());
    trials.extend(over::trials());
    trials.extend(traced::trials());
    trials.extend(vdi::trials());
    trials.extend(vhdx::trials());
    trials.extend(vhdx_logs::trials());
    trials.extend(vpc::trials());
    trials.extend(vmdk::trials());
    trials.extend(luks::trials());
    trials.extend(luks2::trials());
    trials.extend(cryptsetup::trials());
    trials.extend(warnings::trials());
    trials.extend(write::trials());
    trials.extend(into::trials());
    trials.extend(qcow2_luks::trials());
    if let Some(missing) = missing {
        println!(
            "left out: {} comparisons with qemu-img {OLDEST} or later ({missing})",
            trials.len()
        );
        trials = trials
            .into_iter()
            .map(|trial| trial.with_ignored_flag(true))
            .collect();
        if required {
            trials.push(Trial::test("the_oracle_is_installed", move || {
                Err(missing.into())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    timed::print_slowest();
    conclusion.exit_code()
}
