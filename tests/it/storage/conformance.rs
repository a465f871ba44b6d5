//! Promises of every store. Each function is one promise and uses keys below its own name, so that they may share a
//! store.

use bytes::Bytes;
use eventexport::storage::{
    Crc64, ObjectClass, PutMode, PutOptions, Segments, Store, StoreError, Upload, probe,
};
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};

/// Minimum size of a part in S3, except the last.
const PART: usize = 5 << 20;

/// Returns unique bytes from a seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect::<Vec<u8>>().into()
}

/// Splits bytes into three segments, one of them empty.
pub(super) fn segments(bytes: &Bytes) -> Segments {
    let cut = bytes.len() / 3;
    let mut segments = Segments::from(bytes.slice(..cut));
    segments.push(Bytes::new());
    segments.push(bytes.slice(cut..));
    segments
}

pub(super) fn options(mode: PutMode, body: &Bytes) -> PutOptions {
    PutOptions {
        mode,
        crc64: Crc64::of(body),
        metadata: Vec::new(),
        content_type: "application/octet-stream",
        class: ObjectClass::Journal,
    }
}

pub(crate) async fn put(store: &dyn Store, key: &str, mode: PutMode, body: &Bytes) -> Result<(), StoreError> {
    let options = options(mode, body);
    store.put(key, segments(body), &options).await.map(drop)
}

async fn read(store: &dyn Store, key: &str) -> Option<Bytes> {
    store.get(key, 1 << 30).await.unwrap()
}

/// Sends a body in parts of [`PART`] bytes, concurrently and the last first.
async fn upload(store: &dyn Store, upload: &Upload, body: &Bytes) -> Vec<eventexport::storage::UploadedPart> {
    let cuts: Vec<Bytes> = (0..body.len())
        .step_by(PART)
        .map(|begin| body.slice(begin..body.len().min(begin + PART)))
        .collect();
    let mut sent: Vec<_> = (1u16..)
        .zip(&cuts)
        .map(|(number, cut)| async move {
            let crc64 = Crc64::of(cut);
            store
                .upload_part(upload, number, segments(cut), crc64)
                .await
                .unwrap()
        })
        .collect();
    sent.reverse();
    let mut parts = join_all(sent).await;
    parts.sort_by_key(|part| part.number);
    parts
}

pub(super) async fn an_object_is_read_back_as_it_was_stored(store: &dyn Store) {
    for (name, body) in [
        ("round/empty", Bytes::new()),
        ("round/small", bytes(1, 1000)),
        ("round/large", bytes(2, 3 << 20)),
    ] {
        let before = store.now().await.unwrap();
        let options = PutOptions {
            metadata: vec![
                ("window".into(), "2018-06-28T07".into()),
                ("sha256".into(), "00ff".into()),
            ],
            ..options(PutMode::Create, &body)
        };
        let stored = store.put(name, segments(&body), &options).await.unwrap();
        assert_eq!(read(store, name).await.as_ref(), Some(&body), "{name}");
        let facts = store.head(name).await.unwrap().expect("it is there");
        assert_eq!(facts.size, body.len() as u64, "{name}");
        assert_eq!(facts.crc64, Some(Crc64::of(&body)), "{name}");
        assert_eq!(facts.etag, stored.etag, "{name}");
        let metadata = [("sha256", "00ff"), ("window", "2018-06-28T07")];
        assert_eq!(
            facts.metadata,
            metadata.map(|(name, value)| (name.to_owned(), value.to_owned())),
            "{name}"
        );
        let age = facts.last_modified.unwrap().duration_since(before).as_secs();
        assert!(
            (-2..30).contains(&age),
            "{name}: stored {age} s after we asked for the time"
        );
    }
    assert_eq!(read(store, "round/none").await, None);
    assert_eq!(store.head("round/none").await.unwrap(), None);
    assert_eq!(read(store, "round").await, None, "a folder is no object");
    assert_eq!(store.head("round").await.unwrap(), None);
}

pub(super) async fn a_key_is_created_once(store: &dyn Store) {
    let key = "once/date=2018-06-28/events.json.gz";
    let (first, second) = (bytes(1, 500), bytes(2, 500));
    put(store, key, PutMode::Create, &first).await.unwrap();
    for body in [&first, &second] {
        let refused = put(store, key, PutMode::Create, body).await.unwrap_err();
        assert!(matches!(refused, StoreError::AlreadyExists { .. }), "{refused:?}");
    }
    assert_eq!(read(store, key).await, Some(first));
    put(store, key, PutMode::Overwrite, &second).await.unwrap();
    assert_eq!(read(store, key).await.as_ref(), Some(&second));
    assert_eq!(
        store.head(key).await.unwrap().unwrap().crc64,
        Some(Crc64::of(&second))
    );
}

