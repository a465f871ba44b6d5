//! Malicious peers over real sockets: for any reply, a request ends in time, with a printable error that names the
//! peer, in bounded memory, and without a leftover session. `docs/limits.md` lists the bounds.

pub(crate) mod certificate;
mod memory;
mod payloads;
mod peer;
mod resources;
mod store;
mod tracker;

use eventexport::api::is_printable;

/// Maximum characters of an error: our sentence and an excerpt of the reply.
const MAX_ERROR_CHARS: usize = 1500;

/// Asserts that an error names the peer, fits a terminal and a status, and contains no secret.
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
