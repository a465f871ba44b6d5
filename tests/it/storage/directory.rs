//! Errors that only a directory can have.

use std::fs;

use bytes::Bytes;
use eventexport::storage::{Crc64, DirectoryStore, PutMode, PutOptions, Store as _, StoreError};
use tempfile::TempDir;

use super::conformance::{bytes, options, put, segments};

pub(super) fn open() -> (DirectoryStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // Opening creates it with its parents.
    let store = DirectoryStore::open(folder.path().join("a/b")).unwrap();
    (store, folder)
}

#[tokio::test]
async fn no_key_escapes_the_directory() {
    let (store, folder) = open();
    let body = bytes(1, 10);
    let long = "x".repeat(2000);
    for key in [
        "",
        "/etc/x",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        ".eventexport-tmp/put/x",
        &long,
    ] {
        let refused = put(&store, key, PutMode::Overwrite, &body).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::InvalidKey { .. }),
            "{key:?}: {refused:?}"
        );
        assert!(store.get(key, 10).await.is_err(), "{key:?}");
        let upload = store.begin_upload(key, &options(PutMode::Overwrite, &body)).await;
        assert!(matches!(upload, Err(StoreError::InvalidKey { .. })), "{key:?}");
    }
    assert!(!folder.path().join("a/x").exists());
    put(&store, "file", PutMode::Create, &body).await.unwrap();
    for key in ["file/below", &"y".repeat(300)] {
        let refused = put(&store, key, PutMode::Create, &body).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::InvalidKey { .. }),
            "{key}: {refused:?}"
        );
    }
    put(&store, "folder/file", PutMode::Create, &body).await.unwrap();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let refused = put(&store, "folder", mode, &body).await.unwrap_err();
        assert!(matches!(refused, StoreError::InvalidKey { .. }), "{refused:?}");
    }
    let left = fs::read_dir(store.path().join(".eventexport-tmp/put"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "refused writes leave nothing behind");
}

#[tokio::test]
async fn objects_are_plain_files() {
    let (store, _folder) = open();
    let body = bytes(1, 1000);
    put(&store, "date=2018-06-28/events.json.gz", PutMode::Create, &body)
        .await
        .unwrap();
    let path = store.path().join("date=2018-06-28/events.json.gz");
    assert_eq!(fs::read(path).unwrap(), body);
}

#[tokio::test]
async fn a_vanished_directory_is_reported_and_not_recreated() {
    let (store, _folder) = open();
    let body = bytes(1, 10);
    put(&store, "a/key", PutMode::Create, &body).await.unwrap();
    let once = options(PutMode::Create, &body);
    let upload = store.begin_upload("up", &once).await.unwrap();
    fs::remove_dir_all(store.path()).unwrap();
    let errors = [
        put(&store, "a/other", PutMode::Create, &body).await.unwrap_err(),
        store.get("a/key", 10).await.unwrap_err(),
        store.head("a/key").await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.delete(&["a/key".into()]).await.unwrap_err(),
        store.begin_upload("b", &once).await.unwrap_err(),
        store
            .upload_part(&upload, 1, segments(&body), once.crc64)
            .await
            .unwrap_err(),
        store.complete_upload(&upload, &[], &once).await.unwrap_err(),
        store.abort_upload(&upload).await.unwrap_err(),
        store.list_uploads("").await.unwrap_err(),
        store.now().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::NoSuchBucket { .. }), "{error:?}");
    }
    assert!(!store.path().exists());
}

#[tokio::test]
async fn another_process_completes_an_upload_and_proves_its_bytes() {
    let (store, _folder) = open();
    let pieces: Vec<Bytes> = [(1, 9000), (2, 9000), (3, 100)]
        .map(|(seed, size)| bytes(seed, size))
        .into();
    let whole = Bytes::from(pieces.concat());
    let once = PutOptions {
        metadata: vec![("attempt".into(), "1".into())],
        ..options(PutMode::Create, &whole)
    };
    // The third part comes before the first, and the second from the other process.
    let upload = store.begin_upload("key", &once).await.unwrap();
    let other = DirectoryStore::open(store.path()).unwrap();
    let mut parts = Vec::new();
    for (number, from) in [(3u16, &store), (1, &store), (2, &other)] {
        let piece = &pieces[usize::from(number) - 1];
        parts.push(
            from.upload_part(&upload, number, segments(piece), Crc64::of(piece))
                .await
                .unwrap(),
        );
    }
    parts.sort_by_key(|part| part.number);

    // A part that changed on the disk is detected.
    let data = store
        .path()
        .join(".eventexport-tmp/uploads")
        .join(&upload.id)
        .join("data");
    let good = fs::read(&data).unwrap();
    fs::write(&data, vec![0; good.len()]).unwrap();
    let refused = other.complete_upload(&upload, &parts, &once).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupted { .. }), "{refused:?}");
    fs::write(&data, good).unwrap();

    other.complete_upload(&upload, &parts, &once).await.unwrap();
    assert_eq!(store.get("key", 1 << 20).await.unwrap(), Some(whole));
    assert_eq!(store.head("key").await.unwrap().unwrap().metadata, once.metadata);
    assert!(store.list_uploads("").await.unwrap().is_empty());
}

#[tokio::test]
async fn cached_checksums_survive_a_copy_and_never_match_other_bytes() {
    let (store, _folder) = open();
    let body = bytes(1, 1000);
    let facts = PutOptions {
        metadata: vec![("window".into(), "2018-06-28".into())],
        ..options(PutMode::Create, &body)
    };
    store.put("key", segments(&body), &facts).await.unwrap();
    let path = store.path().join("key");
    let rewrite = |bytes: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    // As a copy without times does.
    rewrite(&body);
    let head = store.head("key").await.unwrap().unwrap();
    assert_eq!(
        (head.crc64, head.metadata),
        (Some(facts.crc64), facts.metadata.clone())
    );
    // Same size, different bytes: the cached checksum is not trusted.
    let other = bytes(2, 1000);
    rewrite(&other);
    let head = store.head("key").await.unwrap().unwrap();
    assert_eq!((head.crc64, head.metadata), (Some(Crc64::of(&other)), Vec::new()));
    // Nor after the key was deleted and created again.
    store.delete(&["key".into()]).await.unwrap();
    put(&store, "key", PutMode::Create, &body).await.unwrap();
    assert_eq!(store.head("key").await.unwrap().unwrap().metadata, Vec::new());
}

#[test]
fn a_file_instead_of_the_directory_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    let below = file.join("below");
    for (path, refused) in [
        (&file, DirectoryStore::open(&file)),
        (&below, DirectoryStore::open(&below)),
        (&file, DirectoryStore::open_read_only(&file)),
    ] {
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, StoreError::InvalidSettings { .. }),
            "{refused:?}"
        );
        assert!(
            refused.to_string().contains(&path.display().to_string()),
            "{refused}"
        );
    }
}
