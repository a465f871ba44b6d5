//! `eventexport context set`: creates or changes a context. `changes` is pure; the rest reads and writes the config
//! file.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::super::config::{self, ConfigFile};
use super::super::exit::{CliError, Exit};
use super::super::output::{OutputArgs, display_path};
use super::super::secret_file;
use super::super::settings::location::ARCHIVE_VALUE;
use super::{CHANGE_SCHEMA, config_path, to_json};

/// Arguments of `context set`.
#[derive(Debug, Default, clap::Args)]
pub struct ContextSetArgs {
    /// Name of the context: letters, digits, dots, dashes and underscores
    #[arg(value_name = "NAME")]
    pub name: String,
    /// ID of the space, as printed by `cf space NAME --guid`
    #[arg(long, value_name = "ID")]
    pub space: Option<String>,
    /// Public region of the service: us-south (or ng), eu-de, au-syd, eu-gb; replaces the endpoint
    #[arg(long, value_name = "REGION", conflicts_with = "endpoint")]
    pub region: Option<String>,
    /// URL of the service, if it is not in a public region; replaces the region
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// URL of the UAA, if `/v2/info` of the service does not contain it
    #[arg(long, value_name = "URL")]
    pub uaa_endpoint: Option<String>,
    /// PEM file with the certificate authority of the service, if it is private
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Use the events of the account instead of the space
    #[arg(short = 'a', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub account: Option<bool>,
    /// User name, for --password-file and to identify your sessions
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with an API key; each of the secret files replaces the others
    #[arg(long, value_name = "FILE", group = "secret")]
    pub api_key_file: Option<PathBuf>,
    /// File with the password of --username
    #[arg(long, value_name = "FILE", group = "secret")]
    pub password_file: Option<PathBuf>,
    /// File with a refresh token
    #[arg(long, value_name = "FILE", group = "secret")]
    pub refresh_token_file: Option<PathBuf>,
    /// File with an access token
    #[arg(long, value_name = "FILE", group = "secret")]
    pub token_file: Option<PathBuf>,
    /// Archive: a directory or `s3://bucket/prefix`
    #[arg(long, alias = "to", value_name = ARCHIVE_VALUE)]
    pub archive: Option<String>,
    /// URL of an S3-compatible store (default: AWS)
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Put the bucket name in the path instead of the host name
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub s3_path_style: Option<bool>,
    /// PEM file with the certificate authority of the store
    #[arg(long, value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Remove a field, for example `--unset uaa-endpoint`; can be repeated
    #[arg(long, value_name = "FIELD", value_parser = fields())]
    pub unset: Vec<String>,
    /// Make this the current context; the first context always becomes current
    #[arg(long = "use")]
    pub make_current: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Fields of a context, in the order of the documentation.
pub(super) const FIELDS: [&str; 16] = [
    "space",
    "region",
    "endpoint",
    "uaa-endpoint",
    "ca-file",
    "account",
    "username",
    "api-key-file",
    "password-file",
    "refresh-token-file",
    "token-file",
    "archive",
    "s3-endpoint",
    "s3-region",
    "s3-path-style",
    "s3-ca-file",
];

/// Parser of the name of a field; `to` is an earlier name of `archive`.
fn fields() -> impl TypedValueParser<Value = String> {
    let names = FIELDS.map(|field| match field {
        "archive" => PossibleValue::new(field).alias("to"),
        _ => PossibleValue::new(field),
    });
    PossibleValuesParser::new(names).map(|field| match field.as_str() {
        "to" => "archive".to_owned(),
        _ => field,
    })
}

/// Secret files, of which a context has one.
pub(super) const SECRETS: [&str; 4] = [
    "api-key-file",
    "password-file",
    "refresh-token-file",
    "token-file",
];

/// Examples in `--help`.
pub const EXAMPLES: &str = "\
Examples:
  Create a context for a space in a public region; without a secret file, commands prompt for the API key:
    eventexport context set prod --region eu-de --space c1234567-6d55-4193-a9de-378620d6fab5 --api-key-file prod.key
  Set the location of the archive, for `eventexport status`:
    eventexport context set prod --archive s3://audit/tracker --s3-region eu-central-1
  Create a context for another service:
    eventexport context set lab --endpoint https://tracker.example.com --ca-file ca.pem --space lab";

/// Creates or changes a context.
pub fn set(args: &ContextSetArgs) -> Result<Exit, CliError> {
    let changes = changes(args)?;
    if !config::is_context_name(&args.name) {
        return Err(config::invalid_name());
    }
    let path = config_path()?;
    ConfigFile::read(&path)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    let created = file.set(&args.name, &changes)?;
    let current = args.make_current || (created && file.config.current_context.is_none());
    if current {
        file.use_context(Some(&args.name));
    }
    file.write(&lock)?;
    warn_about_files(args);
    let change = if created { "Created" } else { "Changed" };
    let context = file.context(&args.name)?;
    let document = json!({
        "file": file.path, "name": args.name, "change": change, "context": to_json(&file, &args.name, context),
    });
    args.output.print(CHANGE_SCHEMA, document, || {
        let action = if created { "created" } else { "changed" };
        let also = if current {
            " It is now the current context."
        } else {
            ""
        };
        format!(
            "Context {} {action} in {}.{also}",
            args.name,
            display_path(&file.path)
        )
    })?;
    Ok(Exit::Done)
}

/// Field with its new value; `None` removes it.
type FieldChange = (&'static str, Option<toml_edit::Value>);

fn changes(args: &ContextSetArgs) -> Result<Vec<FieldChange>, CliError> {
    let text = |value: &Option<String>| value.clone().map(toml_edit::Value::from);
    let values: [FieldChange; 16] = [
        ("space", text(&args.space)),
        ("region", text(&args.region)),
        ("endpoint", text(&args.endpoint)),
        ("uaa-endpoint", text(&args.uaa_endpoint)),
        ("ca-file", absolute_path("--ca-file", args.ca_file.as_deref())?),
        ("account", args.account.map(Into::into)),
        ("username", text(&args.username)),
        (
            "api-key-file",
            absolute_path("--api-key-file", args.api_key_file.as_deref())?,
        ),
        (
            "password-file",
            absolute_path("--password-file", args.password_file.as_deref())?,
        ),
        (
            "refresh-token-file",
            absolute_path("--refresh-token-file", args.refresh_token_file.as_deref())?,
        ),
        (
            "token-file",
            absolute_path("--token-file", args.token_file.as_deref())?,
        ),
        ("archive", args.archive.as_deref().map(archive_value).transpose()?),
        ("s3-endpoint", text(&args.s3_endpoint)),
        ("s3-region", text(&args.s3_region)),
        ("s3-path-style", args.s3_path_style.map(Into::into)),
        (
            "s3-ca-file",
            absolute_path("--s3-ca-file", args.s3_ca_file.as_deref())?,
        ),
    ];
    let mut changes: Vec<FieldChange> = values
        .into_iter()
        .filter(|(field, value)| value.is_some() || args.unset.iter().any(|unset| unset == field))
        .collect();
    if let Some((field, _)) = changes
        .iter()
        .find(|(field, value)| value.is_some() && args.unset.iter().any(|unset| unset == field))
    {
        return Err(CliError::usage(format!(
            "--{field} and --unset {field} conflict: keep one of them"
        )));
    }
    // The earlier name of the field.
    if changes.iter().any(|(field, _)| *field == "archive") {
        changes.push(("to", None));
    }
    // A context has one service, and one kind of secret.
    let set = |name: &str, changes: &[FieldChange]| {
        changes
            .iter()
            .any(|(field, value)| *field == name && value.is_some())
    };
    for (new, old) in [("region", "endpoint"), ("endpoint", "region")] {
        if set(new, &changes) {
            changes.push((old, None));
        }
    }
    if SECRETS.iter().any(|secret| set(secret, &changes)) {
        let others: Vec<FieldChange> = SECRETS
            .iter()
            .filter(|secret| !set(secret, &changes))
            .map(|secret| (*secret, None))
            .collect();
        changes.extend(others);
    }
    Ok(changes)
}

/// Returns an absolute path, so that it is valid in every working directory.
fn absolute_path(flag: &str, path: Option<&Path>) -> Result<Option<toml_edit::Value>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let absolute = std::path::absolute(path)
        .ok()
        .and_then(|path| path.to_str().map(str::to_owned))
        .ok_or_else(|| CliError::usage(format!("{flag}: must be a non-empty path in UTF-8")))?;
    Ok(Some(absolute.into()))
}

fn archive_value(location: &str) -> Result<toml_edit::Value, CliError> {
    if location.contains("://") || location.is_empty() {
        return Ok(location.into());
    }
    let path = absolute_path("--archive", Some(Path::new(location)))?;
    path.ok_or_else(|| CliError::usage("--archive: must be a directory or s3://bucket/prefix"))
}

/// Prints a note for each secret file that cannot be read, or that other users may read.
fn warn_about_files(args: &ContextSetArgs) {
    let files = [
        ("--api-key-file", &args.api_key_file),
        ("--password-file", &args.password_file),
        ("--refresh-token-file", &args.refresh_token_file),
        ("--token-file", &args.token_file),
    ];
    for (flag, path) in files {
        let Some(path) = path else { continue };
        match path.metadata() {
            Err(error) => args
                .output
                .note(format!("{flag}: cannot read {}: {error}", path.display())),
            Ok(metadata) => {
                if let Some(problem) = secret_file::exposure(path, &metadata) {
                    args.output.note(format!("{flag}: {problem}"));
                }
            }
        }
    }
}
