//! The config file of named contexts: where it is, what it may hold, and how it is read and written. Touches the disk.
//!
//! It names the files that hold secrets, never a secret; its mode is enforced all the same, because it says whom this
//! user speaks to and with what.

mod fields;

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

pub use self::fields::{CliConfig, ContextConfig};
use super::exit::CliError;
use super::secrets::EnvLookup;
use crate::api::sanitize;

/// The variable that names another config file.
pub const FILE_VARIABLE: &str = "EVENTEXPORT_CONFIG";

/// The largest config file that is read: 1 MiB.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Most contexts of one file.
const CONTEXTS_MAX: usize = 256;

/// The longest name of a context, in characters.
const NAME_MAX_CHARS: usize = 63;

/// The permissions of the file: read and written by its user alone.
const FILE_MODE: u32 = 0o600;

/// Permissions that nobody but the user may have.
const OTHERS_MASK: u32 = 0o077;

/// What people might put in, though it must not be there.
const SECRET_FIELDS: [&str; 6] = [
    "api-key",
    "apikey",
    "apiKey",
    "password",
    "refresh-token",
    "token",
];

/// A config file that was read, and can be written again with its comments kept.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// What it says; empty where there is no file.
    pub config: CliConfig,
    document: DocumentMut,
}

/// Held while a config file is read, changed and written, so that no change is lost.
#[derive(Debug)]
pub struct ConfigLock {
    _file: File,
}

/// Where the config file is: `$EVENTEXPORT_CONFIG`, or below `$XDG_CONFIG_HOME`, or below `~/.config`. `None` where no
/// variable tells.
pub fn locate(lookup: EnvLookup<'_>) -> Result<Option<PathBuf>, CliError> {
    use std::os::unix::ffi::OsStringExt as _;
    let variable = |name: &str| -> Result<Option<PathBuf>, CliError> {
        let found = lookup(name).map_err(CliError::usage)?;
        Ok(found.map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes))))
    };
    if let Some(path) = variable(FILE_VARIABLE)? {
        return Ok(Some(path));
    }
    // The XDG base directory specification: a relative path is to be ignored.
    if let Some(folder) = variable("XDG_CONFIG_HOME")?.filter(|folder| folder.is_absolute()) {
        return Ok(Some(folder.join("eventexport/config.toml")));
    }
    Ok(variable("HOME")?.map(|home| home.join(".config/eventexport/config.toml")))
}

impl ConfigFile {
    /// Reads the file; one that is not there is empty. Refused when others may read or write it.
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
                if mode & OTHERS_MASK != 0 {
                    return Err(fault(format!(
                        "its mode is {:04o}, so that others could read or change it: run `chmod 600 {}`",
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
        // The library's own words would quote the line, and what a person wrote there may be a secret.
        let wrong = |message: &str, span: Option<std::ops::Range<usize>>| {
            let line = span
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let advice = if SECRET_FIELDS
                .iter()
                .any(|field| message.contains(&format!("`{field}`")))
            {
                "; secrets do not belong in it: name a file, as with api-key-file"
            } else {
                ""
            };
            format!("{line}{}{advice}", redact_value(message))
        };
        let document: DocumentMut = text
            .parse()
            .map_err(|error: toml_edit::TomlError| wrong(error.message(), error.span()))?;
        let config: CliConfig =
            toml_edit::de::from_str(text).map_err(|error| wrong(error.message(), error.span()))?;
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

    /// The context of this name.
    pub fn context(&self, name: &str) -> Result<&ContextConfig, CliError> {
        self.config.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.contexts.keys().map(String::as_str).collect();
            let known = if names.is_empty() {
                "it has none; make one with `eventexport context set`".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            CliError::usage(format!(
                "there is no context \"{}\" in {}: {known}",
                sanitize(name),
                self.path.display()
            ))
        })
    }

    /// A path that the file names, which is relative to the file's own folder.
    pub fn resolve_path(&self, path: &Path) -> PathBuf {
        self.path
            .parent()
            .map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// Makes a context the current one; `None`: none is.
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

    /// Writes keys of a context, which is made where it is not there; `None` removes a key. Whether it was made.
    pub fn set(&mut self, name: &str, keys: &[(&str, Option<Value>)]) -> Result<bool, CliError> {
        if !is_context_name(name) {
            return Err(invalid_name());
        }
        let created = !self.config.contexts.contains_key(name);
        // What was read as a table is one.
        let not_a_table = self.document_error("contexts is no table");
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

    /// Takes a context out; the current one leaves none current. Whether it was there.
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

    /// What the changed document means.
    fn reparse(&mut self) -> Result<(), CliError> {
        let reparsed = Self::parse(self.path.clone(), &self.document.to_string());
        *self = reparsed.map_err(|why| self.document_error(&why))?;
        Ok(())
    }

    fn document_error(&self, why: &str) -> CliError {
        CliError::usage(format!("config file {}: {why}", self.path.display()))
    }

    /// Waits until no other process changes the file. Makes its folder, for this user alone.
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
                // Held for milliseconds by whoever has it, and freed by the system when a process dies.
                file.lock().map(|()| file)
            });
        let file = locked.map_err(|error| cannot_write(path, &error))?;
        Ok(ConfigLock { _file: file })
    }

    /// Writes the file whole or not at all, readable by this user alone.
    pub fn write(&self, _lock: &ConfigLock) -> Result<(), CliError> {
        // A link to a file that is kept elsewhere stays a link.
        let target = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let draft = hidden_sibling(&target, "new");
        let written = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(FILE_MODE)
            .open(&draft)
            .and_then(|mut file| {
                file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE))?;
                file.write_all(self.document.to_string().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&draft, &target));
        written.map_err(|error| {
            // What is left of the draft is in nobody's way.
            let _ = std::fs::remove_file(&draft);
            cannot_write(&self.path, &error)
        })
    }
}

/// Puts a value where one was, with the comments around it, or adds it.
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

/// The library's message without the value that it quotes where a field is of another kind than it should be.
fn redact_value(message: &str) -> String {
    let wrong_kind = ["invalid type: ", "invalid value: "]
        .iter()
        .any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ").filter(|_| wrong_kind) {
        Some((_, expected)) => format!("a value of another kind than this field has: expected {expected}"),
        None => sanitize(message).into_owned(),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(anyhow::anyhow!(
        "config file {} cannot be written: {error}",
        path.display()
    ))
}

fn parent_dir(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A hidden file in the same folder.
fn hidden_sibling(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent_dir(path).join(format!(".{name}.{what}"))
}

/// Letters, digits, dots, dashes and underscores, beginning with a letter or digit.
pub fn is_context_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().count() <= NAME_MAX_CHARS
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// What is said of a name that cannot be one.
pub fn invalid_name() -> CliError {
    CliError::usage(format!("NAME: {}", name_rule()))
}

fn name_rule() -> String {
    format!(
        "the name of a context has 1 to {NAME_MAX_CHARS} letters, digits, dots, dashes and underscores, and begins with a letter or digit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# whose\ncurrent-context = \"prod\" # mine\n\n[contexts.prod]\n# the audit space\nspace = \"c1\"\nregion = \"eu-de\"\n";

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
            "# whose\ncurrent-context = \"prod\" # mine\n\n[contexts.prod]\n# the audit space\nspace = \"c2\"\n\n[contexts.test]\naccount = true\n"
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
                "line 2: a value of another kind than this field has: expected a boolean",
            ),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
