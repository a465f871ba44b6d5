//! What must hold whatever comes in: the bodies of the fuzz targets in `fuzz/`, which run in the ordinary tests as well,
//! over the committed seeds and mutations of them. No part of the product: it is built for tests and with the feature
//! `fuzzing` only. No I/O.
//!
//! The properties of each reader stand beside it, in the `bad_input` of its module; `docs/bad-input.md` lists them.

pub use crate::cli::bad_input::{config_file, part_note, resource_yaml};
pub use crate::egress::bad_input::hosts;
pub use crate::export::bad_input::{
    archive_manifest, bucket_listing, download_stream, durations, journal, receipt,
};
pub use crate::tracker::bad_input::{
    peer_words, reply_head, session_created, sessions_listed, token_granted,
};

use crate::api::is_shown;

/// A fuzz target: takes any bytes, and panics where a property does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the names that they have in `fuzz/`.
pub const TARGETS: [(&str, Target); 15] = [
    ("archive_manifest", archive_manifest),
    ("bucket_listing", bucket_listing),
    ("config_file", config_file),
    ("download_stream", download_stream),
    ("durations", durations),
    ("hosts", hosts),
    ("journal", journal),
    ("part_note", part_note),
    ("peer_words", peer_words),
    ("receipt", receipt),
    ("reply_head", reply_head),
    ("resource_yaml", resource_yaml),
    ("session_created", session_created),
    ("sessions_listed", sessions_listed),
    ("token_granted", token_granted),
];

/// What no error may say. Nothing in a seed is like it.
pub(crate) const SECRET: &str = "hUnTeR2-nobody-may-see";

/// The longest error that any input may cause, in characters.
pub(crate) const ERROR_CHARS: usize = 4096;

/// The secret, put into the input at a place that its first two bytes say.
pub(crate) fn with_secret(data: &[u8]) -> Vec<u8> {
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
pub(crate) fn fit_to_be_shown(text: &str) {
    assert!(
        text.chars().count() <= ERROR_CHARS,
        "{} characters: {text:.300}",
        text.chars().count()
    );
    assert!(text.chars().all(is_shown), "{text:?}");
}

/// The same, and nothing in it is secret.
pub(crate) fn tells_no_secret(text: &str) {
    fit_to_be_shown(text);
    assert!(!text.contains(SECRET), "{text}");
}

#[cfg(test)]
mod tests;
