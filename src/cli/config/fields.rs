//! What a config file may say: the contexts and their fields. No I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::location::ArchiveLocation;
use crate::api;
use crate::tracker::endpoint_of_region;

/// The config file as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CliConfig {
    /// The context that is used where none is named.
    pub current_context: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, ContextConfig>,
}

/// A named context: where events come from, whose credentials, where they go. Every field is optional, and each can be
/// overruled by the environment or a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ContextConfig {
    /// The space's id.
    pub space: Option<String>,
    /// A public region; or `endpoint`.
    pub region: Option<String>,
    /// The service's address; or `region`.
    pub endpoint: Option<String>,
    /// The address of the UAA, where `/v2/info` does not name it.
    pub uaa_endpoint: Option<String>,
    /// Further certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// Events of the account instead of the space.
    pub account: Option<bool>,
    /// The user's name, for `password-file`, and to know which sessions are this user's.
    pub username: Option<String>,
    /// File with the API key.
    pub api_key_file: Option<PathBuf>,
    /// File with the password of `username`.
    pub password_file: Option<PathBuf>,
    /// File with a refresh token.
    pub refresh_token_file: Option<PathBuf>,
    /// File with a ready token.
    pub token_file: Option<PathBuf>,
    /// The archive: a directory, or `s3://bucket/prefix`.
    pub to: Option<String>,
    /// The store's address, where it is not AWS.
    pub s3_endpoint: Option<String>,
    /// The bucket's region.
    pub s3_region: Option<String>,
    /// Whether the bucket's name goes into the path.
    pub s3_path_style: Option<bool>,
    /// Further certificate authorities of the store, PEM.
    pub s3_ca_file: Option<PathBuf>,
}

impl ContextConfig {
    /// Whether the values can be meant; names the field, never the value.
    pub(super) fn validate(&self) -> Result<(), String> {
        let addresses = [
            ("endpoint", &self.endpoint),
            ("uaa-endpoint", &self.uaa_endpoint),
            ("s3-endpoint", &self.s3_endpoint),
        ];
        for (field, value) in addresses {
            if value
                .as_deref()
                .is_some_and(|text| api::parse_url(text).is_none())
            {
                return Err(format!(
                    "{field} must be an address as https://tracker.example.com (plain http only to 127.0.0.1, [::1] or \
                     localhost), without user, query or fragment"
                ));
            }
        }
        if self
            .region
            .as_deref()
            .is_some_and(|region| endpoint_of_region(region).is_none())
        {
            return Err("region is none of us-south (or ng), eu-de, au-syd, eu-gb".to_owned());
        }
        if self
            .space
            .as_deref()
            .is_some_and(|space| !api::is_space_id(space))
        {
            return Err(
                "space must be the id of the space, as `cf space NAME --guid` prints it, not its name"
                    .to_owned(),
            );
        }
        if let Some(Err(error)) = self.to.as_deref().map(str::parse::<ArchiveLocation>) {
            return Err(format!("to: {error}"));
        }
        Ok(())
    }
}
