//! The service of a command: flags, environment and context, or a manifest, become `spec.source` and its Secrets, and then
//! a client. Reads variables and files, may prompt on a terminal; sends no request.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::config::SelectedContext;
use super::super::documents;
use super::super::exit::CliError;
use super::super::simulation::{SIMULATED_ENDPOINT, SIMULATED_SPACE};
use super::context::find_context;
use super::environment::{EnvLookup, env_value};
use super::layers::{self, Layer, LayeredSetting, Layers, Resolved, name_of};
use super::process_context;
use super::secrets::{self, SecretPrompt};
use crate::api::{self, CaSecretRef, ReferencedKind, Region, SecretRef, Setting, SettingNames, Source};
use crate::egress::{HostPolicy, check_ca};
use crate::export::connect::{self, ProcessContext, Secrets};
use crate::export::failure::Failure;
use crate::session::guard::SpaceSessions;
use crate::tracker::{TokenCache, Tracker, TrackerError};

/// Name of the Secret with the credentials that no manifest names.
const SECRET: &str = "source";

/// Name of the Secret with the certificate authority that no manifest names, and its key.
const CA: (&str, &str) = ("source-ca", "ca.crt");

/// User that owns the sessions. A key of the credentials too, if there is a password.
const USERNAME: LayeredSetting = LayeredSetting {
    flag: "",
    variables: &["EVENTEXPORT_USERNAME"],
    field: "username",
};

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

/// `spec.source` with its Secrets.
pub struct ResolvedSource {
    /// The source, as a manifest states it.
    pub source: Source,
    /// Names of the settings in errors.
    pub names: SettingNames,
    pub(super) secrets: Secrets,
    pub(super) hosts: HostPolicy,
}

/// Source, space and scope of a command without a manifest, before its secrets are read.
#[derive(Debug)]
pub(super) struct SourceSettings {
    pub(super) source: Source,
    pub(super) ca_file: Option<Resolved<PathBuf>>,
    pub(super) hosts: HostPolicy,
    pub(super) space: String,
    pub(super) account: bool,
    pub(super) names: SettingNames,
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
    /// Context in use.
    pub context: Option<SelectedContext>,
    username: Option<String>,
    setting_names: SettingNames,
}

impl SourceArgs {
    /// Builds the client. May prompt for the secret on the terminal: call it before installing signal handlers.
    pub fn connect(&self) -> Result<SourceConnection, CliError> {
        let context = find_context(self.context.as_ref(), &env_value)?;
        let layers = Layers {
            lookup: &env_value,
            context: context.as_ref(),
        };
        let settings = SourceSettings::resolve(self, &layers)?;
        let (space, account) = (settings.space.clone(), settings.account);
        let (source, username) = settings.with_secrets(&layers, &secrets::prompt_on_terminal)?;
        let tracker = source
            .connect(&TokenCache::new())
            .map_err(|failure| CliError::usage(failure.describe(&source.names)))?;
        let named = layers.text(&USERNAME, None, |context| context.config.username.as_ref())?;
        let username = username.or(named.map(|named| named.value));
        Ok(SourceConnection {
            tracker,
            space,
            account,
            context,
            username,
            setting_names: source.names,
        })
    }
}

impl SourceArgs {
    /// Returns the flags of the same source with the simulator as the service. A space has to be given by none of the layers.
    pub(super) fn simulated(self, layers: &Layers<'_>) -> Result<Self, CliError> {
        let space = layers.text(&layers::SPACE, self.space.as_ref(), |context| {
            context.config.space.as_ref()
        })?;
        let space = space.map_or_else(|| SIMULATED_SPACE.to_owned(), |space| space.value);
        Ok(Self {
            space: Some(space),
            region: None,
            endpoint: Some(SIMULATED_ENDPOINT.to_owned()),
            uaa_endpoint: None,
            ca_file: None,
            ..self
        })
    }
}

impl SourceSettings {
    /// Resolves everything but the secrets.
    pub(super) fn resolve(args: &SourceArgs, layers: &Layers<'_>) -> Result<Self, CliError> {
        let space = layers.text(&layers::SPACE, args.space.as_ref(), |context| {
            context.config.space.as_ref()
        })?;
        let space = space.ok_or_else(|| {
            CliError::usage(
                "no space: use --space ID (`cf space NAME --guid` prints it), set EVENTEXPORT_SPACE, or use a context with a \
                 space (`eventexport context set NAME --space ID`)",
            )
        })?;
        let rule = "must be the ID of the space, as printed by `cf space NAME --guid`, not its name";
        let space = space.parse(|space| Some(space).filter(|space| api::is_space_id(space)).ok_or(rule))?;
        let account = layers.flag(&layers::ACCOUNT, args.account, |context| context.config.account)?;
        let region = layers.text(&layers::REGION, args.region.as_ref(), |context| {
            context.config.region.as_ref()
        })?;
        let endpoint = layers.text(&layers::ENDPOINT, args.endpoint.as_ref(), |context| {
            context.config.endpoint.as_ref()
        })?;
        let (service, region, endpoint) = one_service(region, endpoint)?;
        // A layer that sets the service does not use the UAA or the certificates of the layers below.
        let beside = |layer: Layer| layer <= service.layer;
        let uaa = layers
            .text(&layers::UAA_ENDPOINT, args.uaa_endpoint.as_ref(), |context| {
                context.config.uaa_endpoint.as_ref()
            })?
            .filter(|uaa| beside(uaa.origin.layer))
            .map(valid_url)
            .transpose()?;
        let ca_file = layers
            .path(&layers::CA_FILE, args.ca_file.as_deref(), |context| {
                context.path(context.config.ca_file.as_deref())
            })?
            .filter(|ca| beside(ca.origin.layer));
        let names = SettingNames::default()
            .with(Setting::Space, space.origin.to_string())
            .with(Setting::SourceEndpoint, service.to_string())
            .with(Setting::UaaEndpoint, name_of(uaa.as_ref(), &layers::UAA_ENDPOINT))
            .with(Setting::SourceCa, name_of(ca_file.as_ref(), &layers::CA_FILE));
        Ok(Self {
            source: Source {
                region,
                endpoint,
                uaa_endpoint: uaa.map(|uaa| uaa.value),
                credentials_secret_ref: SecretRef {
                    name: SECRET.to_owned(),
                },
                ca_secret_ref: ca_file.as_ref().map(|_| CaSecretRef {
                    name: CA.0.to_owned(),
                    key: CA.1.to_owned(),
                }),
                ca_config_map_ref: None,
                retention_days: None,
            },
            ca_file,
            hosts: allowed_hosts(args, layers.lookup)?,
            space: space.value,
            account: account.is_some_and(|account| account.value),
            names,
        })
    }

