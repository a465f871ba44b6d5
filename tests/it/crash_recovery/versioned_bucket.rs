//! Reads the bucket directly, without proxies and without our own client.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

use crate::bed::Gateway;

/// Bucket with versioning, which makes an overwritten object visible.
pub(crate) struct VersionedBucket {
    client: Client,
    pub(crate) name: String,
}

impl VersionedBucket {
    pub(crate) async fn create(gateway: &Gateway, name: &str) -> Result<Self> {
        gateway.create_bucket(name).await?;
        let keys = Credentials::new(gateway.access_key(), gateway.secret_key(), None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(keys)
            .region(Region::new(Gateway::REGION))
            .endpoint_url(gateway.endpoint())
            .force_path_style(true);
        let client = Client::from_conf(config.build());
        let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
        client
            .put_bucket_versioning()
            .bucket(name)
            .versioning_configuration(versions.build())
            .send()
            .await?;
        Ok(Self {
            client,
            name: name.to_owned(),
        })
    }

    /// Returns all keys.
    pub(crate) async fn keys(&self) -> Result<BTreeSet<String>> {
        let page = self.client.list_objects_v2().bucket(&self.name).send().await?;
        Ok(page
            .contents
            .unwrap_or_default()
            .into_iter()
            .filter_map(|object| object.key)
            .collect())
    }

    /// Returns the number of versions per key, delete markers included.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, usize>> {
        let page = self
            .client
            .list_object_versions()
            .bucket(&self.name)
            .send()
            .await?;
        let mut count = BTreeMap::new();
        let versions = page
            .versions
            .unwrap_or_default()
            .into_iter()
            .filter_map(|one| one.key);
        let markers = page
            .delete_markers
            .unwrap_or_default()
            .into_iter()
            .filter_map(|one| one.key);
        for key in versions.chain(markers) {
            *count.entry(key).or_default() += 1;
        }
        Ok(count)
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
}
