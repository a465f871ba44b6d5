//! Objects that became visible, by the requests that a store has answered. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::{ProxiedPeer, RecordedRequest};

/// Returns the key that a request made visible, and the upload that it completed; empty if it was a single request.
pub(crate) fn created(seen: &RecordedRequest) -> Option<(&str, &str)> {
    let (method, rest) = seen.line.split_once(' ')?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let upload = query.split('&').find_map(|pair| pair.strip_prefix("uploadId="));
    let made = match method {
        "PUT" => upload.is_none(),
        "POST" => upload.is_some(),
        _ => false,
    };
    let (_bucket, key) = path.strip_prefix('/')?.split_once('/')?;
    let answered = seen.peer == ProxiedPeer::Store && seen.succeeded();
    (made && answered).then_some((key, upload.unwrap_or_default()))
}

/// Counts how often each key became visible. Stores answer a repeated completion of an upload as they did the first
/// one, so all of them count once.
pub(crate) fn creations(seen: &[RecordedRequest]) -> BTreeMap<&str, usize> {
    let mut times = BTreeMap::new();
    let mut completed = BTreeSet::new();
    for (key, upload) in seen.iter().filter_map(created) {
        if upload.is_empty() || completed.insert(upload) {
            *times.entry(key).or_default() += 1;
        }
    }
    times
}
