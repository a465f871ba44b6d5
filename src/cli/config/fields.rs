//! Fields of the config file and its contexts. No I/O.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::settings::location::ArchiveLocation;
use crate::api;

/// Contents of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CliConfig {
    /// Context that commands use by default.
    pub current_context: Option<String>,
    /// Contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, ContextConfig>,
}

/// Named context: source of the events, credentials and archive. All fields are optional; environment variables and
/// flags override them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ContextConfig {
    /// Space ID.
    pub space: Option<String>,
    /// Public region of the service. Excludes `endpoint`.
    pub region: Option<String>,
    /// URL of the service. Excludes `region`.
    pub endpoint: Option<String>,
    /// URL of the UAA, if `/v2/info` does not contain it.
    pub uaa_endpoint: Option<String>,
    /// Additional certificate authorities of the service, PEM.
    pub ca_file: Option<PathBuf>,
    /// True for the events of the account instead of the space.
    pub account: Option<bool>,
    /// User name, for `password-file` and to identify the sessions of the user.
    pub username: Option<String>,
    /// File with the API key.
    pub api_key_file: Option<PathBuf>,
    /// File with the password of `username`.
    pub password_file: Option<PathBuf>,
    /// File with a refresh token.
    pub refresh_token_file: Option<PathBuf>,
    /// File with an access token.
    pub token_file: Option<PathBuf>,
    /// Archive: a directory or `s3://bucket/prefix`.
    #[serde(alias = "to")]
    pub archive: Option<String>,
    /// URL of the store, if it is not AWS.
    pub s3_endpoint: Option<String>,
    /// Region of the bucket.
    pub s3_region: Option<String>,
    /// True if the bucket name is in the path instead of the host name.
    pub s3_path_style: Option<bool>,
    /// Additional certificate authorities of the store, PEM.
    pub s3_ca_file: Option<PathBuf>,
}

impl ContextConfig {
    /// Validates the values. Errors name the field, never the value.
    pub(super) fn validate(&self) -> Result<(), String> {
        let urls = [
            ("endpoint", &self.endpoint),
            ("uaa-endpoint", &self.uaa_endpoint),
            ("s3-endpoint", &self.s3_endpoint),
        ];
        for (field, value) in urls {
            if let Some(Err(rule)) = value.as_deref().map(api::parse_endpoint) {
                return Err(format!("{field} {rule}"));
            }
        }
        if self
            .region
            .as_deref()
            .is_some_and(|region| api::Region::from_name(region).is_none())
        {
            return Err("region must be us-south (or ng), eu-de, au-syd or eu-gb".to_owned());
        }
        if self
            .space
            .as_deref()
            .is_some_and(|space| !api::is_space_id(space))
        {
            return Err(
                "space must be the ID of the space, as printed by `cf space NAME --guid`, not its name"
                    .to_owned(),
            );
        }
        if let Some(Err(error)) = self.archive.as_deref().map(str::parse::<ArchiveLocation>) {
            return Err(format!("archive: {error}"));
        }
        Ok(())
    }
}
