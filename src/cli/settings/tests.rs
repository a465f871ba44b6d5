//! Precedence of the settings, as a table: flag, variable, context, default; and the names in errors.

use std::path::{Path, PathBuf};

use super::super::config::SelectedContext;
use super::super::config::{ConfigFile, ContextConfig};
use super::destination::{Destination, ResolvedDestination, S3Args, resolve_location};
use super::layers::{self, Layer, LayeredSetting, Layers};
use super::location::ArchiveLocation;
use super::secrets::source_credentials;
use super::source::{SourceArgs, SourceSettings};
use crate::api::{Region, Setting};

type Variables<'a> = &'a [(&'a str, &'a str)];

fn lookup(variables: Variables<'_>) -> impl Fn(&str) -> Result<Option<Vec<u8>>, String> {
    |name| {
        let value = variables.iter().find(|(variable, _)| *variable == name);
        Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
    }
}

fn context(config: ContextConfig) -> SelectedContext {
    SelectedContext {
        name: "prod".to_owned(),
        config,
        file: ConfigFile::read(Path::new("/nowhere/config.toml")).ok().unwrap(),
    }
}

fn prod() -> ContextConfig {
    ContextConfig {
        space: Some("from-context".to_owned()),
        region: Some("eu-de".to_owned()),
        uaa_endpoint: Some("https://uaa.example".to_owned()),
        ca_file: Some("ca.pem".into()),
        account: Some(true),
        archive: Some("copy".to_owned()),
        s3_endpoint: Some("https://store.example".to_owned()),
        s3_region: Some("context-1".to_owned()),
        ..ContextConfig::default()
    }
}

fn source(
    args: &SourceArgs,
    variables: Variables<'_>,
    config: Option<ContextConfig>,
) -> Result<SourceSettings, String> {
    let (context, lookup) = (config.map(context), lookup(variables));
    let layers = Layers {
        lookup: &lookup,
        context: context.as_ref(),
    };
    SourceSettings::resolve(args, &layers).map_err(|error| error.to_string())
}

#[test]
fn the_strongest_layer_wins_for_every_setting() {
    for setting in layers::ALL {
        for given in 0..8 {
            let has = |layer: Layer| given & (1 << layer as u8) != 0;
            let variables: Vec<(&str, &str)> = setting
                .variables
                .iter()
                .filter(|_| has(Layer::Environment))
                .map(|variable| (*variable, "by-variable"))
                .collect();
            let context = context(ContextConfig {
                space: has(Layer::Context).then(|| "by-context".to_owned()),
                ..ContextConfig::default()
            });
            let lookup = lookup(&variables);
            let layers = Layers {
                lookup: &lookup,
                context: Some(&context),
            };
            let flag = has(Layer::Flag).then(|| "by-flag".to_owned());
            let resolved = layers
                .text(setting, flag.as_ref(), |context| context.config.space.as_ref())
                .ok()
                .unwrap();
            let found = resolved.map(|resolved| (resolved.value, resolved.origin.to_string()));
            let by_context = format!("{} of context prod", setting.field);
            let expected = if has(Layer::Flag) {
                Some(("by-flag", setting.flag))
            } else if let Some((variable, value)) = variables.first() {
                Some((*value, *variable))
            } else {
                has(Layer::Context).then_some(("by-context", by_context.as_str()))
            };
            let expected = expected.map(|(value, origin)| (value.to_owned(), origin.to_owned()));
            assert_eq!(found, expected, "{setting:?} {given:b}");
        }
    }
}

#[test]
fn every_setting_is_in_one_row_of_the_documentation() {
    let page = include_str!("../../../docs/cli.md");
    for LayeredSetting {
        flag,
        variables,
        field,
    } in layers::ALL
    {
        let names = variables
            .iter()
            .chain([flag, field])
            .filter(|name| !name.is_empty());
        let cells: Vec<String> = names.map(|name| format!("`{name}")).collect();
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let row = rows.filter(|line| cells.iter().all(|cell| line.contains(cell.as_str())));
        assert_eq!(row.count(), 1, "{cells:?}");
    }
}