pub(super) async fn of_many_who_create_a_key_one_succeeds(store: &dyn Store) {
    let bodies: Vec<Bytes> = (0..8).map(|seed| bytes(seed, 2000)).collect();
    let outcomes = join_all(
        bodies
            .iter()
            .map(|body| put(store, "race/key", PutMode::Create, body)),
    )
    .await;
    let winners: Vec<usize> = (0..8).filter(|index| outcomes[*index].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(read(store, "race/key").await.as_ref(), Some(&bodies[winners[0]]));
    for refused in outcomes.into_iter().filter_map(Result::err) {
        let taken = matches!(
            refused,
            StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }
        );
        assert!(taken, "{refused:?}");
    }
}

pub(super) async fn bytes_that_changed_on_the_way_are_refused(store: &dyn Store) {
    let (body, other) = (bytes(1, 1000), bytes(2, 1000));
    let wrong = options(PutMode::Create, &other);
    let refused = store.put("wrong/put", segments(&body), &wrong).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupted { .. }), "{refused:?}");
    assert_eq!(read(store, "wrong/put").await, None);

    let begun = store.begin_upload("wrong/upload", &wrong).await.unwrap();
    let part = store
        .upload_part(&begun, 1, segments(&body), Crc64::of(&other))
        .await;
    assert!(matches!(part, Err(StoreError::Corrupted { .. })), "{part:?}");
    let parts = upload(store, &begun, &body).await;
    let refused = store.complete_upload(&begun, &parts, &wrong).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupted { .. }), "{refused:?}");
    assert_eq!(read(store, "wrong/upload").await, None);
    store.abort_upload(&begun).await.unwrap();
}

pub(super) async fn an_upload_is_all_or_nothing(store: &dyn Store) {
    let key = "parts/date=2018-06-28/events.json.gz";
    let body = bytes(3, 2 * PART + 12345);
    let options = PutOptions {
        metadata: vec![("attempt".into(), "1".into())],
        ..options(PutMode::Create, &body)
    };
    let begun = store.begin_upload(key, &options).await.unwrap();
    let parts = upload(store, &begun, &body).await;
    assert_eq!(
        store.head(key).await.unwrap(),
        None,
        "not there before it is whole"
    );
    assert!(store.list("parts/").await.unwrap().is_empty());
    store.complete_upload(&begun, &parts, &options).await.unwrap();
    assert_eq!(read(store, key).await.as_ref(), Some(&body));
    let facts = store.head(key).await.unwrap().unwrap();
    assert_eq!(
        (facts.size, facts.crc64),
        (body.len() as u64, Some(Crc64::of(&body)))
    );
    assert_eq!(facts.metadata, options.metadata);
    assert!(
        store.list_uploads("parts/").await.unwrap().is_empty(),
        "a completed upload is gone"
    );
    // A client that lost the reply retries. Stores report that the upload is gone, or success.
    let again = store.complete_upload(&begun, &parts, &options).await;
    let sensible = matches!(
        again,
        Ok(_) | Err(StoreError::NoSuchUpload { .. } | StoreError::AlreadyExists { .. })
    );
    assert!(sensible, "{again:?}");
    assert_eq!(read(store, key).await, Some(body));
}

pub(super) async fn an_upload_creates_a_key_once(store: &dyn Store) {
    let key = "parts-once/key";
    let (first, second) = (bytes(1, 900), bytes(2, 900));
    put(store, key, PutMode::Create, &first).await.unwrap();
    let once = options(PutMode::Create, &second);
    let begun = store.begin_upload(key, &once).await.unwrap();
    let parts = upload(store, &begun, &second).await;
    let refused = store.complete_upload(&begun, &parts, &once).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { .. }), "{refused:?}");
    assert_eq!(read(store, key).await, Some(first));
    let over = options(PutMode::Overwrite, &second);
    store.complete_upload(&begun, &parts, &over).await.unwrap();
    assert_eq!(read(store, key).await, Some(second));
}

pub(super) async fn an_aborted_upload_is_gone(store: &dyn Store) {
    let body = bytes(1, 900);
    let once = options(PutMode::Create, &body);
    let begun = store.begin_upload("abort/key", &once).await.unwrap();
    let parts = upload(store, &begun, &body).await;
    store.abort_upload(&begun).await.unwrap();
    assert!(store.list_uploads("abort/").await.unwrap().is_empty());
    let late = store
        .upload_part(&begun, 2, segments(&body), once.crc64)
        .await
        .unwrap_err();
    assert!(matches!(late, StoreError::NoSuchUpload { .. }), "{late:?}");
    let late = store.complete_upload(&begun, &parts, &once).await.unwrap_err();
    assert!(matches!(late, StoreError::NoSuchUpload { .. }), "{late:?}");
    store.abort_upload(&begun).await.expect("gone is done");
    assert_eq!(read(store, "abort/key").await, None);
}

