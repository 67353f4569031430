//! Examples of each subcommand, for help and man pages.
//!
//! A test runs them all, one after the other. Its folder has a raw image `disk.img`, an overlay `over.qcow2` of
//! `base.qcow2`, and a file `pw` with a password.

/// An example: its purpose and its arguments.
pub(super) struct Example {
    /// The purpose.
    pub(super) purpose: &'static str,
    /// The arguments, the subcommand first.
    pub(super) arguments: &'static str,
}

/// All examples, those of one subcommand after each other.
const EXAMPLES: &[Example] = &[
    example(
        "Make an image for a disk of 10 GiB, which takes room as it is written to",
        "create -f qcow2 new.qcow2 10G",
    ),
    example(
        "Make one that is encrypted with LUKS",
        "create -f qcow2 --encrypt luks --password-file pw secret.qcow2 10G",
    ),
    example(
        "Make an overlay: what isn't written to it is read from base.qcow2",
        "create -f qcow2 -b base.qcow2 -F qcow2 mine.qcow2",
    ),
    example(
        "Convert a raw image to qcow2",
        "convert -f raw -O qcow2 disk.img disk.qcow2",
    ),
    example(
        "Encrypt it, and read the result back to be sure",
        "convert -f raw -O qcow2 --encrypt luks --password-file pw --verify disk.img luks.qcow2",
    ),
    example(
        "Decrypt it",
        "convert --password-file pw -O raw luks.qcow2 plain.img",
    ),
    example(
        "Compress it with zstd",
        "convert -f raw -c -O qcow2 -o compression_type=zstd disk.img small.qcow2",
    ),
    example("Show what the header says", "info disk.qcow2"),
    example(
        "Show it for a program, with all images that it is over",
        "info --output=json --backing-chain over.qcow2",
    ),
    example(
        "Tell it in words, and what follows from it",
        "info --explain disk.qcow2",
    ),
    example("Look for damage; nothing is changed", "check disk.qcow2"),
    example("Give back what nothing uses", "check -r leaks disk.qcow2"),
    example(
        "Compare an image with the file that it was made of",
        "compare -F raw disk.qcow2 disk.img",
    ),
    example(
        "Print the SHA-256 of a disk, whatever format it is in",
        "checksum disk.qcow2",
    ),
    example(
        "List the parts of a disk, and where they are stored",
        "map --output=json disk.qcow2",
    ),
    example("Draw them", "map --output=picture disk.qcow2"),
    example(
        "Tell how big a qcow2 image of a raw one gets",
        "measure -f raw -O qcow2 disk.img",
    ),
    example("Add 2 GiB to a disk", "resize disk.qcow2 +2G"),
    example("Take an internal snapshot", "snapshot -c before disk.qcow2"),
    example("List the snapshots", "snapshot -l disk.qcow2"),
    example("Go back to one", "snapshot -a before disk.qcow2"),
    example(
        "Let an overlay stand alone",
        "rebase -f qcow2 -b '' over.qcow2",
    ),
    example(
        "Write what an overlay holds into the image below",
        "commit mine.qcow2",
    ),
    example(
        "Add a bitmap, which programs use to tell what has changed",
        "bitmap --add disk.qcow2 changes",
    ),
    example(
        "Give a LUKS image another password",
        "amend -f qcow2 -o encrypt.state=active,encrypt.new-secret=new --object secret,id=new,file=pw \
         --password-file pw secret.qcow2",
    ),
    example(
        "Copy the first 16 MiB of a disk",
        "dd -f raw -O raw bs=1M count=16 if=disk.img of=start.img",
    ),
    example(
        "Time 1000 reads of 4 KiB",
        "bench -c 1000 -s 4096 -f raw disk.img",
    ),
    example(
        "Measure the ciphers of this machine, for a short time each",
        "speed --seconds 0.01",
    ),
    example(
        "Let this shell complete commands (for bash)",
        "completions bash",
    ),
    example("Write the manual's pages into a folder", "man ."),
];

const fn example(purpose: &'static str, arguments: &'static str) -> Example {
    Example { purpose, arguments }
}

/// Returns the examples of a subcommand.
pub(super) fn of(subcommand: &str) -> impl Iterator<Item = &'static Example> {
    let is_of = move |example: &&Example| {
        let mut words = example.arguments.split(' ');
        words.next() == Some(subcommand)
    };
    EXAMPLES.iter().filter(is_of)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn every_subcommand_has_an_example_and_every_example_is_of_one() {
        let definition = Cli::command();
        let mut count = 0;
        for command in definition.get_subcommands() {
            let examples = of(command.get_name()).count();
            assert!(examples > 0, "{}", command.get_name());
            count += examples;
        }
        assert_eq!(count, EXAMPLES.len());
    }
}
