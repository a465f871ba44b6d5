//! Credentials of a command: from the environment, the secret files of a context, or a prompt; never from arguments.
//! Reads variables and files; prompts on a terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use console::Term;

use super::config::{ConfigFile, ContextConfig};
use super::exit::CliError;
use super::secret_file;
use super::secrets::EnvLookup;
use crate::tracker::Credentials;

/// Keys of a Secret, each with its environment variable and its context field.
const KEYS: [(&str, &str, &str); 5] = [
    ("apiKey", "EVENTEXPORT_API_KEY", "api-key-file"),
    ("username", "EVENTEXPORT_USERNAME", "username"),
    ("password", "EVENTEXPORT_PASSWORD", "password-file"),
    ("refreshToken", "EVENTEXPORT_REFRESH_TOKEN", "refresh-token-file"),
    ("token", "EVENTEXPORT_TOKEN", "token-file"),
];

/// Credentials and their origin.
#[derive(Clone, Debug)]
pub struct ResolvedCredentials {
    /// Credentials for the service.
    pub credentials: Credentials,
    /// Origin, to follow "the" in a message: `API key of EVENTEXPORT_API_KEY`.
    pub origin: String,
}

/// Prompts for a secret; returns `None` without a terminal.
pub type SecretPrompt<'a> = &'a dyn Fn(&str) -> Option<std::io::Result<String>>;

/// Returns the credentials of the environment, else of the context, else of the prompt.
pub fn resolve(
    lookup: EnvLookup<'_>,
    context: Option<(&str, &ContextConfig, &ConfigFile)>,
    prompt: SecretPrompt<'_>,
) -> Result<ResolvedCredentials, CliError> {
    let mut entries = BTreeMap::new();
    for (key, variable, _) in KEYS {
        if let Some(bytes) = lookup(variable).map_err(CliError::usage)? {
            entries.insert(key.to_owned(), bytes);
        }
    }
    let mut origin = CredentialsOrigin::Environment;
    if entries.is_empty()
        && let Some((name, context, file)) = context
    {
        entries = from_context(name, context, file)?;
        origin = CredentialsOrigin::Context(name);
    }
    // A user name alone is no credential: prompt for the secret.
    if !entries.keys().any(|key| key != "username") {
        origin = CredentialsOrigin::Prompt;
        entries = from_prompt(entries, prompt)?;
    }
    let kinds: Vec<&str> = KEYS
        .iter()
        .filter(|(key, _, _)| entries.contains_key(*key))
        .map(|(key, _, _)| *key)
        .collect();
    // A context can have a username with any kind of credentials, to identify the sessions of the user.
    if matches!(origin, CredentialsOrigin::Context(_)) && !entries.contains_key("password") {
        entries.remove("username");
    }
    let credentials =
        Credentials::from_secret(&entries).map_err(|error| origin.usage_error(&kinds, &error))?;
    Ok(ResolvedCredentials {
        credentials,
        origin: origin.describe(&kinds),
    })
}

/// Prompts on the terminal without echo. Returns `None` unless standard error and standard input are terminals.
pub fn prompt_on_terminal(question: &str) -> Option<std::io::Result<String>> {
    let term = Term::stderr();
    if !term.is_term() || !std::io::stdin().is_terminal() {
        return None;
    }
    let answer = term.write_str(question).and_then(|()| term.read_secure_line());
    Some(answer)
}

fn from_context(
    name: &str,
    context: &ContextConfig,
    file: &ConfigFile,
) -> Result<BTreeMap<String, Vec<u8>>, CliError> {
    let files = [
        ("apiKey", &context.api_key_file, "api-key-file"),
        ("password", &context.password_file, "password-file"),
        ("refreshToken", &context.refresh_token_file, "refresh-token-file"),
        ("token", &context.token_file, "token-file"),
    ];
    let mut entries = BTreeMap::new();
    for (key, path, field) in files {
        if let Some(path) = path {
            let bytes = secret_file::read(&file.resolve_path(path))
                .map_err(|why| CliError::usage(format!("{field} of context {name}: {why}")))?;
            entries.insert(key.to_owned(), bytes);
        }
    }
    if let Some(username) = &context.username {
        entries.insert("username".to_owned(), username.clone().into_bytes());
    }
    Ok(entries)
}

