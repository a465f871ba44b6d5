//! Second look for keys that a listing leaves out: nothing is reported as missing before the store was asked for it by
//! name. Reads the store.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::storage::{ObjectSummary, Store, StoreError};

/// Maximum number of keys to ask for. Beyond it the listing is believed.
pub const HEADS_MAX: usize = 100;

/// Maximum concurrent requests.
const CONCURRENCY: usize = 16;

/// Asks the store for keys that are not in a listing, the first [`HEADS_MAX`] of them, and returns those that exist.
pub async fn find_unlisted(
    store: &dyn Store,
    keys: impl IntoIterator<Item = String>,
) -> Result<Vec<ObjectSummary>, StoreError> {
    let keys: Vec<String> = keys.into_iter().take(HEADS_MAX).collect();
    let asked: Vec<Option<ObjectSummary>> = stream::iter(keys)
        .map(|key| async move {
            let found = store.head_recorded(&key).await?;
            Ok::<_, StoreError>(found.map(|info| ObjectSummary {
                key,
                size: info.size,
                etag: info.etag,
                last_modified: info.last_modified,
            }))
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let found: Vec<ObjectSummary> = asked.into_iter().flatten().collect();
    if !found.is_empty() {
        tracing::warn!(
            store = %store.identity(),
            keys = found.len(),
            "the store has keys that its listing leaves out"
        );
    }
    Ok(found)
}
