//! `eventexport context`: named contexts of the config file, instead of `bx login` and `bx target`. Reads and writes
//! the config file; no prompts.

pub mod set;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use self::set::{FIELDS, SECRETS};
use super::config::{self, ConfigFile, ContextConfig};
use super::exit::{CliError, Exit};
use super::output::{OutputArgs, display_path, table};
use super::settings::environment::env_value;
use super::settings::layers::overriding_variable;

/// Manage named contexts: the service, space, secret files and archive that commands use.
///
/// A context replaces logging in and targeting a space. It holds the space, the region or endpoint, the path of a file
/// with a secret, and optionally the location of the archive. It never holds a secret. Contexts are stored in
/// `~/.config/eventexport/config.toml`, in `eventexport/config.toml` below `$XDG_CONFIG_HOME` if that is set, or in the
/// file that `$EVENTEXPORT_CONFIG` names.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub struct ContextArgs {
    /// Subcommand.
    #[command(subcommand)]
    pub command: ContextCommand,
}

/// Subcommands of `context`.
#[derive(Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// List the contexts and mark the current one.
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ContextListArgs),
    /// Set the current context.
    #[command(after_help = USE_EXAMPLES)]
    Use(ContextNameArgs),
    /// Show a context.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ContextShowArgs),
    /// Create a context, or change fields of an existing one.
    #[command(after_help = set::EXAMPLES)]
    Set(Box<set::ContextSetArgs>),
    /// Delete a context, but not the files that it refers to.
    #[command(visible_alias = "rm", after_help = DELETE_EXAMPLES)]
    Delete(ContextNameArgs),
}

/// Arguments of `context list`.
#[derive(Debug, clap::Args)]
#[allow(missing_docs)]
pub struct ContextListArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Arguments of `context use` and `context delete`.
#[derive(Debug, clap::Args)]
pub struct ContextNameArgs {
    /// Name of the context
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// Arguments of `context show`.
#[derive(Debug, clap::Args)]
pub struct ContextShowArgs {
    /// Name of the context (default: the current one)
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  Create and use a context, instead of `bx login` and `bx target -o ORG -s SPACE`:
    eventexport context set prod --region us-south --space c1234567-6d55-4193-a9de-378620d6fab5 \\
      --api-key-file ~/.config/eventexport/prod.key
    eventexport context use prod
  List the contexts, and show the current one:
    eventexport context list
    eventexport context show";

const LIST_EXAMPLES: &str = "\
Examples:
  List the contexts:
    eventexport context list
  List the contexts as JSON:
    eventexport context list --output json";

const USE_EXAMPLES: &str = "\
Examples:
  Use a context for all commands:
    eventexport context use prod
  Use a context for one command:
    eventexport status --context prod";

const SHOW_EXAMPLES: &str = "\
Examples:
  Show the current context:
    eventexport context show
  Show a context as JSON:
    eventexport context show prod --output json";

const DELETE_EXAMPLES: &str = "\
Examples:
  Delete a context:
    eventexport context delete lab";

/// Runs `eventexport context`.
pub fn run(args: ContextArgs) -> Result<Exit, CliError> {
    match args.command {
        ContextCommand::List(args) => args
            .output
            .finish("eventexport.io/context-list/v1", list(args.output)),
        ContextCommand::Use(args) => args.output.finish(CHANGE_SCHEMA, use_context(&args)),
        ContextCommand::Show(args) => args.output.finish("eventexport.io/context/v1", show(&args)),
        ContextCommand::Set(args) => args.output.finish(CHANGE_SCHEMA, set::set(&args)),
        ContextCommand::Delete(args) => args.output.finish(CHANGE_SCHEMA, delete(&args)),
    }
}

/// Schema version of the document of a change.
const CHANGE_SCHEMA: &str = "eventexport.io/context-change/v2";

fn config_path() -> Result<PathBuf, CliError> {
    config::locate(&env_value)?.ok_or_else(|| {
        CliError::usage(format!(
            "cannot locate the config file: set HOME, XDG_CONFIG_HOME or {}",
            config::FILE_VARIABLE
        ))
    })
}

fn list(output: OutputArgs) -> Result<Exit, CliError> {
    let file = ConfigFile::read(&config_path()?)?;
    let current = file.config.current_context.as_deref();
    let contexts: Vec<Value> = file
        .config
        .contexts
        .iter()
        .map(|(name, context)| to_json(&file, name, context))
        .collect();
    let document = json!({"file": file.path, "currentContext": current, "contexts": contexts});
    output.print("eventexport.io/context-list/v1", document, || {
        if file.config.contexts.is_empty() {
            return format!(
                "No contexts in {}: create one with `eventexport context set NAME --region REGION --space ID`.",
                display_path(&file.path)
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
                secret_field(context).unwrap_or("-").to_owned(),
                context
                    .archive
                    .as_deref()
                    .map_or_else(dash, |location| display_path(Path::new(location))),
            ]);
        }
        rows.to_string()
    })?;
    Ok(Exit::Done)
}

fn use_context(args: &ContextNameArgs) -> Result<Exit, CliError> {
    let path = config_path()?;
    // Checked before `lock` creates the directory of the file.
    ConfigFile::read(&path)?.context(&args.name)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    file.context(&args.name)?;
    file.use_context(Some(&args.name));
    file.write(&lock)?;
    let document = json!({"file": file.path, "name": args.name, "change": "Current"});
    args.output.print(CHANGE_SCHEMA, document, || {
        format!("Context {} is now the current context.", args.name)
    })?;
    Ok(Exit::Done)
}

fn show(args: &ContextShowArgs) -> Result<Exit, CliError> {
    let file = ConfigFile::read(&config_path()?)?;
    let name = args
        .name
        .clone()
        .or_else(|| file.config.current_context.clone())
        .ok_or_else(|| {
            CliError::usage(format!(
                "no current context in {}: give a NAME, or run `eventexport context use NAME`",
                file.path.display()
            ))
        })?;
    let context = file.context(&name)?;
    let mut overridden = BTreeMap::new();
    for (field, _) in set_fields(context) {
        if let Some(variable) = overriding_variable(&field, &env_value)? {
            overridden.insert(field, variable);
        }
    }
    args.output.print(
        "eventexport.io/context/v1",
        to_json(&file, &name, context),
        || {
            let mut rows = table(&["Name", "Value"]);
            rows.add_row(["context", &name]);
            rows.add_row(["file", &display_path(&file.path)]);
            for (field, value) in set_fields(context) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let mut text = display_path(Path::new(&value));
                if field.ends_with("-file") && !file.resolve_path(Path::new(&value)).is_file() {
                    text.push_str(" (no such file)");
                }
                if let Some(variable) = overridden.get(&field) {
                    text = format!("{text} ({variable} overrides it)");
                }
                rows.add_row([field, text]);
            }
            rows.to_string()
        },
    )?;
    Ok(Exit::Done)
}

