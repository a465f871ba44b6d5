//! Object lock: nobody can delete or replace evidence, and temporary entries are still removed.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::types::ObjectLockMode;
use eventexport::simulator::Settings;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::DayTwoFixture;
use crate::operator::wait_conditions;
use crate::testkit::bucket::Bucket;

#[tokio::test]
async fn locked_evidence_survives_the_bucket_owner() -> Result<()> {
    let fixture = DayTwoFixture::start("locked", Settings::default()).await?;
    let bucket = &fixture.namespace;
    fixture.bucket.create_locked(bucket).await?;
    let account = fixture.account("bucket").await?;
    let locked = |name: &str, bucket: &str| {
        let lock = json!({ "mode": "Compliance", "retainDays": 30 });
        fixture
            .two_days(name, bucket)
            .set("destination.s3.objectLock", lock)
    };
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
    fixture.apply(&locked("plain", &plain)).await?;
    let states = [
        "False/ObjectAttributesRejected",
        "False",
        "False",
        "True/ObjectAttributesRejected",
    ];
    wait_conditions(fixture.cluster, &fixture.namespace, "plain", states).await?;
    // A bucket whose policy does not grant it is reported as such.
    let forbidden = format!("{bucket}-forbidden");
    fixture.bucket.create_locked(&forbidden).await?;
    fixture.grant(&forbidden, &account.access_key, |_| ()).await?;
    fixture.apply(&locked("forbidden", &forbidden)).await?;
    let states = ["False/BucketForbidden", "False", "False", "True/BucketForbidden"];
    let object = wait_conditions(fixture.cluster, &fixture.namespace, "forbidden", states).await?;
    let message = object["status"]["lastError"]["message"].to_string();
    ensure!(message.contains("s3:PutObjectRetention"), "{message}");
    let keys = Bucket::of(fixture.gateway, &forbidden).keys().await?;
    let stored = |key: &String| key.ends_with("receipt.json") || key.ends_with("events.json.gz");
    ensure!(!keys.iter().any(stored), "{keys:?}");

    fixture.apply(&locked("june", bucket)).await?;
    fixture.wait_complete("june").await?;

    let keys = fixture.bucket.keys().await?;
    // Two days: events and receipts, and a manifest. Temporary entries are never locked and are gone.
    ensure!(keys.len() == 5, "{keys:?}");
    for key in keys {
        let s3 = &fixture.bucket.client;
        let head = s3.head_object().bucket(bucket).key(&key).send().await?;
        ensure!(
            head.object_lock_mode() == Some(&ObjectLockMode::Compliance),
            "{key}: {head:?}"
        );
        let until = head.object_lock_retain_until_date().context("no date")?.secs();
        let days = (until - Timestamp::now().as_second() + 3600) / 86_400;
        ensure!(days == 30, "{key}: {days} days");

        // Not even the root account can delete it, with governance bypass.
        let version = head.version_id().context("no version")?;
        let delete = s3.delete_object().bucket(bucket).key(&key).version_id(version);
        let refused = delete.bypass_governance_retention(true).send().await;
        ensure!(refused.is_err(), "{key} was deleted");
        let still = s3.get_object().bucket(bucket).key(&key).version_id(version);
        still.send().await.with_context(|| format!("{key} is gone"))?;
    }
    Ok(())
}
