//! Config file of the named contexts: locates, reads, validates and writes it. File I/O.
//!
//! The file names secret files but holds no secrets. Its mode is enforced because it controls which service receives
//! the credentials of the user.

mod fields;

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

pub use self::fields::{CliConfig, ContextConfig};
use super::exit::CliError;
use super::replace_file::{hidden_sibling, parent_dir, replace_file};
use super::settings::environment::EnvLookup;
use crate::api::sanitize;

/// Environment variable with the path of the config file.
pub const FILE_VARIABLE: &str = "EVENTEXPORT_CONFIG";

/// Maximum size of the config file: 1 MiB.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Maximum number of contexts in a file.
const CONTEXTS_MAX: usize = 256;

/// Maximum length of a context name, in characters.
const NAME_MAX_CHARS: usize = 63;

/// Mode of the file: read and write for its owner only.
const FILE_MODE: u32 = 0o600;

/// Permission bits with which group and others change the file; it must have none of them. They may read it: it holds no
/// secrets.
const OTHERS_WRITE_MASK: u32 = 0o022;

/// Fields with secrets, which users may add by mistake.
const SECRET_FIELDS: [&str; 6] = [
    "api-key",
    "apikey",
    "apiKey",
    "password",
    "refresh-token",
    "token",
];

/// Config file in memory. Writing it keeps the comments.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Path of the file, which may not exist yet.
    pub path: PathBuf,
    /// Contents; empty if there is no file.
    pub config: CliConfig,
    document: DocumentMut,
}

/// Context in use.
#[derive(Clone, Debug)]
pub struct SelectedContext {
    /// Name of the context.
    pub name: String,
    /// Its content.
    pub config: ContextConfig,
    /// File that holds it.
    pub file: ConfigFile,
}

impl SelectedContext {
    /// Returns a path of the context, relative to the directory of the file.
    pub fn path(&self, path: Option<&Path>) -> Option<PathBuf> {
        path.map(|path| self.file.resolve_path(path))
    }
}

/// Lock on the config file, held from reading to writing, so that no change of another process is lost.
#[derive(Debug)]
pub struct ConfigLock {
    _file: File,
}

/// Returns the path of the config file: `$EVENTEXPORT_CONFIG`, or below `$XDG_CONFIG_HOME`, or below `~/.config`.
/// `None` if no variable is set.
pub fn locate(lookup: EnvLookup<'_>) -> Result<Option<PathBuf>, CliError> {
    use std::os::unix::ffi::OsStringExt as _;
    let variable = |name: &str| -> Result<Option<PathBuf>, CliError> {
        let found = lookup(name).map_err(CliError::usage)?;
        Ok(found.map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes))))
    };
    if let Some(path) = variable(FILE_VARIABLE)? {
        return Ok(Some(path));
    }
    // The XDG base directory specification: relative paths are ignored.
    if let Some(folder) = variable("XDG_CONFIG_HOME")?.filter(|folder| folder.is_absolute()) {
        return Ok(Some(folder.join("eventexport/config.toml")));
    }
    Ok(variable("HOME")?.map(|home| home.join(".config/eventexport/config.toml")))
}