fn delete(args: &ContextNameArgs) -> Result<Exit, CliError> {
    let path = config_path()?;
    ConfigFile::read(&path)?.context(&args.name)?;
    let lock = ConfigFile::lock(&path)?;
    let mut file = ConfigFile::read(&path)?;
    let was_current = file.config.current_context.as_ref() == Some(&args.name);
    file.delete(&args.name)?;
    file.write(&lock)?;
    let document = json!({"file": file.path, "name": args.name, "change": "Deleted"});
    args.output.print(CHANGE_SCHEMA, document, || {
        let also = if was_current {
            " There is no current context now."
        } else {
            ""
        };
        format!("Context {} deleted.{also}", args.name)
    })?;
    Ok(Exit::Done)
}

fn scope(context: &ContextConfig) -> &'static str {
    if context.account == Some(true) {
        "account"
    } else {
        "space"
    }
}

/// Returns the field that names the secret file.
fn secret_field(context: &ContextConfig) -> Option<&'static str> {
    let ContextConfig {
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

/// Returns the fields that are set, in the order of the documentation.
fn set_fields(context: &ContextConfig) -> Vec<(String, Value)> {
    let Ok(Value::Object(map)) = serde_json::to_value(context) else {
        return Vec::new();
    };
    FIELDS
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), map.get(*field)?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect()
}

/// Returns the JSON of a context.
fn to_json(file: &ConfigFile, name: &str, context: &ContextConfig) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(name));
    object.insert(
        "current".to_owned(),
        json!(file.config.current_context.as_deref() == Some(name)),
    );
    object.extend(
        set_fields(context)
            .into_iter()
            .map(|(field, value)| (camel_case(&field), value)),
    );
    Value::Object(object)
}

/// Converts a field name to camel case: `uaa-endpoint` to `uaaEndpoint`.
fn camel_case(field: &str) -> String {
    let mut parts = field.split('-');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}
