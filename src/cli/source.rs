//! The connection to the service that a command speaks through: flags over environment over context become a client, a
//! space and a scope. Reads variables and files, may ask on a terminal; sends nothing.

mod levels;

use std::path::{Path, PathBuf};

use self::levels::{settle, text};
use super::config::{self, ConfigFile, Context};
use super::credentials::{self, Found};
use super::exit::Fault;
use super::location::{Place, S3Args};
use super::secrets::{self, Lookup};
use crate::egress::{HostPolicy, Traffic};
use crate::tracker::{Credentials, RetryPolicy, Timeouts, TokenCache, Tracker, TrackerConfig, TrackerError};

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
pub struct Source {
    /// The client; it logs in with its first request.
    pub tracker: Tracker,
    /// The space's id.
    pub space: String,
    /// Events of the account instead of the space.
    pub account: bool,
    /// The context that was used, and the file that it is in.
    pub context: Option<(String, Context, ConfigFile)>,
    username: Option<String>,
    origin: String,
}

impl SourceArgs {
    /// A ready client. May ask for the secret on the terminal, so call it before signals are listened to.
    pub fn connect(&self) -> Result<Source, Fault> {
        let context = self.chosen_context(&secrets::environment)?;
        let settled = settle(self, &secrets::environment, context.as_ref())?;
        let borrowed = context
            .as_ref()
            .map(|(name, context, file)| (name.as_str(), context, file));
        let Found { credentials, origin } =
            credentials::find(&secrets::environment, borrowed, &credentials::ask_on_terminal)?;
        let username = match &credentials {
            Credentials::Password { username, .. } => Some(username.clone()),
            _ => context
                .as_ref()
                .and_then(|(_, context, _)| context.username.clone()),
        };
        let config = TrackerConfig {
            endpoint: settled.endpoint,
            uaa: settled.uaa,
            credentials,
            ca_pem: settled.ca.as_deref().map(certificates).transpose()?,
            // Whoever runs the command speaks for themselves.
            hosts: HostPolicy::any(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            traffic: Traffic::default(),
        };
        let tracker = Tracker::new(config, &TokenCache::new())
            .map_err(|error| Fault::usage(worded(&error, &origin)))?;
        Ok(Source {
            tracker,
            space: settled.space,
            account: settled.account,
            context,
            username,
            origin,
        })
    }

    /// The context that is named, or the current one, if any.
    pub fn chosen_context(&self, lookup: Lookup<'_>) -> Result<Option<(String, Context, ConfigFile)>, Fault> {
        let named = match &self.context {
            Some(name) => Some(name.clone()),
            None => text(lookup, "EVENTEXPORT_CONTEXT")?,
        };
        let Some(path) = config::path(lookup)? else {
            return match named {
                None => Ok(None),
                Some(name) => Err(Fault::usage(format!(
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

impl Source {
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
    pub fn archive(&self, typed: &S3Args) -> Result<(Option<Place>, S3Args), Fault> {
        let mut s3 = typed.clone();
        let Some((name, context, file)) = &self.context else {
            return Ok((None, s3));
        };
        let wrong = |field: &str, why: &dyn std::fmt::Display| {
            Fault::usage(format!("{field} of context {name}: {why}"))
        };
        let place = context.to.as_deref().map(str::parse::<Place>).transpose();
        let place = place
            .map_err(|error| wrong("to", &error))?
            .map(|place| match place {
                Place::Directory(path) => Place::Directory(file.resolved(&path)),
                bucket @ Place::Bucket { .. } => bucket,
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
            .or_else(|| context.s3_ca_file.as_deref().map(|path| file.resolved(path)));
        Ok((place, s3))
    }

    /// An error of the service, in the words of the command line.
    pub fn fault(&self, error: &TrackerError) -> Fault {
        Fault::Failed(anyhow::anyhow!(self.worded(error)))
    }

    /// The same as text.
    pub fn worded(&self, error: &TrackerError) -> String {
        worded(error, &self.origin)
    }
}

/// The error with flags and variables in the place of the fields of a manifest.
fn worded(error: &TrackerError, origin: &str) -> String {
    let saying = |said: &str| {
        if said.is_empty() {
            String::new()
        } else {
            format!(", saying “{said}”")
        }
    };
    match error {
        TrackerError::Unauthorized { host, key: _, said } => format!(
            "{host} does not accept the {origin}{}; check that the credentials are of this region and still valid",
            saying(said)
        ),
        TrackerError::CredentialsRefused { host, key: _, said } => {
            format!("{host} refuses the {origin}{}; give a valid one", saying(said))
        }
        TrackerError::NoToken(cause) => format!("no token could be had: {}", worded(cause, origin)),
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

fn certificates(path: &Path) -> Result<Vec<u8>, Fault> {
    use std::io::Read as _;
    let fault = |why: String| Fault::usage(format!("--ca-file: {} {why}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > CA_MAX_BYTES {
        return Err(fault("is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}
