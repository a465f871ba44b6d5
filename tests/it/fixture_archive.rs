//! Reads, verifies and continues the archive that version 0.1.0 wrote (tests/fixtures/archive-0.1.0).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::testkit::command::{program_in, run_blocking};
use crate::testkit::folder;

const SPACE: &str = "tracker/space=c1/scope=space/";
const ACCOUNT: &str = "tracker/space=c1/scope=account/";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive-0.1.0")
}

/// Returns all files of an archive with their bytes.
fn contents(archive: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| (file.clone(), fs::read(archive.join(file)).unwrap());
    folder::files(archive).into_iter().map(read).collect()
}

/// Copies the archive.
fn copy(to: &Path) {
    folder::copy(&fixture().join("tracker"), &to.join("tracker"));
}

/// Returns the signing key of the archive in PEM: PKCS #8 of the seed in the fixture's README.
fn signing_key() -> String {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    der.extend([1; 32]);
    let hex = der.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let script = format!(
        "printf %s {hex} | tr a-f A-F | sed 's/../\\\\x&/g' | xargs -0 printf | openssl pkey -inform DER"
    );
    let done = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Runs the program, which must succeed, and returns the last document that it prints.
fn program(folder: &Path, args: &[&str]) -> Value {
    let key = folder.join("signing.pem");
    fs::write(&key, signing_key()).unwrap();
    let mut command = program_in(folder, &[args, &["--output", "json"]].concat());
    command.env("EVENTEXPORT_SIGNING_KEY_FILE", &key);
    run_blocking(command).expect_exit(0).summary()
}

fn verified(folder: &Path, archive: &str) -> Value {
    let key = fixture().join("public-key.pem");
    let args = [
        "verify",
        archive,
        "--public-key",
        key.to_str().unwrap(),
        "--require-signature",
    ];
    program(folder, &args)["archives"][0].clone()
}

#[test]
fn an_archive_of_version_0_1_0_is_read() {
    let folder = tempfile::tempdir().unwrap();
    copy(&folder.path().join("archive"));
    let document = program(folder.path(), &["inspect", "archive"]);
    let roots = document["archives"][0]["roots"].as_array().unwrap();
    let root = |name: &str| roots.iter().find(|root| root["root"] == name).unwrap();

    let space = root(SPACE);
    assert_eq!(
        space["range"]["covered"],
        json!(["2018-05-31/2018-06-05", "2018-06-07"])
    );
    assert_eq!(
        space["range"]["acceptedGaps"],
        json!(["2018-05-29/2018-05-30", "2018-06-06"])
    );
    assert_eq!(space["range"]["expired"], json!(["2018-05-30"]));
    assert_eq!(space["range"]["missing"], json!([]));
    assert_eq!(space["splitDays"], json!(["2018-06-04"]));
    assert_eq!(space["events"], 1200);
    assert_eq!(space["manifests"], 2);

    let account = root(ACCOUNT);
    assert_eq!(account["range"]["covered"], json!(["2018-06-01T07"]));
    assert_eq!(account["events"], 18);
}

#[test]
fn an_archive_of_version_0_1_0_verifies_with_its_signatures() {
    let folder = tempfile::tempdir().unwrap();
    copy(&folder.path().join("archive"));
    let report = verified(folder.path(), "archive");
    assert_eq!(report["proved"], true, "{report}");
    assert_eq!(report["findings"], json!([]));
    let sum = |field: &str| -> u64 {
        let roots = report["roots"].as_array().unwrap();
        roots
            .iter()
            .map(|root| root["totals"][field].as_u64().unwrap())
            .sum()
    };
    assert_eq!((sum("windows"), sum("objects"), sum("events")), (31, 29, 1218));

    // Proves that the check can fail: one byte of one object differs.
    let object = format!("archive/{SPACE}date=2018-06-01/events.json.gz");
    let object = folder.path().join(object);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    run_blocking(program_in(folder.path(), &["verify", "archive"])).expect_exit(1);
}

#[test]
fn an_archive_of_version_0_1_0_is_continued_and_nothing_of_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    copy(&archive);
    let before = contents(&archive);
    let manifest = fs::read_to_string(fixture().join("second.yaml"))
        .unwrap()
        .replace("end: 2018-06-07", "end: 2018-06-11");
    fs::write(folder.path().join("third.yaml"), manifest).unwrap();

    let run = ["run", "-f", "third.yaml", "--simulate", "--archive", "archive"];
    let summary = program(folder.path(), &run);
    let totals = &summary["totals"];
    // 7 days exist already, one of them in hours; 2 of the 4 new ones are an empty weekend.
    assert_eq!(
        (&totals["alreadyStored"], &totals["storedNow"]),
        (&json!(7), &json!(4))
    );
    assert_eq!((&totals["accepted"], &totals["missing"]), (&json!(3), &json!(0)));
    assert_eq!(
        summary["simulatedSessions"]["opened"], 4,
        "what was there is not downloaded again"
    );

    let after = contents(&archive);
    for (path, bytes) in &before {
        assert!(after[path] == *bytes, "{} has other bytes", path.display());
    }
    let report = verified(folder.path(), "archive");
    assert_eq!(report["proved"], true, "{report}");
    let roots = report["roots"].as_array().unwrap();
    let space = roots.iter().find(|root| root["root"] == SPACE).unwrap();
    assert_eq!(
        (&space["manifests"]["manifests"], &space["manifests"]["verified"]),
        (&json!(3), &json!(3))
    );

    // A second run finds nothing to do.
    let summary = program(folder.path(), &run);
    assert_eq!(summary["totals"]["storedNow"], 0);
    assert_eq!(summary["simulatedSessions"]["opened"], 0);
}
