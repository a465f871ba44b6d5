//! The contents of Secrets that a resource uses: which they are, and whether a change came that was not read. Pure.
//!
//! Secrets are watched and read side by side. What the watch says while they are being read may be older or newer than
//! what was read, so that they are read once more then.

use std::collections::HashSet;

use super::secrets::FetchedSecrets;

/// The contents of Secrets that are in use.
#[derive(Default)]
pub(super) struct SecretsInUse {
    /// Their names, also before they were read: a handful.
    named: Box<[Box<str>]>,
    /// What was read of each.
    read: Box<[SecretVersion]>,
    /// What the watch said since a reading began that has not ended: at most one for each name.
    changed_during_read: Option<Vec<SecretVersion>>,
    /// Tells contents apart, within this process.
    pub(super) digest: u64,
    /// A version was seen that is not the one in use.
    pub(super) stale: bool,
}

/// A Secret in some version.
struct SecretVersion {
    name: Box<str>,
    /// `None`: it is not there.
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
    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|name| &**name)
    }

    /// They are about to be read; returns the names that are in use no more.
    pub(super) fn begin_reading(&mut self, names: &HashSet<&str>) -> Vec<Box<str>> {
        self.changed_during_read = Some(Vec::new());
        let before = std::mem::replace(&mut self.named, names.iter().map(|name| (*name).into()).collect());
        let gone = before.into_iter().filter(|name| !names.contains(&**name));
        gone.collect()
    }

    /// They were read. What changed meanwhile is as good as not read.
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

    /// The watch shows one of them in some version, or as deleted; whether it has to be read again. Not yet where it is
    /// being read for the first time: the end of that says.
    pub(super) fn observe_version(&mut self, name: &str, version: Option<&str>) -> bool {
        if let Some(changed_during_read) = &mut self.changed_during_read {
            changed_during_read.retain(|observed| *observed.name != *name);
            changed_during_read.push(SecretVersion::new(name, version));
        }
        let is_stale = self.differs(name, version) == Some(true);
        self.stale |= is_stale;
        is_stale
    }

    /// Whether it was read in another version; `None`: it was not read.
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
        // Made after it was read as missing, and before the reading ended; for the first time, or again.
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
        // Read after it changed.
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
