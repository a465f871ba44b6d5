//! Flags over environment over context: decides purely which service, space and scope are meant.

use std::path::PathBuf;

use url::Url;

use super::super::config::{ConfigFile, Context};
use super::super::exit::Fault;
use super::super::secrets::Lookup;
use super::SourceArgs;
use crate::api;
use crate::tracker::{Uaa, endpoint_of_region};

/// What was settled before anybody is asked for a secret.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) endpoint: Url,
    pub(super) uaa: Uaa,
    pub(super) ca: Option<PathBuf>,
    pub(super) space: String,
    pub(super) account: bool,
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

/// The first that each level has, from the flags down to the context.
pub(super) fn settle(
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
pub(super) fn text(lookup: Lookup<'_>, variable: &str) -> Result<Option<String>, Fault> {
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
