//! Location of an archive: a directory, or `s3://bucket/prefix`. No I/O.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};

/// Name of the value of `--archive`.
pub const ARCHIVE_VALUE: &str = "DIR|s3://BUCKET/PREFIX";

/// A location as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveLocation {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, and a prefix without slashes at its ends, which may be empty.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Prefix of all keys of the archive.
        prefix: String,
    },
}

/// A location that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// An empty argument.
    #[error("the location is empty: give a directory or s3://bucket/prefix")]
    Empty,
    /// `s3://` without a usable bucket.
    #[error("{0} names no bucket: write s3://bucket/prefix")]
    NoBucket(String),
    /// Another scheme.
    #[error("{0}:// is not supported: give a directory or s3://bucket/prefix")]
    UnsupportedScheme(String),
}

impl ArchiveLocation {
    /// Parses a location, also a path that is not UTF-8.
    pub fn parser() -> ValueParser {
        OsStringValueParser::new().try_map(Self::from_os_string).into()
    }

    fn from_os_string(typed: OsString) -> Result<Self, LocationError> {
        match typed.to_str() {
            Some(text) => text.parse(),
            None => Ok(Self::Directory(typed.into())),
        }
    }

    /// Returns the prefix of every key in the store: empty, or ends with `/`.
    pub fn key_prefix(&self) -> String {
        match self {
            Self::Bucket { prefix, .. } if !prefix.is_empty() => format!("{prefix}/"),
            Self::Bucket { .. } | Self::Directory(_) => String::new(),
        }
    }

    /// Returns the name of the store for messages, without the prefix.
    pub fn store_name(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Bucket { bucket, .. } => format!("s3://{bucket}"),
        }
    }
}

impl fmt::Display for ArchiveLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.store_name())?;
        match self {
            Self::Bucket { prefix, .. } if !prefix.is_empty() => write!(f, "/{prefix}"),
            Self::Bucket { .. } | Self::Directory(_) => Ok(()),
        }
    }
}

impl FromStr for ArchiveLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains(|c: char| c.is_whitespace() || c == '@' || c == ':') {
                return Err(LocationError::NoBucket(text.to_owned()));
            }
            return Ok(Self::Bucket {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        match text.split_once("://") {
            Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
                Err(LocationError::UnsupportedScheme(scheme.to_owned()))
            }
            _ => Ok(Self::Directory(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_directory_or_an_s3_url() {
        let bucket = |bucket: &str, prefix: &str| ArchiveLocation::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (text, location) in [
            ("s3://audit", bucket("audit", "")),
            ("s3://audit/a/b/", bucket("audit", "a/b")),
            ("./export", ArchiveLocation::Directory("./export".into())),
            ("a:b", ArchiveLocation::Directory("a:b".into())),
        ] {
            assert_eq!(text.parse::<ArchiveLocation>(), Ok(location), "{text}");
        }
        assert_eq!("".parse::<ArchiveLocation>(), Err(LocationError::Empty));
        assert!(matches!(
            "s3:///x".parse::<ArchiveLocation>(),
            Err(LocationError::NoBucket(_))
        ));
        assert!(
            matches!("https://h/b".parse::<ArchiveLocation>(), Err(LocationError::UnsupportedScheme(scheme)) if scheme == "https")
        );
    }
}
