//! Peers that mean harm, over real sockets: whatever they send, a request ends in its time, with an error that names
//! them and can be shown, in bounded memory, and leaves no session behind. `docs/bad-input.md` has the bounds.

mod memory;
mod peer;
mod resources;
mod speeches;
mod store;
mod tracker;

use eventexport::api::is_shown;

/// The longest error, in characters: a sentence of ours with some words of theirs.
const ERROR_CHARS: usize = 1500;

/// An error names who is at fault, fits a terminal and a status, and says nothing secret.
#[track_caller]
fn fit_to_be_shown(what: &str, error: &str, peer: &str, secrets: &[&str]) {
    assert!(error.contains(peer), "{what}: {error} does not name {peer}");
    assert!(
        error.chars().count() <= ERROR_CHARS,
        "{what}: {} characters: {error:.500}",
        error.chars().count()
    );
    assert!(error.chars().all(is_shown), "{what}: {error:?}");
    for secret in secrets {
        assert!(!error.contains(secret), "{what}: {error}");
    }
}
