//! The connection to the service that a command speaks through: flags over environment over context become a client, a
//! space and a scope. Reads variables and files, may ask on a terminal; sends nothing.

mod layers;

use std::path::{Path, PathBuf};

use self::layers::{env_text, resolve};
use super::config::{self, ConfigFile, ContextConfig};
use super::credentials::{self, ResolvedCredentials};
use super::exit::CliError;
use super::location::{ArchiveLocation, S3Args};
use super::secrets::{self, EnvLookup};
use crate::egress::{HostPolicy, Traffic};
use crate::tracker::{Credentials, RetryConfig, Timeouts, TokenCache, Tracker, TrackerConfig, TrackerError};

/// The largest file of certificates: 1 MiB.
const CA_MAX_BYTES: u64 = 1024 * 1024;

/// Where events come from. The ids of the flags are the source's own: a store beside it has a region and an endpoint too.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Source (a flag wins over its variable, and that over the context)")]
pub struct SourceArgs {
    /// Named context of the config file, instead of the current one (or `EVENTEXPORT_CONTEXT`)
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The space's id, as `cf space NAME --guid` prints it (or `EVENTEXPORT_SPACE`)
    #[arg(long, value_name = "ID")]
    pub space: Option<String>,
    /// Events of the account instead of the space; --account=false where a context says otherwise
    /// (or `EVENTEXPORT_ACCOUNT`)
    #[arg(
        short = 'a', long, alias = "at-account-level", value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true
    )]
    pub account: Option<bool>,
    /// Public region of the service: us-south (or ng), eu-de, au-syd, eu-gb (or `EVENTEXPORT_REGION`)
    #[arg(
        id = "source_region",
        long = "region",
        value_name = "REGION",
        conflicts_with = "source_endpoint"
    )]
    pub region: Option<String>,
    /// Address of the service, where it is not a public region (or `EVENTEXPORT_ENDPOINT`)
    #[arg(id = "source_endpoint", long = "endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Address of the UAA, where the service's `/v2/info` does not name it (or `EVENTEXPORT_UAA_ENDPOINT`)
    #[arg(long, value_name = "URL")]
    pub uaa_endpoint: Option<String>,
    /// PEM file with the certificate authority of the service, where it is not a public one
    /// (or `EVENTEXPORT_CA_FILE`)
    #[arg(id = "source_ca_file", long = "ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// The service as a command speaks to it.
#[derive(Debug)]
pub struct SourceConnection {
    /// The client; it logs in with its first request.
    pub tracker: Tracker,
    /// The space's id.
    pub space: String,
    /// Events of the account instead of the space.
    pub account: bool,
    /// The context that was used, and the file that it is in.
    pub context: Option<(String, ContextConfig, ConfigFile)>,
    username: Option<String>,
    origin: String,
}

impl SourceArgs {
    /// A ready client. May ask for the secret on the terminal, so call it before signals are listened to.
    pub fn connect(&self) -> Result<SourceConnection, CliError> {
        let context = self.select_context(&secrets::env_value)?;
        let resolved = resolve(self, &secrets::env_value, context.as_ref())?;
        let borrowed = context
            .as_ref()
            .map(|(name, context, file)| (name.as_str(), context, file));
        let ResolvedCredentials { credentials, origin } =
            credentials::resolve(&secrets::env_value, borrowed, &credentials::prompt_on_terminal)?;
        let username = match &credentials {
            Credentials::Password { username, .. } => Some(username.clone()),
            _ => context
                .as_ref()
                .and_then(|(_, context, _)| context.username.clone()),
        };
        let config = TrackerConfig {
            endpoint: resolved.endpoint,
            uaa: resolved.uaa,
            credentials,
            ca_pem: resolved.ca.as_deref().map(read_ca_file).transpose()?,
            // Whoever runs the command speaks for themselves.
            hosts: HostPolicy::any(),
            timeouts: Timeouts::default(),
            retry: RetryConfig::default(),
            traffic: Traffic::default(),
        };
        let tracker = Tracker::new(config, &TokenCache::new())
            .map_err(|error| CliError::usage(error_text(&error, &origin)))?;
        Ok(SourceConnection {
            tracker,
            space: resolved.space,
            account: resolved.account,
            context,
            username,
            origin,
        })
    }