impl ConfigFile {
    /// Reads the file; a missing file is empty. Fails if group or others may change it.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let fault = |why: String| CliError::usage(format!("config file {}: {why}", path.display()));
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => {
                let mode = file
                    .metadata()
                    .map_err(|error| fault(format!("cannot be read: {error}")))?
                    .permissions()
                    .mode();
                if mode & OTHERS_WRITE_MASK != 0 {
                    return Err(fault(format!(
                        "its mode is {:04o}, so that other users may change it: run `chmod 600 {}`",
                        mode & 0o7777,
                        path.display()
                    )));
                }
                file.take(FILE_MAX_BYTES + 1)
                    .read_to_string(&mut text)
                    .map_err(|error| fault(format!("cannot be read: {error}")))?;
                if text.len() as u64 > FILE_MAX_BYTES {
                    return Err(fault("is larger than 1 MiB".to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fault(format!("cannot be read: {error}"))),
        }
        Self::parse(path.to_owned(), &text).map_err(fault)
    }

    pub(super) fn parse(path: PathBuf, text: &str) -> Result<Self, String> {
        // The `Display` text of the library quotes the line, which may contain a secret.
        let parse_error = |message: &str, span: Option<std::ops::Range<usize>>| {
            let line = span
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let advice = if SECRET_FIELDS
                .iter()
                .any(|field| message.contains(&format!("`{field}`")))
            {
                "; the config file must not contain secrets: set a field for a secret file, such as api-key-file"
            } else {
                ""
            };
            format!("{line}{}{advice}", redact_value(message))
        };
        let document: DocumentMut = text
            .parse()
            .map_err(|error: toml_edit::TomlError| parse_error(error.message(), error.span()))?;
        let config: CliConfig =
            toml_edit::de::from_str(text).map_err(|error| parse_error(error.message(), error.span()))?;
        if let Some(name) = config.contexts.keys().find(|name| !is_context_name(name)) {
            return Err(format!("[contexts.\"{}\"]: {}", sanitize(name), name_rule()));
        }
        for (name, context) in &config.contexts {
            context
                .validate()
                .map_err(|why| format!("[contexts.{name}]: {why}"))?;
        }
        if config.contexts.len() > CONTEXTS_MAX {
            return Err(format!("has more than {CONTEXTS_MAX} contexts"));
        }
        Ok(Self {
            path,
            config,
            document,
        })
    }

    /// Returns a context by name.
    pub fn context(&self, name: &str) -> Result<&ContextConfig, CliError> {
        self.config.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.contexts.keys().map(String::as_str).collect();
            let known = if names.is_empty() {
                "it has none; create one with `eventexport context set`".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            CliError::usage(format!(
                "no context \"{}\" in {}: {known}",
                sanitize(name),
                self.path.display()
            ))
        })
    }

    /// Resolves a path in the file relative to the directory of the file.
    pub fn resolve_path(&self, path: &Path) -> PathBuf {
        self.path
            .parent()
            .map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// Sets the current context; `None` unsets it.
    pub fn use_context(&mut self, name: Option<&str>) {
        self.config.current_context = name.map(str::to_owned);
        match name {
            Some(name) => {
                set_value(self.document.as_table_mut(), "current-context", name.into());
            }
            None => {
                self.document.remove("current-context");
            }
        }
    }

    /// Sets fields of a context; `None` removes a field. Returns true if it created the context.
    pub fn set(&mut self, name: &str, keys: &[(&str, Option<Value>)]) -> Result<bool, CliError> {
        if !is_context_name(name) {
            return Err(invalid_name());
        }
        let created = !self.config.contexts.contains_key(name);
        // Unexpected: a parsed file has a table here.
        let not_a_table = self.document_error("contexts is not a table");
        let contexts = self
            .document
            .entry("contexts")
            .or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            })
            .as_table_like_mut();
        let context = contexts.and_then(|contexts| {
            contexts
                .entry(name)
                .or_insert_with(|| Item::Table(Table::new()))
                .as_table_like_mut()
        });
        let context = context.ok_or(not_a_table)?;
        for (key, new) in keys {
            match new {
                Some(new) => set_value(context, key, new.clone()),
                None => {
                    context.remove(key);
                }
            }
        }
        self.reparse()?;
        Ok(created)
    }

    /// Deletes a context, and unsets it as the current one. Returns true if it existed.
    pub fn delete(&mut self, name: &str) -> Result<bool, CliError> {
        let contexts = self
            .document
            .get_mut("contexts")
            .and_then(Item::as_table_like_mut);
        let removed = contexts.and_then(|contexts| contexts.remove(name)).is_some();
        if self.config.current_context.as_deref() == Some(name) {
            self.use_context(None);
        }
        self.reparse()?;
        Ok(removed)
    }

    /// Updates `config` from the changed document.
    fn reparse(&mut self) -> Result<(), CliError> {
        let reparsed = Self::parse(self.path.clone(), &self.document.to_string());
        *self = reparsed.map_err(|why| self.document_error(&why))?;
        Ok(())
    }

    fn document_error(&self, why: &str) -> CliError {
        CliError::usage(format!("config file {}: {why}", self.path.display()))
    }

    /// Locks the file; waits for other processes. Creates its directory, accessible to this user only.
    pub fn lock(path: &Path) -> Result<ConfigLock, CliError> {
        let folder = parent_dir(path);
        let locked = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| {
                let file = File::options()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .mode(FILE_MODE)
                    .open(hidden_sibling(path, "lock"))?;
                // Held for milliseconds; the kernel releases it when a process dies.
                file.lock().map(|()| file)
            });
        let file = locked.map_err(|error| cannot_write(path, &error))?;
        Ok(ConfigLock { _file: file })
    }

    /// Writes the file atomically, with access for this user only.
    pub fn write(&self, _lock: &ConfigLock) -> Result<(), CliError> {
        let document = self.document.to_string();
        replace_file(&self.path, document.as_bytes(), FILE_MODE)
            .map_err(|error| cannot_write(&self.path, &error))
    }
}

