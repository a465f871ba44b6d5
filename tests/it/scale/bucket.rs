//! Lists the bucket directly, without proxies and without our own client, for any number of keys.

use std::collections::BTreeMap;

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

use crate::bed::Gateway;

pub(super) struct PagedBucket {
    client: Client,
    name: String,
}

impl PagedBucket {
    /// Creates a bucket. If `versioned`, an overwritten object is detectable.
    pub(super) async fn create(gateway: &Gateway, name: &str, versioned: bool) -> Result<Self> {
        gateway.create_bucket(name).await?;
        let keys = Credentials::new(gateway.access_key(), gateway.secret_key(), None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(keys)
            .region(Region::new(Gateway::REGION))
            .endpoint_url(gateway.endpoint())
            .force_path_style(true);
        let client = Client::from_conf(config.build());
        if versioned {
            let versions = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
            client
                .put_bucket_versioning()
                .bucket(name)
                .versioning_configuration(versions.build())
                .send()
                .await?;
        }
        Ok(Self {
            client,
            name: name.to_owned(),
        })
    }

    /// Returns all current keys below a prefix.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
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

    /// Returns the number of versions per key below a prefix, delete markers included.
    pub(super) async fn versions(&self, prefix: &str) -> Result<BTreeMap<String, usize>> {
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
    pub(super) async fn uploads(&self) -> Result<Vec<String>> {
        let page = self
            .client
            .list_multipart_uploads()
            .bucket(&self.name)
            .send()
            .await?;
        let uploads = page.uploads.unwrap_or_default();
        Ok(uploads.into_iter().filter_map(|upload| upload.key).collect())
    }
}
