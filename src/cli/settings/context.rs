//! The context of a command: the named one, or the current one of the config file. Reads the file.

use super::super::config::{self, ConfigFile, SelectedContext};
use super::super::exit::CliError;
use super::environment::EnvLookup;
use super::layers::{CONTEXT, Layers};

/// Returns the context that `--context` or `EVENTEXPORT_CONTEXT` names, or the current one if there is one.
pub fn find_context(
    flag: Option<&String>,
    lookup: EnvLookup<'_>,
) -> Result<Option<SelectedContext>, CliError> {
    let layers = Layers {
        lookup,
        context: None,
    };
    let named = layers.text(&CONTEXT, flag, |_| None)?.map(|named| named.value);
    let Some(path) = config::locate(lookup)? else {
        return match named {
            None => Ok(None),
            Some(name) => Err(CliError::usage(format!(
                "cannot find context {name:?} without a config file: set HOME, XDG_CONFIG_HOME or {}",
                config::FILE_VARIABLE
            ))),
        };
    };
    let file = ConfigFile::read(&path)?;
    let Some(name) = named.or_else(|| file.config.current_context.clone()) else {
        return Ok(None);
    };
    let config = file.context(&name)?.clone();
    Ok(Some(SelectedContext { name, config, file }))
}
