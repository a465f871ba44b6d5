//! `eventexport context`: the named contexts of the config file, in the place of `bx login` and `bx target`. Reads and
//! writes the config file; asks nobody.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::{self, ConfigFile, Context};
use super::exit::{Exit, Fault};
use super::output::{OutputArgs, at_home, table};
use super::secrets;

/// Manage the named contexts of the config file: which service, space and archive commands are about.
///
/// A context stands in the place of logging in and targeting a space: it holds the space, the region or endpoint, where
/// the secrets come from, and optionally where the archive lies. It never holds a secret itself. The file is
/// `~/.config/eventexport/config.toml` (below `$XDG_CONFIG_HOME` where that is set), or the one that `EVENTEXPORT_CONFIG`
/// names.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct ContextArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ContextCommand,
}

/// What can be done with contexts.
#[derive(Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// List the contexts, the current one marked.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Make a context the current one.
    #[command(after_help = USE_EXAMPLES)]
    Use(NameArgs),
    /// Show a context: everything but secrets, which it does not hold.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Make a context, or change the given fields of one.
    #[command(after_help = SET_EXAMPLES)]
    Set(Box<SetArgs>),
    /// Delete a context; the files that it names stay.
    #[command(visible_alias = "rm", after_help = DELETE_EXAMPLES)]
    Delete(NameArgs),
}

