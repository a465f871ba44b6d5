//! Settings that a user can correct, and remedies as data. No I/O.
//!
//! An error states what failed; the setting at fault and the remedy are data beside it. Each front end renders
//! them with its own names: `spec.source.endpoint` in a condition, `--endpoint` on the command line,
//! `EVENTEXPORT_API_KEY` where the key came from the environment.

use std::collections::BTreeMap;

/// A setting of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// The space id.
    Space,
    /// Address of the Activity Tracker.
    SourceEndpoint,
    /// Address of the UAA.
    UaaEndpoint,
    /// Credentials of the Activity Tracker.
    SourceCredentials,
    /// Certificate authority of the Activity Tracker.
    SourceCa,
    /// ConfigMap with the certificate authority of the Activity Tracker.
    SourceCaConfigMap,
    /// The bucket or directory.
    Bucket,
    /// Address of the store.
    BucketEndpoint,
    /// Region of the bucket.
    BucketRegion,
    /// Credentials of the store.
    BucketCredentials,
    /// ServiceAccount of the namespace, whose role writes to the store.
    BucketServiceAccount,
    /// Certificate authority of the store.
    BucketCa,
    /// ConfigMap with the certificate authority of the store.
    BucketCaConfigMap,
    /// Object lock, encryption and storage class of stored objects.
    ObjectAttributes,
    /// The key that signs manifests.
    SigningKey,
    /// Address of the time-stamp authority.
    TimestampAuthority,
    /// The report on the archive.
    Report,
    /// The proxy of the process, which is no field of the resource.
    Proxy,
}

impl Setting {
    /// The field of an `EventExport`.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Space => "spec.space",
            Self::SourceEndpoint => "spec.source.endpoint",
            Self::UaaEndpoint => "spec.source.uaaEndpoint",
            Self::SourceCredentials => "spec.source.credentialsSecretRef",
            Self::SourceCa => "spec.source.caSecretRef",
            Self::SourceCaConfigMap => "spec.source.caConfigMapRef",
            Self::Bucket => "spec.destination.s3.bucket",
            Self::BucketEndpoint => "spec.destination.s3.endpoint",
            Self::BucketRegion => "spec.destination.s3.region",
            Self::BucketCredentials => "spec.destination.s3.credentialsSecretRef",
            Self::BucketServiceAccount => "spec.destination.s3.serviceAccountName",
            Self::BucketCa => "spec.destination.s3.caSecretRef",
            Self::BucketCaConfigMap => "spec.destination.s3.caConfigMapRef",
            Self::ObjectAttributes => {
                "spec.destination.s3 (objectLock, serverSideEncryption, storageClass or acl)"
            }
            Self::SigningKey => "spec.manifest.signingKeySecretRef",
            Self::TimestampAuthority => "spec.manifest.timestampAuthority",
            Self::Report => "spec.report",
            Self::Proxy => "the proxy variables of the process",
        }
    }
}

/// The action that removes the cause of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The setting to correct.
    pub setting: Setting,
    /// The action, with `{}` in place of the setting's name.
    action: &'static str,
}

impl Remedy {
    /// `action` holds `{}` once, in place of the setting's name.
    pub const fn new(setting: Setting, action: &'static str) -> Self {
        Self { setting, action }
    }

    /// The action in the names of a front end.
    pub fn render(&self, names: &SettingNames) -> String {
        self.action.replacen("{}", names.name(self.setting), 1)
    }
}

/// The names that a front end gives to settings. The default are the fields of an `EventExport`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingNames {
    renamed: BTreeMap<Setting, String>,
}

impl SettingNames {
    /// The same names, but for one.
    #[must_use]
    pub fn with(mut self, setting: Setting, name: impl Into<String>) -> Self {
        self.renamed.insert(setting, name.into());
        self
    }

    /// The same names, replaced by those of `other`.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.renamed.extend(other.renamed);
        self
    }

    /// The name of a setting.
    pub fn name(&self, setting: Setting) -> &str {
        self.renamed.get(&setting).map_or(setting.field(), String::as_str)
    }

    /// A message, and the remedy behind it.
    pub fn describe(&self, message: &str, remedy: Option<&Remedy>) -> String {
        match remedy {
            Some(remedy) => format!("{message}; {}", remedy.render(self)),
            None => message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_front_end_renders_a_remedy_in_its_own_names() {
        let remedy = Remedy::new(Setting::SourceCredentials, "check {}: it must be valid");
        let message = "uaa.example rejects the credentials";
        assert_eq!(
            SettingNames::default().describe(message, Some(&remedy)),
            "uaa.example rejects the credentials; check spec.source.credentialsSecretRef: it must be valid"
        );
        let shell = SettingNames::default().with(Setting::SourceCredentials, "EVENTEXPORT_API_KEY");
        assert_eq!(
            shell.describe(message, Some(&remedy)),
            "uaa.example rejects the credentials; check EVENTEXPORT_API_KEY: it must be valid"
        );
        assert_eq!(shell.describe(message, None), message);
    }
}