    /// Reads the secrets. Returns the source, and the user of a password.
    pub(super) fn with_secrets(
        self,
        layers: &Layers<'_>,
        prompt: SecretPrompt<'_>,
    ) -> Result<(ResolvedSource, Option<String>), CliError> {
        let credentials = secrets::source_credentials(layers.lookup, layers.context, prompt)?;
        let mut names = self.names;
        if let Some(name) = credentials.describe(Setting::SourceCredentials) {
            names = names.with(Setting::SourceCredentials, name);
        }
        let username = credentials.data.get("username");
        let username = username.map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned());
        let mut secrets = BTreeMap::from([(ReferencedKind::Secret.named(SECRET), credentials.data)]);
        if let Some(file) = self.ca_file {
            let pem = read_ca(file)?;
            secrets.insert(
                ReferencedKind::Secret.named(CA.0),
                BTreeMap::from([(CA.1.to_owned(), pem)]),
            );
        }
        let source = ResolvedSource {
            source: self.source,
            names,
            secrets: Secrets(secrets),
            hosts: self.hosts,
        };
        Ok((source, username))
    }
}

impl ResolvedSource {
    /// Creates the source of a manifest. `hosts`: where its credentials may go; `None`: to any host that the manifest names.
    pub fn new(source: &Source, secrets: Secrets, names: SettingNames, hosts: Option<&HostPolicy>) -> Self {
        Self {
            source: source.clone(),
            names,
            secrets,
            hosts: hosts.cloned().unwrap_or_else(HostPolicy::any),
        }
    }

    /// Builds the client; it logs in with its first request.
    pub fn connect(&self, tokens: &TokenCache) -> Result<Tracker, Failure> {
        let process_context = ProcessContext {
            hosts: self.hosts.clone(),
            tokens: tokens.clone(),
            ..process_context(String::new())
        };
        connect::tracker(&self.source, &self.secrets, &process_context)
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

/// Returns the region or the endpoint, of the stronger layer, and its origin.
fn one_service(
    region: Option<Resolved<String>>,
    endpoint: Option<Resolved<String>>,
) -> Result<(layers::Origin, Option<Region>, Option<String>), CliError> {
    let (region, endpoint) = match (region, endpoint) {
        (Some(region), Some(endpoint)) if region.origin.layer == endpoint.origin.layer => {
            return Err(CliError::usage(format!(
                "{} and {} conflict: keep one of them",
                region.origin, endpoint.origin
            )));
        }
        (Some(region), Some(endpoint)) if region.origin.layer < endpoint.origin.layer => (Some(region), None),
        (_, Some(endpoint)) => (None, Some(endpoint)),
        (region, None) => (region, None),
    };
    if let Some(endpoint) = endpoint {
        let endpoint = valid_url(endpoint)?;
        return Ok((endpoint.origin, None, Some(endpoint.value)));
    }
    let region = region.ok_or_else(|| {
        CliError::usage(
            "no service: use --region (us-south, eu-de, au-syd, eu-gb) or --endpoint URL, set EVENTEXPORT_REGION or \
             EVENTEXPORT_ENDPOINT, or use a context with a service (`eventexport context set NAME --region REGION`)",
        )
    })?;
    let region = region.parse(|name| {
        Region::from_name(&name).ok_or_else(|| {
            format!(
                "{name:?} is not a public region: use us-south (or ng), eu-de, au-syd or eu-gb, or --endpoint for another \
                 service"
            )
        })
    })?;
    Ok((region.origin, Some(region.value), None))
}

fn valid_url(url: Resolved<String>) -> Result<Resolved<String>, CliError> {
    url.parse(|text| api::parse_endpoint(&text).map(|_| text))
}

fn allowed_hosts(args: &SourceArgs, lookup: EnvLookup<'_>) -> Result<HostPolicy, CliError> {
    let layers = Layers {
        lookup,
        context: None,
    };
    let typed = (!args.allow_host.is_empty()).then(|| args.allow_host.clone());
    let split = |hosts: String| Ok(hosts.split(',').map(str::to_owned).collect());
    let hosts = layers.resolve(&layers::ALLOW_HOST, typed, split, |_| None)?;
    // A user of the command line may send their own credentials to any host, but a service may not choose it.
    match hosts {
        None => Ok(HostPolicy::any()),
        Some(hosts) => Ok(hosts.parse(|hosts| HostPolicy::any_with(&hosts))?.value),
    }
}

/// Reads a file of certificates.
pub(super) fn read_ca(file: Resolved<PathBuf>) -> Result<Vec<u8>, CliError> {
    let read = file.parse(|path| {
        let pem = documents::read_small_file(&path)?;
        check_ca(&pem).map_err(|error| format!("{} {error}", path.display()))?;
        Ok::<_, String>(pem)
    });
    Ok(read?.value)
}
