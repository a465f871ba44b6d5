//! Tracks the versions of the Secrets that a resource uses, and detects changes that were not read. Pure.
//!
//! Secrets are watched and read concurrently. A version that the watch delivers during a read may be older or newer
//! than the one that was read: then the Secrets are read again.

use std::collections::HashSet;

use super::secrets::FetchedSecrets;

/// Secrets that a resource uses.
#[derive(Default)]
pub(super) struct SecretsInUse {
    /// Names, also before the first read. At most five.
    named: Box<[Box<str>]>,
    /// Version of each Secret that was read.
    read: Box<[SecretVersion]>,
    /// Versions that the watch delivered during the current read, at most one per name. `None`: no read is running.
    changed_during_read: Option<Vec<SecretVersion>>,
    /// Digest of the contents, valid within this process.
    pub(super) digest: u64,
    /// True if the watch delivered a version that is not in use.
    pub(super) stale: bool,
}

/// Version of a Secret.
struct SecretVersion {
    name: Box<str>,
    /// `None`: the Secret does not exist.
    version: Option<Box<str>>,
}

impl SecretVersion {
    fn new(name: &str, version: Option<&str>) -> Self {
        Self {
            name: name.into(),
            version: version.map(Into::into),
        }
    }
}

impl SecretsInUse {
    /// Returns the names of the Secrets.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|name| &**name)
    }

    /// Begins a read. Returns the names that are no longer in use.
    pub(super) fn begin_reading(&mut self, names: &HashSet<&str>) -> Vec<Box<str>> {
        self.changed_during_read = Some(Vec::new());
        let before = std::mem::replace(&mut self.named, names.iter().map(|name| (*name).into()).collect());
        let gone = before.into_iter().filter(|name| !names.contains(&**name));
        gone.collect()
    }

    /// Ends a read. The Secrets are stale if the watch delivered another version meanwhile.
    pub(super) fn end_reading(&mut self, fetched: &FetchedSecrets) {
        let versions = fetched.versions.iter();
        self.read = versions
            .map(|(name, version)| SecretVersion::new(name, version.as_deref()))
            .collect();
        self.digest = fetched.digest;
        let changed_during_read = self.changed_during_read.take().unwrap_or_default();
        let differs = |observed: &SecretVersion| {
            self.differs(&observed.name, observed.version.as_deref()) == Some(true)
        };
        self.stale = changed_during_read.iter().any(differs);
    }

    /// Records a version from the watch. `None`: deleted. Returns true if the Secret must be read again. During the
    /// first read, [`SecretsInUse::end_reading`] decides that.
    pub(super) fn observe_version(&mut self, name: &str, version: Option<&str>) -> bool {
        if let Some(changed_during_read) = &mut self.changed_during_read {
            changed_during_read.retain(|observed| *observed.name != *name);
            changed_during_read.push(SecretVersion::new(name, version));
        }
        let is_stale = self.differs(name, version) == Some(true);
        self.stale |= is_stale;
        is_stale
    }

    /// Returns true if the version differs from the one that was read, or `None` if the Secret was not read.
    fn differs(&self, name: &str, version: Option<&str>) -> Option<bool> {
        let read = self.read.iter().find(|read| *read.name == *name)?;
        Some(read.version.as_deref() != version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(versions: &[(&str, Option<&str>)]) -> FetchedSecrets {
        let owned = |(name, version): &(&str, Option<&str>)| ((*name).to_owned(), version.map(str::to_owned));
        FetchedSecrets {
            versions: versions.iter().map(owned).collect(),
            digest: 7,
            ..FetchedSecrets::default()
        }
    }

    fn reading() -> SecretsInUse {
        let mut secrets = SecretsInUse::default();
        assert!(secrets.begin_reading(&HashSet::from(["key", "ca"])).is_empty());
        secrets
    }

    #[test]
    fn only_another_version_makes_secrets_stale() {
        let mut secrets = reading();
        secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", None)]));
        assert!(!secrets.stale);
        assert!(
            !secrets.observe_version("key", Some("3"))
                && !secrets.observe_version("ca", None)
                && !secrets.stale
        );
        assert!(secrets.observe_version("ca", Some("4")) && secrets.stale);
        assert!(!secrets.observe_version("another", Some("5")));
        secrets.begin_reading(&HashSet::from(["key", "ca"]));
        secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", Some("4"))]));
        assert!(!secrets.stale);
    }

    #[test]
    fn changes_during_a_read_are_not_lost() {
        // Created after it was read as missing and before the read ended, during the first or a later read.
        let mut again = reading();
        again.end_reading(&fetched(&[("key", None)]));
        again.begin_reading(&HashSet::from(["key", "ca"]));
        for (mut secrets, at_once) in [(reading(), false), (again, true)] {
            assert_eq!(secrets.observe_version("key", Some("3")), at_once);
            secrets.end_reading(&fetched(&[("key", None), ("ca", Some("1"))]));
            assert!(secrets.stale);
            secrets.begin_reading(&HashSet::from(["key", "ca"]));
            secrets.end_reading(&fetched(&[("key", Some("3")), ("ca", Some("1"))]));
            assert!(!secrets.stale);
        }
        // Changed before it was read.
        let mut secrets = reading();
        secrets.observe_version("key", Some("2"));
        secrets.observe_version("key", Some("3"));
        secrets.end_reading(&fetched(&[("key", Some("3"))]));
        assert!(!secrets.stale);
    }

    #[test]
    fn unused_names_are_returned() {
        let mut secrets = reading();
        let gone = secrets.begin_reading(&HashSet::from(["key"]));
        assert_eq!(gone, [Box::<str>::from("ca")]);
        assert_eq!(secrets.names().collect::<Vec<_>>(), ["key"]);
    }
}
