//! Checks the files of a release as a user does: sums, signatures, provenance, SBOM, programs, chart and images.
//! `make release DRY_RUN=1` makes them, if they are missing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod install;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::bed::program;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files of a release that the sums do not list: the sums, their signatures, and the key.
const UNLISTED: [&str; 4] = [
    "SHA256SUMS",
    "SHA256SUMS.sigstore.json",
    "intoto.sigstore.json",
    "cosign.pub",
];

/// Folder of the release, made once if it is missing.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(ROOT).join("target").join(format!("release-{VERSION}"));
    if !folder.exists() {
        let made = Command::new("make")
            .args(["-C", ROOT, "release", "DRY_RUN=1"])
            .status()
            .unwrap();
        assert!(made.success(), "make release DRY_RUN=1: {made}");
    }
    folder
});

fn file(name: &str) -> PathBuf {
    FOLDER.join(name)
}

/// Names of the files that the sums list.
fn listed() -> BTreeSet<String> {
    let names = fs::read_dir(&*FOLDER).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| {
            !UNLISTED
                .iter()
                .any(|end| name == end || name.ends_with(&format!(".{end}")))
        })
        .collect()
}

/// Returns the SHA-256 of the bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn statement() -> Value {
    json(&fs::read(file(&format!("eventexport-{VERSION}.intoto.json"))).unwrap())
}

/// Commit in the provenance, as the program shows it.
fn revision(statement: &Value) -> String {
    let source = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    let commit = source["digest"]["gitCommit"].as_str().unwrap();
    let modified = source["annotations"]["modified"].as_bool().unwrap();
    format!("{commit}{}", if modified { "-dirty" } else { "" })
}

/// Targets of the release, with the architecture of the image and the machine in the ELF header.
fn targets() -> Vec<(&'static str, &'static str, u16)> {
    let all = [
        ("x86_64-unknown-linux-musl", "amd64", 62),
        ("aarch64-unknown-linux-musl", "arm64", 183),
    ];
    let built = all
        .into_iter()
        .filter(|(target, ..)| file(&tarball(target)).exists());
    let built: Vec<_> = built.collect();
    assert!(!built.is_empty(), "{} holds no program", FOLDER.display());
    built
}

fn tarball(target: &str) -> String {
    format!("eventexport-{VERSION}-{target}.tar.gz")
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// File of a tar archive, which tar decompresses if needed.
fn member(archive: &Path, name: &str) -> Vec<u8> {
    output(Command::new("tar").arg("-xOf").arg(archive).arg(name))
}

fn released_program(target: &str) -> Vec<u8> {
    member(
        &file(&tarball(target)),
        &format!("eventexport-{VERSION}-{target}/eventexport"),
    )
}

#[test]
fn sums_list_every_file_and_match() {
    let sums = fs::read_to_string(file("SHA256SUMS")).unwrap();
    let sums: BTreeSet<(String, String)> = sums
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect();
    let files = listed();
    assert!(files.len() >= 5, "{files:?}");
    let files = files.into_iter().map(|name| {
        let sum = sha256(&fs::read(file(&name)).unwrap());
        (name, sum)
    });
    assert_eq!(sums, files.collect());
}

#[test]
fn provenance_names_every_file_its_commit_and_its_lock_file() {
    let statement = statement();
    let subjects: BTreeSet<(&str, &str)> = statement["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subject| {
            let sum = subject["digest"]["sha256"].as_str().unwrap();
            (subject["name"].as_str().unwrap(), sum)
        })
        .collect();
    let mut files = listed();
    // A statement cannot hold its own digest.
    assert!(files.remove(&format!("eventexport-{VERSION}.intoto.json")));
    let files: Vec<(String, String)> = files
        .into_iter()
        .map(|name| {
            let sum = sha256(&fs::read(file(&name)).unwrap());
            (name, sum)
        })
        .collect();
    assert_eq!(
        subjects,
        files
            .iter()
            .map(|(name, sum)| (name.as_str(), sum.as_str()))
            .collect()
    );

    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let lock = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][1];
    assert_eq!(lock["name"], "Cargo.lock");
    assert_eq!(
        lock["digest"]["sha256"],
        sha256(&fs::read(Path::new(ROOT).join("Cargo.lock")).unwrap()),
        "{} was made from another Cargo.lock: remove it and repeat",
        FOLDER.display()
    );
    assert_eq!(revision(&statement).trim_end_matches("-dirty").len(), 40);
}

/// Commands of docs/releases.md that check a download, with their names.
fn documented_checks() -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/releases.md")).unwrap();
    let parts = page.split("<!-- checked: ").skip(1);
    parts
        .map(|part| {
            let (name, rest) = part.split_once(" -->\n```sh\n").unwrap();
            let (script, _) = rest.split_once("\n```").unwrap();
            (name.to_owned(), script.to_owned())
        })
        .collect()
}

