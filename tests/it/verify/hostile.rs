//! Archives that someone built to keep a verification busy, or to be believed without being read.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use eventexport::archive::receipt::Sha256Digest;
use eventexport::storage::{Crc64, DirectoryStore, IrregularKind, PutMode, Store as _};
use serde_json::json;

use super::fixture::{ArchiveFixture, SPACE, text};
use crate::storage::conformance;
use crate::testkit::command::CommandOutput;

const OBJECT: &str = "date=2018-06-01/events.json.gz";

/// Time that no hostile archive may keep a verification busy, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

async fn verify(archive: &Path, more: &[&str]) -> CommandOutput {
    let fixture = ArchiveFixture::shared().await;
    let verified = fixture.verify(archive, more);
    tokio::time::timeout(DEADLINE, verified)
        .await
        .expect("the verification ends")
}

fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

fn named(found: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut named: Vec<(String, String)> = found
        .iter()
        .map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned()))
        .collect();
    named.sort();
    named
}

#[tokio::test]
async fn links_to_folders_and_pipes_are_findings_and_are_not_followed() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let root = copy.path().join(SPACE);
    // Each of two links doubles the paths at each depth: 2^64 in all.
    symlink(".", root.join("one")).unwrap();
    symlink(".", root.join("other")).unwrap();
    symlink("nothing", root.join("date=2018-06-01/events-more.json.gz")).unwrap();
    make_pipe(&root.join("date=2018-06-02.pipe"));
    make_pipe(&root.join("_journal/2018-06-09.receipt.json"));
    make_pipe(&root.join(".pipe"));
    let output = verify(copy.path(), &[]).await;
    let found = [
        ("IrregularFile", format!("{SPACE}one")),
        ("IrregularFile", format!("{SPACE}other")),
        (
            "IrregularFile",
            format!("{SPACE}date=2018-06-01/events-more.json.gz"),
        ),
        ("IrregularFile", format!("{SPACE}date=2018-06-02.pipe")),
        (
            "IrregularFile",
            format!("{SPACE}_journal/2018-06-09.receipt.json"),
        ),
    ];
    let found: Vec<(&str, &str)> = found.iter().map(|(kind, key)| (*kind, key.as_str())).collect();
    assert_eq!(output.findings(), named(&found));
}

#[tokio::test]
async fn a_day_behind_a_link_is_missing() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let folder = copy.path().join(SPACE).join("date=2018-06-01");
    fs::rename(&folder, copy.path().join("elsewhere")).unwrap();
    symlink(copy.path().join("elsewhere"), &folder).unwrap();
    let key = format!("{SPACE}date=2018-06-01");
    let found = [
        ("IrregularFile", key.as_str()),
        ("ObjectMissing", &format!("{SPACE}{OBJECT}")),
    ];
    assert_eq!(verify(copy.path(), &[]).await.findings(), named(&found));
    // A link to a file, as tools that store files once create it, is followed.
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    symlink(
        copy.path().join("elsewhere/events.json.gz"),
        folder.join("events.json.gz"),
    )
    .unwrap();
    assert_eq!(verify(copy.path(), &[]).await.findings(), []);
}

#[tokio::test]
async fn an_object_of_64_gib_is_not_read() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let path = copy.path().join(SPACE).join(OBJECT);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(64 << 30).unwrap();
    let output = verify(copy.path(), &[]).await;
    let key = format!("{SPACE}{OBJECT}");
    assert_eq!(output.findings(), named(&[("ObjectSize", &key)]));
    let document = output.json();
    let found = document["archives"][0]["findings"][0]["found"].as_str().unwrap();
    assert_eq!(found, "68719476736 bytes: longer, not read");
    let objects = document["archives"][0]["roots"][1]["objects"]
        .as_array()
        .unwrap()
        .clone();
    let object = objects.iter().find(|object| object["key"] == *key).unwrap();
    assert_eq!(
        (&object["checkedBy"], &object["proved"]),
        (&json!("Size"), &json!(false))
    );
}

