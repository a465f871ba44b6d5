//! Verification on a real S3 store, with and without reading the data.

use std::fs;

use bytes::Bytes;
use eventexport::storage::{Crc64, ObjectClass, PutMode, PutOptions, S3Store, Store};

use super::fixture::{ArchiveFixture, SPACE, simulator, text};
use crate::bed::Gateway;
use crate::testkit::bucket::{Bucket, fresh_bucket, gateway_settings};
use crate::testkit::command::{CommandOutput, bucket_env};

struct ArchiveBucket {
    gateway: &'static Gateway,
    name: String,
    store: S3Store,
}

impl ArchiveBucket {
    async fn create() -> Self {
        let gateway = Gateway::shared().await;
        let name = fresh_bucket(gateway, "verify").await.unwrap();
        let store = S3Store::connect(gateway_settings(gateway, &name)).unwrap();
        Self { gateway, name, store }
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        let options = PutOptions {
            mode: PutMode::Overwrite,
            crc64: Crc64::of(&bytes),
            metadata: Vec::new(),
            content_type: "application/gzip",
            class: ObjectClass::Events,
        };
        self.store.put(key, bytes.into(), &options).await.unwrap();
    }

    async fn get(&self, key: &str) -> Bytes {
        self.store.get(key, 1 << 20).await.unwrap().unwrap()
    }

    fn keys(&self) -> [(&'static str, &'static str); 4] {
        bucket_env(self.gateway)
    }

    async fn verify(&self, fixture: &ArchiveFixture, more: &[&str]) -> CommandOutput {
        let (place, endpoint) = (format!("s3://{}/t", self.name), self.gateway.endpoint());
        let public = fixture.key("public");
        let mut arguments = vec!["verify", &place, "--s3-endpoint", &endpoint, "--output", "json"];
        arguments.extend(["--public-key", text(&public)]);
        arguments.extend(more);
        fixture.program(&arguments, &self.keys()).await
    }
}

fn findings(kind: &str, keys: &[&str]) -> Vec<(String, String)> {
    keys.iter()
        .map(|key| (kind.to_owned(), format!("{SPACE}{key}")))
        .collect()
}

