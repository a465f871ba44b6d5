//! Listings of objects, versions and unfinished uploads, page by page. I/O.

use std::borrow::Cow;
use std::error::Error;
use std::hash::Hash;
use std::sync::atomic::Ordering;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, MultipartUpload, Object};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::errors::S3Operation;
use super::paging::AcceptedPages;
use super::{S3Store, is_usable_id, timestamp};
use crate::storage::{LIST_MAX, ObjectSummary, ObjectVersion, OpenUpload, StoreError, Upload};

/// Version id of what was written while the bucket kept no versions.
const NULL_VERSION: &str = "null";
/// Maximum length of a key in bytes, the limit of S3.
const KEY_MAX_BYTES: usize = 1024;
/// Maximum number of pages in one listing. A store that returns more repeats pages.
const PAGES_MAX: usize = LIST_MAX / 100;

/// Reply with a page of a listing.
trait ListingPage: Sized {
    /// Begin of a page.
    type Marker: Clone + Hash;
    type Row;
    /// Name of the rows in messages.
    const ROWS: &str;

    /// True if another page follows; `None`: the page does not say.
    fn truncated(&self) -> Option<bool>;
    /// Text that only this page has in its first row.
    fn first_row(&self) -> Option<&str>;
    /// Marker of the next page, if the page names one.
    fn next_marker(&self) -> Option<Self::Marker>;
    /// Rows below a prefix. Error: what is wrong with one.
    fn into_rows(self, prefix: &str) -> Result<Vec<Self::Row>, &'static str>;
}

/// A key, and a version or an upload of that key.
type KeyMarker = (String, Option<String>);

impl ListingPage for ListObjectsV2Output {
    type Marker = String;
    type Row = ObjectSummary;
    const ROWS: &str = "keys";

    fn truncated(&self) -> Option<bool> {
        self.is_truncated
    }

    fn first_row(&self) -> Option<&str> {
        self.contents().first().and_then(Object::key)
    }

    fn next_marker(&self) -> Option<String> {
        let next = self.next_continuation_token.clone();
        next.filter(|next| !next.is_empty())
    }

    fn into_rows(self, _: &str) -> Result<Vec<ObjectSummary>, &'static str> {
        let encoding = self.encoding_type;
        let rows = self.contents.unwrap_or_default().into_iter().map(|object| {
            let size = u64::try_from(object.size.unwrap_or(0));
            Ok(ObjectSummary {
                key: valid_key(object.key, encoding.as_ref()).ok_or("listed object without a valid key")?,
                size: size.map_err(|_| "listed object with a negative size")?,
                etag: object.e_tag.filter(|etag| is_usable_id(etag)),
                last_modified: object.last_modified.and_then(timestamp),
            })
        });
        rows.collect()
    }
}

impl ListingPage for ListObjectVersionsOutput {
    type Marker = KeyMarker;
    type Row = ObjectVersion;
    const ROWS: &str = "versions";

    fn truncated(&self) -> Option<bool> {
        Some(self.is_truncated.unwrap_or(false))
    }

    /// The markers show a page that repeats: one of markers of deletions has no other first row.
    fn first_row(&self) -> Option<&str> {
        None
    }

    fn next_marker(&self) -> Option<KeyMarker> {
        let key = next_key(self.next_key_marker.as_ref(), self.encoding_type.as_ref())?;
        Some((key, self.next_version_id_marker.clone()))
    }

    fn into_rows(self, _: &str) -> Result<Vec<ObjectVersion>, &'static str> {
        let encoding = self.encoding_type;
        let versions = self.versions.unwrap_or_default().into_iter();
        let versions = versions.map(|one| (one.key, one.version_id, one.is_latest, false, one.last_modified));
        let markers = self.delete_markers.unwrap_or_default().into_iter();
        let markers = markers.map(|one| (one.key, one.version_id, one.is_latest, true, one.last_modified));
        let rows = versions.chain(markers);
        let rows = rows.map(|(key, version_id, is_latest, is_delete_marker, last_modified)| {
            Ok(ObjectVersion {
                key: valid_key(key, encoding.as_ref()).ok_or("listed version without a valid key")?,
                version_id: version_id.filter(|id| is_usable_id(id) && id != NULL_VERSION),
                is_latest: is_latest.unwrap_or(false),
                is_delete_marker,
                last_modified: last_modified.and_then(timestamp),
            })
        });
        rows.collect()
    }
}

impl ListingPage for ListMultipartUploadsOutput {
    type Marker = KeyMarker;
    type Row = OpenUpload;
    const ROWS: &str = "uploads";

    /// Some stores name a marker at the end of a complete listing.
    fn truncated(&self) -> Option<bool> {
        Some(self.is_truncated.unwrap_or(false))
    }

    fn first_row(&self) -> Option<&str> {
        self.uploads().first().and_then(MultipartUpload::upload_id)
    }

    fn next_marker(&self) -> Option<KeyMarker> {
        let key = next_key(self.next_key_marker.as_ref(), self.encoding_type.as_ref())?;
        Some((key, self.next_upload_id_marker.clone()))
    }

    fn into_rows(self, prefix: &str) -> Result<Vec<OpenUpload>, &'static str> {
        let mut rows = Vec::new();
        for upload in self.uploads.unwrap_or_default() {
            let key = valid_key(upload.key, self.encoding_type.as_ref());
            let (Some(key), Some(id)) = (key, upload.upload_id.filter(|id| is_usable_id(id))) else {
                return Err("listed upload without a valid key and id");
            };
            // MinIO treats the prefix as a complete key.
            if key.starts_with(prefix) {
                rows.push(OpenUpload {
                    upload: Upload {
                        key,
                        id,
                        retried: false,
                    },
                    initiated: upload.initiated.and_then(timestamp),
                });
            }
        }
        Ok(rows)
    }
}

