//! Peers that mean harm, over real sockets: whatever they send, a request ends in its time, with an error that names
//! them and can be shown, in bounded memory, and leaves no session behind. `docs/bad-input.md` has the bounds.

mod memory;
mod payloads;
mod peer;
mod resources;
mod store;
mod tracker;

use eventexport::api::is_printable;

/// The longest error, in characters: a sentence of ours with some words of theirs.
const MAX_ERROR_CHARS: usize = 1500;

/// An error names who is at fault, fits a terminal and a status, and says nothing secret.
#[track_caller]
fn assert_displayable(what: &str, error: &str, peer: &str, secrets: &[&str]) {
    assert!(error.contains(peer), "{what}: {error} does not name {peer}");
    assert!(
        error.chars().count() <= MAX_ERROR_CHARS,
        "{what}: {} characters: {error:.500}",
        error.chars().count()
    );
    assert!(error.chars().all(is_printable), "{what}: {error:?}");
    for secret in secrets {
        assert!(!error.contains(secret), "{what}: {error}");
    }
}
