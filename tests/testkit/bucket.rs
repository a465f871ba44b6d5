//! Buckets of a store: settings for our own client, and a client of the SDK that reads and writes without it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use eventexport::egress::{HostPolicy, Traffic};
use eventexport::simulator::Simulator;
use eventexport::storage::{ChecksumMode, S3Credentials, S3Settings, S3Timeouts};
use jiff::civil::Date;

use super::environment::served;
use super::manifest::SPACE;
use crate::bed::Gateway;

/// Returns the settings of our client for a bucket of the store at that address.
pub(crate) fn s3_settings(endpoint: &str, bucket: &str, keys: (&str, &str)) -> S3Settings {
    S3Settings {
        bucket: bucket.into(),
        region: Gateway::REGION.into(),
        endpoint: Some(endpoint.parse().unwrap()),
        force_path_style: true,
        credentials: S3Credentials::Static {
            access_key_id: keys.0.into(),
            secret_access_key: keys.1.to_owned().into(),
            session_token: None,
        },
        ca_pem: None,
        storage_class: None,
        server_side_encryption: None,
        object_lock: None,
        checksum: ChecksumMode::default(),
        acl: None,
        requester_pays: false,
        timeouts: S3Timeouts::default(),
        hosts: HostPolicy::any(),
        traffic: Traffic::default(),
    }
}

/// Returns the settings for the root account of a gateway.
pub(crate) fn gateway_settings(gateway: &Gateway, bucket: &str) -> S3Settings {
    let keys = (gateway.access_key(), gateway.secret_key());
    s3_settings(&gateway.endpoint(), bucket, keys)
}

/// Creates a bucket that no other test uses.
pub(crate) async fn fresh_bucket(gateway: &Gateway, prefix: &str) -> Result<String> {
    let name = format!("{prefix}-{:016x}", rand::random::<u64>());
    gateway.create_bucket(&name).await?;
    Ok(name)
}

/// Returns a client of the SDK with all rights.
pub(crate) fn sdk(gateway: &Gateway) -> Client {
    sdk_with(&gateway.endpoint(), gateway.access_key(), gateway.secret_key())
}

