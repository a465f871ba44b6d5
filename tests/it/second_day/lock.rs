//! Object lock: what is evidence cannot be deleted or replaced by anybody, and what is not is tidied away.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::types::ObjectLockMode;
use eventexport::simulator::Settings;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Scene;
use crate::operator::{apply, becomes};

#[tokio::test]
async fn locked_evidence_outlives_whoever_owns_the_bucket() -> Result<()> {
    let scene = Scene::start("locked", Settings::default()).await?;
    let bucket = &scene.namespace;
    let create = scene.s3.create_bucket().bucket(bucket);
    create.object_lock_enabled_for_bucket(true).send().await?;
    let account = scene.account("bucket").await?;
    let with_retention = |actions: &mut Vec<Value>| {
        if actions.contains(&json!("s3:PutObject")) {
            actions.push(json!("s3:PutObjectRetention"));
        }
    };
    scene.grant(bucket, &account, with_retention).await?;
    // A bucket that was made without it says so.
    let plain = format!("{bucket}-plain");
    scene.gateway.create_bucket(&plain).await?;
    scene.grant(&plain, &account, with_retention).await?;
    let mut export = scene.export("plain", &plain, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(scene.cluster, &export).await?;
    let states = ["False/LockRefused", "False", "False", "True/LockRefused"];
    becomes(scene.cluster, &scene.namespace, "plain", states).await?;
    // And one whose policy does not grant it says that.
    let forbidden = format!("{bucket}-forbidden");
    let create = scene.s3.create_bucket().bucket(&forbidden);
    create.object_lock_enabled_for_bucket(true).send().await?;
    scene.grant(&forbidden, &account, |_| ()).await?;
    let mut export = scene.export("forbidden", &forbidden, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(scene.cluster, &export).await?;
    let states = ["False/BucketForbidden", "False", "False", "True/BucketForbidden"];
    let object = becomes(scene.cluster, &scene.namespace, "forbidden", states).await?;
    let message = object["status"]["lastError"]["message"].to_string();
    ensure!(message.contains("s3:PutObjectRetention"), "{message}");
    let listed = scene.s3.list_objects_v2().bucket(&forbidden).send().await?;
    let mut keys = listed.contents().iter().filter_map(|object| object.key());
    ensure!(
        !keys.any(|key| key.ends_with("receipt.json") || key.ends_with("events.json.gz")),
        "{listed:?}"
    );

    let mut export = scene.export("june", bucket, "bucket");
    export["spec"]["destination"]["s3"]["objectLock"] = json!({ "mode": "Compliance", "retainDays": 30 });
    apply(scene.cluster, &export).await?;
    let states = ["True/Complete", "True/Complete", "False/Accepted", "False"];
    becomes(scene.cluster, &scene.namespace, "june", states).await?;

    let listed = scene.s3.list_objects_v2().bucket(bucket).send().await?;
    let keys: Vec<&str> = listed
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .collect();
    // Two days: events and receipts, and a manifest; and no working papers, which are never locked.
    ensure!(keys.len() == 5, "{keys:?}");
    for key in keys {
        let head = scene.s3.head_object().bucket(bucket).key(key).send().await?;
        ensure!(
            head.object_lock_mode() == Some(&ObjectLockMode::Compliance),
            "{key}: {head:?}"
        );
        let until = head.object_lock_retain_until_date().context("no date")?.secs();
        let days = (until - Timestamp::now().as_second() + 3600) / 86_400;
        ensure!(days == 30, "{key}: {days} days");

        // Whoever owns everything cannot delete it, not even past governance.
        let version = head.version_id().context("no version")?;
        let delete = scene
            .s3
            .delete_object()
            .bucket(bucket)
            .key(key)
            .version_id(version);
        let refused = delete.bypass_governance_retention(true).send().await;
        ensure!(refused.is_err(), "{key} was deleted");
        let still = scene.s3.get_object().bucket(bucket).key(key).version_id(version);
        still.send().await.with_context(|| format!("{key} is gone"))?;
    }
    Ok(())
}
