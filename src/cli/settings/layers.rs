//! Layers of a setting: flag, environment, context; the first that has a value wins. No I/O but through the lookup.

use std::fmt;
use std::path::{Path, PathBuf};

use super::super::config::SelectedContext;
use super::super::exit::CliError;
use super::environment::{EnvLookup, env_text};

/// Names of a setting in each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayeredSetting {
    /// Flag.
    pub flag: &'static str,
    /// Variables; the first that is set wins.
    pub variables: &'static [&'static str],
    /// Field of a context; empty: none.
    pub field: &'static str,
}

macro_rules! settings {
    ($($name:ident = $flag:literal, $variables:expr, $field:literal;)*) => {
        $(
            #[doc = concat!("Names of `", $flag, "`.")]
            pub const $name: LayeredSetting = LayeredSetting { flag: $flag, variables: &$variables, field: $field };
        )*
        /// All settings with layers.
        pub const ALL: &[LayeredSetting] = &[$($name),*];
    };
}

settings! {
    CONTEXT = "--context", ["EVENTEXPORT_CONTEXT"], "current-context";
    SPACE = "--space", ["EVENTEXPORT_SPACE"], "space";
    ACCOUNT = "--account", ["EVENTEXPORT_ACCOUNT"], "account";
    REGION = "--region", ["EVENTEXPORT_REGION"], "region";
    ENDPOINT = "--endpoint", ["EVENTEXPORT_ENDPOINT"], "endpoint";
    UAA_ENDPOINT = "--uaa-endpoint", ["EVENTEXPORT_UAA_ENDPOINT"], "uaa-endpoint";
    ALLOW_HOST = "--allow-host", ["EVENTEXPORT_ALLOW_HOST"], "";
    CA_FILE = "--ca-file", ["EVENTEXPORT_CA_FILE"], "ca-file";
    ARCHIVE = "--archive", [], "archive";
    S3_ENDPOINT = "--s3-endpoint", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], "s3-endpoint";
    S3_REGION = "--s3-region", ["AWS_REGION", "AWS_DEFAULT_REGION"], "s3-region";
    S3_PATH_STYLE = "--s3-path-style", [], "s3-path-style";
    S3_CA_FILE = "--s3-ca-file", ["AWS_CA_BUNDLE"], "s3-ca-file";
}

/// Layer, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Flag of the command.
    Flag,
    /// Variable of the process.
    Environment,
    /// Field of the context.
    Context,
}

/// Layer and name of a value, as errors name it: `--space`, `EVENTEXPORT_SPACE`, `space of context prod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Layer of the value.
    pub layer: Layer,
    name: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Value with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Resolved<T> {
    /// Creates the value of a flag.
    pub fn of_flag(setting: &LayeredSetting, value: T) -> Self {
        let origin = Origin {
            layer: Layer::Flag,
            name: setting.flag.to_owned(),
        };
        Self { value, origin }
    }

    /// Parses the value; the error names the origin.
    pub fn parse<U, E: fmt::Display>(
        self,
        parse: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<Resolved<U>, CliError> {
        let Self { value, origin } = self;
        match parse(value) {
            Ok(value) => Ok(Resolved { value, origin }),
            Err(error) => Err(CliError::usage(format!("{origin}: {error}"))),
        }
    }
}

/// Layers below the flags.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    /// Environment.
    pub lookup: EnvLookup<'a>,
    /// Context, of a command that uses one.
    pub context: Option<&'a SelectedContext>,
}

impl<'a> Layers<'a> {
    /// Returns the value of the flag, else the parsed variable, else the field of the context.
    pub fn resolve<T>(
        &self,
        setting: &LayeredSetting,
        flag: Option<T>,
        parse: impl FnOnce(String) -> Result<T, String>,
        field: impl FnOnce(&'a SelectedContext) -> Option<T>,
    ) -> Result<Option<Resolved<T>>, CliError> {
        if let Some(value) = flag {
            return Ok(Some(Resolved::of_flag(setting, value)));
        }
        for variable in setting.variables {
            if let Some(value) = env_text(self.lookup, variable)? {
                let origin = Origin {
                    layer: Layer::Environment,
                    name: (*variable).to_owned(),
                };
                return Resolved { value, origin }.parse(parse).map(Some);
            }
        }
        if let Some(context) = self.context
            && let Some(value) = field(context)
        {
            let origin = Origin {
                layer: Layer::Context,
                name: format!("{} of context {}", setting.field, context.name),
            };
            return Ok(Some(Resolved { value, origin }));
        }
        Ok(None)
    }

    /// Resolves a text.
    pub fn text(
        &self,
        setting: &LayeredSetting,
        flag: Option<&String>,
        field: impl FnOnce(&'a SelectedContext) -> Option<&'a String>,
    ) -> Result<Option<Resolved<String>>, CliError> {
        self.resolve(setting, flag.cloned(), Ok, |context| field(context).cloned())
    }

    /// Resolves a path.
    pub fn path(
        &self,
        setting: &LayeredSetting,
        flag: Option<&Path>,
        field: impl FnOnce(&'a SelectedContext) -> Option<PathBuf>,
    ) -> Result<Option<Resolved<PathBuf>>, CliError> {
        self.resolve(setting, flag.map(Path::to_owned), |text| Ok(text.into()), field)
    }

    /// Resolves true or false.
    pub fn flag(
        &self,
        setting: &LayeredSetting,
        flag: Option<bool>,
        field: impl FnOnce(&'a SelectedContext) -> Option<bool>,
    ) -> Result<Option<Resolved<bool>>, CliError> {
        let parse = |text: String| match text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("must be true or false, not {text:?}")),
        };
        self.resolve(setting, flag, parse, field)
    }
}

/// Returns the variable that overrides a field of a context, if it is set.
pub fn overriding_variable(field: &str, lookup: EnvLookup<'_>) -> Result<Option<&'static str>, CliError> {
    let setting = ALL.iter().find(|setting| setting.field == field);
    for variable in setting.map_or(&[][..], |setting| setting.variables) {
        if env_text(lookup, variable)?.is_some() {
            return Ok(Some(variable));
        }
    }
    Ok(None)
}

/// Returns the name of a setting: the origin of its value, or its flag.
pub fn name_of<T>(value: Option<&Resolved<T>>, setting: &LayeredSetting) -> String {
    value.map_or_else(|| setting.flag.to_owned(), |value| value.origin.to_string())
}
