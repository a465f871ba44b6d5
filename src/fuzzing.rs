//! Fuzz targets of `fuzz/`. They also run in the unit tests, over the committed seeds and mutations of them. Not part of
//! the product: built only for tests and with the feature `fuzzing`. No I/O.
//!
//! Each module has the properties of its readers in `bad_input`; `docs/testing.md` describes them.

pub use crate::cli::bad_input::{config_file, part_state, resource_yaml};
pub use crate::egress::bad_input::hosts;
pub use crate::export::bad_input::{
    archive_manifest, bucket_listing, download_stream, durations, journal, receipt,
};
pub use crate::tracker::bad_input::{
    error_body, retry_after, session_list, session_response, token_response,
};

use crate::api::is_printable;

/// A fuzz target: accepts any bytes, and panics if a property is violated.
pub type FuzzTarget = fn(&[u8]);

/// All fuzz targets, by their names in `fuzz/`.
pub const TARGETS: [(&str, FuzzTarget); 15] = [
    ("archive_manifest", archive_manifest),
    ("bucket_listing", bucket_listing),
    ("config_file", config_file),
    ("download_stream", download_stream),
    ("durations", durations),
    ("hosts", hosts),
    ("journal", journal),
    ("part_state", part_state),
    ("error_body", error_body),
    ("receipt", receipt),
    ("retry_after", retry_after),
    ("resource_yaml", resource_yaml),
    ("session_response", session_response),
    ("session_list", session_list),
    ("token_response", token_response),
];

/// Secret that no error may contain. No seed contains it.
pub(crate) const SECRET: &str = "hUnTeR2-nobody-may-see";

/// Maximum length of an error for any input, in characters.
pub(crate) const ERROR_MAX_CHARS: usize = 4096;

/// Inserts the secret into the input, at the position given by its first two bytes.
pub(crate) fn insert_secret(data: &[u8]) -> Vec<u8> {
    let (place, rest) = data.split_at_checked(2).unwrap_or((&[], data));
    let place = place
        .iter()
        .fold(0, |place, byte| (place << 8) | usize::from(*byte));
    let (before, after) = rest
        .split_at_checked(place % (rest.len() + 1))
        .unwrap_or((rest, &[]));
    [before, SECRET.as_bytes(), after].concat()
}

/// Asserts that an error is short, and contains no characters that move a cursor or hide text.
pub(crate) fn assert_displayable(text: &str) {
    assert!(
        text.chars().count() <= ERROR_MAX_CHARS,
        "{} characters: {text:.300}",
        text.chars().count()
    );
    assert!(text.chars().all(is_printable), "{text:?}");
}

/// Asserts the same, and that an error does not contain the secret.
pub(crate) fn assert_no_secret(text: &str) {
    assert_displayable(text);
    assert!(!text.contains(SECRET), "{text}");
}

#[cfg(test)]
mod tests;