#[tokio::test]
async fn other_content_is_described_by_what_it_is() {
    use std::io::Write as _;
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let path = copy.path().join(SPACE).join(OBJECT);
    let good = fs::read(&path).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for event in 0..7 {
        writeln!(encoder, "{{\"event\":{event}}}").unwrap();
    }
    let other = encoder.finish().unwrap();
    for (bytes, expected) in [
        (other, "whole gzip, 7 events: other content"),
        (good[..good.len() - 1].to_vec(), "ends inside"),
        ([&good[..], b"more"].concat(), "gzip"),
    ] {
        fs::write(&path, bytes).unwrap();
        let output = verify(copy.path(), &[]).await;
        assert_eq!(
            output.findings(),
            named(&[("ObjectSize", &format!("{SPACE}{OBJECT}"))])
        );
        let document = output.json();
        let found = document["archives"][0]["findings"][0]["found"].as_str().unwrap();
        assert!(found.contains(expected), "{found}");
    }
}

#[tokio::test]
async fn quick_believes_no_side_files_of_a_directory() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let key = format!("{SPACE}{OBJECT}");
    let path = copy.path().join(&key);
    let good = fs::read(&path).unwrap();
    let mut forged = good.clone();
    forged[100] ^= 1;
    fs::write(&path, &forged).unwrap();
    // The side file states the checksum of the receipt for the forged file.
    let name = Sha256Digest::of(key.as_bytes()).to_string();
    let folder = copy.path().join(".eventexport-tmp/facts").join(name);
    fs::create_dir_all(&folder).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let side = json!({
        "size": forged.len(), "crc64": Crc64::of(&good).to_string(), "modified": u64::try_from(modified).unwrap(),
    });
    fs::write(folder.join("01.json"), side.to_string()).unwrap();
    make_pipe(&folder.join("00.json"));

    let output = verify(copy.path(), &["--quick"]).await;
    assert_eq!(output.findings(), []);
    let document = output.json();
    assert_eq!(
        (&document["passed"], &document["proved"]),
        (&json!(true), &json!(false))
    );
    let methods = &document["archives"][0]["roots"][1]["checkedBy"];
    assert_eq!(*methods, json!({ "Size": 28 }));
    let text = fixture
        .program(&["verify", text(copy.path()), "--quick"], &[])
        .await;
    let last = text.out.trim_end().lines().last().unwrap();
    assert!(
        last.contains("no event was read") && last.contains("by size alone"),
        "{last}"
    );
    assert_eq!(
        verify(copy.path(), &[]).await.findings(),
        named(&[("ObjectChanged", &key)])
    );
}

#[tokio::test]
async fn a_directory_writes_and_reads_nothing_behind_a_link_to_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "x").unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let body = conformance::bytes(1, 10);
    for mode in [PutMode::Create, PutMode::Overwrite] {
        for key in ["link/file", "link/new"] {
            let refused = conformance::put(&store, key, mode, &body).await.unwrap_err();
            assert!(refused.to_string().contains("symbolic link"), "{refused}");
        }
    }
    assert_eq!(store.get("link/file", 10).await.unwrap(), None);
    assert_eq!(store.head("link/file").await.unwrap(), None);
    assert_eq!(store.get_range("link/file", 0, 1, None).await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap(), []);
    let refused = store.delete(&["link/file".to_owned()]).await.unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    let irregular = store.list_irregular("").await.unwrap();
    assert_eq!(irregular.len(), 1);
    assert_eq!(
        (&*irregular[0].key, irregular[0].kind),
        ("link", IrregularKind::FolderLink)
    );
    // The directory itself may be a link.
    let link = outside.path().join("archive");
    symlink(folder.path(), &link).unwrap();
    let store = DirectoryStore::open(&link).unwrap();
    conformance::put(&store, "key", PutMode::Create, &body)
        .await
        .unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
}
