//! Environment of the process: variables, and the files that `<VARIABLE>_FILE` names. Reads both.

use super::super::exit::CliError;
use super::super::secret_file;

/// Reads a variable.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>, String>;

/// Reads a variable, or the file that `<variable>_FILE` names. An empty variable counts as unset.
pub fn env_value(variable: &str) -> Result<Option<Vec<u8>>, String> {
    use std::os::unix::ffi::OsStringExt as _;
    if let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(Some(value.into_vec()));
    }
    let by_file = format!("{variable}_FILE");
    let Some(path) = std::env::var_os(&by_file).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let bytes = secret_file::read(path.as_ref()).map_err(|problem| format!("{by_file}: {problem}"))?;
    Ok(Some(bytes))
}

/// Returns a variable as text, without white space around it.
pub fn env_text(lookup: EnvLookup<'_>, variable: &str) -> Result<Option<String>, CliError> {
    let Some(bytes) = lookup(variable).map_err(CliError::usage)? else {
        return Ok(None);
    };
    let text =
        String::from_utf8(bytes).map_err(|_| CliError::usage(format!("{variable}: must be UTF-8 text")))?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}