pub(super) async fn uploads_left_behind_are_found(store: &dyn Store) {
    let once = options(PutMode::Create, &Bytes::new());
    let before = store.now().await.unwrap();
    let mut begun = Vec::new();
    for key in ["sweep/a b+c=1", "sweep/a b+c=1", "sweep/two", "sweeper/other"] {
        begun.push(store.begin_upload(key, &once).await.unwrap());
    }
    let found = store.list_uploads("sweep/").await.unwrap();
    let mut keys: Vec<&str> = found.iter().map(|open| open.upload.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["sweep/a b+c=1", "sweep/a b+c=1", "sweep/two"]);
    for open in &found {
        let age = open.initiated.unwrap().duration_since(before).as_secs();
        assert!(
            (-2..30).contains(&age),
            "begun {age} s after we asked for the time"
        );
        store.abort_upload(&open.upload).await.unwrap();
    }
    assert!(store.list_uploads("sweep/").await.unwrap().is_empty());
    store.abort_upload(&begun[3]).await.unwrap();
}

pub(super) async fn a_listing_shows_every_key(store: &dyn Store) {
    let body = Bytes::from_static(b"{}");
    let mut keys: Vec<String> = (0..1100)
        .map(|number| format!("list/_journal/{number:05}.json"))
        .collect();
    keys.extend(
        [
            "list/date=2018-06-28/x",
            "list/a b",
            "list/a+b",
            "list/a%20b",
            "list/ü&<>'\"",
            "lister",
        ]
        .map(String::from),
    );
    let stored = stream::iter(&keys)
        .map(|key| put(store, key, PutMode::Create, &body))
        .buffer_unordered(32);
    let failed: Vec<_> = stored.filter_map(async |outcome| outcome.err()).collect().await;
    assert!(failed.is_empty(), "{failed:?}");

    keys.sort_unstable();
    let below = |prefix: &str| -> Vec<String> {
        keys.iter()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    };
    for prefix in [
        "list/",
        "list",
        "list/a",
        "list/_journal/0109",
        "list/date=2018-06-28/",
        "list/none/",
        "list/a b",
    ] {
        let listed = store.list(prefix).await.unwrap();
        let found: Vec<String> = listed.iter().map(|row| row.key.clone()).collect();
        assert_eq!(found, below(prefix), "{prefix}");
        assert!(
            listed
                .iter()
                .all(|row| row.size == 2 && row.last_modified.is_some())
        );
    }

    let mut doomed = below("list/");
    doomed.push("list/never/there".into());
    let kept = store.delete(&doomed).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(store.list("list").await.unwrap().len(), 1);
    assert!(store.delete(&[]).await.unwrap().is_empty());
}

pub(super) async fn no_more_is_read_than_asked_for(store: &dyn Store) {
    let body = bytes(1, 1000);
    put(store, "limit/key", PutMode::Create, &body).await.unwrap();
    assert_eq!(store.get("limit/key", 1000).await.unwrap(), Some(body));
    let refused = store.get("limit/key", 999).await.unwrap_err();
    assert!(matches!(refused, StoreError::LimitExceeded { .. }), "{refused:?}");
}

pub(super) async fn conditional_writes_are_found_to_work(store: &dyn Store) {
    let body = bytes(1, 700);
    let once = options(PutMode::Create, &body);
    store.put("probe/key", segments(&body), &once).await.unwrap();
    let before = store.head("probe/key").await.unwrap();
    let support = probe(store, "probe/key", segments(&body), &once).await.unwrap();
    assert!(support.put && support.complete, "{support:?}");
    assert_eq!(store.head("probe/key").await.unwrap(), before, "nothing changed");
    assert!(store.list_uploads("probe/").await.unwrap().is_empty());
}

/// Without CRC-64 the store can compare only the bytes.
pub(super) async fn a_key_is_created_once_by_any_checksum(store: &dyn Store) {
    // A store that refuses a larger one before it has read it may reset the connection before its reply is read.
    let body = bytes(4, 1 << 16);
    put(store, "any/key", PutMode::Create, &body).await.unwrap();
    let refused = put(store, "any/key", PutMode::Create, &body).await.unwrap_err();
    assert!(matches!(refused, StoreError::AlreadyExists { .. }), "{refused:?}");
    assert_eq!(read(store, "any/key").await, Some(body));
}

pub(super) async fn an_upload_is_whole_by_any_checksum(store: &dyn Store) {
    let body = bytes(5, PART + 777);
    let once = options(PutMode::Create, &body);
    let begun = store.begin_upload("any/parts", &once).await.unwrap();
    let parts = upload(store, &begun, &body).await;
    store.complete_upload(&begun, &parts, &once).await.unwrap();
    assert_eq!(read(store, "any/parts").await, Some(body));
}