/// Lists objects.
pub(super) async fn list_objects(
    store: &S3Store,
    prefix: &str,
    on_page: &mut (dyn FnMut(Vec<ObjectSummary>) + Send),
) -> Result<(), StoreError> {
    let mut is_first_page = true;
    let send = |token: Option<String>| {
        store
            .client
            .list_objects_v2()
            .bucket(&store.settings.bucket)
            .prefix(prefix)
            // A key may contain characters that XML cannot.
            .encoding_type(EncodingType::Url)
            .set_continuation_token(token)
            .send()
    };
    let listed = list(
        store,
        S3Operation::List,
        prefix,
        send,
        |page: Vec<ObjectSummary>| {
            is_first_page = false;
            on_page(page);
        },
    )
    .await;
    match listed {
        // Some stores answer so if no key begins with the prefix.
        Err(StoreError::Rejected {
            status: 404, code, ..
        }) if code == "NoSuchKey" && is_first_page => store.check_bucket().await,
        listed => listed,
    }
}

/// Lists versions of objects.
pub(super) async fn list_object_versions(
    store: &S3Store,
    prefix: &str,
) -> Result<Vec<ObjectVersion>, StoreError> {
    let mut all = Vec::new();
    let send = |after: Option<KeyMarker>| {
        let (key, id) = after.unzip();
        store
            .client
            .list_object_versions()
            .bucket(&store.settings.bucket)
            .prefix(prefix)
            .encoding_type(EncodingType::Url)
            .set_key_marker(key)
            .set_version_id_marker(id.flatten())
            .send()
    };
    list(store, S3Operation::ListVersions, prefix, send, |page| {
        all.extend(page);
    })
    .await?;
    Ok(all)
}

/// Lists unfinished uploads: those that the store shows.
pub(super) async fn list_open_uploads(store: &S3Store, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
    let mut all = Vec::new();
    let send = |after: Option<KeyMarker>| {
        let (key, id) = after.unzip();
        store
            .client
            .list_multipart_uploads()
            .bucket(&store.settings.bucket)
            .prefix(prefix)
            .encoding_type(EncodingType::Url)
            .set_key_marker(key)
            .set_upload_id_marker(id.flatten())
            .send()
    };
    let listed = list(store, S3Operation::ListUploads, prefix, send, |page| {
        all.extend(page);
    })
    .await;
    match listed {
        Err(StoreError::Unsupported { .. }) => {
            if !store.uploads_unlisted.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    store = %store.name,
                    "the store does not list unfinished uploads, so that those of interrupted attempts stay: let a lifecycle rule of the bucket abort them"
                );
            }
            Ok(all)
        }
        listed => listed.map(|()| all),
    }
}

/// Requests all pages of a listing. `send` requests the page after a marker.
async fn list<P, E, F>(
    store: &S3Store,
    operation: S3Operation,
    prefix: &str,
    send: impl Fn(Option<P::Marker>) -> F,
    mut on_page: impl FnMut(Vec<P::Row>),
) -> Result<(), StoreError>
where
    P: ListingPage,
    E: ProvideErrorMetadata + Error + 'static,
    F: Future<Output = Result<P, SdkError<E, HttpResponse>>>,
{
    let context = store.context(operation, prefix);
    let (mut listed, mut pages, mut marker) = (0, AcceptedPages::default(), None);
    for _ in 0..PAGES_MAX {
        let next = |page: &P| pages.next(page.truncated(), page.first_row(), page.next_marker());
        let (page, next) = store.call_page(context, |_| send(marker.clone()), next).await?;
        pages.accept(page.first_row(), next.as_ref());
        let rows = page.into_rows(prefix);
        let rows = rows.map_err(|problem| store.invalid_response(context, problem))?;
        listed += rows.len();
        if listed > LIST_MAX {
            return Err(store.limit_exceeded(prefix, LIST_MAX, P::ROWS));
        }
        on_page(rows);
        marker = next;
        if marker.is_none() {
            return Ok(());
        }
    }
    Err(store.limit_exceeded(prefix, PAGES_MAX, "pages"))
}

fn valid_key(key: Option<String>, encoding: Option<&EncodingType>) -> Option<String> {
    let key = decode_key(key?, encoding == Some(&EncodingType::Url));
    (key.len() <= KEY_MAX_BYTES).then_some(key)
}

fn next_key(key: Option<&String>, encoding: Option<&EncodingType>) -> Option<String> {
    let key = key.filter(|key| !key.is_empty())?;
    Some(decode_key(key.clone(), encoding == Some(&EncodingType::Url)))
}

/// Decodes a key of a listing with `encoding-type=url`, in which a space is a `+`. A store may reply without it.
pub(super) fn decode_key(key: String, encoded: bool) -> String {
    if !encoded {
        return key;
    }
    let spaced = key.replace('+', " ");
    match percent_encoding::percent_decode_str(&spaced).decode_utf8() {
        Ok(Cow::Borrowed(_)) => spaced,
        Ok(Cow::Owned(decoded)) => decoded,
        // No key of this program; returned unchanged.
        Err(_) => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_key_decodes_to_the_original() {
        let table = [
            (
                "a/date%3D2018-06-28/x+y%2Bz%01",
                true,
                "a/date=2018-06-28/x y+z\u{1}",
            ),
            ("a+b%20c", false, "a+b%20c"),
            ("%ff", true, "%ff"),
            ("plain", true, "plain"),
        ];
        for (key, encoded, wanted) in table {
            assert_eq!(decode_key(key.to_owned(), encoded), wanted);
        }
    }
}
