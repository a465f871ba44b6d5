//! Tracks the versions of the Secrets that a resource uses, and detects changes that were not read. Pure.
//!
//! Secrets are watched and read concurrently. A version that the watch delivers during a read may be older or newer
//! than the one that was read: then the Secrets are read again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::secrets::FetchedSecrets;
use crate::api::ReferencedObject;

/// Secret or ConfigMap of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchedObject {
    pub(super) namespace: Box<str>,
    pub(super) object: ReferencedObject,
}

/// Secrets and ConfigMaps that a resource uses.
#[derive(Default)]
pub(super) struct SecretsInUse {
    /// The objects, also before the first read. At most five, shared with the other resources that use them.
    used: Box<[UsedObject]>,
    /// `None`: no read is running. Boxed: idle resources are many.
    read: Option<Box<RunningRead>>,
    /// Digest of the contents, valid within this process.
    pub(super) digest: u64,
    /// True if the watch delivered a version that is not in use.
    pub(super) stale: bool,
}

/// Read of the objects that has not ended.
#[derive(Default)]
struct RunningRead {
    /// Versions that the watch delivered meanwhile, at most one per object.
    changed: Vec<(ReferencedObject, VersionDigest)>,
}

struct UsedObject {
    watched: Arc<WatchedObject>,
    /// Version that was read. `None`: not read yet.
    version: Option<VersionDigest>,
}

/// Digest of the version of an object, or of its absence. Valid within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VersionDigest(u64);

impl VersionDigest {
    /// Returns the digest of a version. `None`: the object does not exist.
    fn new(version: Option<&str>) -> Self {
        let mut hasher = DefaultHasher::new();
        version.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl SecretsInUse {
    /// Returns the objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<WatchedObject>> {
        self.used.iter().map(|used| &used.watched)
    }

    /// Begins a read. Returns the objects that are no longer in use.
    pub(super) fn begin_reading(&mut self, objects: Vec<Arc<WatchedObject>>) -> Vec<Arc<WatchedObject>> {
        self.read = Some(Box::default());
        let version = |watched: &WatchedObject| self.read_version(&watched.object);
        let used = objects.into_iter().map(|watched| UsedObject {
            version: version(&watched),
            watched,
        });
        let used = used.collect();
        let before = std::mem::replace(&mut self.used, used);
        let gone = before.into_iter().map(|used| used.watched);
        gone.filter(|gone| self.objects().all(|used| used != gone))
            .collect()
    }

    /// Ends a read. The Secrets are stale if the watch delivered another version meanwhile.
    pub(super) fn end_reading(&mut self, fetched: &FetchedSecrets) {
        for used in &mut self.used {
            let version = fetched.versions.get(&used.watched.object);
            used.version = version.map(|version| VersionDigest::new(version.as_deref()));
        }
        self.digest = fetched.digest;
        let read = self.read.take().unwrap_or_default();
        let mut changed = read.changed.iter();
        self.stale = changed.any(|(object, version)| self.differs(object, *version));
    }

    /// Records a version from the watch. `None`: deleted. Returns true if the Secret must be read again. During the
    /// first read, [`SecretsInUse::end_reading`] decides that.
    pub(super) fn observe_version(&mut self, object: &ReferencedObject, version: Option<&str>) -> bool {
        let version = VersionDigest::new(version);
        if let Some(RunningRead { changed }) = self.read.as_deref_mut() {
            changed.retain(|(observed, _)| observed != object);
            changed.push((object.clone(), version));
        }
        let is_stale = self.differs(object, version);
        self.stale |= is_stale;
        is_stale
    }

    fn read_version(&self, object: &ReferencedObject) -> Option<VersionDigest> {
        let used = self.used.iter().find(|used| used.watched.object == *object)?;
        used.version
    }

    /// Returns true if the object was read in another version.
    fn differs(&self, object: &ReferencedObject, version: VersionDigest) -> bool {
        self.read_version(object).is_some_and(|read| read != version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReferencedKind;

    fn secret(name: &str) -> ReferencedObject {
        ReferencedKind::Secret.named(name)
    }

    fn watched(names: &[&str]) -> Vec<Arc<WatchedObject>> {
        let watched = |name: &&str| {
            Arc::new(WatchedObject {
                namespace: "audit".into(),
                object: secret(name),
            })
        };
        names.iter().map(watched).collect()
    }

    fn fetched(versions: &[(&str, Option<&str>)]) -> FetchedSecrets {
        let owned = |(name, version): &(&str, Option<&str>)| (secret(name), version.map(str::to_owned));
        FetchedSecrets {
            versions: versions.iter().map(owned).collect(),
            digest: 7,
            ..FetchedSecrets::default()
        }
    }

    fn reading() -> SecretsInUse {
        let mut secrets = SecretsInUse::default();
        assert!(secrets.begin_reading(watched(&["key", "ca"])).is_empty());
        secrets
    }

    #[test]
    fn only_another_version_makes_secrets_stale() {
        let mut secrets = reading();
        secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", None)]));
        assert!(!secrets.stale);
        assert!(
            !secrets.observe_version(&secret("key"), Some("3"))
                && !secrets.observe_version(&secret("ca"), None)
                && !secrets.stale
        );
        assert!(secrets.observe_version(&secret("ca"), Some("4")) && secrets.stale);
        assert!(!secrets.observe_version(&secret("another"), Some("5")));
        secrets.begin_reading(watched(&["key", "ca"]));
        secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", Some("4"))]));
        assert!(!secrets.stale);
    }

    #[test]
    fn changes_during_a_read_are_not_lost() {
        // Created after it was read as missing and before the read ended, during the first or a later read.
        let mut again = reading();
        again.end_reading(&fetched(&[("key", None)]));
        again.begin_reading(watched(&["key", "ca"]));
        for (mut secrets, at_once) in [(reading(), false), (again, true)] {
            assert_eq!(secrets.observe_version(&secret("key"), Some("3")), at_once);
            secrets.end_reading(&fetched(&[("key", None), ("ca", Some("1"))]));
            assert!(secrets.stale);
            secrets.begin_reading(watched(&["key", "ca"]));
            secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", Some("1"))]));
            assert!(!secrets.stale);
        }
        // Changed before it was read.
        let mut secrets = reading();
        secrets.observe_version(&secret("key"), Some("2"));
        secrets.observe_version(&secret("key"), Some("3"));
        secrets.end_reading(&fetched(&[("key", Some("3"))]));
        assert!(!secrets.stale);
    }

    #[test]
    fn unused_names_are_returned() {
        let mut secrets = reading();
        let gone = secrets.begin_reading(watched(&["key"]));
        assert_eq!(gone, watched(&["ca"]));
        assert!(secrets.objects().eq(&watched(&["key"])));
    }
}
