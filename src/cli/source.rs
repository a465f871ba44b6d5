//! Connection of a command to the service: flags, environment and context become a client, a space and a scope. Reads
//! variables and files, may prompt on a terminal; sends no request.

mod layers;

use std::path::{Path, PathBuf};

use self::layers::{env_text, resolve};
use super::config::{self, ConfigFile, ContextConfig};
use super::credentials::{self, ResolvedCredentials};
use super::exit::CliError;
use super::location::{ArchiveLocation, S3Args};
use super::secrets::{self, EnvLookup};
use crate::api::{self, Setting, SettingNames};
use crate::egress::{HostPolicy, Traffic};
use crate::session::guard::SpaceSessions;
use crate::tracker::{Credentials, RetryConfig, Timeouts, TokenCache, Tracker, TrackerConfig, TrackerError};

/// Largest file of certificates, in bytes: 1 MiB.
const CA_MAX_BYTES: u64 = 1024 * 1024;

/// Source of events. Flag ids begin with `source_`, because a store beside it has a region and an endpoint as well.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Source (a flag wins over its variable, and that over the context)")]
pub struct SourceArgs {
    /// Context of the config file, instead of the current one (or `EVENTEXPORT_CONTEXT`)
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// ID of the space, as `cf space NAME --guid` prints it (or `EVENTEXPORT_SPACE`)
    #[arg(long, value_name = "ID")]
    pub space: Option<String>,
    /// Events of the account instead of the space; --account=false overrides a context
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
    /// URL of the service, if it is not in a public region (or `EVENTEXPORT_ENDPOINT`)
    #[arg(id = "source_endpoint", long = "endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// URL of the UAA, if `/v2/info` of the service does not name it (or `EVENTEXPORT_UAA_ENDPOINT`)
    #[arg(long, value_name = "URL")]
    pub uaa_endpoint: Option<String>,
    /// UAA of another domain than the service that may receive the credentials if `/v2/info` names it; may be repeated:
    /// HOST, HOST:PORT or *.SUFFIX (or `EVENTEXPORT_ALLOW_HOST`)
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// PEM file with the certificate authority of the service, if it is private
    /// (or `EVENTEXPORT_CA_FILE`)
    #[arg(id = "source_ca_file", long = "ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Connection to the service.
#[derive(Debug)]
pub struct SourceConnection {
    /// The client; it logs in with its first request.
    pub tracker: Tracker,
    /// The space id.
    pub space: String,
    /// True for events of the account instead of the space.
    pub account: bool,
    /// Name and content of the context in use, and its file.
    pub context: Option<(String, ContextConfig, ConfigFile)>,
    username: Option<String>,
    setting_names: SettingNames,
}

impl SourceArgs {
    /// Builds the client. May prompt for the secret on the terminal: call it before installing signal handlers.
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
            // A user of the command line may send their own credentials to any host, but a service may not choose it.
            hosts: HostPolicy::any_with(&resolved.allowed_hosts)
                .map_err(|error| CliError::usage(format!("--allow-host: {error}")))?,
            timeouts: Timeouts::default(),
            retry: RetryConfig::default(),
            traffic: Traffic::default(),
        };
        let setting_names = setting_names(&origin);
        let tracker = Tracker::new(config, &TokenCache::new())
            .map_err(|error| CliError::usage(error.describe(&setting_names)))?;
        Ok(SourceConnection {
            tracker,
            space: resolved.space,
            account: resolved.account,
            context,
            username,
            setting_names,
        })
    }

    /// Selects the named context, or the current one if there is one.
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
                    "cannot find context {name:?} without a config file: set HOME, XDG_CONFIG_HOME or {}",
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
    /// `space` or `account`, as keys and documents spell it.
    pub const fn scope(&self) -> &'static str {
        if self.account { "account" } else { "space" }
    }

    /// The user that owns the sessions: from the token, the credentials or the context; `None` if none of them names one.
    pub async fn user(&self) -> Result<Option<String>, TrackerError> {
        Ok(self.tracker.user().await?.or_else(|| self.username.clone()))
    }

    /// Returns the archive of the context, and the connection to its bucket; flags win over the context.
    pub fn archive(&self, typed: &S3Args) -> Result<(Option<ArchiveLocation>, S3Args), CliError> {
        let mut s3 = typed.clone();
        let Some((name, context, file)) = &self.context else {
            return Ok((None, s3));
        };
        let wrong = |field: &str, why: &dyn std::fmt::Display| {
            CliError::usage(format!("{field} of context {name}: {why}"))
        };
        let place = context
            .archive
            .as_deref()
            .map(str::parse::<ArchiveLocation>)
            .transpose();
        let place = place
            .map_err(|error| wrong("archive", &error))?
            .map(|place| match place {
                ArchiveLocation::Directory(path) => ArchiveLocation::Directory(file.resolve_path(&path)),
                bucket @ ArchiveLocation::Bucket { .. } => bucket,
            });
        if s3.endpoint.is_none()
            && let Some(text) = &context.s3_endpoint
        {
            s3.endpoint = Some(api::parse_endpoint(text).map_err(|rule| wrong("s3-endpoint", &rule))?);
        }
        s3.region = s3.region.or_else(|| context.s3_region.clone());
        s3.path_style = s3.path_style.or(context.s3_path_style);
        s3.ca_file = s3
            .ca_file
            .or_else(|| context.s3_ca_file.as_deref().map(|path| file.resolve_path(path)));
        Ok((place, s3))
    }

    /// Returns the sessions of the space.
    pub fn sessions(&self) -> SpaceSessions<'_> {
        SpaceSessions::new(&self.tracker, &self.space)
    }

    /// Returns the names of settings on the command line.
    pub const fn setting_names(&self) -> &SettingNames {
        &self.setting_names
    }

    /// Converts an error of the service, in the names of the command line.
    pub fn tracker_error(&self, error: &TrackerError) -> CliError {
        CliError::Failed(anyhow::anyhow!(self.error_text(error)))
    }

    /// Describes an error of the service in the names of the command line.
    pub fn error_text(&self, error: &TrackerError) -> String {
        error.describe(&self.setting_names)
    }
}

/// Names of settings that flags, variables and the context give.
fn setting_names(credentials: &str) -> SettingNames {
    SettingNames::default()
        .with(Setting::SourceCredentials, format!("the {credentials}"))
        .with(Setting::Space, "--space")
        .with(Setting::SourceEndpoint, "--endpoint")
        .with(Setting::UaaEndpoint, "--uaa-endpoint")
        .with(Setting::SourceCa, "--ca-file")
}

fn read_ca_file(path: &Path) -> Result<Vec<u8>, CliError> {
    use std::io::Read as _;
    let usage = |problem: String| CliError::usage(format!("--ca-file: {}: {problem}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| usage(format!("cannot read the file: {error}")))?;
    if bytes.len() as u64 > CA_MAX_BYTES {
        return Err(usage("the file is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}
