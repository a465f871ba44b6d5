//! What must hold whatever comes in: the bodies of the fuzz targets in `fuzz/`, which run in the ordinary tests as well,
//! over the committed seeds and mutations of them. No part of the product: it is built for tests and with the feature
//! `fuzzing` only. No I/O.
//!
//! The properties of each reader stand beside it, in the `bad_input` of its module; `docs/bad-input.md` lists them.

pub use crate::cli::bad_input::{config_file, part_state, resource_yaml};
pub use crate::egress::bad_input::hosts;
pub use crate::export::bad_input::{
    archive_manifest, bucket_listing, download_stream, durations, journal, receipt,
};
pub use crate::tracker::bad_input::{
    error_body, retry_after, session_list, session_response, token_response,
};

use crate::api::is_printable;

/// A fuzz target: takes any bytes, and panics where a property does not hold.
pub type FuzzTarget = fn(&[u8]);

/// All of them, by the names that they have in `fuzz/`.
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

/// What no error may say. Nothing in a seed is like it.
pub(crate) const SECRET: &str = "hUnTeR2-nobody-may-see";

/// The longest error that any input may cause, in characters.
pub(crate) const ERROR_MAX_CHARS: usize = 4096;

/// The secret, put into the input at a place that its first two bytes say.
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

/// An error is short, and nothing in it moves a cursor or hides text.
pub(crate) fn assert_displayable(text: &str) {
    assert!(
        text.chars().count() <= ERROR_MAX_CHARS,
        "{} characters: {text:.300}",
        text.chars().count()
    );
    assert!(text.chars().all(is_printable), "{text:?}");
}

/// The same, and nothing in it is secret.
pub(crate) fn assert_no_secret(text: &str) {
    assert_displayable(text);
    assert!(!text.contains(SECRET), "{text}");
}

#[cfg(test)]
mod tests;
