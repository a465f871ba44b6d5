//! Resolves service, space and scope from flags, environment and context, in this order. No I/O.

use std::path::PathBuf;

use url::Url;

use super::super::config::{ConfigFile, ContextConfig};
use super::super::exit::CliError;
use super::super::secrets::EnvLookup;
use super::SourceArgs;
use crate::api;
use crate::tracker::{UaaSource, endpoint_of_region};

/// Service, space and scope of a command; resolved before any prompt for a secret.
#[derive(Debug)]
pub(super) struct ResolvedSource {
    pub(super) endpoint: Url,
    pub(super) uaa: UaaSource,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) space: String,
    pub(super) account: bool,
}

/// Settings of one layer: flags, environment or context.
#[derive(Debug, Default)]
struct SourceLayer {
    space: Option<SettingLayers>,
    account: Option<bool>,
    region: Option<SettingLayers>,
    endpoint: Option<SettingLayers>,
    uaa_endpoint: Option<SettingLayers>,
    ca_file: Option<PathBuf>,
}

/// Value with the flag, variable or context field that it comes from.
#[derive(Clone, Debug)]
struct SettingLayers {
    value: String,
    origin: String,
}

/// Resolves each setting from the first layer that has it: flags, environment, context.
pub(super) fn resolve(
    args: &SourceArgs,
    lookup: EnvLookup<'_>,
    context: Option<&(String, ContextConfig, ConfigFile)>,
) -> Result<ResolvedSource, CliError> {
    let mut layers = vec![
        SourceLayer::from_flags(args),
        SourceLayer::from_environment(lookup)?,
    ];
    layers.extend(context.map(|(name, context, file)| SourceLayer::from_context(name, context, file)));
    if let Some(both) = layers
        .iter()
        .find_map(|layer| layer.region.as_ref().zip(layer.endpoint.as_ref()))
    {
        return Err(CliError::usage(format!(
            "{} and {} conflict: keep one of them",
            both.0.origin, both.1.origin
        )));
    }
    let space = layers
        .iter()
        .find_map(|layer| layer.space.clone())
        .ok_or_else(|| {
            CliError::usage(
                "no space: use --space ID (`cf space NAME --guid` prints it), set EVENTEXPORT_SPACE, or use a context with a \
                 space (`eventexport context set NAME --space ID`)",
            )
        })?;
    if !api::is_space_id(&space.value) {
        return Err(CliError::usage(format!(
            "{}: must be the ID of the space, as printed by `cf space NAME --guid`, not its name",
            space.origin
        )));
    }
    // A layer that sets the service does not use the UAA or the certificates of the layers below.
    let service_layer = layers
        .iter()
        .position(|layer| layer.region.is_some() || layer.endpoint.is_some());
    let service_layer = service_layer.ok_or_else(|| {
        CliError::usage(
            "no service: use --region (us-south, eu-de, au-syd, eu-gb) or --endpoint URL, set EVENTEXPORT_REGION or \
             EVENTEXPORT_ENDPOINT, or use a context with a service (`eventexport context set NAME --region REGION`)",
        )
    })?;
    let account = layers.iter().find_map(|layer| layer.account).unwrap_or(false);
    layers.truncate(service_layer + 1);
    let ca = layers.iter().find_map(|layer| layer.ca_file.clone());
    let uaa = layers.iter().find_map(|layer| layer.uaa_endpoint.clone());
    let layer = layers.pop().unwrap_or_default();
    let (endpoint, api) = match (layer.region, layer.endpoint) {
        (Some(region), _) => endpoint_of_region(&region.value).ok_or_else(|| {
            CliError::usage(format!(
                "{}: {:?} is not a public region: use us-south (or ng), eu-de, au-syd or eu-gb, or --endpoint for another service",
                region.origin, region.value
            ))
        })?,
        (None, Some(endpoint)) => {
            let url = parse_endpoint(&endpoint)?;
            (url.clone(), url)
        }
        (None, None) => return Err(CliError::usage("no service: use --region or --endpoint")),
    };
    let uaa = match uaa {
        Some(setting) => UaaSource::Endpoint(parse_endpoint(&setting)?),
        None => UaaSource::Discover { api },
    };
    let variable = env_text(lookup, "EVENTEXPORT_ALLOW_HOST")?.filter(|_| args.allow_host.is_empty());
    let listed = variable.iter().flat_map(|hosts| hosts.split(','));
    Ok(ResolvedSource {
        endpoint,
        uaa,
        allowed_hosts: listed.map(str::to_owned).chain(args.allow_host.clone()).collect(),
        ca,
        space: space.value,
        account,
    })
}

impl SourceLayer {
    fn from_flags(args: &SourceArgs) -> Self {
        let setting = |value: &Option<String>, flag: &str| {
            value.clone().map(|value| SettingLayers {
                value,
                origin: flag.to_owned(),
            })
        };
        Self {
            space: setting(&args.space, "--space"),
            account: args.account,
            region: setting(&args.region, "--region"),
            endpoint: setting(&args.endpoint, "--endpoint"),
            uaa_endpoint: setting(&args.uaa_endpoint, "--uaa-endpoint"),
            ca_file: args.ca_file.clone(),
        }
    }