    /// The context that is named, or the current one, if any.
    pub fn select_context(
        &self,
        lookup: EnvLookup<'_>,
    ) -> Result<Option<(String, ContextConfig, ConfigFile)>, CliError> {
        let named = match &self.context {
            Some(name) => Some(name.clone()),
            None => env_text(lookup, "EVENTEXPORT_CONTEXT")?,
        };
        let Some(path) = config::locate(lookup)? else {
            return match named {
                None => Ok(None),
                Some(name) => Err(CliError::usage(format!(
                    "no config file to find context {name:?} in: set HOME, XDG_CONFIG_HOME or {}",
                    config::FILE_VARIABLE
                ))),
            };
        };
        let file = ConfigFile::read(&path)?;
        let Some(name) = named.or_else(|| file.config.current_context.clone()) else {
            return Ok(None);
        };
        let context = file.context(&name)?.clone();
        Ok(Some((name, context, file)))
    }
}

impl SourceConnection {
    /// `space` or `account`, as keys and documents say it.
    pub const fn scope(&self) -> &'static str {
        if self.account { "account" } else { "space" }
    }

    /// The user whose sessions these are: as the token says it, else as the credentials or the context do. `None` where
    /// nothing tells.
    pub async fn user(&self) -> Result<Option<String>, TrackerError> {
        Ok(self.tracker.user().await?.or_else(|| self.username.clone()))
    }

    /// The archive that the context names, and how its bucket is reached: what was typed wins.
    pub fn archive(&self, typed: &S3Args) -> Result<(Option<ArchiveLocation>, S3Args), CliError> {
        let mut s3 = typed.clone();
        let Some((name, context, file)) = &self.context else {
            return Ok((None, s3));
        };
        let wrong = |field: &str, why: &dyn std::fmt::Display| {
            CliError::usage(format!("{field} of context {name}: {why}"))
        };
        let place = context
            .to
            .as_deref()
            .map(str::parse::<ArchiveLocation>)
            .transpose();
        let place = place
            .map_err(|error| wrong("to", &error))?
            .map(|place| match place {
                ArchiveLocation::Directory(path) => ArchiveLocation::Directory(file.resolve_path(&path)),
                bucket @ ArchiveLocation::Bucket { .. } => bucket,
            });
        if s3.endpoint.is_none()
            && let Some(text) = &context.s3_endpoint
        {
            s3.endpoint = Some(text.parse().map_err(|error| wrong("s3-endpoint", &error))?);
        }
        s3.region = s3.region.or_else(|| context.s3_region.clone());
        s3.path_style = s3.path_style.or(context.s3_path_style);
        s3.ca_file = s3
            .ca_file
            .or_else(|| context.s3_ca_file.as_deref().map(|path| file.resolve_path(path)));
        Ok((place, s3))
    }

    /// An error of the service, in the words of the command line.
    pub fn tracker_error(&self, error: &TrackerError) -> CliError {
        CliError::Failed(anyhow::anyhow!(self.error_text(error)))
    }

    /// The same as text.
    pub fn error_text(&self, error: &TrackerError) -> String {
        error_text(error, &self.origin)
    }
}

/// The error with flags and variables in the place of the fields of a manifest.
fn error_text(error: &TrackerError, origin: &str) -> String {
    let saying = |said: &str| {
        if said.is_empty() {
            String::new()
        } else {
            format!(", saying “{said}”")
        }
    };
    match error {
        TrackerError::Unauthorized {
            host,
            key: _,
            message,
        } => format!(
            "{host} does not accept the {origin}{}; check that the credentials are of this region and still valid",
            saying(message)
        ),
        TrackerError::CredentialsRefused {
            host,
            key: _,
            message,
        } => {
            format!("{host} refuses the {origin}{}; give a valid one", saying(message))
        }
        TrackerError::NoToken(cause) => format!("no token could be had: {}", error_text(cause, origin)),
        other => [
            ("the Secret's token", origin),
            ("spec.source.caSecretRef", "--ca-file"),
            ("spec.source.uaaEndpoint", "--uaa-endpoint"),
            ("spec.source.endpoint", "--endpoint"),
            ("spec.space", "--space"),
        ]
        .iter()
        .fold(other.to_string(), |text, (field, flag)| text.replace(field, flag)),
    }
}

fn read_ca_file(path: &Path) -> Result<Vec<u8>, CliError> {
    use std::io::Read as _;
    let fault = |why: String| CliError::usage(format!("--ca-file: {} {why}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > CA_MAX_BYTES {
        return Err(fault("is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}
