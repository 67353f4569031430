//! Tests of the schemas in `docs/json-schema` with the outputs of the program, and of `qemu-img` where it has them too:
//! the schemas of `info`, `map`, `check` and `measure` are QEMU's.
//!
//! Python's jsonschema validates. Without it the trials are listed as ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::common::others;
use crate::common::{COWHIDE, qemu_io, run, write_disk};
use crate::cryptsetup::only_with_cryptsetup;
use crate::locks::Holder;
use crate::other_readers::PYTHONS;
use crate::schemas;
use crate::tools::{ours, qemu_img, words};
use crate::{luks2, trial};

/// The names that need not be in any output here.
const UNSEEN: [&str; 6] = [
    // QEMU has it on XFS, in a file with a hint for the unit of allocation.
    "extent-size-hint",
    // cryptsetup only makes such segments while it reencrypts.
    "payload-size",
    // They depend on the machine.
    "hint",
    "limit",
    "share-of-limit",
    "symbol",
];

pub fn trials() -> Vec<Trial> {
    let required = others::are_required();
    let python = PYTHONS.into_iter().find(|python| {
        let import = "from jsonschema import Draft202012Validator, RefResolver";
        let ran = Command::new(python)
            .args(["-W", "ignore", "-c", import])
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    });
    let is_ignored = python.is_none() && !required;
    let by = |name: &str, test: fn(&str)| {
        let test = move || test(python.expect("no Python has jsonschema"));
        trial(format!("json_schemas::{name}"), test).with_ignored_flag(is_ignored)
    };
    let mut trials = vec![
        by("reports", reports),
        by("messages_and_progress", messages),
        by("examples_of_the_document", examples),
    ];
    let of_cryptsetup = vec![by("luks_version_2", luks_version_2)];
    trials.extend(match is_ignored {
        true => of_cryptsetup,
        false => only_with_cryptsetup(of_cryptsetup),
    });
    trials
}

/// An output to be validated.
struct Document {
    /// The command that printed it.
    label: String,
    /// The name of its schema.
    schema: String,
    value: Value,
    /// True for cowhide's.
    is_ours: bool,
}

#[derive(Default)]
struct Outputs(Vec<Document>);

impl Outputs {
    fn add(&mut self, label: &str, schema: &str, text: &str, is_ours: bool) {
        let value = serde_json::from_str(text);
        self.0.push(Document {
            label: label.to_owned(),
            schema: schema.to_owned(),
            value: value.unwrap_or_else(|error| panic!("{label}: {error}: {text:?}")),
            is_ours,
        });
    }

    /// Adds what cowhide prints.
    fn ours(&mut self, folder: &Path, schema: &str, line: &str) {
        let ran = run(folder, COWHIDE, words(line));
        self.add(line, schema, &ran.stdout, true);
    }

    /// Adds what both tools print.
    fn both(&mut self, folder: &Path, schema: &str, line: &str) {
        let theirs = qemu_img(folder, &words(line));
        self.add(&format!("qemu-img {line}"), schema, &theirs.stdout, false);
        self.ours(folder, schema, line);
    }

    /// Adds the lines that cowhide prints on standard error.
    fn lines(&mut self, folder: &Path, schema: &str, line: &str) {
        let ran = run(folder, COWHIDE, words(line));
        assert!(!ran.stderr.is_empty(), "{line}: {ran:?}");
        for object in ran.stderr.lines() {
            self.add(line, schema, object, true);
        }
    }

    /// Asserts that all documents are valid.
    fn are_valid(&self, python: &str) {
        let folder = tempfile::tempdir().unwrap();
        let documents = self.0.iter();
        let documents = documents
            .map(|one| json!([one.label, one.schema, one.value, one.is_ours]))
            .collect::<Value>();
        fs::write(folder.path().join("documents"), documents.to_string()).unwrap();
        let script = include_str!("json_schemas.py");
        let schemas = schemas::folder();
        let schemas = schemas.to_str().unwrap();
        let args = ["-W", "ignore", "-c", script, schemas, "documents"];
        let problems = run(folder.path(), python, args).ok();
        assert!(problems.is_empty(), "{problems}");
    }

