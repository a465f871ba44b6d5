//! Reads a manifest as YAML or JSON documents from a file or standard input.
//!
//! Manifests contain Secrets, so errors never quote the text.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Maximum size of a manifest, in bytes: 16 MiB (the limit of etcd for one object is 1.5 MiB).
pub const MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Maximum size of a file with certificates or keys, in bytes: 1 MiB.
const SMALL_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Origin of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestInput {
    /// `-f -`.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// Error of reading a manifest.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The file does not exist or is not readable.
    #[error("cannot read {origin}: {cause}")]
    Unreadable {
        /// Path as given.
        origin: String,
        /// Error of the operating system.
        cause: io::Error,
    },
    /// Larger than [`MANIFEST_MAX_BYTES`].
    #[error("{0} is larger than 16 MiB: split it")]
    TooLarge(String),
    /// Not UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotUtf8(String),
    /// Neither YAML nor JSON.
    #[error("{origin} is not valid YAML or JSON: {message}")]
    Syntax {
        /// Path as given.
        origin: String,
        /// Problem and its position.
        message: String,
    },
}

impl ManifestInput {
    /// Parses the value of `-f`.
    pub fn from_path(path: &Path) -> Self {
        if path.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::File(path.to_owned())
        }
    }

    /// Returns the name for messages.
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Returns all documents except empty ones.
    pub fn read_documents(&self) -> Result<Vec<Value>, DocumentError> {
        let unreadable = |cause| DocumentError::Unreadable {
            origin: self.name(),
            cause,
        };
        let mut bytes = Vec::new();
        let limit = MANIFEST_MAX_BYTES + 1;
        match self {
            Self::Stdin => io::stdin().lock().take(limit).read_to_end(&mut bytes),
            Self::File(path) => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        }
        .map_err(unreadable)?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(DocumentError::TooLarge(self.name()));
        }
        let text = String::from_utf8(bytes).map_err(|_| DocumentError::NotUtf8(self.name()))?;
        parse(&text).map_err(|message| DocumentError::Syntax {
            origin: self.name(),
            message,
        })
    }
}

/// Reads a file of at most 1 MiB, such as a certificate or key. Errors name the path.
pub fn read_small_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SMALL_FILE_MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > SMALL_FILE_MAX_BYTES {
        return Err(format!("{} is larger than 1 MiB", path.display()));
    }
    Ok(bytes)
}

/// Parses a sequence of JSON values, or YAML documents separated by `---`. A `List`, as `kubectl get -o yaml` prints,
/// is replaced by its items.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let text = text.trim_start_matches('\u{feff}');
    let values = if text.trim_start().starts_with('{') {
        // YAML in flow style begins like JSON.
        parse_json(text).or_else(|error| parse_yaml(text).map_err(|_| error))?
    } else {
        parse_yaml(text)?
    };
    Ok(values
        .into_iter()
        .flat_map(list_items)
        .filter(|value| !value.is_null())
        .collect())
}

fn parse_json(text: &str) -> Result<Vec<Value>, String> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| format!("line {}, column {}: not valid JSON", error.line(), error.column()))
}

/// Parses YAML. Errors have the position only: the library quotes values in some.
fn parse_yaml(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| {
        let position = error
            .location()
            .map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        format!(
            "{}a quote, bracket or indentation is wrong, a key is repeated, or a tag or alias cannot be used",
            position.unwrap_or_default()
        )
    })
}

fn list_items(mut document: Value) -> Vec<Value> {
    let kind = document.get("kind").and_then(Value::as_str);
    let list = document.get("apiVersion").and_then(Value::as_str) == Some("v1") && kind == Some("List");
    if list && let Some(Value::Array(items)) = document.get_mut("items").map(Value::take) {
        return items;
    }
    vec![document]
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_json_and_lists_parse_to_the_same_documents() {
        let wanted = vec![json!({"a": 1}), json!({"b": "2018-06-01"})];
        for text in [
            "---\na: 1\n---\n---\n# nothing\n---\nb: 2018-06-01\n",
            "{\"a\":1}\n{\"b\":\"2018-06-01\"}",
            "{a: 1}\n---\nb: 2018-06-01",
            "\u{feff}apiVersion: v1\nkind: List\nitems: [{a: 1}, {b: 2018-06-01}]",
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(parse("").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn a_syntax_error_names_the_line_and_omits_the_text() {
        let text = "stringData:\n  apiKey: hunter2-is-secret\n  token: [hunter2-is-secret\n";
        let error = parse(text).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.contains("line"), "{error}");
        for value in [
            "*hunter2",
            "!!int hunter2",
            "!hunter2 x",
            "\"\\qhunter2\"",
            "[hunter2",
            "{hunter2: 1, hunter2: 2}",
            "@hunter2",
            "%hunter2",
        ] {
            for text in [format!("apiKey: {value}\n"), format!("{{\"apiKey\": {value}}}")] {
                if let Err(error) = parse(&text) {
                    assert!(!error.contains("hunter2"), "{text}: {error}");
                    assert!(error.contains("line 1"), "{text}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_duplicate_key_is_rejected() {
        assert!(parse("a: 1\na: 2\n").is_err());
    }

    #[test]
    fn an_alias_bomb_is_rejected() {
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (this, previous) in ('b'..='l').zip('a'..) {
            let _ = writeln!(
                text,
                "{this}: &{this} [{}]",
                vec![format!("*{previous}"); 10].join(",")
            );
        }
        assert!(parse(&text).is_err());
    }
}
