//! Peculiarities of stores that users report, imitated by the fake of `tests/testkit`: each is overcome or named.

use eventexport::api::SettingNames;
use eventexport::storage::{
    CannedAcl, ChecksumMode, ConditionalSupport, Crc64, ObjectClass, ObjectLockMode, ObjectRetention,
    PutMode, S3Settings, S3Store, Store, StoreError, StoreErrorClass, probe,
};

use super::conformance::{bytes, options, put, segments};
use crate::testkit::bucket::s3_settings;
use crate::testkit::quirky_s3::QuirkyS3;

pub(crate) fn settings(fake: &QuirkyS3) -> S3Settings {
    s3_settings(&fake.endpoint(), "audit", ("AKID", "the-secret"))
}

/// Starts a store with these quirks.
pub(crate) async fn start(quirks: &[&str]) -> QuirkyS3 {
    let quirks = quirks.iter().map(|quirk| quirk.parse().unwrap()).collect();
    QuirkyS3::start(0, quirks).await.unwrap()
}

/// Opens a store with these quirks.
pub(super) async fn open(quirks: &[&str]) -> (S3Store, QuirkyS3) {
    let fake = start(quirks).await;
    (S3Store::connect(settings(&fake)).unwrap(), fake)
}

async fn create(store: &S3Store, key: &str) -> Result<(), StoreError> {
    put(store, key, PutMode::Create, &bytes(1, 100)).await
}

/// Uploads one part and completes.
async fn upload(store: &S3Store, key: &str, class: ObjectClass) -> Result<(), StoreError> {
    let body = bytes(2, 1000);
    let options = eventexport::storage::PutOptions {
        class,
        ..options(PutMode::Create, &body)
    };
    let upload = store.begin_upload(key, &options).await?;
    let part = store
        .upload_part(&upload, 1, segments(&body), Crc64::of(&body))
        .await?;
    store.complete_upload(&upload, &[part], &options).await.map(drop)
}