#[test]
fn flags_override_variables_and_variables_override_the_context() {
    let alone = source(&SourceArgs::default(), &[], Some(prod())).unwrap();
    assert_eq!((alone.space.as_str(), alone.account), ("from-context", true));
    assert_eq!(alone.source.region, Some(Region::EuDe));
    assert_eq!(alone.source.uaa_endpoint.as_deref(), Some("https://uaa.example"));
    assert_eq!(alone.ca_file.unwrap().value, PathBuf::from("/nowhere/ca.pem"));
    for (setting, name) in [
        (Setting::Space, "space of context prod"),
        (Setting::SourceEndpoint, "region of context prod"),
        (Setting::UaaEndpoint, "uaa-endpoint of context prod"),
        (Setting::SourceCa, "ca-file of context prod"),
    ] {
        assert_eq!(alone.names.name(setting), name);
    }

    let variables = [
        ("EVENTEXPORT_SPACE", "from-variable"),
        ("EVENTEXPORT_ACCOUNT", "0"),
    ];
    let over = source(&SourceArgs::default(), &variables, Some(prod())).unwrap();
    assert_eq!((over.space.as_str(), over.account), ("from-variable", false));
    assert_eq!(over.names.name(Setting::Space), "EVENTEXPORT_SPACE");

    let flags = SourceArgs {
        space: Some("from-flag".to_owned()),
        account: Some(true),
        ..SourceArgs::default()
    };
    let over = source(&flags, &variables, Some(prod())).unwrap();
    assert_eq!((over.space.as_str(), over.account), ("from-flag", true));
    assert_eq!(over.names.name(Setting::Space), "--space");
}

#[test]
fn another_service_ignores_the_uaa_and_ca_of_weaker_layers() {
    let flags = SourceArgs {
        endpoint: Some("https://t.example".to_owned()),
        ..SourceArgs::default()
    };
    let by_variable = [("EVENTEXPORT_REGION", "ng"), ("EVENTEXPORT_CA_FILE", "env.pem")];
    let other = source(&flags, &by_variable, Some(prod())).unwrap();
    assert_eq!(other.source.endpoint.as_deref(), Some("https://t.example"));
    assert_eq!((other.source.region, other.source.uaa_endpoint), (None, None));
    assert!(other.ca_file.is_none() && other.source.ca_secret_ref.is_none());
    assert_eq!(other.names.name(Setting::SourceEndpoint), "--endpoint");
    let by_variable = source(&SourceArgs::default(), &by_variable, Some(prod())).unwrap();
    assert_eq!(by_variable.source.region, Some(Region::Ng));
    assert_eq!(by_variable.source.uaa_endpoint, None);
    assert_eq!(
        by_variable.ca_file.unwrap().origin.to_string(),
        "EVENTEXPORT_CA_FILE"
    );
}

