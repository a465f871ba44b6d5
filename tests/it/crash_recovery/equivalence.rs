//! One manifest by the operator, by `run` and by `run --to` gives the same objects, byte for byte. Receipts differ
//! only in [`VOLATILE_FIELDS`].

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use jiff::civil::date;
use serde_json::Value;

use super::{environment, june, operator};
use crate::testkit::bucket::Bucket;
use crate::testkit::command::{CommandOutput, run_in};
use crate::testkit::environment::{Environment, no_session_left};
use crate::testkit::folder;
use crate::testkit::manifest::Manifest;
use crate::testkit::service::service_on;

/// Fields of a receipt that differ between runs: time, session and place in the bucket.
const VOLATILE_FIELDS: [&str; 3] = ["sessionId", "startedAt", "storedAt"];

/// Runs `eventexport run` with a manifest.
pub(super) async fn run(fixture: &Environment, manifest: &Manifest, more: &[&str]) -> CommandOutput {
    let folder = fixture.folder.path();
    manifest.write(folder.join("manifest.yaml"));
    run_in(folder, &[&["run", "-f", "manifest.yaml"], more].concat()).await
}

/// Objects as stored; receipts and manifests without their volatile fields.
pub(crate) type ArchiveContents = BTreeMap<String, Vec<u8>>;

/// Removes the volatile fields if the object is a receipt, a manifest or a checkpoint, and the bytes of a signature.
pub(crate) fn normalized(key: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if key.ends_with(".receipt.json") {
        let mut receipt: Value = serde_json::from_slice(&bytes)?;
        for own in VOLATILE_FIELDS {
            let value = receipt.as_object_mut().and_then(|fields| fields.remove(own));
            ensure!(value.is_some(), "{key} has no {own}");
        }
        for object in ["object", "supplement"] {
            let object = receipt.get_mut(object).and_then(Value::as_object_mut);
            object.map(|fields| fields.remove("versionId"));
        }
        Ok(serde_json::to_vec_pretty(&receipt)?)
    } else if key.ends_with(".json.sig") {
        ensure!(bytes.len() == 64, "{key} has {} bytes", bytes.len());
        Ok(b"signature".to_vec())
    } else if key.contains("/_manifests/") || key.contains("/_checkpoints/") {
        manifest(&bytes)
    } else {
        Ok(bytes)
    }
}

/// Removes the fields of a manifest or a checkpoint that follow from volatile fields of receipts.
fn manifest(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(bytes)?;
    let remove = |object: Option<&mut Value>, field: &str| {
        object
            .and_then(Value::as_object_mut)
            .and_then(|fields| fields.remove(field))
    };
    let gone = [
        remove(Some(&mut manifest), "writtenAt"),
        remove(manifest.get_mut("root"), "digest"),
    ];
    ensure!(gone.iter().all(Option::is_some), "{manifest:#}");
    for document in ["previous", "head"] {
        remove(manifest.get_mut(document), "sha256");
    }
    // A directory has no bucket.
    for field in ["bucket", "prefix"] {
        remove(Some(&mut manifest), field);
    }
    let windows = manifest.get_mut("windows").and_then(Value::as_array_mut);
    // Those of a checkpoint are names.
    for window in windows.into_iter().flatten().filter(|window| window.is_object()) {
        let mut later = window.get_mut("revisions").map(Value::take);
        let revisions = later.as_mut().and_then(Value::as_array_mut);
        for entry in revisions.into_iter().flatten().chain([&mut *window]) {
            ensure!(remove(entry.get_mut("receipt"), "sha256").is_some(), "{entry:#}");
            for object in ["object", "supplement"] {
                remove(entry.get_mut(object), "versionId");
            }
        }
        if let Some(later) = later {
            window["revisions"] = later;
        }
    }
    Ok(serde_json::to_vec_pretty(&manifest)?)
}

pub(crate) async fn read_bucket(bucket: &Bucket) -> Result<ArchiveContents> {
    let mut archive = ArchiveContents::new();
    for key in bucket.keys().await? {
        let object = normalized(&key, bucket.get(&key).await?)?;
        archive.insert(key, object);
    }
    Ok(archive)
}

/// Reads all objects below the prefix, without the internal files of a directory store.
fn read_folder(root: &Path) -> Result<ArchiveContents> {
    let mut archive = ArchiveContents::new();
    for file in folder::files(&root.join("tracker")) {
        let key = format!("tracker/{}", file.display());
        let object = normalized(&key, std::fs::read(root.join(&key))?)?;
        archive.insert(key, object);
    }
    Ok(archive)
}

fn ensure_same(one: &ArchiveContents, other: &ArchiveContents) -> Result<()> {
    let keys = |archive: &ArchiveContents| archive.keys().cloned().collect::<Vec<_>>();
    ensure!(
        keys(one) == keys(other),
        "{:#?}\nis not\n{:#?}",
        keys(one),
        keys(other)
    );
    for (key, bytes) in one {
        let other_bytes = other.get(key).map_or(&[][..], Vec::as_slice);
        let [ours, theirs_as_text] = [bytes, other_bytes].map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("{} bytes", bytes.len()),
        });
        ensure!(bytes == other_bytes, "{key} is\n{ours}\nand\n{theirs_as_text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_run_a_manifest_gives_the_same_archive() -> Result<()> {
    let mut settings = service_on(date(2018, 6, 9));
    // Two parts per day; 2 and 3 June are a weekend without events.
    settings.gzip.level = 0;
    settings.volume.days.insert(date(2018, 6, 5), 10_000);
    let fixture = environment("same", settings).await?;
    let june = june(&fixture, "2018-06-01", "2018-06-05", 3);
    fixture.apply(&june).await?;
    let _operator = operator(&fixture)?;
    fixture.wait_complete("june").await?;
    let operated = read_bucket(&fixture.bucket).await?;
    ensure!(operated.len() == 5 + 3 + 1, "{:?}", operated.keys());

    let name = format!("{}-run", fixture.namespace);
    let bucket = Bucket::create_versioned(fixture.gateway, &name).await?;
    let other = june.clone().set("destination.s3.bucket", name);
    run(&fixture, &other, &[]).await.expect_exit(0);
    ensure_same(&operated, &read_bucket(&bucket).await?)?;

    let folder = fixture.folder.path().join("archive");
    run(&fixture, &other, &["--archive", "archive"])
        .await
        .expect_exit(0);
    ensure_same(&operated, &read_folder(&folder)?)?;

    // Existing days are not downloaded again by another resource or another way to run.
    let opened = fixture.simulator.ledger().opened;
    ensure!(opened == 15, "{opened} sessions for five days, three times");
    fixture.delete("june").await?;
    fixture.apply(&june).await?;
    fixture.wait_complete("june").await?;
    run(&fixture, &june, &[]).await.expect_exit(0);
    ensure!(fixture.simulator.ledger().opened == opened, "downloaded again");
    ensure!(read_bucket(&fixture.bucket).await? == operated);
    no_session_left(&fixture.simulator)
}