    /// Asserts that the documents of a schema have each name that it describes, so that none is described which isn't
    /// printed.
    fn have_all_names(&self, schemas: &[&str], except: &[&str]) {
        let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for document in self.0.iter().filter(|document| document.is_ours) {
            let names = seen.entry(&document.schema).or_default();
            schemas::each_object(&document.value, "", &mut |_, object| {
                names.extend(object.as_object().unwrap().keys().cloned());
            });
        }
        let described = schemas::all();
        for schema in schemas {
            let described = schemas::described(&described[*schema]);
            let missing = described.difference(&seen[schema]);
            let missing: Vec<_> = missing
                .filter(|name| !except.contains(&name.as_str()))
                .collect();
            assert!(missing.is_empty(), "{schema}: {missing:?} is in no output");
        }
    }
}

/// Makes images with everything that a report can tell. Returns the options that name each.
fn make(folder: &Path) -> Vec<String> {
    write_disk(&folder.join("disk.raw"), 4 << 20, 8);
    // qemu-img takes seconds to measure key derivation.
    let img = |line: &str| match line.contains("luks") {
        true => drop(ours(folder, &words(line)).ok()),
        false => drop(qemu_img(folder, &words(line)).ok()),
    };
    let secret = "--object secret,id=s,data=abc";
    for (name, options) in [
        ("old", "-o compat=0.10"),
        ("plain", "-o lazy_refcounts=on"),
        ("zstd", "-c -o compression_type=zstd"),
        ("extended", "-o extended_l2=on,refcount_bits=64"),
        ("external", "-o data_file=data.bin,data_file_raw=on"),
        (
            "aes",
            "--object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s",
        ),
        (
            "luks",
            "--object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ),
        ("saved", ""),
        ("marked", ""),
        ("dirty", "-o lazy_refcounts=on"),
        ("corrupt", ""),
    ] {
        img(&format!(
            "convert -f raw -O qcow2 {options} disk.raw {name}"
        ));
    }
    img("snapshot -c first saved");
    img("bitmap --add marked on");
    img("bitmap --add --disable -g 4k marked off");
    img("create -q -f qcow2 -b plain -F qcow2 above");
    img("create -q -f qcow2 -b above -F qcow2 top");
    let change = |name: &str, bytes: &[u8], offset: u64| {
        let file = fs::File::options().write(true).open(folder.join(name));
        file.unwrap().write_all_at(bytes, offset).unwrap();
    };
    // The lowest byte of the incompatible features.
    change("dirty", &[1], 79);
    change("corrupt", &[2], 79);
    // The count of instructions, in the additional data of the first snapshot.
    let saved = fs::read(folder.join("saved")).unwrap();
    let table = u64::from_be_bytes(saved[64..72].try_into().unwrap());
    change("saved", &7_u64.to_be_bytes(), table + 40 + 16);
    for (name, options) in [
        ("vdi", "-O vdi"),
        ("vhdx", "-O vhdx"),
        ("vpc", "-O vpc"),
        ("vmdk", "-O vmdk"),
        ("stream.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ("flat.vmdk", "-O vmdk -o subformat=monolithicFlat"),
        ("qed", "-O qed"),
        ("qcow", "-O qcow"),
        ("parallels", "-O parallels"),
    ] {
        img(&format!("convert -f raw {options} disk.raw {name}"));
    }
    for (name, options) in [
        ("xts.luks", ""),
        (
            "cbc.luks",
            ",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        ),
    ] {
        img(&format!(
            "create -q -f luks {secret} -o key-secret=s,iter-time=10{options} {name} 1M"
        ));
    }
    let qcow2 = "old plain zstd extended external aes luks saved marked dirty corrupt top";
    let others =
        "disk.raw vdi vhdx vpc vmdk stream.vmdk flat.vmdk qed qcow parallels xts.luks cbc.luks";
    let names = [words(qcow2), words(others)].concat();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.push("--image-opts driver=null-co".to_owned());
    names
        .push("--image-opts driver=raw,size=1M,file.driver=file,file.filename=disk.raw".to_owned());
    names
}

fn reports(python: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut outputs = Outputs::default();
    for image in make(folder) {
        outputs.both(folder, "info", &format!("info --output=json {image}"));
        outputs.ours(
            folder,
            "explanation",
            &format!("info --explain --output=json {image}"),
        );
    }
    outputs.both(folder, "info", "info --output=json --backing-chain top");
    outputs.both(folder, "info", "info --output=json --backing-chain vdi");
    for image in words("disk.raw plain zstd top vmdk external extended") {
        outputs.both(folder, "map", &format!("map --output=json {image}"));
        outputs.both(
            folder,
            "measure",
            &format!("measure --output=json -O qcow2 {image}"),
        );
        outputs.both(
            folder,
            "measure",
            &format!("measure --output=json -O raw {image}"),
        );
    }
    outputs.both(folder, "measure", "measure --output=json -O qcow2 marked");
    outputs.both(
        folder,
        "measure",
        "measure --output=json -O qcow2 --size 1G",
    );
    checks(folder, &mut outputs);
    own(folder, &mut outputs);
    outputs.are_valid(python);
    let of_luks2 = [
        "version",
        "label",
        "subsystem",
        "sector-size",
        "slot",
        "pbkdf",
        "time",
        "memory",
    ];
    let of_luks2 = [
        &of_luks2[..],
        &["cpus", "priority", "sequence", "damaged-copy"],
    ]
    .concat();
    outputs.have_all_names(&["info"], &[&UNSEEN[..], &of_luks2].concat());
    let others = [
        "map",
        "check",
        "measure",
        "snapshots",
        "create",
        "checksum",
        "compare",
        "bench",
        "plan",
        "explanation",
        "speed",
        "storage",
    ];
    outputs.have_all_names(&others, &UNSEEN);
}

/// Adds reports of checks: of intact images, with leaks, with errors, and after repairs.
fn checks(folder: &Path, outputs: &mut Outputs) {
    let check = "check --output=json";
    // qemu-img takes a password to check it.
    outputs.ours(folder, "check", &format!("{check} luks"));
    for image in words("plain zstd saved vdi vhdx vmdk qed parallels") {
        outputs.both(folder, "check", &format!("{check} {image}"));
    }
    damage(folder, "damaged");
    outputs.both(folder, "check", &format!("{check} damaged"));
    fs::copy(folder.join("damaged"), folder.join("repaired")).unwrap();
    outputs.ours(folder, "check", &format!("{check} -r all repaired"));
    outputs.both(folder, "check", &format!("{check} repaired"));
}

/// Makes an image with fragments, an error and a leak.
fn damage(folder: &Path, name: &str) {
    qemu_img(
        folder,
        &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", name],
    )
    .ok();
    // These clusters aren't in the order of the disk.
    qemu_io(folder, "qcow2", name, &["write 3M 64k", "write 1M 64k"]);
    let bytes = fs::read(folder.join(name)).unwrap();
    let offset = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let block = offset(usize::try_from(offset(48)).unwrap());
    let clusters = bytes.len() as u64 >> 16;
    let file = fs::File::options()
        .write(true)
        .open(folder.join(name))
        .unwrap();
    // The last cluster is in use with a refcount of 0, and a new one after it has a refcount and isn't in use.
    file.set_len((clusters + 1) << 16).unwrap();
    file.write_all_at(&[0, 1], block + 2 * clusters).unwrap();
    file.write_all_at(&[0, 0], block + 2 * (clusters - 1))
        .unwrap();
}

/// The commands of reports that qemu-img doesn't have, after the names of their schemas.
const OWN: &str = "
create: create -f qcow2 -o cluster_size=4k new 1M
create: create new.raw 1M
create: create -f qcow2 -b plain -F qcow2 over
checksum: checksum plain
checksum: checksum --algorithm blake3 plain
compare: compare disk.raw plain
compare: compare disk.raw new
compare: compare -s disk.raw new
compare: compare -s over new.raw
compare: compare -s plain zstd
bench: bench -c 10 plain
bench: bench -c 10 -w --flush-interval 5 -d 2 new
plan: convert --plan -O qcow2 marked x
plan: convert --plan -O vdi plain x
plan: convert --plan -O raw disk.raw vdi new.raw
plan: convert --plan --password-file pw -O qcow2 --encrypt luks aes x
snapshots: snapshot -l saved
snapshots: snapshot -l plain
speed: speed --seconds 0.1 --threads 1
storage: speed --seconds 0.1 --storage .
storage: speed --seconds 0.1 --storage disk.raw
";

fn own(folder: &Path, outputs: &mut Outputs) {
    fs::write(folder.join("pw"), "abc").unwrap();
    for line in OWN.trim().lines() {
        let (schema, command) = line.split_once(": ").unwrap();
        outputs.ours(folder, schema, &format!("{command} --output=json"));
    }
}

fn messages(python: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut outputs = Outputs::default();
    make(folder);
    damage(folder, "leaking");
    fs::write(folder.join("pw"), "abc").unwrap();
    fs::write(
        folder.join("bad"),
        [&b"QFI\xfb\0\0\0\x03"[..], &[0xff; 4088]].concat(),
    )
    .unwrap();
    let holder = Holder::open(folder, "-f qcow2 old");
    for line in [
        "info missing",
        "info",
        "convrt a b",
        "create -f vhdxx x 1M",
        "info bad",
        "check disk.raw",
        "check leaking",
        "convert -O qcow2 aes x",
        "convert -O raw old x",
        "create -f qcow2 -o cluster_size=3 x 1M",
        "create -f blkverify x 1M",
        "resize plain 1M",
        "resize disk.raw 8M",
        "create -f qcow2 -b plain x",
        "bench -c 0 plain",
    ] {
        outputs.lines(folder, "messages", &format!("--error-format=json {line}"));
    }
    drop(holder);
    let kinds = outputs.0.iter();
    let kinds = kinds.filter_map(|line| line.value["error"]["kind"].as_str().map(str::to_owned));
    let kinds: BTreeSet<_> = kinds.collect();
    let schema = &schemas::all()["messages"];
    let listed = schema["properties"]["error"]["properties"]["kind"]["enum"].as_array();
    let listed: BTreeSet<_> = listed
        .unwrap()
        .iter()
        .map(|kind| kind.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, listed);
    for line in [
        "convert --progress=json -O qcow2 disk.raw x",
        "convert --progress=json --password-file pw -O qcow2 --encrypt aes disk.raw x",
        "convert --progress=json -O qcow2 -B plain -F qcow2 top x",
        "compare --progress=json disk.raw plain",
        "checksum --progress=json plain",
        "commit --progress=json top",
        "rebase --progress=json -F qcow2 -b plain above",
        "amend --progress=json -o compat=0.10 plain",
    ] {
        outputs.lines(folder, "progress", line);
    }
    outputs.are_valid(python);
    outputs.have_all_names(&["messages", "progress"], &[]);
}

fn luks_version_2(python: &str) {
    let folder = luks2::folder();
    let folder = folder.path();
    let mut outputs = Outputs::default();
    for options in [luks2::ARGON2, luks2::PBKDF2] {
        luks2::make(folder, options);
        luks2::cryptsetup(folder, "config --label one --subsystem two x.luks").ok();
        outputs.ours(folder, "info", "info --output=json -f luks x.luks");
        outputs.ours(
            folder,
            "explanation",
            "info --explain --output=json -f luks x.luks",
        );
    }
    outputs.are_valid(python);
}

fn examples(python: &str) {
    let examples = schemas::examples();
    assert!(examples.len() >= 9, "{examples:?}");
    let mut outputs = Outputs::default();
    for (schema, example) in examples {
        let label = format!("the example of {schema}");
        outputs.add(&label, &schema, &example.to_string(), true);
    }
    outputs.are_valid(python);
}
