//! Credentials of the tracker: one of four kinds, read from the keys of a Secret. No I/O.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::api::{api_key_text, key_text, password_text, trimmed_text};

/// Credentials of an Activity Tracker user. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// An API key of the platform.
    ApiKey(SecretString),
    /// A user with a password.
    Password {
        /// The IBM id.
        username: String,
        /// Its password.
        password: SecretString,
    },
    /// A refresh token of an earlier login.
    RefreshToken(SecretString),
    /// A ready access token, without the word `bearer`. It cannot be renewed.
    Token(SecretString),
}

/// Keys of the Secret that hold the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsKey {
    /// `apiKey`
    ApiKey,
    /// `username` and `password`
    Password,
    /// `refreshToken`
    RefreshToken,
    /// `token`
    Token,
}

impl fmt::Display for CredentialsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKey => "apiKey",
            Self::Password => "username and password",
            Self::RefreshToken => "refreshToken",
            Self::Token => "token",
        })
    }
}

/// A Secret that does not hold exactly one kind of credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// None of the known keys.
    #[error("there are no credentials: set one of apiKey, username and password, refreshToken, or token")]
    Missing,
    /// One half of a pair.
    #[error("{has} is set without {lacks}: set both")]
    Incomplete {
        /// The key that is set.
        has: &'static str,
        /// The missing key.
        lacks: &'static str,
    },
    /// More than one kind.
    #[error("there are several kinds of credentials ({keys}): keep one")]
    Ambiguous {
        /// The keys found.
        keys: String,
    },
    /// A value that cannot be used.
    #[error("{key} {why}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The defect of the value; never the value.
        why: &'static str,
    },
}

impl Credentials {
    /// Reads a Secret's data: exactly one of `apiKey`, `username` with `password`, `refreshToken`, `token`. Other
    /// keys are ignored. White space, quotes and a byte order mark around a key are dropped, as are line breaks at the end
    /// of a password. A token may come with the word `bearer`, an API key in the JSON file of IBM Cloud.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, CredentialsError> {
        let has = |key: &str| data.contains_key(key);
        let kinds = [
            ("apiKey", has("apiKey")),
            ("username and password", has("username") || has("password")),
            ("refreshToken", has("refreshToken")),
            ("token", has("token")),
        ];
        let found: Vec<_> = kinds
            .iter()
            .filter(|(_, there)| *there)
            .map(|(key, _)| *key)
            .collect();
        match found.as_slice() {
            [] => Err(CredentialsError::Missing),
            ["apiKey"] => Ok(Self::ApiKey(
                value(data, "apiKey", api_key_text)?.into_owned().into(),
            )),
            ["refreshToken"] => Ok(Self::RefreshToken(value(data, "refreshToken", key_text)?.into())),
            ["token"] => {
                let token = value(data, "token", trimmed_text)?;
                let (word, rest) = token
                    .trim()
                    .split_once(char::is_whitespace)
                    .unwrap_or((token.trim(), ""));
                let token = if word.eq_ignore_ascii_case("bearer") {
                    rest
                } else {
                    token
                };
                let invalid = |why| CredentialsError::Invalid { key: "token", why };
                Ok(Self::Token(key_text(token.as_bytes()).map_err(invalid)?.into()))
            }
            [_] if !has("username") => Err(CredentialsError::Incomplete {
                has: "password",
                lacks: "username",
            }),
            [_] if !has("password") => Err(CredentialsError::Incomplete {
                has: "username",
                lacks: "password",
            }),
            [_] => Ok(Self::Password {
                username: value(data, "username", password_text)?.trim().to_owned(),
                password: value(data, "password", password_text)?.into(),
            }),
            several => Err(CredentialsError::Ambiguous {
                keys: several.join(", "),
            }),
        }
    }

    /// Returns the keys of the Secret that the credentials came from.
    pub fn key(&self) -> CredentialsKey {
        match self {
            Self::ApiKey(_) => CredentialsKey::ApiKey,
            Self::Password { .. } => CredentialsKey::Password,
            Self::RefreshToken(_) => CredentialsKey::RefreshToken,
            Self::Token(_) => CredentialsKey::Token,
        }
    }

    /// Returns the secret part, which is never shown.
    pub(super) fn secret(&self) -> &SecretString {
        match self {
            Self::ApiKey(secret) | Self::RefreshToken(secret) | Self::Token(secret) => secret,
            Self::Password {
                username: _,
                password,
            } => password,
        }
    }

    /// Returns a digest that identifies the credentials without holding them.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let username = match self {
            Self::Password { username, .. } => username.as_str(),
            Self::ApiKey(_) | Self::RefreshToken(_) | Self::Token(_) => "",
        };
        let mut hash = Sha256::new();
        for part in [&self.key().to_string(), username, self.secret().expose_secret()] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn value<'a, T>(
    data: &'a BTreeMap<String, Vec<u8>>,
    key: &'static str,
    read: impl Fn(&'a [u8]) -> Result<T, &'static str>,
) -> Result<T, CredentialsError> {
    let bytes = data.get(key).map_or(&[][..], Vec::as_slice);
    read(bytes).map_err(|why| CredentialsError::Invalid { key, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Credentials, CredentialsError> {
        Credentials::from_secret(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
                .collect(),
        )
    }

    #[test]
    fn a_secret_is_read_by_its_keys() {
        for (pairs, key, secret) in [
            (
                &[("apiKey", "k-1\n"), ("other", "x")][..],
                CredentialsKey::ApiKey,
                "k-1",
            ),
            (
                &[("username", "a@b"), ("password", " pw \r\n")],
                CredentialsKey::Password,
                " pw ",
            ),
            (&[("refreshToken", "r-1\n")], CredentialsKey::RefreshToken, "r-1"),
            (&[("token", "t0")], CredentialsKey::Token, "t0"),
            (&[("token", "Bearer t0\n")], CredentialsKey::Token, "t0"),
        ] {
            let read = read(pairs).unwrap();
            assert_eq!(read.key(), key);
            assert_eq!(read.secret().expose_secret(), secret);
            assert!(!format!("{read:?}").contains(secret), "{read:?}");
        }
    }

    #[test]
    fn an_ambiguous_secret_is_rejected_with_its_keys() {
        for (pairs, expected) in [
            (&[][..], "apiKey, username and password, refreshToken, or token"),
            (&[("apiKey", "a"), ("token", "b")], "apiKey, token"),
            (&[("username", "a")], "without password"),
            (&[("password", "a")], "without username"),
            (&[("apiKey", "\n")], "apiKey is empty"),
            (&[("token", "bearer ")], "token is empty"),
            (&[("token", "a\nb")], "token has blanks"),
            (
                &[("apiKey", "QWJDZEVmR2hJaktsTW5PcFFyU3RVdld4WVo=")],
                "apiKey is the base64 of a text",
            ),
        ] {
            let error = read(pairs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
