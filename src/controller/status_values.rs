//! Values as a status stores them: times in whole seconds, texts of a bounded length. Pure.

use jiff::Timestamp;

/// Truncates to seconds, as Kubernetes stores times: a stored status must equal the written one.
pub(super) fn truncate_to_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Truncates a text to a number of characters.
pub(super) fn truncate(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}