/// Sends each kind of request that a read or write needs, and returns the errors.
async fn errors(store: &S3Store) -> Vec<StoreError> {
    let keys = ["k".to_owned()];
    let kept = store.delete(&keys).await;
    let kept = kept.map(|kept| kept.into_iter().map(|(_, error)| error).next());
    [
        create(store, "k").await.err(),
        upload(store, "u", ObjectClass::Events).await.err(),
        store.get("k", 1000).await.err(),
        store.head("k").await.err(),
        store.list("").await.err(),
        store.list_uploads("").await.err(),
        kept.unwrap_or_else(Some),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test]
async fn a_contradictory_listing_is_refused_after_a_few_requests() {
    for quirk in [
        "truncated-without-token",
        "repeated-token",
        "circular-tokens",
        "endless-pages",
    ] {
        let (store, fake) = open(&[quirk]).await;
        create(&store, "a/k").await.unwrap();
        fake.requests();
        let error = store.list("a/").await.unwrap_err();
        assert!(matches!(error, StoreError::IncompleteListing { .. }), "{error:?}");
        assert_eq!(error.class(), StoreErrorClass::Retry(None));
        let requests = fake.requests();
        assert!(requests.len() <= 7, "{quirk}: {requests:#?}");
    }
}

#[tokio::test]
async fn a_document_that_ends_early_is_no_shorter_listing() {
    let (store, fake) = open(&["cut-documents"]).await;
    create(&store, "a/k").await.unwrap();
    fake.requests();
    let list = store.list("a/").await.map(drop);
    let listed = fake.requests().len();
    let uploads = store.list_uploads("a/").await.map(drop);
    for error in [list, uploads].map(Result::unwrap_err) {
        assert!(
            matches!(&error, StoreError::Network { message, .. } if message.contains("ends before its XML document")),
            "{error:?}"
        );
        assert_eq!(error.class(), StoreErrorClass::Retry(None));
    }
    assert_eq!(listed, 5, "the page is requested again");
}

#[tokio::test]
async fn a_listing_without_keys_may_be_answered_with_404() {
    let (store, _fake) = open(&["empty-list-404"]).await;
    assert!(store.list("none/").await.unwrap().is_empty());
    create(&store, "some/k").await.unwrap();
    assert_eq!(store.list("some/").await.unwrap().len(), 1);
}

#[tokio::test]
async fn where_delete_objects_is_refused_keys_are_deleted_one_by_one() {
    for quirk in [
        "batch-delete-refused",
        "batch-delete-refused=501:NotImplemented",
        "batch-delete-refused=405:MethodNotAllowed",
        "batch-delete-refused=400:InvalidRequest:Missing required header for this request: Content-MD5",
    ] {
        let (store, fake) = open(&[quirk]).await;
        let keys: Vec<String> = (0..5).map(|number| format!("k{number}")).collect();
        for key in &keys {
            create(&store, key).await.unwrap();
        }
        let kept = store.delete(&keys[..3]).await.unwrap();
        assert!(kept.is_empty(), "{quirk}: {kept:?}");
        fake.requests();
        let kept = store.delete(&keys[3..]).await.unwrap();
        assert!(kept.is_empty(), "{quirk}: {kept:?}");
        let requests = fake.requests();
        assert!(
            requests.len() == 2 && requests.iter().all(|request| request.starts_with("DELETE")),
            "{quirk} is remembered: {requests:?}"
        );
        assert!(store.list("").await.unwrap().is_empty(), "{quirk}");
    }
}

#[tokio::test]
async fn each_refusal_of_a_delete_is_recognized_and_not_repeated() {
    for refusal in [
        "451:UnavailableForLegalReasons",
        "405:MethodNotAllowed",
        "403:ObjectLocked",
        "403:AccessDenied",
        "400:InvalidRequest",
        "409:OperationAborted",
        "412:PreconditionFailed",
    ] {
        let deletes = format!("delete-refused={refusal}:under retention");
        for quirks in [
            &[deletes.as_str()][..],
            &[&deletes, "batch-delete-refused=501:NotImplemented"],
        ] {
            let (store, fake) = open(quirks).await;
            create(&store, "k").await.unwrap();
            fake.requests();
            let kept = store.delete(&["k".into()]).await.unwrap();
            assert_eq!(kept.len(), 1, "{quirks:?}");
            let (key, error) = &kept[0];
            assert_eq!(key, "k");
            assert!(error.refuses_deletion(), "{quirks:?}: {error:?}");
            assert!(fake.requests().len() <= quirks.len(), "{quirks:?}");
        }
    }
    let (store, _fake) = open(&["delete-refused=503:SlowDown"]).await;
    create(&store, "k").await.unwrap();
    let kept = store.delete(&["k".into()]).await.unwrap();
    assert!(!kept[0].1.refuses_deletion(), "a busy store refuses nothing");
}

#[tokio::test]
async fn a_store_without_crc64_gets_bodies_signed_by_sha256() {
    for quirk in [
        "no-crc64nvme",
        "no-crc64nvme=400:InvalidArgument:Unsupported header 'x-amz-checksum-crc64nvme' received for this API call.",
        "no-crc64nvme=501:NotImplemented:Header 'x-amz-checksum-algorithm' with value 'CRC64NVME' not implemented",
        "no-crc64nvme=501:NotImplemented:A header you provided implies functionality that is not implemented",
    ] {
        let (store, fake) = open(&[quirk]).await;
        create(&store, "k").await.unwrap();
        fake.requests();
        create(&store, "l").await.unwrap();
        assert_eq!(fake.requests().len(), 1, "{quirk} is remembered");
        upload(&store, "u", ObjectClass::Events).await.unwrap();
        let exists = create(&store, "k").await.unwrap_err();
        assert!(matches!(exists, StoreError::AlreadyExists { .. }), "{exists:?}");
        // Its first request may be that of an upload, or of a key that exists.
        let store = S3Store::connect(settings(&fake)).unwrap();
        upload(&store, "v", ObjectClass::Events).await.unwrap();
        let store = S3Store::connect(settings(&fake)).unwrap();
        let exists = create(&store, "k").await.unwrap_err();
        assert!(matches!(exists, StoreError::AlreadyExists { .. }), "{exists:?}");
    }
}

#[tokio::test]
async fn a_store_that_requires_content_md5_gets_it() {
    let (store, fake) = open(&["content-md5-required"]).await;
    create(&store, "k").await.unwrap();
    fake.requests();
    upload(&store, "u", ObjectClass::Events).await.unwrap();
    assert_eq!(fake.requests().len(), 3, "the need is remembered");
    // With object lock, S3 requires it of a body without another checksum.
    let locked = S3Settings {
        checksum: ChecksumMode::None,
        object_lock: Some(ObjectRetention {
            mode: ObjectLockMode::Governance,
            retain_days: 1,
        }),
        ..settings(&fake)
    };
    let store = S3Store::connect(locked).unwrap();
    store.now().await.unwrap();
    fake.requests();
    upload(&store, "v", ObjectClass::Events).await.unwrap();
    let requests = fake.requests();
    assert!(
        requests.iter().all(|request| !request.ends_with(" 400")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_store_that_cannot_list_uploads_can_be_used() {
    let (store, _fake) = open(&["no-list-uploads"]).await;
    assert!(store.list_uploads("").await.unwrap().is_empty());
    let body = bytes(1, 100);
    put(&store, "k", PutMode::Overwrite, &body).await.unwrap();
    let support = probe(&store, "k", segments(&body), &options(PutMode::Overwrite, &body)).await;
    let both = ConditionalSupport {
        put: true,
        complete: true,
    };
    assert_eq!(support.unwrap(), both);
}

#[tokio::test]
async fn a_refusal_is_quoted() {
    let (store, _fake) = open(&["write-refused=403:AccessDenied:the bucket is frozen by legal"]).await;
    let error = create(&store, "k").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("s3:PutObject (AccessDenied: the bucket is frozen by legal)"),
        "{error}"
    );
    let (store, _fake) = open(&["write-refused"]).await;
    let error = create(&store, "k").await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Full { message, .. } if message.contains("storage cap exceeded")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_web_page_is_no_reply_of_a_store() {
    let (store, fake) = open(&["html"]).await;
    let errors = errors(&store).await;
    assert_eq!(errors.len(), 7, "{errors:?}");
    for error in errors {
        assert!(error.to_string().contains("web page"), "{error}");
        assert_eq!(error.class(), StoreErrorClass::ActionRequired);
    }
    assert!(fake.requests().len() <= 9);
}

#[tokio::test]
async fn unusual_forms_of_replies_are_read() {
    for quirk in ["iso-last-modified", "blanks-before-xml"] {
        let (store, _fake) = open(&[quirk]).await;
        create(&store, "k").await.unwrap();
        upload(&store, "u", ObjectClass::Events).await.unwrap();
        let info = store.head("k").await.unwrap().unwrap();
        let age = jiff::Timestamp::now().duration_since(info.last_modified.unwrap());
        assert!(age.as_secs().abs() < 60, "{quirk}: {age:?}");
        assert_eq!(store.get("k", 1000).await.unwrap(), Some(bytes(1, 100)));
        assert_eq!(store.list("").await.unwrap().len(), 2, "{quirk}");
        assert!(store.list_uploads("").await.unwrap().is_empty());
        assert!(store.delete(&["k".into(), "u".into()]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_redirect_names_the_endpoint_and_the_setting() {
    let (store, _fake) = open(&["redirect=s3.eu-west-9.example"]).await;
    let error = store.list("").await.unwrap_err();
    let text = error.describe(&SettingNames::default());
    assert!(
        text.contains("s3.eu-west-9.example") && text.contains("spec.destination.s3.endpoint"),
        "{text}"
    );
}

#[tokio::test]
async fn what_a_reply_lacks_is_named() {
    let (store, _fake) = open(&["no-date"]).await;
    create(&store, "k").await.unwrap();
    let error = store.now().await.unwrap_err();
    assert!(error.to_string().contains("without a Date header"), "{error}");
    assert_eq!(error.class(), StoreErrorClass::ActionRequired);
    let (store, _fake) = open(&["no-part-etag"]).await;
    let error = upload(&store, "u", ObjectClass::Events).await.unwrap_err();
    assert!(error.to_string().contains("a part without an ETag"), "{error}");
    assert_eq!(error.class(), StoreErrorClass::ActionRequired);
}

#[tokio::test]
async fn the_acl_is_sent_with_each_object_and_the_payer_with_each_request() {
    let (store, fake) = open(&["acl-required"]).await;
    assert!(matches!(
        create(&store, "k").await,
        Err(StoreError::Forbidden { .. })
    ));
    let store = S3Store::connect(S3Settings {
        acl: Some(CannedAcl::BucketOwnerFullControl),
        ..settings(&fake)
    });
    assert_eq!(errors(&store.unwrap()).await.len(), 0);

    let (store, fake) = open(&["requester-pays"]).await;
    assert_eq!(errors(&store).await.len(), 7);
    let store = S3Store::connect(S3Settings {
        requester_pays: true,
        ..settings(&fake)
    });
    let store = store.unwrap();
    let errors = errors(&store).await;
    assert_eq!(errors.len(), 0, "{errors:?}");
    assert!(store.get_range("u", 0, 10, None).await.unwrap().is_some());
    let upload = store
        .begin_upload("w", &options(PutMode::Create, &bytes(1, 1)))
        .await
        .unwrap();
    store.abort_upload(&upload).await.unwrap();
}

#[test]
fn each_quirk_of_the_help_can_be_used() {
    for (name, _) in crate::testkit::quirky_s3::QUIRKS {
        let name = name.split('[').next().unwrap();
        let example = name.replace("DURATION", "1s").replace("ENDPOINT", "s3.example");
        assert!(
            example.parse::<crate::testkit::quirky_s3::Quirk>().is_ok(),
            "{example}"
        );
    }
    assert!(
        "list-lag=soon"
            .parse::<crate::testkit::quirky_s3::Quirk>()
            .is_err()
    );
    assert!("no-date=1".parse::<crate::testkit::quirky_s3::Quirk>().is_err());
}