    fn from_environment(lookup: EnvLookup<'_>) -> Result<Self, CliError> {
        let setting = |variable: &str| -> Result<Option<SettingLayers>, CliError> {
            Ok(env_text(lookup, variable)?.map(|value| SettingLayers {
                value,
                origin: variable.to_owned(),
            }))
        };
        let account = match setting("EVENTEXPORT_ACCOUNT")?
            .as_ref()
            .map(|setting| setting.value.as_str())
        {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(other) => {
                return Err(CliError::usage(format!(
                    "EVENTEXPORT_ACCOUNT: must be true or false, not {other:?}"
                )));
            }
        };
        Ok(Self {
            space: setting("EVENTEXPORT_SPACE")?,
            account,
            region: setting("EVENTEXPORT_REGION")?,
            endpoint: setting("EVENTEXPORT_ENDPOINT")?,
            uaa_endpoint: setting("EVENTEXPORT_UAA_ENDPOINT")?,
            ca_file: env_text(lookup, "EVENTEXPORT_CA_FILE")?.map(PathBuf::from),
        })
    }

    fn from_context(name: &str, context: &ContextConfig, file: &ConfigFile) -> Self {
        let setting = |value: &Option<String>, field: &str| {
            value.clone().map(|value| SettingLayers {
                value,
                origin: format!("{field} of context {name}"),
            })
        };
        Self {
            space: setting(&context.space, "space"),
            account: context.account,
            region: setting(&context.region, "region"),
            endpoint: setting(&context.endpoint, "endpoint"),
            uaa_endpoint: setting(&context.uaa_endpoint, "uaa-endpoint"),
            ca_file: context.ca_file.as_deref().map(|path| file.resolve_path(path)),
        }
    }
}

/// Returns an environment variable as text.
pub(super) fn env_text(lookup: EnvLookup<'_>, variable: &str) -> Result<Option<String>, CliError> {
    lookup(variable)
        .map_err(CliError::usage)?
        .map(|bytes| {
            String::from_utf8(bytes).map_err(|_| CliError::usage(format!("{variable}: must be UTF-8 text")))
        })
        .transpose()
}

fn parse_endpoint(setting: &SettingLayers) -> Result<Url, CliError> {
    api::parse_endpoint(&setting.value).map_err(|rule| CliError::usage(format!("{}: {rule}", setting.origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_with(
        args: &SourceArgs,
        variables: &[(&str, &str)],
        context: Option<ContextConfig>,
    ) -> Result<ResolvedSource, String> {
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        let file = || ConfigFile::read("/nowhere/config.toml".as_ref()).ok().unwrap();
        let context = context.map(|context| ("prod".to_owned(), context, file()));
        resolve(args, &lookup, context.as_ref()).map_err(|fault| fault.to_string())
    }

    fn prod() -> ContextConfig {
        ContextConfig {
            space: Some("from-context".to_owned()),
            region: Some("eu-de".to_owned()),
            uaa_endpoint: Some("https://uaa.example".to_owned()),
            ca_file: Some("ca.pem".into()),
            account: Some(true),
            ..ContextConfig::default()
        }
    }

    #[test]
    fn flags_override_variables_and_variables_override_the_context() {
        let alone = resolve_with(&SourceArgs::default(), &[], Some(prod())).unwrap();
        assert_eq!(alone.space, "from-context");
        assert_eq!(
            alone.endpoint.as_str(),
            "https://activity-tracker.eu-de.bluemix.net/"
        );
        assert_eq!(
            alone.uaa,
            UaaSource::Endpoint("https://uaa.example".parse().unwrap())
        );
        assert_eq!(alone.ca, Some("/nowhere/ca.pem".into()));
        assert!(alone.account);

        let variables = [
            ("EVENTEXPORT_SPACE", "from-variable"),
            ("EVENTEXPORT_ACCOUNT", "0"),
        ];
        let over = resolve_with(&SourceArgs::default(), &variables, Some(prod())).unwrap();
        assert_eq!((over.space.as_str(), over.account), ("from-variable", false));

        let flags = SourceArgs {
            space: Some("from-flag".to_owned()),
            account: Some(true),
            ..SourceArgs::default()
        };
        let over = resolve_with(&flags, &variables, Some(prod())).unwrap();
        assert_eq!((over.space.as_str(), over.account), ("from-flag", true));
    }

    #[test]
    fn another_endpoint_ignores_the_uaa_and_ca_of_the_context() {
        let flags = SourceArgs {
            endpoint: Some("https://t.example".to_owned()),
            ..SourceArgs::default()
        };
        let other = resolve_with(&flags, &[], Some(prod())).unwrap();
        assert_eq!(other.endpoint.as_str(), "https://t.example/");
        assert_eq!(
            other.uaa,
            UaaSource::Discover {
                api: "https://t.example".parse().unwrap()
            }
        );
        assert_eq!(other.ca, None);
    }

    #[test]
    fn errors_name_the_flag_variable_or_context_field() {
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
                Some(ContextConfig {
                    space: Some("my space".to_owned()),
                    ..prod()
                }),
                "space of context prod",
            ),
        ] {
            let error = resolve_with(&SourceArgs::default(), variables, context).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
