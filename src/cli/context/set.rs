//! `eventexport context set`: which fields change, decided purely in [`changes`]; reads and writes the config file.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::config::{self, ConfigFile};
use super::super::exit::{CliError, Exit};
use super::super::output::{OutputArgs, display_path};
use super::{CHANGE_SCHEMA, config_path, to_json};

/// Arguments of `context set`.
#[derive(Debug, Default, clap::Args)]
pub struct ContextSetArgs {
    /// Name of the context; letters, digits, dots, dashes and underscores
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The space's id, as `cf space NAME --guid` prints it
    #[arg(long, value_name = "ID")]
    pub space: Option<String>,
    /// Public region of the service: us-south (or ng), eu-de, au-syd, eu-gb; takes the place of an endpoint
    #[arg(long, value_name = "REGION", conflicts_with = "endpoint")]
    pub region: Option<String>,
    /// Address of the service, where it is not a public region; takes the place of a region
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// Address of the UAA, where the service's `/v2/info` does not name it
    #[arg(long, value_name = "URL")]
    pub uaa_endpoint: Option<String>,
    /// PEM file with the certificate authority of the service, where it is not a public one
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Events of the account instead of the space
    #[arg(short = 'a', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub account: Option<bool>,
    /// The user's name: for --password-file, and to know which sessions are this user's
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// File with the API key; like the other files of secrets it takes the place of them
    #[arg(long, value_name = "FILE", group = "secret")]
    pub api_key_file: Option<PathBuf>,
    /// File with the password of --username
    #[arg(long, value_name = "FILE", group = "secret")]
    pub password_file: Option<PathBuf>,
    /// File with a refresh token
    #[arg(long, value_name = "FILE", group = "secret")]
    pub refresh_token_file: Option<PathBuf>,
    /// File with a ready token
    #[arg(long, value_name = "FILE", group = "secret")]
    pub token_file: Option<PathBuf>,
    /// The archive: a directory, or `s3://bucket/prefix`
    #[arg(long, value_name = "DIR|S3-URL")]
    pub to: Option<String>,
    /// Address of an S3-compatible store (default: AWS)
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Put the bucket's name into the path instead of the host name
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true)]
    pub s3_path_style: Option<bool>,
    /// PEM file with the certificate authority of the store
    #[arg(long, value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Take a field out again, as `--unset uaa-endpoint`; may be repeated
    #[arg(long, value_name = "FIELD", value_parser = FIELDS)]
    pub unset: Vec<String>,
    /// Make it the current one as well; the first context is in any case
    #[arg(long = "use")]
    pub make_current: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Fields of a context.
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
    "to",
    "s3-endpoint",
    "s3-region",
    "s3-path-style",
    "s3-ca-file",
];

/// Fields of which one at a time is meant.
pub(super) const SECRETS: [&str; 4] = [
    "api-key-file",
    "password-file",
    "refresh-token-file",
    "token-file",
];

/// What `--help` shows.
pub const EXAMPLES: &str = "\
Examples:
  A space of a public region, with an API key from a file (a prompt asks for it where no file is named):
    eventexport context set prod --region eu-de --space c1234567-6d55-4193-a9de-378620d6fab5 --api-key-file prod.key
  Where its archive lies, so that `eventexport status` compares:
    eventexport context set prod --to s3://audit/tracker --s3-region eu-central-1
  A service of your own:
    eventexport context set lab --endpoint https://tracker.example.com --ca-file ca.pem --space lab";

/// Makes or changes a context.
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
    let change = if created { "Made" } else { "Changed" };
    let context = file.context(&args.name)?;
    let document = json!({
        "file": file.path, "name": args.name, "change": change, "context": to_json(&file, &args.name, context),
    });
    args.output.print(CHANGE_SCHEMA, document, || {
        let also = if current { " It is the current one." } else { "" };
        format!(
            "Context {} {} in {}.{also}",
            args.name,
            change.to_lowercase(),
            display_path(&file.path)
        )
    });
    Ok(Exit::Done)
}

/// A field with its new value, or none.
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
        ("to", args.to.as_deref().map(archive_value).transpose()?),
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
            "--{field} is both given and taken out by --unset: keep one of them"
        )));
    }
    // One service, and one kind of secret.
    let set = |wanted: &str, changes: &[FieldChange]| {
        changes
            .iter()
            .any(|(field, value)| *field == wanted && value.is_some())
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

/// A path that means the same from every folder.
fn absolute_path(flag: &str, path: Option<&Path>) -> Result<Option<toml_edit::Value>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let absolute = std::path::absolute(path)
        .ok()
        .and_then(|path| path.to_str().map(str::to_owned))
        .ok_or_else(|| CliError::usage(format!("{flag}: must be a path in UTF-8")))?;
    Ok(Some(absolute.into()))
}

fn archive_value(to: &str) -> Result<toml_edit::Value, CliError> {
    if to.contains("://") || to.is_empty() {
        return Ok(to.into());
    }
    let path = absolute_path("--to", Some(Path::new(to)))?;
    path.ok_or_else(|| CliError::usage("--to: it is empty: give a directory or s3://bucket/prefix"))
}

/// Secrets in files that are not there, or that others may read.
fn warn_about_files(args: &ContextSetArgs) {
    use std::os::unix::fs::PermissionsExt as _;
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
                .note(format!("{flag}: {} cannot be read yet: {error}", path.display())),
            Ok(facts) if facts.permissions().mode() & 0o077 != 0 => args.output.note(format!(
                "{flag}: others may read {}: run `chmod 600 {}`",
                path.display(),
                path.display()
            )),
            Ok(_) => {}
        }
    }
}
