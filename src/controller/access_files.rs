//! Files of allowed hosts and grants, one entry per line, in addition to those of flags. Reads files.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::access::{AccessPolicy, AllowedHosts};
use super::grants::{Grant, GrantError};
use crate::egress::InvalidHostEntry;
use crate::telemetry::metrics::AccessFlag;

/// Maximum size of a file: that of a ConfigMap.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Maximum length of a line, which errors repeat.
const MAX_LINE_BYTES: usize = 4096;

/// Flags of allowed hosts and grants.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Entries of `--allow-host`.
    pub allow_host: Vec<String>,
    /// Path of `--allow-host-file`.
    pub allow_host_file: Option<PathBuf>,
    /// Grants of `--grant-identity`.
    pub grant_identity: Vec<Grant>,
    /// Path of `--grant-identity-file`.
    pub grant_identity_file: Option<PathBuf>,
}

/// Files with the texts that were read last.
#[derive(Clone, Debug)]
pub struct AccessFiles {
    settings: AccessSettings,
    hosts: Option<LastRead>,
    grants: Option<LastRead>,
}

/// Text of a file, or the error of reading it.
type LastRead = Result<Arc<str>, Arc<str>>;

/// File that is another than before, and whether it is in use now.
#[derive(Debug)]
pub(super) struct FileChange {
    pub(super) flag: AccessFlag,
    pub(super) result: Result<(), AccessFileError>,
}

/// Path of the file of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagFile {
    flag: AccessFlag,
    path: PathBuf,
}

impl fmt::Display for FlagFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.flag.as_str(), self.path.display())
    }
}

/// Invalid flag or file.
#[derive(Debug, thiserror::Error)]
pub enum AccessFileError {
    /// An entry of `--allow-host` is invalid.
    #[error("--allow-host: {0}")]
    Flag(#[source] InvalidHostEntry),
    /// The file cannot be read.
    #[error("{file}: {cause}")]
    Unreadable {
        /// The file.
        file: FlagFile,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// The file is too large.
    #[error("{0}: larger than {MAX_FILE_BYTES} bytes")]
    TooLarge(FlagFile),
    /// A line is too long.
    #[error("{file}, line {line}: longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong {
        /// The file.
        file: FlagFile,
        /// Number of the line, from 1.
        line: usize,
    },
    /// A line is not a valid host.
    #[error("{file}, line {line}: {cause}")]
    Host {
        /// The file.
        file: FlagFile,
        /// Number of the line, from 1.
        line: usize,
        /// Cause.
        #[source]
        cause: InvalidHostEntry,
    },
    /// A line is not a valid grant.
    #[error("{file}, line {line}: {cause}")]
    Grant {
        /// The file.
        file: FlagFile,
        /// Number of the line, from 1.
        line: usize,
        /// Cause.
        #[source]
        cause: GrantError,
    },
    /// The file lists no host, and no flag does.
    #[error("{0}: it lists no host; write at least one, or public-regions")]
    NoHost(FlagFile),
}

impl FlagFile {
    fn read(&self) -> Result<Arc<str>, AccessFileError> {
        let mut text = String::new();
        let read =
            File::open(&self.path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
        match read {
            Ok(size) if u64::try_from(size).is_ok_and(|size| size <= MAX_FILE_BYTES) => Ok(text.into()),
            Ok(_) => Err(AccessFileError::TooLarge(self.clone())),
            Err(cause) => Err(AccessFileError::Unreadable {
                file: self.clone(),
                cause,
            }),
        }
    }

    /// Returns the entries with the numbers of their lines. Ignores empty lines and lines that begin with `#`.
    fn entries<'a>(
        &self,
        text: &'a str,
    ) -> impl Iterator<Item = Result<(usize, &'a str), AccessFileError>> + use<'a> {
        let file = self.clone();
        let lines = (1..).zip(text.lines().map(str::trim));
        let entries = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        entries.map(move |(line, entry)| {
            let file = || file.clone();
            let short = entry.len() <= MAX_LINE_BYTES;
            short
                .then_some((line, entry))
                .ok_or_else(|| AccessFileError::LineTooLong { file: file(), line })
        })
    }

    fn hosts(&self, text: &str, flags: &[String]) -> Result<AllowedHosts, AccessFileError> {
        let mut all = flags.to_vec();
        for entry in self.entries(text) {
            let (line, entry) = entry?;
            let entry = [entry.to_owned()];
            AllowedHosts::parse(&entry).map_err(|cause| AccessFileError::Host {
                file: self.clone(),
                line,
                cause,
            })?;
            all.extend(entry);
        }
        if all.is_empty() {
            return Err(AccessFileError::NoHost(self.clone()));
        }
        AllowedHosts::parse(&all).map_err(AccessFileError::Flag)
    }

    fn grants(&self, text: &str, flags: &[Grant]) -> Result<Vec<Grant>, AccessFileError> {
        let mut all = flags.to_vec();
        for entry in self.entries(text) {
            let (line, entry) = entry?;
            all.push(entry.parse().map_err(|cause| AccessFileError::Grant {
                file: self.clone(),
                line,
                cause,
            })?);
        }
        Ok(all)
    }
}

impl AccessSettings {
    fn file(&self, flag: AccessFlag) -> Option<FlagFile> {
        let path = match flag {
            AccessFlag::AllowHostFile => &self.allow_host_file,
            AccessFlag::GrantIdentityFile => &self.grant_identity_file,
        };
        let path = path.clone()?;
        Some(FlagFile { flag, path })
    }
}

impl AccessFiles {
    /// Reads all files. Fails if one of them or a flag is invalid.
    pub fn load(settings: AccessSettings) -> Result<(AccessPolicy, Self), AccessFileError> {
        let hosts = AllowedHosts::parse(&settings.allow_host).map_err(AccessFileError::Flag)?;
        let policy = AccessPolicy::new(hosts, settings.grant_identity.clone());
        let mut files = Self {
            settings,
            hosts: None,
            grants: None,
        };
        for change in files.reload(&policy) {
            change.result?;
        }
        // Nothing was allowed before.
        policy.forget_former();
        Ok((policy, files))
    }