#[tokio::test]
async fn a_bucket_archive_verifies_and_quick_uses_the_store_metadata() {
    let fixture = ArchiveFixture::shared().await;
    let bucket = ArchiveBucket::create().await;
    let simulator = simulator().await;
    let destination = format!(
        "s3: {{bucket: {}, prefix: t, region: {}, endpoint: '{}', credentialsSecretRef: {{name: bucket}}}}",
        bucket.name,
        Gateway::REGION,
        bucket.gateway.endpoint()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.yaml");
    let exports = [("Space", "2018-06-04", "2018-06-06")];
    fs::write(&file, fixture.manifest(&simulator, &destination, &exports)).unwrap();
    let output = fixture.program(&["run", "-f", text(&file)], &bucket.keys()).await;
    assert_eq!(output.code, Some(0), "{output:?}");

    assert_eq!(bucket.verify(fixture, &[]).await.findings(), []);
    let quick = bucket.verify(fixture, &["--quick"]).await;
    assert_eq!(quick.findings(), []);
    let root = &quick.json()["archives"][0]["roots"][0];
    assert_eq!(root["checkedBy"], serde_json::json!({"StoredCrc64Nvme": 3}));
    let by_file = ["verify", "-f", text(&file), "--output", "json"];
    assert_eq!(fixture.program(&by_file, &bucket.keys()).await.findings(), []);

    let [one, other] = ["date=2018-06-04/events.json.gz", "date=2018-06-05/events.json.gz"];
    let [key, other_key] = [one, other].map(|key| format!("{SPACE}{key}"));
    let (good, other_good) = (bucket.get(&key).await, bucket.get(&other_key).await);

    let mut flipped = good.to_vec();
    flipped[100] ^= 1;
    bucket.put(&key, flipped.into()).await;
    for arguments in [&[][..], &["--quick"]] {
        let output = bucket.verify(fixture, arguments).await;
        assert_eq!(output.findings(), findings("ObjectChanged", &[one]));
    }

    bucket.put(&key, other_good.clone()).await;
    bucket.put(&other_key, good.clone()).await;
    for arguments in [&[][..], &["--quick"]] {
        let output = bucket.verify(fixture, arguments).await;
        assert_eq!(output.findings(), findings("ObjectSwapped", &[one, other]));
    }

    bucket.put(&key, good.slice(..good.len() - 3)).await;
    bucket.put(&other_key, other_good).await;
    for arguments in [&[][..], &["--quick"]] {
        let output = bucket.verify(fixture, arguments).await;
        assert_eq!(output.findings(), findings("ObjectSize", &[one]));
    }

    assert!(
        bucket
            .store
            .delete(std::slice::from_ref(&key))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        bucket.verify(fixture, &["--quick"]).await.findings(),
        findings("ObjectMissing", &[one])
    );
    bucket.put(&key, good).await;
    assert_eq!(bucket.verify(fixture, &[]).await.findings(), []);
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_reported_by_argument() {
    let fixture = ArchiveFixture::shared().await;
    let bucket = ArchiveBucket::create().await;
    let mut keys = bucket.keys();
    keys[1].1 = "hunter2";
    let (place, endpoint) = (format!("s3://{}/t", bucket.name), bucket.gateway.endpoint());
    let arguments = ["verify", &place, "--s3-endpoint", &endpoint];
    let output = fixture.program(&arguments, &keys).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output.err.contains("AWS_SECRET_ACCESS_KEY") && !output.err.contains("hunter2"),
        "{output:?}"
    );

    let arguments = ["verify", "s3://no-such-bucket/t", "--s3-endpoint", &endpoint];
    let output = fixture.program(&arguments, &bucket.keys()).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(output.err.contains("s3://no-such-bucket"), "{output:?}");
}

#[tokio::test]
async fn versions_show_what_was_written_over_or_deleted_under_a_lock() {
    let fixture = ArchiveFixture::shared().await;
    let bucket = ArchiveBucket::create().await;
    let versions = Bucket::of(bucket.gateway, &bucket.name);
    versions.keep_versions().await.unwrap();
    let simulator = simulator().await;
    let destination = format!(
        "s3: {{bucket: {}, prefix: t, region: {}, endpoint: '{}', credentialsSecretRef: {{name: bucket}}}}",
        bucket.name,
        Gateway::REGION,
        bucket.gateway.endpoint()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.yaml");
    let exports = [("Space", "2018-06-05", "2018-06-07")];
    fs::write(&file, fixture.manifest(&simulator, &destination, &exports)).unwrap();
    let output = fixture.program(&["run", "-f", text(&file)], &bucket.keys()).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(bucket.verify(fixture, &["--versions"]).await.findings(), []);

    // The same bytes again: only the versions tell.
    let key = |below: &str| format!("{SPACE}{below}");
    let [object, receipt] = [
        "date=2018-06-05/events.json.gz",
        "_journal/2018-06-06.receipt.json",
    ];
    let gone = ["_manifests/00000001.json", "_manifests/00000001.json.sig"];
    for again in [object, receipt] {
        let bytes = versions.get(&key(again)).await.unwrap();
        versions.put(&key(again), bytes).await.unwrap();
    }
    for deleted in gone {
        versions.delete(&key(deleted)).await.unwrap();
    }
    // Each receipt is signed, so nothing is missing.
    assert_eq!(bucket.verify(fixture, &[]).await.findings(), []);
    let found = bucket.verify(fixture, &["--versions"]).await;
    assert_eq!(
        found.findings(),
        findings("ObjectSuperseded", &[receipt, gone[0], gone[1], object])
    );
    let document = found.json();
    let all = document["archives"][0]["findings"].as_array().unwrap();
    let of = |below: &str| all.iter().find(|finding| finding["key"] == key(below)).unwrap();
    let words = |below: &str, field: &str| of(below)[field].as_str().unwrap().to_owned();
    assert!(
        words(object, "found").contains("written over earlier versions: 1"),
        "{all:?}"
    );
    assert!(words(object, "expected").contains("and no other"), "{all:?}");
    assert!(
        words(gone[0], "found").contains("deleted; earlier versions: 1"),
        "{all:?}"
    );
    // Days that are not verified are not compared.
    let later = bucket
        .verify(fixture, &["--versions", "--start", "2018-06-07"])
        .await;
    assert_eq!(later.findings(), findings("ObjectSuperseded", &gone));
}

#[tokio::test]
async fn versions_are_demanded_where_the_bucket_keeps_none() {
    let fixture = ArchiveFixture::shared().await;
    let bucket = ArchiveBucket::create().await;
    let copy = fixture.copy();
    let from = copy.path().join(SPACE).join("_journal");
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = Bytes::from(fs::read(entry.path()).unwrap());
        if name.starts_with("2018-06-02.receipt") {
            bucket.put(&format!("{SPACE}_journal/{name}"), bytes).await;
        }
    }
    assert_eq!(bucket.verify(fixture, &[]).await.findings(), []);
    assert_eq!(
        bucket.verify(fixture, &["--versions"]).await.findings(),
        findings("Unversioned", &[""])
    );
    let output = fixture.verify(copy.path(), &["--versions"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.err.contains("--versions"), "{output:?}");
}
