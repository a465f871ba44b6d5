//! Identity of a store: the address under which its properties, locks and messages are kept. No I/O.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

/// Identity of a store. Two buckets with one name at two endpoints are different stores. Whatever is remembered about a
/// store is keyed by this type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreIdentity(StorePlace);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum StorePlace {
    Bucket {
        /// URL without slashes at the end. `None`: AWS.
        endpoint: Option<String>,
        region: String,
        bucket: String,
    },
    /// Canonical path.
    Directory(PathBuf),
}

impl StoreIdentity {
    /// Returns the identity of a bucket; without an endpoint it is at AWS.
    pub fn bucket(endpoint: Option<&Url>, region: &str, bucket: &str) -> Self {
        Self(StorePlace::Bucket {
            endpoint: endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            region: region.to_owned(),
            bucket: bucket.to_owned(),
        })
    }

    /// Returns the name of the bucket; `None`: the store is a directory.
    pub fn bucket_name(&self) -> Option<&str> {
        match &self.0 {
            StorePlace::Bucket { bucket, .. } => Some(bucket),
            StorePlace::Directory(_) => None,
        }
    }

    /// Returns the identity of a directory, by its canonical path.
    pub fn directory(path: &Path) -> Self {
        Self(StorePlace::Directory(path.to_owned()))
    }
}

/// Name for messages: `s3://bucket (https://store.example, us-east-1)`, or the path of the directory.
impl fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            StorePlace::Bucket {
                endpoint: Some(endpoint),
                region,
                bucket,
            } => write!(f, "s3://{bucket} ({endpoint}, {region})"),
            StorePlace::Bucket {
                endpoint: None,
                region,
                bucket,
            } => write!(f, "s3://{bucket} ({region})"),
            StorePlace::Directory(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn stores_differ_by_endpoint_region_and_bucket() {
        let of = |endpoint: Option<&str>, region: &str, bucket: &str| {
            let endpoint = endpoint.map(|text| text.parse().unwrap());
            StoreIdentity::bucket(endpoint.as_ref(), region, bucket)
        };
        let one = of(Some("https://one.example/"), "r1", "audit");
        assert_eq!(one, of(Some("https://ONE.example:443"), "r1", "audit"));
        let different = [
            one.clone(),
            of(Some("https://two.example"), "r1", "audit"),
            of(Some("https://one.example:8443"), "r1", "audit"),
            of(Some("https://one.example/tenant"), "r1", "audit"),
            of(Some("https://one.example"), "r2", "audit"),
            of(Some("https://one.example"), "r1", "audit2"),
            of(None, "r1", "audit"),
            StoreIdentity::directory(Path::new("/audit")),
        ];
        assert_eq!(different.iter().collect::<HashSet<_>>().len(), different.len());
        let shown: HashSet<String> = different.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), different.len(), "{shown:?}");
        assert_eq!(one.to_string(), "s3://audit (https://one.example, r1)");
        assert_eq!(of(None, "r1", "audit").to_string(), "s3://audit (r1)");
    }
}
