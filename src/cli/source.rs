//! The connection to the service that a command speaks through: flags over environment over context become a client, a
//! space and a scope. Reads variables and files, may ask on a terminal; sends nothing.

use std::path::{Path, PathBuf};

use url::Url;

use super::config::{self, ConfigFile, Context};
use super::credentials::{self, Found};
use super::exit::Fault;
use super::location::{Place, S3Args};
use super::secrets::{self, Lookup};
use crate::api;
use crate::egress::{HostPolicy, Traffic};
use crate::tracker::{
    Credentials, RetryPolicy, Timeouts, TokenCache, Tracker, TrackerConfig, TrackerError, Uaa,
    endpoint_of_region,
};

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

/// What was settled before anybody is asked for a secret.
#[derive(Debug)]
struct Settled {
    endpoint: Url,
    uaa: Uaa,
    ca: Option<PathBuf>,
    space: String,
    account: bool,
}

/// What one level says: flags, environment or context.
#[derive(Debug, Default)]
struct Level {
    space: Option<Said>,
    account: Option<bool>,
    region: Option<Said>,
    endpoint: Option<Said>,
    uaa_endpoint: Option<Said>,
    ca_file: Option<PathBuf>,
}

/// A value, and what a person calls the place that it stands in.
#[derive(Clone, Debug)]
struct Said {
    value: String,
    at: String,
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

fn settle(
    args: &SourceArgs,
    lookup: Lookup<'_>,
    context: Option<&(String, Context, ConfigFile)>,
) -> Result<Settled, Fault> {
    let mut levels = vec![Level::of_flags(args), Level::of_environment(lookup)?];
    levels.extend(context.map(|(name, context, file)| Level::of_context(name, context, file)));
    if let Some(both) = levels
        .iter()
        .find_map(|level| level.region.as_ref().zip(level.endpoint.as_ref()))
    {
        return Err(Fault::usage(format!(
            "{} and {} are both given: keep one of them",
            both.0.at, both.1.at
        )));
    }
    let space = levels
        .iter()
        .find_map(|level| level.space.clone())
        .ok_or_else(|| {
            Fault::usage(
                "no space: give --space ID (`cf space NAME --guid` prints it), set EVENTEXPORT_SPACE, or use a context \
                 that has one (`eventexport context set NAME --space ID`)",
            )
        })?;
    if !api::is_space(&space.value) {
        return Err(Fault::usage(format!(
            "{}: must be the id of the space, as `cf space NAME --guid` prints it, not its name",
            space.at
        )));
    }
    // Whoever names another service does not mean the UAA or the certificates of the one below.
    let place = levels
        .iter()
        .position(|level| level.region.is_some() || level.endpoint.is_some());
    let place = place.ok_or_else(|| {
        Fault::usage(
            "no service: give --region (us-south, eu-de, au-syd, eu-gb) or --endpoint URL, set EVENTEXPORT_REGION or \
             EVENTEXPORT_ENDPOINT, or use a context that has one (`eventexport context set NAME --region REGION`)",
        )
    })?;
    let account = levels.iter().find_map(|level| level.account).unwrap_or(false);
    levels.truncate(place + 1);
    let ca = levels.iter().find_map(|level| level.ca_file.clone());
    let uaa = levels.iter().find_map(|level| level.uaa_endpoint.clone());
    let level = levels.pop().unwrap_or_default();
    let (endpoint, api) = match (level.region, level.endpoint) {
        (Some(region), _) => endpoint_of_region(&region.value).ok_or_else(|| {
            Fault::usage(format!(
                "{}: {:?} is no public region: us-south (or ng), eu-de, au-syd or eu-gb; --endpoint names any other service",
                region.at, region.value
            ))
        })?,
        (None, Some(endpoint)) => {
            let url = address(&endpoint)?;
            (url.clone(), url)
        }
        (None, None) => return Err(Fault::usage("no service: give --region or --endpoint")),
    };
    let uaa = match uaa {
        Some(said) => Uaa::Endpoint(address(&said)?),
        None => Uaa::Discover { api },
    };
    Ok(Settled {
        endpoint,
        uaa,
        ca,
        space: space.value,
        account,
    })
}

impl Level {
    fn of_flags(args: &SourceArgs) -> Self {
        let said = |value: &Option<String>, flag: &str| {
            value.clone().map(|value| Said {
                value,
                at: flag.to_owned(),
            })
        };
        Self {
            space: said(&args.space, "--space"),
            account: args.account,
            region: said(&args.region, "--region"),
            endpoint: said(&args.endpoint, "--endpoint"),
            uaa_endpoint: said(&args.uaa_endpoint, "--uaa-endpoint"),
            ca_file: args.ca_file.clone(),
        }
    }

    fn of_environment(lookup: Lookup<'_>) -> Result<Self, Fault> {
        let said = |variable: &str| -> Result<Option<Said>, Fault> {
            Ok(text(lookup, variable)?.map(|value| Said {
                value,
                at: variable.to_owned(),
            }))
        };
        let account = match said("EVENTEXPORT_ACCOUNT")?
            .as_ref()
            .map(|said| said.value.as_str())
        {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(other) => {
                return Err(Fault::usage(format!(
                    "EVENTEXPORT_ACCOUNT: {other:?} is neither true nor false"
                )));
            }
        };
        Ok(Self {
            space: said("EVENTEXPORT_SPACE")?,
            account,
            region: said("EVENTEXPORT_REGION")?,
            endpoint: said("EVENTEXPORT_ENDPOINT")?,
            uaa_endpoint: said("EVENTEXPORT_UAA_ENDPOINT")?,
            ca_file: text(lookup, "EVENTEXPORT_CA_FILE")?.map(PathBuf::from),
        })
    }