/// Runs the documented checks in a folder and returns the names of those that fail.
fn failing_checks(folder: &Path, public_key: &Path) -> Vec<String> {
    let tools = program("cosign").unwrap();
    let path = format!(
        "{}:{}",
        tools.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let (target, ..) = native();
    let run = |script: &str| -> Output {
        Command::new("sh")
            .args(["-eu", "-c", script])
            .current_dir(folder)
            .env("PATH", &path)
            .env("LC_ALL", "C")
            // cosign must not need what a home folder holds.
            .env("HOME", folder)
            .env("PUBLIC_KEY", public_key)
            .env("VERSION", VERSION)
            .env("TARGET", target)
            .output()
            .unwrap()
    };
    documented_checks()
        .into_iter()
        .filter(|(name, script)| {
            let output = run(script);
            println!("{name}: {output:?}");
            !output.status.success()
        })
        .map(|(name, _)| name)
        .collect()
}

/// Target of this machine's architecture, or else the first one.
fn native() -> (&'static str, &'static str, u16) {
    let targets = targets();
    let native = targets
        .iter()
        .find(|(target, ..)| target.starts_with(std::env::consts::ARCH));
    *native.unwrap_or(&targets[0])
}

/// Changes one byte: the first one of `text`, or of the middle of the file.
fn change_one_byte(path: &Path, text: Option<&str>) {
    let mut bytes = fs::read(path).unwrap();
    let at = match text {
        Some(text) => bytes
            .windows(text.len())
            .position(|window| window == text.as_bytes())
            .unwrap(),
        None => bytes.len() / 2,
    };
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn documented_checks_pass_and_find_each_damage() {
    let checks: Vec<String> = documented_checks().into_iter().map(|(name, _)| name).collect();
    assert_eq!(checks, ["signature", "sums", "provenance", "version"]);
    let key = file("cosign.pub");
    let copy = || {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&*FOLDER).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    };

    let whole = copy();
    assert_eq!(failing_checks(whole.path(), &key), [""; 0]);

    let damaged = copy();
    change_one_byte(&damaged.path().join(tarball(native().0)), None);
    let failing = failing_checks(damaged.path(), &key);
    assert!(
        failing.starts_with(&["sums".into(), "provenance".into()]),
        "{failing:?}"
    );

    // A sum that fits the damaged file, by somebody who cannot sign.
    let forged = copy();
    change_one_byte(&forged.path().join("SHA256SUMS"), None);
    assert_eq!(failing_checks(forged.path(), &key)[0], "signature");

    let resigned = copy();
    let bundle = resigned.path().join("SHA256SUMS.sigstore.json");
    let signature = json(&fs::read(&bundle).unwrap())["messageSignature"]["signature"]
        .as_str()
        .unwrap()
        .to_owned();
    change_one_byte(&bundle, Some(&signature[20..]));
    assert_eq!(failing_checks(resigned.path(), &key), ["signature"]);

    let restated = copy();
    let bundle = restated
        .path()
        .join(format!("eventexport-{VERSION}.intoto.sigstore.json"));
    let payload = json(&fs::read(&bundle).unwrap())["dsseEnvelope"]["payload"]
        .as_str()
        .unwrap()
        .to_owned();
    change_one_byte(&bundle, Some(&payload[200..]));
    assert_eq!(failing_checks(restated.path(), &key), ["provenance"]);

    // A key of somebody else.
    let other = tempfile::tempdir().unwrap();
    output(
        Command::new(program("cosign").unwrap())
            .args(["generate-key-pair", "--output-key-prefix"])
            .arg(other.path().join("other"))
            .env("COSIGN_PASSWORD", "of a key that signs nothing"),
    );
    assert_eq!(
        failing_checks(whole.path(), &other.path().join("other.pub")),
        ["signature", "provenance"]
    );
}

/// Crates that Cargo links into the program or compiles for it, by `cargo tree`: names and versions.
fn crates(target: &str, edges: &str) -> BTreeSet<(String, String)> {
    let tree = output(Command::new(env!("CARGO")).current_dir(ROOT).args([
        "tree",
        "--locked",
        "--package",
        "eventexport",
        "--features",
        "jemalloc",
        "--target",
        target,
        "--edges",
        edges,
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]));
    String::from_utf8(tree)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            Some((name, words.next()?.strip_prefix('v')?.to_owned()))
        })
        .filter(|(name, _)| name != "eventexport")
        .collect()
}