/// Returns a client of the SDK with the rights of an account.
pub(crate) fn sdk_with(endpoint: &str, access_key: &str, secret_key: &str) -> Client {
    let keys = Credentials::new(access_key, secret_key, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(keys)
        .region(Region::new(Gateway::REGION))
        .endpoint_url(endpoint)
        .force_path_style(true);
    Client::from_conf(config.build())
}

/// Bucket, read without proxies and without our own client.
pub(crate) struct Bucket {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Bucket {
    /// Returns a bucket that exists.
    pub(crate) fn of(gateway: &Gateway, name: &str) -> Self {
        Self {
            client: sdk(gateway),
            name: name.to_owned(),
        }
    }

    /// Creates a bucket with versioning, which makes an overwritten object visible.
    pub(crate) async fn create_versioned(gateway: &Gateway, name: &str) -> Result<Self> {
        gateway.create_bucket(name).await?;
        let bucket = Self::of(gateway, name);
        bucket.keep_versions().await?;
        Ok(bucket)
    }

    /// Creates a bucket with object lock beside this one.
    pub(crate) async fn create_locked(&self, name: &str) -> Result<()> {
        let create = self.client.create_bucket().bucket(name);
        create.object_lock_enabled_for_bucket(true).send().await?;
        Ok(())
    }

    pub(crate) async fn keep_versions(&self) -> Result<()> {
        let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
        let keep = self.client.put_bucket_versioning().bucket(&self.name);
        keep.versioning_configuration(versions.build()).send().await?;
        Ok(())
    }

    /// Returns all keys.
    pub(crate) async fn keys(&self) -> Result<BTreeSet<String>> {
        self.keys_below("").await
    }

    /// Returns all keys below a prefix.
    pub(crate) async fn keys_below(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let mut keys = BTreeSet::new();
        let mut token = None;
        loop {
            let list = self.client.list_objects_v2().bucket(&self.name).prefix(prefix);
            let page = list.set_continuation_token(token).send().await?;
            let found = page.contents.unwrap_or_default();
            keys.extend(found.into_iter().filter_map(|object| object.key));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Returns the number of versions per key, delete markers included.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, usize>> {
        self.versions_below("").await
    }

    /// Returns the number of versions per key below a prefix, delete markers included.
    pub(crate) async fn versions_below(&self, prefix: &str) -> Result<BTreeMap<String, usize>> {
        let mut count = BTreeMap::new();
        let (mut key, mut version) = (None, None);
        loop {
            let list = self
                .client
                .list_object_versions()
                .bucket(&self.name)
                .prefix(prefix);
            let list = list.set_key_marker(key).set_version_id_marker(version);
            let page = list.send().await?;
            let versions = page.versions.unwrap_or_default();
            let markers = page.delete_markers.unwrap_or_default();
            let versions = versions.into_iter().filter_map(|one| one.key);
            for key in versions.chain(markers.into_iter().filter_map(|one| one.key)) {
                *count.entry(key).or_default() += 1;
            }
            (key, version) = (page.next_key_marker, page.next_version_id_marker);
            if page.is_truncated != Some(true) {
                return Ok(count);
            }
        }
    }

    /// Returns the keys of uploads that are neither completed nor aborted.
    pub(crate) async fn uploads(&self) -> Result<Vec<String>> {
        let page = self
            .client
            .list_multipart_uploads()
            .bucket(&self.name)
            .send()
            .await?;
        Ok(page
            .uploads
            .unwrap_or_default()
            .into_iter()
            .filter_map(|upload| upload.key)
            .collect())
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        let delete = self.client.delete_object().bucket(&self.name).key(key);
        delete.send().await?;
        Ok(())
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        let put = self.client.put_object().bucket(&self.name).key(key);
        put.body(bytes.into()).send().await?;
        Ok(())
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let object = self.client.get_object().bucket(&self.name).key(key);
        let object = object.send().await.with_context(|| key.to_owned())?;
        Ok(object.body.collect().await?.to_vec())
    }

    /// Checks an archive below a prefix: a receipt for each of these days, an object as it was served if the day has
    /// events, and manifests; no other key, no duplicate, no overwritten object and no upload. Returns the manifests.
    pub(crate) async fn check_archive(
        &self,
        service: &Simulator,
        prefix: &str,
        days: &[Date],
    ) -> Result<BTreeSet<String>> {
        let root = format!("{prefix}/space={SPACE}/scope=space/");
        let receipt = |day: &Date| format!("{root}_journal/{day}.receipt.json");
        let object = |day: &Date| format!("{root}date={day}/events.json.gz");
        let is_busy = |day: &&Date| !service.body_of(SPACE, false, **day, None).is_empty();
        let busy = || days.iter().filter(is_busy);
        let wanted: BTreeSet<String> = days.iter().map(receipt).chain(busy().map(object)).collect();
        let start = Instant::now();
        let manifests = loop {
            let mut keys = self.keys().await?;
            // A report is no part of it.
            keys.retain(|key| key.starts_with(&root) && !key.contains("/_report/"));
            let is_manifest = |key: &String| key.contains("/_manifests/");
            let (manifests, keys): (BTreeSet<_>, BTreeSet<_>) = keys.into_iter().partition(is_manifest);
            if keys == wanted && !manifests.is_empty() {
                break manifests;
            }
            // Temporary entries are deleted after the receipt.
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "not as wanted: {:#?}, manifests {manifests:?}",
                keys.symmetric_difference(&wanted).collect::<Vec<_>>(),
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let versions = self.versions().await?;
        for key in wanted.iter().chain(&manifests) {
            ensure!(
                versions.get(key) == Some(&1),
                "{key} has {:?} versions",
                versions.get(key)
            );
        }
        for day in busy() {
            let stored = self.get(&object(day)).await?;
            ensure!(
                stored == served(service, *day),
                "{day} is not stored as it was served"
            );
        }
        let mut uploads = self.uploads().await?;
        uploads.retain(|key| key.starts_with(&root));
        ensure!(uploads.is_empty(), "uploads left: {uploads:?}");
        Ok(manifests)
    }
}