#[test]
fn errors_name_the_flag_variable_or_context_field() {
    let space = ("EVENTEXPORT_SPACE", "s");
    for (variables, config, named) in [
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
            "EVENTEXPORT_ENDPOINT: ",
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
            "EVENTEXPORT_ACCOUNT: ",
        ),
        (
            &[space, ("EVENTEXPORT_ALLOW_HOST", "*")],
            Some(prod()),
            "EVENTEXPORT_ALLOW_HOST: ",
        ),
        (
            &[],
            Some(ContextConfig {
                space: Some("my space".to_owned()),
                ..prod()
            }),
            "space of context prod: ",
        ),
    ] {
        let error = source(&SourceArgs::default(), variables, config).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn an_archive_and_its_connection_come_from_the_same_layers() {
    let bucket = "s3://audit/a".parse::<ArchiveLocation>().unwrap();
    let typed = S3Args {
        region: Some("flag-1".to_owned()),
        ..S3Args::default()
    };
    let variables = [
        ("AWS_ENDPOINT_URL", "https://common.example"),
        ("AWS_REGION", "variable-1"),
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    for (args, variables, config, region, endpoint, names) in [
        (
            &typed,
            &variables[..],
            Some(prod()),
            "flag-1",
            Some("https://common.example"),
            ("--s3-region", "AWS_ENDPOINT_URL"),
        ),
        (
            &S3Args::default(),
            &variables,
            None,
            "variable-1",
            Some("https://common.example"),
            ("AWS_REGION", "AWS_ENDPOINT_URL"),
        ),
        (
            &S3Args::default(),
            &[],
            Some(prod()),
            "context-1",
            Some("https://store.example"),
            ("s3-region of context prod", "s3-endpoint of context prod"),
        ),
        (
            &S3Args::default(),
            &[],
            None,
            "us-east-1",
            None,
            ("--s3-region", "--s3-endpoint"),
        ),
    ] {
        let (context, lookup) = (config.map(context), lookup(variables));
        let layers = Layers {
            lookup: &lookup,
            context: context.as_ref(),
        };
        let location = resolve_location(Some(&bucket), &layers).ok().unwrap().unwrap();
        let resolved = ResolvedDestination::of_location(&location, args, &layers)
            .ok()
            .unwrap();
        let Destination::Bucket(s3) = &resolved.destination else {
            panic!("{:?}", resolved.destination)
        };
        assert_eq!((s3.region.as_str(), s3.endpoint.as_deref()), (region, endpoint));
        assert_eq!(s3.credentials_secret_ref.is_some(), !variables.is_empty());
        let named = (
            resolved.names.name(Setting::BucketRegion),
            resolved.names.name(Setting::BucketEndpoint),
        );
        assert_eq!(named, names);
    }
    let (lookup, context) = (lookup(&[]), context(prod()));
    let layers = Layers {
        lookup: &lookup,
        context: Some(&context),
    };
    let location = resolve_location(None, &layers).ok().unwrap().unwrap();
    assert_eq!(location.value, ArchiveLocation::Directory("/nowhere/copy".into()));
    assert_eq!(location.origin.to_string(), "archive of context prod");
    let lonely = [("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let lookup = self::lookup(&lonely);
    let layers = Layers {
        lookup: &lookup,
        context: None,
    };
    let location = resolve_location(Some(&bucket), &layers).ok().unwrap().unwrap();
    let error = ResolvedDestination::of_location(&location, &typed, &layers)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "AWS_ACCESS_KEY_ID is not set, though AWS_SECRET_ACCESS_KEY is: set both"
    );
}

#[test]
fn credentials_of_variables_win_over_the_context_and_that_over_the_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "by-context").unwrap();
    let with_file = ContextConfig {
        api_key_file: Some(file),
        username: Some("a@b".to_owned()),
        ..ContextConfig::default()
    };
    let with_user = ContextConfig {
        username: Some("a@b".to_owned()),
        ..ContextConfig::default()
    };
    let with_password = ContextConfig {
        password_file: with_file.api_key_file.clone(),
        ..with_user.clone()
    };
    let key = [("EVENTEXPORT_API_KEY", "by-variable")];
    let (user, other) = (
        [("EVENTEXPORT_USERNAME", "a@b")],
        [("EVENTEXPORT_USERNAME", "c@d")],
    );
    let key_and_user = [key[0], user[0]];
    for (variables, config, value, name) in [
        (
            &key[..],
            &with_file,
            ("apiKey", "by-variable"),
            "the API key of EVENTEXPORT_API_KEY",
        ),
        (
            &[],
            &with_file,
            ("apiKey", "by-context"),
            "the API key of context prod (api-key-file)",
        ),
        (
            &[],
            &with_user,
            ("password", "typed"),
            "the user and password entered at the prompt",
        ),
        // A user name is no credential: it hides none.
        (
            &other,
            &with_file,
            ("apiKey", "by-context"),
            "the API key of context prod (api-key-file)",
        ),
        (
            &user,
            &with_password,
            ("password", "by-context"),
            "the user and password of context prod (username and password-file)",
        ),
        (
            &other,
            &with_user,
            ("username", "c@d"),
            "the user and password entered at the prompt",
        ),
        (
            &key_and_user,
            &with_file,
            ("apiKey", "by-variable"),
            "the API key of EVENTEXPORT_API_KEY",
        ),
    ] {
        let context = context(config.clone());
        let prompt = |_: &str| Some(Ok("typed".to_owned()));
        let found = source_credentials(&lookup(variables), Some(&context), &prompt)
            .ok()
            .unwrap();
        assert_eq!(
            found.data.get(value.0).map(Vec::as_slice),
            Some(value.1.as_bytes())
        );
        assert_eq!(found.describe(Setting::SourceCredentials).as_deref(), Some(name));
    }
    let context = context(with_password);
    let error = source_credentials(&lookup(&other), Some(&context), &|_| None)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "EVENTEXPORT_USERNAME is set, but password-file of context prod is of another user: set the password of the user as \
         well, or unset the variable"
    );
}