fn from_prompt(
    mut entries: BTreeMap<String, Vec<u8>>,
    prompt: SecretPrompt<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, CliError> {
    let (key, question) = match entries.get("username") {
        Some(username) => (
            "password",
            format!("Password of {}: ", String::from_utf8_lossy(username)),
        ),
        None => ("apiKey", "API key: ".to_owned()),
    };
    match prompt(&question) {
        Some(Ok(secret)) if secret.trim().is_empty() => Err(missing_credentials()),
        Some(Ok(secret)) => {
            entries.insert(key.to_owned(), secret.into_bytes());
            Ok(entries)
        }
        Some(Err(error)) => Err(CliError::Failed(anyhow::anyhow!(
            "cannot read the answer from the terminal: {error}"
        ))),
        None => Err(missing_credentials()),
    }
}

fn missing_credentials() -> CliError {
    CliError::usage(
        "no credentials: set EVENTEXPORT_API_KEY, EVENTEXPORT_USERNAME and EVENTEXPORT_PASSWORD, EVENTEXPORT_REFRESH_TOKEN \
         or EVENTEXPORT_TOKEN (or each as …_FILE with the path of a file), set a secret file in a context (`eventexport \
         context set NAME --api-key-file FILE`), or run the command on a terminal to enter them",
    )
}

/// Origin of the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CredentialsOrigin<'a> {
    Environment,
    Context(&'a str),
    Prompt,
}

impl CredentialsOrigin<'_> {
    fn describe(self, kinds: &[&str]) -> String {
        let (kind, variable, field) = if kinds.contains(&"apiKey") {
            ("API key", "EVENTEXPORT_API_KEY", "api-key-file")
        } else if kinds.contains(&"password") {
            (
                "user and password",
                "EVENTEXPORT_USERNAME and EVENTEXPORT_PASSWORD",
                "username and password-file",
            )
        } else if kinds.contains(&"refreshToken") {
            ("refresh token", "EVENTEXPORT_REFRESH_TOKEN", "refresh-token-file")
        } else {
            ("token", "EVENTEXPORT_TOKEN", "token-file")
        };
        match self {
            Self::Environment => format!("{kind} of {variable}"),
            Self::Context(name) => format!("{kind} of context {name} ({field})"),
            Self::Prompt => format!("{kind} entered at the prompt"),
        }
    }

    /// Converts an error, with the names of the variables or fields that the user set.
    fn usage_error(self, kinds: &[&str], error: &crate::tracker::CredentialsError) -> CliError {
        use crate::tracker::CredentialsError as Error;
        let name = |key: &str| {
            let known = KEYS.iter().find(|(other, _, _)| *other == key);
            known.map_or_else(
                || key.to_owned(),
                |(_, variable, field)| match self {
                    Self::Environment => (*variable).to_owned(),
                    Self::Context(context) => format!("{field} of context {context}"),
                    Self::Prompt => "the entered secret".to_owned(),
                },
            )
        };
        match error {
            Error::Missing => missing_credentials(),
            Error::Incomplete { has, lacks } => CliError::usage(format!(
                "{} is set but {} is not: both are required",
                name(has),
                name(lacks)
            )),
            Error::Ambiguous { keys: _ } => {
                let all: Vec<String> = kinds.iter().map(|kind| name(kind)).collect();
                CliError::usage(format!(
                    "more than one kind of credentials is set ({}): keep one of them",
                    all.join(", ")
                ))
            }
            Error::Invalid { key, why } => CliError::usage(format!("{} {why}", name(key))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_with(variables: &[(&str, &str)], typed: Option<&str>) -> Result<ResolvedCredentials, String> {
        let lookup = |name: &str| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            Ok(value.map(|(_, value)| value.as_bytes().to_vec()))
        };
        let prompt = |_: &str| typed.map(|text| Ok(text.to_owned()));
        resolve(&lookup, None, &prompt).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_origin_is_printable_and_the_secret_is_not() {
        for (variables, typed, origin) in [
            (
                &[("EVENTEXPORT_API_KEY", "hunter2")][..],
                None,
                "API key of EVENTEXPORT_API_KEY",
            ),
            (
                &[("EVENTEXPORT_TOKEN", "hunter2")],
                None,
                "token of EVENTEXPORT_TOKEN",
            ),
            (&[], Some("hunter2"), "API key entered at the prompt"),
            (
                &[("EVENTEXPORT_USERNAME", "a@b")],
                Some("hunter2"),
                "user and password entered at the prompt",
            ),
        ] {
            let resolved = resolve_with(variables, typed).unwrap();
            assert_eq!(resolved.origin, origin);
            assert!(!format!("{resolved:?}").contains("hunter2"));
        }
    }

    #[test]
    fn missing_and_ambiguous_credentials_are_named() {
        for (variables, typed, named) in [
            (&[][..], None, "EVENTEXPORT_API_KEY"),
            (&[], Some(" "), "EVENTEXPORT_API_KEY"),
            (
                &[("EVENTEXPORT_PASSWORD", "p")],
                None,
                "EVENTEXPORT_PASSWORD is set but EVENTEXPORT_USERNAME is not",
            ),
            (
                &[("EVENTEXPORT_API_KEY", "k"), ("EVENTEXPORT_TOKEN", "t")],
                None,
                "EVENTEXPORT_API_KEY, EVENTEXPORT_TOKEN",
            ),
            (&[("EVENTEXPORT_TOKEN", "a b")], None, "EVENTEXPORT_TOKEN"),
        ] {
            let error = resolve_with(variables, typed).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