    fn of_context(name: &str, context: &Context, file: &ConfigFile) -> Self {
        let said = |value: &Option<String>, field: &str| {
            value.clone().map(|value| Said {
                value,
                at: format!("{field} of context {name}"),
            })
        };
        Self {
            space: said(&context.space, "space"),
            account: context.account,
            region: said(&context.region, "region"),
            endpoint: said(&context.endpoint, "endpoint"),
            uaa_endpoint: said(&context.uaa_endpoint, "uaa-endpoint"),
            ca_file: context.ca_file.as_deref().map(|path| file.resolved(path)),
        }
    }
}

/// A variable as text.
fn text(lookup: Lookup<'_>, variable: &str) -> Result<Option<String>, Fault> {
    lookup(variable)
        .map_err(Fault::usage)?
        .map(|bytes| {
            String::from_utf8(bytes).map_err(|_| Fault::usage(format!("{variable}: is not UTF-8 text")))
        })
        .transpose()
}

fn address(said: &Said) -> Result<Url, Fault> {
    api::parse_url(&said.value).ok_or_else(|| {
        Fault::usage(format!(
            "{}: must be an address as https://tracker.example.com (plain http only to 127.0.0.1, [::1] or localhost), \
             without user, query or fragment",
            said.at
        ))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(
        args: &SourceArgs,
        variables: &[(&str, &str)],
        context: Option<Context>,
    ) -> Result<Settled, String> {
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        let file = || ConfigFile::read("/nowhere/config.toml".as_ref()).ok().unwrap();
        let context = context.map(|context| ("prod".to_owned(), context, file()));
        settle(args, &lookup, context.as_ref()).map_err(|fault| fault.to_string())
    }

    fn prod() -> Context {
        Context {
            space: Some("from-context".to_owned()),
            region: Some("eu-de".to_owned()),
            uaa_endpoint: Some("https://uaa.example".to_owned()),
            ca_file: Some("ca.pem".into()),
            account: Some(true),
            ..Context::default()
        }
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_that_over_the_context() {
        let alone = settled(&SourceArgs::default(), &[], Some(prod())).unwrap();
        assert_eq!(alone.space, "from-context");
        assert_eq!(
            alone.endpoint.as_str(),
            "https://activity-tracker.eu-de.bluemix.net/"
        );
        assert_eq!(alone.uaa, Uaa::Endpoint("https://uaa.example".parse().unwrap()));
        assert_eq!(alone.ca, Some("/nowhere/ca.pem".into()));
        assert!(alone.account);

        let variables = [
            ("EVENTEXPORT_SPACE", "from-variable"),
            ("EVENTEXPORT_ACCOUNT", "0"),
        ];
        let over = settled(&SourceArgs::default(), &variables, Some(prod())).unwrap();
        assert_eq!((over.space.as_str(), over.account), ("from-variable", false));

        let flags = SourceArgs {
            space: Some("from-flag".to_owned()),
            account: Some(true),
            ..SourceArgs::default()
        };
        let over = settled(&flags, &variables, Some(prod())).unwrap();
        assert_eq!((over.space.as_str(), over.account), ("from-flag", true));
    }

    #[test]
    fn another_service_does_not_get_the_uaa_and_the_certificates_of_the_context() {
        let flags = SourceArgs {
            endpoint: Some("https://t.example".to_owned()),
            ..SourceArgs::default()
        };
        let other = settled(&flags, &[], Some(prod())).unwrap();
        assert_eq!(other.endpoint.as_str(), "https://t.example/");
        assert_eq!(
            other.uaa,
            Uaa::Discover {
                api: "https://t.example".parse().unwrap()
            }
        );
        assert_eq!(other.ca, None);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_by_the_place_it_stands_in() {
        let space = ("EVENTEXPORT_SPACE", "s");
        for (variables, context, named) in [
            (&[][..], None, "--space ID"),
            (&[space], None, "--region"),
            (
                &[space, ("EVENTEXPORT_REGION", "mars")],
                None,
                "EVENTEXPORT_REGION: \"mars\"",
            ),
            (
                &[space, ("EVENTEXPORT_ENDPOINT", "http://t.example")],
                None,
                "EVENTEXPORT_ENDPOINT",
            ),
            (
                &[
                    space,
                    ("EVENTEXPORT_ENDPOINT", "https://t.example"),
                    ("EVENTEXPORT_REGION", "ng"),
                ],
                None,
                "EVENTEXPORT_REGION and EVENTEXPORT_ENDPOINT",
            ),
            (
                &[space, ("EVENTEXPORT_ACCOUNT", "maybe")],
                None,
                "EVENTEXPORT_ACCOUNT",
            ),
            (
                &[],
                Some(Context {
                    space: Some("my space".to_owned()),
                    ..prod()
                }),
                "space of context prod",
            ),
        ] {
            let error = settled(&SourceArgs::default(), variables, context).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