    /// Returns the flags that name files.
    pub(super) fn flags(&self) -> impl Iterator<Item = AccessFlag> {
        let files = AccessFlag::ALL.map(|flag| self.settings.file(flag));
        files.into_iter().flatten().map(|file| file.flag)
    }

    /// Reads the files again, and applies those that changed. An invalid one changes nothing.
    pub(super) fn reload(&mut self, policy: &AccessPolicy) -> Vec<FileChange> {
        let mut changes = Vec::new();
        for file in AccessFlag::ALL
            .iter()
            .filter_map(|flag| self.settings.file(*flag))
        {
            let last = match file.flag {
                AccessFlag::AllowHostFile => &mut self.hosts,
                AccessFlag::GrantIdentityFile => &mut self.grants,
            };
            let read = file.read();
            let now = read.as_ref().map_err(|error| error.to_string().into());
            let now = Some(now.cloned());
            if *last == now {
                continue;
            }
            *last = now;
            let applied = read.and_then(|text| {
                match file.flag {
                    AccessFlag::AllowHostFile => {
                        policy.replace_hosts(&file.hosts(&text, &self.settings.allow_host)?);
                    }
                    AccessFlag::GrantIdentityFile => {
                        policy.replace_grants(file.grants(&text, &self.settings.grant_identity)?);
                    }
                }
                Ok(())
            });
            changes.push(FileChange {
                flag: file.flag,
                result: applied,
            });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::api::S3Destination;
    use crate::export::connect::PodIdentity;

    fn granted(policy: &AccessPolicy, namespace: &str) -> bool {
        let destination: S3Destination = serde_json::from_str(r#"{"bucket": "b"}"#).unwrap();
        policy.identity(namespace, &destination) == PodIdentity::Granted
    }

    fn allowed(policy: &AccessPolicy, host: &str) -> bool {
        let url = format!("https://{host}").parse().unwrap();
        policy.hosts().service.check_url(&url).is_ok()
    }

    #[test]
    fn a_changed_file_is_applied_and_an_invalid_one_keeps_the_last_valid_rules() {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, grants) = (folder.path().join("hosts"), folder.path().join("grants"));
        fs::write(&hosts, "# hosts\n\na.example\n").unwrap();
        fs::write(&grants, "one=b\n").unwrap();
        let settings = AccessSettings {
            allow_host: vec!["flag.example".to_owned()],
            allow_host_file: Some(hosts.clone()),
            grant_identity: vec!["flag=b".parse().unwrap()],
            grant_identity_file: Some(grants.clone()),
        };
        let (policy, mut files) = AccessFiles::load(settings).unwrap();
        assert!(allowed(&policy, "a.example") && allowed(&policy, "flag.example"));
        assert!(!allowed(&policy, "login.ng.bluemix.net"));
        assert!(granted(&policy, "one") && granted(&policy, "flag") && !granted(&policy, "two"));
        assert!(files.reload(&policy).is_empty());

        fs::write(&hosts, "b.example\npublic-regions\n").unwrap();
        fs::write(&grants, "two=b\n").unwrap();
        let changes = files.reload(&policy);
        assert!(changes.len() == 2 && changes.iter().all(|change| change.result.is_ok()));
        assert!(allowed(&policy, "b.example") && !allowed(&policy, "a.example"));
        assert!(allowed(&policy, "login.ng.bluemix.net") && allowed(&policy, "flag.example"));
        assert!(granted(&policy, "two") && !granted(&policy, "one") && granted(&policy, "flag"));

        // Each invalid text is reported once.
        let long = format!("a=b/{}", "x".repeat(MAX_LINE_BYTES));
        for (path, text, expected) in [
            (
                &hosts,
                "c.example\nhttps://d.example\n",
                "hosts, line 2: invalid allow-list entry",
            ),
            (&grants, "#\nthree=b\nfour\n", "grants, line 3: invalid grant"),
            (&grants, &long, "grants, line 1: longer than"),
            (&grants, &"#\n".repeat(600_000), "grants: larger than"),
        ] {
            fs::write(path, text).unwrap();
            let changes = files.reload(&policy);
            let error = changes[0].result.as_ref().unwrap_err().to_string();
            assert!(changes.len() == 1 && error.contains(expected), "{changes:?}");
            assert!(files.reload(&policy).is_empty());
            assert!(allowed(&policy, "b.example") && !allowed(&policy, "c.example"));
            assert!(granted(&policy, "two") && !granted(&policy, "three"));
        }
        fs::remove_file(&grants).unwrap();
        let changes = files.reload(&policy);
        assert!(changes.len() == 1 && changes[0].result.is_err() && granted(&policy, "two"));
        assert!(files.reload(&policy).is_empty());
        fs::write(&grants, "").unwrap();
        assert!(files.reload(&policy)[0].result.is_ok() && !granted(&policy, "two"));
    }

    #[test]
    fn an_invalid_file_fails_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        let load = || {
            AccessFiles::load(AccessSettings {
                allow_host_file: Some(hosts.clone()),
                ..AccessSettings::default()
            })
        };
        let error = || load().unwrap_err().to_string();
        assert!(error().starts_with("--allow-host-file "));
        fs::write(&hosts, "a b\n").unwrap();
        assert!(error().contains("hosts, line 1: invalid allow-list entry \"a b\""));
        fs::write(&hosts, "# none\n").unwrap();
        assert!(error().contains("lists no host"));
        fs::write(&hosts, "a.example").unwrap();
        let (policy, files) = load().unwrap();
        assert!(!allowed(&policy, "login.ng.bluemix.net"));
        assert_eq!(files.flags().collect::<Vec<_>>(), [AccessFlag::AllowHostFile]);
    }
}