/// Arguments of `context list`.
#[derive(Debug, clap::Args)]
#[allow(missing_docs)]
pub struct ListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `context use` and `context delete`.
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// Name of the context
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `context show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name of the context (default: the current one)
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `context set`.
#[derive(Debug, Default, clap::Args)]
pub struct SetArgs {
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
const FIELDS: [&str; 16] = [
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
const SECRETS: [&str; 4] = [
    "api-key-file",
    "password-file",
    "refresh-token-file",
    "token-file",
];

const EXAMPLES: &str = "\
Examples:
  In the place of `bx login` and `bx target -o ORG -s SPACE`:
    eventexport context set prod --region us-south --space c1234567-6d55-4193-a9de-378620d6fab5 \\
      --api-key-file ~/.config/eventexport/prod.key
    eventexport context use prod
  Which there are, and what the current one says:
    eventexport context list
    eventexport context show";

const LIST_EXAMPLES: &str = "\
Examples:
  eventexport context list
  eventexport context list --output json";

const USE_EXAMPLES: &str = "\
Examples:
  eventexport context use prod
  For one command only:
    eventexport status --context prod";

const SHOW_EXAMPLES: &str = "\
Examples:
  eventexport context show
  eventexport context show prod --output json";

const SET_EXAMPLES: &str = "\
Examples:
  A space of a public region, with an API key from a file (a prompt asks for it where no file is named):
    eventexport context set prod --region eu-de --space c1234567-6d55-4193-a9de-378620d6fab5 --api-key-file prod.key
  Where its archive lies, so that `eventexport status` compares:
    eventexport context set prod --to s3://audit/tracker --s3-region eu-central-1
  A service of your own:
    eventexport context set lab --endpoint https://tracker.example.com --ca-file ca.pem --space lab";

const DELETE_EXAMPLES: &str = "\
Examples:
  eventexport context delete lab";

/// Runs `eventexport context`.
pub fn run(args: ContextArgs) -> Result<Exit, Fault> {
    match args.command {
        ContextCommand::List(args) => args
            .output
            .ended("eventexport.io/context-list/v1", list(args.output)),
        ContextCommand::Use(args) => args.output.ended(CHANGE, use_context(&args)),
        ContextCommand::Show(args) => args.output.ended("eventexport.io/context/v1", show(&args)),
        ContextCommand::Set(args) => args.output.ended(CHANGE, set(&args)),
        ContextCommand::Delete(args) => args.output.ended(CHANGE, delete(&args)),
    }
}

/// The document of a change.
const CHANGE: &str = "eventexport.io/context-change/v1";

fn path() -> Result<PathBuf, Fault> {
    config::path(&secrets::environment)?.ok_or_else(|| {
        Fault::usage(format!(
            "no place for the config file: set HOME, XDG_CONFIG_HOME or {}",
            config::FILE_VARIABLE
        ))
    })
}

fn list(output: OutputArgs) -> Result<Exit, Fault> {
    let file = ConfigFile::read(&path()?)?;
    let current = file.config.current_context.as_deref();
    let contexts: Vec<Value> = file
        .config
        .contexts
        .iter()
        .map(|(name, context)| object(&file, name, context))
        .collect();
    let document = json!({"file": file.path, "currentContext": current, "contexts": contexts});
    output.print("eventexport.io/context-list/v1", document, || {
        if file.config.contexts.is_empty() {
            return format!(
                "No contexts in {}: make one with `eventexport context set NAME --region REGION --space ID`.",
                at_home(&file.path)
            );
        }
        let mut rows = table(&[
            "Current", "Name", "Service", "Space", "Scope", "Secret", "Archive",
        ]);
        for (name, context) in &file.config.contexts {
            let dash = || "-".to_owned();
            rows.add_row([
                if current == Some(name) { "*" } else { "" }.to_owned(),
                name.clone(),
                context
                    .region
                    .clone()
                    .or_else(|| context.endpoint.clone())
                    .unwrap_or_else(dash),
                context.space.clone().unwrap_or_else(dash),
                scope(context).to_owned(),
                secret_of(context).unwrap_or("-").to_owned(),
                context
                    .to
                    .as_deref()
                    .map_or_else(dash, |to| at_home(Path::new(to))),
            ]);
        }
        rows.to_string()
    });
    Ok(Exit::Done)
}

fn use_context(args: &NameArgs) -> Result<Exit, Fault> {
    let path = path()?;
    // Looks first, so that nothing is made for a name that is not there.
    ConfigFile::read(&path)?.context(&args.name)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    file.context(&args.name)?;
    file.use_context(Some(&args.name));
    file.write(&lock)?;
    let document = json!({"file": file.path, "name": args.name, "change": "Current"});
    args.output.print(CHANGE, document, || {
        format!("Context {} is the current one.", args.name)
    });
    Ok(Exit::Done)
}

fn show(args: &ShowArgs) -> Result<Exit, Fault> {
    let file = ConfigFile::read(&path()?)?;
    let name = args
        .name
        .clone()
        .or_else(|| file.config.current_context.clone())
        .ok_or_else(|| {
            Fault::usage(format!(
                "no context is the current one in {}: name one, or say `eventexport context use NAME`",
                file.path.display()
            ))
        })?;
    let context = file.context(&name)?;
    args.output
        .print("eventexport.io/context/v1", object(&file, &name, context), || {
            let mut rows = table(&["Name", "Value"]);
            rows.add_row(["context", &name]);
            rows.add_row(["file", &at_home(&file.path)]);
            for (field, value) in fields(context) {
                let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let mut text = at_home(Path::new(&plain));
                if field.ends_with("-file") && !file.resolved(Path::new(&plain)).is_file() {
                    text.push_str(" (no such file)");
                }
                rows.add_row([field, text]);
            }
            rows.to_string()
        });
    Ok(Exit::Done)
}

fn set(args: &SetArgs) -> Result<Exit, Fault> {
    let changes = changes(args)?;
    if !config::is_name(&args.name) {
        return Err(config::bad_name());
    }
    let path = path()?;
    ConfigFile::read(&path)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    let made = file.set(&args.name, &changes)?;
    let current = args.make_current || (made && file.config.current_context.is_none());
    if current {
        file.use_context(Some(&args.name));
    }
    file.write(&lock)?;
    warn_of_files(args);
    let change = if made { "Made" } else { "Changed" };
    let context = file.context(&args.name)?;
    let document = json!({
        "file": file.path, "name": args.name, "change": change, "context": object(&file, &args.name, context),
    });
    args.output.print(CHANGE, document, || {
        let also = if current { " It is the current one." } else { "" };
        format!(
            "Context {} {} in {}.{also}",
            args.name,
            change.to_lowercase(),
            at_home(&file.path)
        )
    });
    Ok(Exit::Done)
}

fn delete(args: &NameArgs) -> Result<Exit, Fault> {
    let path = path()?;
    ConfigFile::read(&path)?.context(&args.name)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    let was_current = file.config.current_context.as_ref() == Some(&args.name);
    file.delete(&args.name)?;
    file.write(&lock)?;
    let document = json!({"file": file.path, "name": args.name, "change": "Deleted"});
    args.output.print(CHANGE, document, || {
        let also = if was_current {
            " None is the current one now."
        } else {
            ""
        };
        format!("Context {} deleted.{also}", args.name)
    });
    Ok(Exit::Done)
}

/// A field with its new value, or none.
type Change = (&'static str, Option<toml_edit::Value>);

fn changes(args: &SetArgs) -> Result<Vec<Change>, Fault> {
    let text = |value: &Option<String>| value.clone().map(toml_edit::Value::from);
    let given: [Change; 16] = [
        ("space", text(&args.space)),
        ("region", text(&args.region)),
        ("endpoint", text(&args.endpoint)),
        ("uaa-endpoint", text(&args.uaa_endpoint)),
        ("ca-file", file("--ca-file", args.ca_file.as_deref())?),
        ("account", args.account.map(Into::into)),
        ("username", text(&args.username)),
        (
            "api-key-file",
            file("--api-key-file", args.api_key_file.as_deref())?,
        ),
        (
            "password-file",
            file("--password-file", args.password_file.as_deref())?,
        ),
        (
            "refresh-token-file",
            file("--refresh-token-file", args.refresh_token_file.as_deref())?,
        ),
        ("token-file", file("--token-file", args.token_file.as_deref())?),
        ("to", args.to.as_deref().map(archive).transpose()?),
        ("s3-endpoint", text(&args.s3_endpoint)),
        ("s3-region", text(&args.s3_region)),
        ("s3-path-style", args.s3_path_style.map(Into::into)),
        ("s3-ca-file", file("--s3-ca-file", args.s3_ca_file.as_deref())?),
    ];
    let mut changes: Vec<Change> = given
        .into_iter()
        .filter(|(field, value)| value.is_some() || args.unset.iter().any(|unset| unset == field))
        .collect();
    if let Some((field, _)) = changes
        .iter()
        .find(|(field, value)| value.is_some() && args.unset.iter().any(|unset| unset == field))
    {
        return Err(Fault::usage(format!(
            "--{field} is both given and taken out by --unset: keep one of them"
        )));
    }
    // One service, and one kind of secret.
    let set = |wanted: &str, changes: &[Change]| {
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
        let others: Vec<Change> = SECRETS
            .iter()
            .filter(|secret| !set(secret, &changes))
            .map(|secret| (*secret, None))
            .collect();
        changes.extend(others);
    }
    Ok(changes)
}

/// A path that means the same from every folder.
fn file(flag: &str, path: Option<&Path>) -> Result<Option<toml_edit::Value>, Fault> {
    let Some(path) = path else { return Ok(None) };
    let whole = std::path::absolute(path)
        .ok()
        .and_then(|path| path.to_str().map(str::to_owned))
        .ok_or_else(|| Fault::usage(format!("{flag}: must be a path in UTF-8")))?;
    Ok(Some(whole.into()))
}

fn archive(to: &str) -> Result<toml_edit::Value, Fault> {
    if to.contains("://") || to.is_empty() {
        return Ok(to.into());
    }
    let path = file("--to", Some(Path::new(to)))?;
    path.ok_or_else(|| Fault::usage("--to: it is empty: give a directory or s3://bucket/prefix"))
}

/// Secrets in files that are not there, or that others may read.
fn warn_of_files(args: &SetArgs) {
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
                .remark(format!("{flag}: {} cannot be read yet: {error}", path.display())),
            Ok(facts) if facts.permissions().mode() & 0o077 != 0 => args.output.remark(format!(
                "{flag}: others may read {}: run `chmod 600 {}`",
                path.display(),
                path.display()
            )),
            Ok(_) => {}
        }
    }
}

fn scope(context: &Context) -> &'static str {
    if context.account == Some(true) {
        "account"
    } else {
        "space"
    }
}

/// Which field says where the secret is.
fn secret_of(context: &Context) -> Option<&'static str> {
    let Context {
        api_key_file,
        password_file,
        refresh_token_file,
        token_file,
        ..
    } = context;
    [api_key_file, password_file, refresh_token_file, token_file]
        .iter()
        .zip(SECRETS)
        .find(|(path, _)| path.is_some())
        .map(|(_, field)| field)
}

/// The fields that are set, in the order of the file's documentation.
fn fields(context: &Context) -> Vec<(String, Value)> {
    let Ok(Value::Object(map)) = serde_json::to_value(context) else {
        return Vec::new();
    };
    FIELDS
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), map.get(*field)?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect()
}

/// A context as programs read it.
fn object(file: &ConfigFile, name: &str, context: &Context) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(name));
    object.insert(
        "current".to_owned(),
        json!(file.config.current_context.as_deref() == Some(name)),
    );
    object.extend(
        fields(context)
            .into_iter()
            .map(|(field, value)| (camel(&field), value)),
    );
    Value::Object(object)
}

/// `uaa-endpoint` as `uaaEndpoint`.
fn camel(field: &str) -> String {
    let mut parts = field.split('-');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}