#[test]
fn sboms_name_the_crates_of_the_program_and_no_others() {
    for (target, ..) in targets() {
        let sbom = json(&fs::read(file(&format!("eventexport-{VERSION}-{target}.cdx.json"))).unwrap());
        assert_eq!(sbom["bomFormat"], "CycloneDX");
        assert_eq!(sbom["metadata"]["component"]["version"], VERSION);
        let listed: BTreeSet<(String, String)> = sbom["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| {
                let text = |field: &str| component[field].as_str().unwrap().to_owned();
                (text("name"), text("version"))
            })
            .collect();
        let linked = crates(target, "normal,no-proc-macro");
        assert!(linked.len() > 150, "{linked:?}");
        let missing: Vec<_> = linked.difference(&listed).collect();
        assert!(missing.is_empty(), "{target}: the SBOM lacks {missing:?}");
        let compiled = crates(target, "normal");
        let claimed: Vec<_> = listed.difference(&compiled).collect();
        assert!(claimed.is_empty(), "{target}: not in the program: {claimed:?}");
    }
}

/// Types of the program headers of a 64-bit little-endian ELF file, and its machine.
fn program_headers(elf: &[u8]) -> (u16, Vec<u32>) {
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01");
    let half = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let start = u64::from_le_bytes(elf[32..40].try_into().unwrap());
    let start = usize::try_from(start).unwrap();
    let (size, count) = (usize::from(half(54)), usize::from(half(56)));
    let headers = (0..count).map(|index| start + index * size);
    let kinds = headers.map(|at| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap()));
    (half(18), kinds.collect())
}

#[test]
fn programs_are_static_and_show_version_and_commit() {
    /// Program headers: a part to load, and the path of a dynamic linker.
    const PT_LOAD: u32 = 1;
    const PT_INTERP: u32 = 3;
    let shown = format!("{VERSION} ({})", revision(&statement()));
    for (target, _, machine) in targets() {
        let program = released_program(target);
        let (actual, headers) = program_headers(&program);
        assert_eq!(actual, machine, "{target}");
        assert!(headers.contains(&PT_LOAD), "{target}: {headers:?}");
        assert!(!headers.contains(&PT_INTERP), "{target} needs a dynamic linker");
        // The one of another architecture cannot run here.
        let holds = program
            .windows(shown.len())
            .any(|window| window == shown.as_bytes());
        assert!(holds, "{target}: the program does not contain {shown:?}");
    }

    // The parser is able to find what must not be there.
    let dynamic = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(cfg!(target_env = "musl") || program_headers(&dynamic).1.contains(&PT_INTERP));

    let (target, ..) = native();
    if target.starts_with(std::env::consts::ARCH) {
        let folder = tempfile::tempdir().unwrap();
        output(
            Command::new("tar")
                .arg("-xf")
                .arg(file(&tarball(target)))
                .arg("-C")
                .arg(folder.path()),
        );
        let program = folder
            .path()
            .join(format!("eventexport-{VERSION}-{target}/eventexport"));
        let printed = output(Command::new(program).arg("--version"));
        assert_eq!(
            String::from_utf8(printed).unwrap(),
            format!("eventexport {shown}\n")
        );
    }
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = member(
        &file(&format!("eventexport-{VERSION}.tgz")),
        "eventexport/Chart.yaml",
    );
    let chart = String::from_utf8(chart).unwrap();
    for line in [format!("version: {VERSION}"), format!("appVersion: {VERSION}")] {
        assert!(
            chart.lines().any(|found| found == line),
            "{line} is not in {chart}"
        );
    }
}

#[test]
fn images_hold_the_released_programs() {
    let statement = statement();
    for (target, architecture, _) in targets() {
        let name = format!("eventexport-{VERSION}-image-{architecture}.tar");
        let folder = tempfile::tempdir().unwrap();
        output(
            Command::new("tar")
                .arg("-xf")
                .arg(file(&name))
                .arg("-C")
                .arg(folder.path()),
        );
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"]
                .as_str()
                .unwrap()
                .strip_prefix("sha256:")
                .unwrap();
            let path = folder.path().join("blobs/sha256").join(digest);
            assert_eq!(sha256(&fs::read(&path).unwrap()), digest);
            path
        };
        let index = json(&fs::read(folder.path().join("index.json")).unwrap());
        let descriptor = &index["manifests"][0];
        let manifest = json(&fs::read(blob(descriptor)).unwrap());
        let config = json(&fs::read(blob(&manifest["config"])).unwrap());
        assert_eq!(config["architecture"], architecture);
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.version"], VERSION);
        assert_eq!(labels["org.opencontainers.image.revision"], revision(&statement));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1, "{layers:?}");
        assert_eq!(
            sha256(&member(&blob(&layers[0]), "eventexport")),
            sha256(&released_program(target)),
            "{name}"
        );
        // Images are pulled by the digest of the manifest.
        let subjects = statement["subject"].as_array().unwrap();
        let subject = subjects.iter().find(|subject| subject["name"] == *name).unwrap();
        assert_eq!(subject["annotations"]["manifest"], descriptor["digest"]);
    }
}

#[test]
fn package_manifests_name_the_archives_and_their_digests() {
    crate::packages::check(&FOLDER).unwrap();
}