/// Replaces a value and keeps the comments around it, or adds the value.
fn set_value(table: &mut dyn TableLike, key: &str, mut new: Value) {
    match table.get_mut(key) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => {
            table.insert(key, Item::Value(new));
        }
    }
}

/// Removes the value that the library quotes if a field has the wrong type.
fn redact_value(message: &str) -> String {
    let wrong_type = ["invalid type: ", "invalid value: "]
        .iter()
        .any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ").filter(|_| wrong_type) {
        Some((_, expected)) => format!("wrong type: expected {expected}"),
        None => sanitize(message).into_owned(),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(anyhow::anyhow!(
        "cannot write config file {}: {error}",
        path.display()
    ))
}

/// True if a name has only letters, digits, dots, dashes and underscores, and starts with a letter or digit.
pub fn is_context_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().count() <= NAME_MAX_CHARS
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Returns the error for an invalid context name.
pub fn invalid_name() -> CliError {
    CliError::usage(format!("NAME: {}", name_rule()))
}

fn name_rule() -> String {
    format!(
        "a context name has 1 to {NAME_MAX_CHARS} letters, digits, dots, dashes and underscores, and starts with a letter or \
         digit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# contexts\ncurrent-context = \"prod\" # default\n\n[contexts.prod]\n# the audit space\nspace = \"c1\"\nregion = \"eu-de\"\n";

    fn parsed(text: &str) -> Result<ConfigFile, String> {
        ConfigFile::parse(PathBuf::from("/x/config.toml"), text)
    }

    #[test]
    fn a_change_keeps_comments_and_order() {
        let mut file = parsed(FILE).unwrap();
        assert!(
            !file
                .set("prod", &[("space", Some("c2".into())), ("region", None)])
                .unwrap()
        );
        assert!(file.set("test", &[("account", Some(true.into()))]).unwrap());
        let text = file.document.to_string();
        assert_eq!(
            text,
            "# contexts\ncurrent-context = \"prod\" # default\n\n[contexts.prod]\n# the audit space\nspace = \"c2\"\n\n[contexts.test]\naccount = true\n"
        );
        assert_eq!(file.config.contexts["test"].account, Some(true));
        assert!(file.delete("prod").unwrap());
        assert!(!file.delete("prod").unwrap());
        assert_eq!(file.config.current_context, None);
        assert_eq!(parsed(&file.document.to_string()).unwrap().config, file.config);
    }

    #[test]
    fn errors_name_the_field_and_never_the_value() {
        for (text, named) in [
            ("[contexts.a]\nspaec = 1\n", "spaec"),
            ("current = 1\n", "current"),
            ("[contexts.\"a b\"]\n", "a b"),
            (
                "[contexts.a]\napi-key = \"hunter2\"\n",
                "line 2: unknown field `api-key`",
            ),
            (
                "[contexts.a]\nendpoint = \"https://a:hunter2@b\"\n",
                "endpoint must be",
            ),
            ("[contexts.a]\nregion = \"mars\"\n", "region"),
            ("[contexts.a\n", "line 1"),
            (
                "[contexts.a]\naccount = \"hunter2, expected x\"\n",
                "line 2: wrong type: expected a boolean",
            ),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
