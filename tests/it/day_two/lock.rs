//! Object lock: nobody can delete or replace evidence, and temporary entries are still removed.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::types::ObjectLockMode;
use eventexport::simulator::Settings;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::DayTwoFixture;
use crate::operator::{apply, wait_conditions};

#[tokio::test]
async fn locked_evidence_survives_the_bucket_owner() -> Result<()> {
    let fixture = DayTwoFixture::start("locked", Settings::default()).await?;
    let bucket = &fixture.namespace;
    let create = fixture.s3.create_bucket().bucket(bucket);
    create.object_lock_enabled_for_bucket(true).send().await?;
    let account = fixture.account("bucket").await?;
    let with_retention = |actions: &mut Vec<Value>| {
        if actions.contains(&json!("s3:PutObject")) {
            actions.push(json!("s3:PutObjectRetention"));
        }
    };
    fixture.grant(bucket, &account.access_key, with_retention).await?;
    // A bucket without object lock is reported as such.
    let plain = format!("{bucket}-plain");
    fixture.gateway.create_bucket(&plain).await?;
    fixture.grant(&plain, &account.access_key, with_retention).await?;
    let mut export = fixture.export("plain", &plain, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(fixture.cluster, &export).await?;
    let states = [
        "False/ObjectAttributesRejected",
        "False",
        "False",
        "True/ObjectAttributesRejected",
    ];
    wait_conditions(fixture.cluster, &fixture.namespace, "plain", states).await?;
    // A bucket whose policy does not grant it is reported as such.
    let forbidden = format!("{bucket}-forbidden");
    let create = fixture.s3.create_bucket().bucket(&forbidden);
    create.object_lock_enabled_for_bucket(true).send().await?;
    fixture.grant(&forbidden, &account.access_key, |_| ()).await?;
    let mut export = fixture.export("forbidden", &forbidden, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(fixture.cluster, &export).await?;
    let states = ["False/BucketForbidden", "False", "False", "True/BucketForbidden"];
    let object = wait_conditions(fixture.cluster, &fixture.namespace, "forbidden", states).await?;
    let message = object["status"]["lastError"]["message"].to_string();
    ensure!(message.contains("s3:PutObjectRetention"), "{message}");
    let listed = fixture.s3.list_objects_v2().bucket(&forbidden).send().await?;
    let mut keys = listed.contents().iter().filter_map(|object| object.key());
    ensure!(
        !keys.any(|key| key.ends_with("receipt.json") || key.ends_with("events.json.gz")),
        "{listed:?}"
    );

    let mut export = fixture.export("june", bucket, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(fixture.cluster, &export).await?;
    let states = ["True/Complete", "True/Complete", "False/Accepted", "False"];
    wait_conditions(fixture.cluster, &fixture.namespace, "june", states).await?;

    let listed = fixture.s3.list_objects_v2().bucket(bucket).send().await?;
    let keys: Vec<&str> = listed
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .collect();
    // Two days: events and receipts, and a manifest. Temporary entries are never locked and are gone.
    ensure!(keys.len() == 5, "{keys:?}");
    for key in keys {
        let head = fixture.s3.head_object().bucket(bucket).key(key).send().await?;
        ensure!(
            head.object_lock_mode() == Some(&ObjectLockMode::Compliance),
            "{key}: {head:?}"
        );
        let until = head.object_lock_retain_until_date().context("no date")?.secs();
        let days = (until - Timestamp::now().as_second() + 3600) / 86_400;
        ensure!(days == 30, "{key}: {days} days");

        // Not even the root account can delete it, with governance bypass.
        let version = head.version_id().context("no version")?;
        let delete = fixture
            .s3
            .delete_object()
            .bucket(bucket)
            .key(key)
            .version_id(version);
        let refused = delete.bypass_governance_retention(true).send().await;
        ensure!(refused.is_err(), "{key} was deleted");
        let still = fixture
            .s3
            .get_object()
            .bucket(bucket)
            .key(key)
            .version_id(version);
        still.send().await.with_context(|| format!("{key} is gone"))?;
    }
    Ok(())
}
