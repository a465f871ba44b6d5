//! Replies that our gateway never sends: each test scripts the replies and checks the requests.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use eventexport::api::SettingNames;
use eventexport::storage::{
    Crc64, ObjectClass, ObjectLockMode, ObjectRetention, PutMode, PutOptions, S3Credentials, S3Settings,
    S3Store, Sse, SseAlgorithm, Store as _, StoreError, StoreErrorClass, Upload, UploadedPart,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::conformance::{bytes, options, segments};
use crate::testkit::bucket::s3_settings;

/// Recorded request.
#[derive(Debug)]
struct S3Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Reply: status, one extra header, body.
type S3Reply = (u16, Option<(&'static str, &'static str)>, &'static str);

#[derive(Default)]
struct ReplyScript {
    replies: Mutex<VecDeque<S3Reply>>,
    requests: Mutex<Vec<S3Request>>,
}

struct ScriptedStore {
    store: S3Store,
    script: Arc<ReplyScript>,
    server: JoinHandle<()>,
}

impl Drop for ScriptedStore {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedStore {
    async fn start(replies: &[S3Reply], change: impl FnOnce(&mut S3Settings)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(ReplyScript::default());
        script.replies.lock().unwrap().extend(replies);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        let mut settings = s3_settings(&endpoint, "audit", ("AKID", "the-secret"));
        settings.credentials = S3Credentials::Static {
            access_key_id: "AKID".into(),
            secret_access_key: "the-secret".to_owned().into(),
            session_token: Some("the-token".to_owned().into()),
        };
        change(&mut settings);
        let store = S3Store::connect(settings).unwrap();
        Self {
            store,
            script,
            server,
        }
    }

    fn requests(&self) -> Vec<S3Request> {
        std::mem::take(&mut *self.script.requests.lock().unwrap())
    }

    async fn put(&self) -> Result<(), StoreError> {
        let body = bytes(1, 1000);
        let once = options(PutMode::Create, &body);
        self.store.put("key", segments(&body), &once).await.map(drop)
    }

    async fn complete(&self) -> Result<(), StoreError> {
        let body = bytes(1, 1000);
        let once = options(PutMode::Create, &body);
        let upload = Upload {
            key: "key".into(),
            id: "u1".into(),
            retried: false,
        };
        let part = UploadedPart {
            number: 1,
            etag: "\"e\"".into(),
            crc64: once.crc64,
            crc32c: None,
            size: 1000,
        };
        self.store
            .complete_upload(&upload, &[part], &once)
            .await
            .map(drop)
    }
}

async fn answer(State(script): State<Arc<ReplyScript>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 64 << 20).await.unwrap();
    script.requests.lock().unwrap().push(S3Request {
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body,
    });
    let Some((status, header, body)) = script.replies.lock().unwrap().pop_front() else {
        // After the script: a reply that never comes.
        return std::future::pending().await;
    };
    let body = body.replace("@SUM@", crc64_header());
    let mut reply = (StatusCode::from_u16(status).unwrap(), body).into_response();
    if let Some((name, value)) = header {
        reply.headers_mut().insert(name, value.parse().unwrap());
    }
    reply
}

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>";
const INTERNAL: &str = "<Error><Code>InternalError</Code><Message>We failed</Message></Error>";
/// Completion of the upload of [`ScriptedStore::complete`].
const COMPLETED: &str = "<CompleteMultipartUploadResult><ETag>\"e\"</ETag>\
    <ChecksumCRC64NVME>@SUM@</ChecksumCRC64NVME></CompleteMultipartUploadResult>";
const OK: S3Reply = (200, Some(("etag", "\"e\"")), "");

#[tokio::test]
async fn slow_down_is_retried_after_the_requested_delay() {
    let replies = [
        (503, Some(("retry-after", "1")), SLOW_DOWN),
        (500, None, INTERNAL),
        OK,
    ];
    let scripted = ScriptedStore::start(&replies, |_| {}).await;
    let begun = Instant::now();
    scripted.put().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let seen = scripted.requests();
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter().all(|request| request.body == bytes(1, 1000)),
        "the body is sent whole each time"
    );
}

#[tokio::test]
async fn a_refused_request_is_not_retried() {
    let denied = "<Error><Code>AccessDenied</Code><Message>AKID with the-token may not</Message></Error>";
    let strange = "<Error><Code>InvalidRequest</Code><Message>AKID, the-token, the-secret</Message></Error>";
    for reply in [(403, None, denied), (400, None, strange), (412, None, "")] {
        let scripted = ScriptedStore::start(&[reply], |_| {}).await;
        let text = scripted.put().await.unwrap_err().to_string();
        assert_eq!(scripted.requests().len(), 1, "{text}");
        for secret in ["AKID", "the-token", "the-secret"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn every_s3_completion_failure_is_recognized() {
    let gone = "<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>";
    let conflict = "<Error><Code>ConditionalRequestConflict</Code><Message>both</Message></Error>";
    let exists = "<Error><Code>PreconditionFailed</Code><Message>there</Message></Error>";
    let unknown = "<Error><Code>NotImplemented</Code><Message>If-None-Match</Message></Error>";
    let digest = "<Error><Code>BadDigest</Code><Message>other bytes</Message></Error>";
    let table: &[(&[S3Reply], &str)] = &[
        (&[(200, None, INTERNAL), (200, None, COMPLETED)], "Ok"),
        (&[(200, None, exists)], "Err(AlreadyExists"),
        // The first reply was lost.
        (&[(500, None, INTERNAL), (404, None, gone)], "Err(NoSuchUpload"),
        (&[(500, None, INTERNAL), (412, None, exists)], "Err(AlreadyExists"),
        (&[(409, None, conflict)], "Err(Conflict"),
        (&[(501, None, unknown)], "Err(Unsupported"),
        (&[(400, None, digest)], "Err(Corrupted"),
    ];
    for (replies, wanted) in table {
        let scripted = ScriptedStore::start(replies, |_| {}).await;
        let outcome = format!("{:?}", scripted.complete().await);
        assert!(outcome.starts_with(wanted), "{outcome}, wanted {wanted}");
        assert_eq!(scripted.requests().len(), replies.len());
    }
}

#[tokio::test]
async fn requests_carry_the_settings_of_the_destination() {
    let scripted = ScriptedStore::start(&[OK, OK, (200, None, COMPLETED)], |settings| {
        settings.storage_class = Some("STANDARD_IA".into());
        settings.server_side_encryption = Some(Sse {
            algorithm: SseAlgorithm::AwsKms,
            kms_key_id: Some("key-1".into()),
        });
        settings.object_lock = Some(ObjectRetention {
            mode: ObjectLockMode::Compliance,
            retain_days: 1,
        });
    })
    .await;
    // The first reply is to a time request; then events; then a completion.
    let body = bytes(1, 1000);
    let events = PutOptions {
        class: ObjectClass::Events,
        metadata: vec![("window".into(), "2018-06-28".into())],
        ..options(PutMode::Create, &body)
    };
    scripted
        .store
        .put("a=1/b c", segments(&body), &events)
        .await
        .unwrap();
    scripted.complete().await.unwrap();
    let seen = scripted.requests();
    assert_eq!(seen[0].method, Method::HEAD);
    let header = |request: usize, name: &str| {
        let value = seen[request].headers.get(name);
        value
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    assert_eq!(seen[1].path, "/audit/a%3D1/b%20c?x-id=PutObject");
    for (name, value) in [
        ("content-length", "1000"),
        ("content-type", "application/octet-stream"),
        ("if-none-match", "*"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key-1"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-meta-window", "2018-06-28"),
        ("content-encoding", ""),
        ("x-amz-trailer", ""),
        ("x-amz-sdk-checksum-algorithm", ""),
    ] {
        assert_eq!(header(1, name), value, "{name}");
    }
    assert!(header(1, "x-amz-checksum-crc64nvme").ends_with('='));
    assert!(
        header(1, "authorization").contains("x-amz-checksum-crc64nvme"),
        "what is checked is signed"
    );
    for (name, value) in [
        ("if-none-match", "*"),
        ("x-amz-checksum-type", "FULL_OBJECT"),
        ("x-amz-mp-object-size", "1000"),
    ] {
        assert_eq!(header(2, name), value, "{name}");
    }
}

#[tokio::test]
async fn a_store_without_batch_delete_gets_single_deletes() {
    let md5 =
        "<Error><Code>InvalidRequest</Code><Message>Missing required header: Content-MD5</Message></Error>";
    let replies = [
        (400, None, md5),
        (204, None, ""),
        (204, None, ""),
        (204, None, ""),
    ];
    let scripted = ScriptedStore::start(&replies, |_| {}).await;
    let kept = scripted.store.delete(&["a".into(), "b".into()]).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
    let kept = scripted.store.delete(&["c".into()]).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
    let methods: Vec<Method> = scripted
        .requests()
        .into_iter()
        .map(|request| request.method)
        .collect();
    assert_eq!(
        methods,
        [Method::POST, Method::DELETE, Method::DELETE, Method::DELETE]
    );
}

#[tokio::test]
async fn a_failed_delete_names_the_key_and_the_reason() {
    let kept = "<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>";
    let scripted = ScriptedStore::start(&[(200, None, kept)], |_| {}).await;
    let kept = scripted.store.delete(&["a".into(), "b".into()]).await.unwrap();
    assert_eq!(kept.len(), 1);
    let (key, why) = &kept[0];
    assert_eq!(key, "b");
    assert!(
        why.to_string()
            .contains("s3:DeleteObject (AccessDenied: locked) on b"),
        "{why}"
    );
}

#[tokio::test]
async fn a_listing_reads_all_pages_and_decodes_keys() {
    let first = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>t</NextContinuationToken>\
        <Contents><Key>b%3D1+x%01</Key><Size>3</Size></Contents></ListBucketResult>";
    let second = "<ListBucketResult><IsTruncated>false</IsTruncated>\
        <Contents><Key>a+b</Key><Size>4</Size></Contents></ListBucketResult>";
    let scripted = ScriptedStore::start(&[(200, None, first), (200, None, second)], |_| {}).await;
    let listed = scripted.store.list("").await.unwrap();
    let rows: Vec<(&str, u64)> = listed.iter().map(|row| (row.key.as_str(), row.size)).collect();
    assert_eq!(rows, [("a+b", 4), ("b=1 x\u{1}", 3)]);
    assert!(scripted.requests()[1].path.contains("continuation-token=t"));
}

#[tokio::test]
async fn a_silent_store_times_out() {
    let scripted = ScriptedStore::start(&[], |settings| {
        settings.timeouts.idle = Duration::from_millis(400);
    })
    .await;
    let error = scripted.put().await.unwrap_err();
    assert!(matches!(error, StoreError::Network { .. }), "{error:?}");
    assert_eq!(scripted.requests().len(), 5);
}

#[tokio::test]
async fn the_time_comes_from_the_store() {
    let dated = (200, Some(("date", "Thu, 28 Jun 2018 07:00:00 GMT")), "");
    let scripted = ScriptedStore::start(&[dated], |_| {}).await;
    for _ in 0..2 {
        let now = scripted.store.now().await.unwrap().to_string();
        assert!(now.starts_with("2018-06-28T07:00:"), "{now}");
    }
    assert_eq!(scripted.requests().len(), 1, "a fresh reply is enough");
}

#[tokio::test]
async fn a_wrong_region_error_names_the_right_one() {
    let moved = "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>";
    let reply = (301, Some(("x-amz-bucket-region", "eu-west-1")), moved);
    let scripted = ScriptedStore::start(&[reply], |_| {}).await;
    let error = scripted.put().await.unwrap_err();
    let text = error.describe(&SettingNames::default());
    assert!(
        text.contains("eu-west-1") && text.contains("spec.destination.s3.region"),
        "{text}"
    );
}

#[tokio::test]
async fn the_storage_class_applies_to_events_only() {
    let replies = [OK; 4];
    let scripted = ScriptedStore::start(&replies, |settings| {
        settings.storage_class = Some("GLACIER".into());
        settings.object_lock = Some(ObjectRetention {
            mode: ObjectLockMode::Governance,
            retain_days: 1,
        });
    })
    .await;
    let body = bytes(1, 10);
    for class in [ObjectClass::Events, ObjectClass::Proof, ObjectClass::Journal] {
        let options = PutOptions {
            class,
            ..options(PutMode::Create, &body)
        };
        scripted
            .store
            .put("key", segments(&body), &options)
            .await
            .unwrap();
    }
    let seen: Vec<(bool, bool)> = scripted
        .requests()
        .iter()
        .filter(|request| request.method == Method::PUT)
        .map(|request| {
            let has = |name: &str| request.headers.contains_key(name);
            (has("x-amz-storage-class"), has("x-amz-object-lock-mode"))
        })
        .collect();
    assert_eq!(seen, [(true, true), (false, true), (false, false)]);
}

#[tokio::test]
async fn an_archived_object_is_not_a_missing_permission() {
    let archived = "<Error><Code>InvalidObjectState</Code><Message>The operation is not valid for the object's \
        storage class</Message><StorageClass>GLACIER</StorageClass></Error>";
    let scripted = ScriptedStore::start(&[(403, None, archived)], |_| {}).await;
    let error = scripted.store.get("key", 10).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Archived { key, .. } if key == "key"),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("restore") && !text.contains("policy"), "{text}");
    assert_eq!(scripted.requests().len(), 1);
}

#[tokio::test]
async fn the_text_of_a_refusal_is_read_from_cdata_and_a_redirect_is_shown_without_its_query() {
    let cdata = "<Error><Code>AccessDenied</Code><Message><![CDATA[frozen by <b>legal]]></Message></Error>";
    let login = ("location", "https://login.example/saml?token=abc");
    for (reply, shown) in [
        ((403, None, cdata), "(AccessDenied: frozen by legal)"),
        (
            (302, Some(login), ""),
            "it redirects to https://login.example/saml",
        ),
    ] {
        let scripted = ScriptedStore::start(&[reply], |_| {}).await;
        let text = scripted.store.list("p/").await.unwrap_err().to_string();
        assert!(text.contains(shown) && !text.contains("token=abc"), "{text}");
    }
}

#[tokio::test]
async fn a_listing_that_is_truncated_without_a_continuation_is_refused() {
    let broken = "<ListBucketResult><IsTruncated>true</IsTruncated>\
        <Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>";
    let first = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
        <Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>";
    let last = "<ListBucketResult><IsTruncated>false</IsTruncated>\
        <Contents><Key>b</Key><Size>1</Size></Contents></ListBucketResult>";
    let ok = |body| (200, None, body);
    // It passes: the page is requested again.
    let scripted = ScriptedStore::start(&[ok(broken), ok(first), ok(first), ok(last)], |_| {}).await;
    let listed = scripted.store.list("").await.unwrap();
    assert_eq!(listed.iter().map(|row| &*row.key).collect::<Vec<_>>(), ["a", "b"]);
    // It persists: refused after a bounded number of requests.
    for pages in [[ok(broken); 6], [ok(first); 6]] {
        let scripted = ScriptedStore::start(&pages, |_| {}).await;
        let error = scripted.store.list("p/").await.unwrap_err();
        assert!(matches!(error, StoreError::IncompleteListing { .. }), "{error:?}");
        assert_eq!(error.class(), StoreErrorClass::Retry(None));
        assert!(scripted.requests().len() <= 6);
    }
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
        <Upload><Key>a</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>";
    let scripted = ScriptedStore::start(&[ok(uploads); 5], |_| {}).await;
    let error = scripted.store.list_uploads("").await.unwrap_err();
    assert!(matches!(error, StoreError::IncompleteListing { .. }), "{error:?}");
    assert_eq!(scripted.requests().len(), 5);
}

/// Returns the checksum of the body that the tests send, as S3 writes it.
fn crc64_header() -> &'static str {
    let sum = Crc64::of(&bytes(1, 1000)).0.to_be_bytes();
    aws_smithy_types::base64::encode(sum).leak()
}

#[tokio::test]
async fn a_body_is_signed_until_the_store_states_its_checksum() {
    let states = (200, Some(("x-amz-checksum-crc64nvme", crc64_header())), "");
    let part = |header| (200, header, "");
    let scripted = ScriptedStore::start(&[OK, states, OK, part(OK.1)], |_| {}).await;
    for _ in 0..3 {
        scripted.put().await.unwrap();
    }
    // Another kind of request has to show it too.
    let body = bytes(1, 1000);
    let upload = Upload {
        key: "key".into(),
        id: "u1".into(),
        retried: false,
    };
    let crc64 = Crc64::of(&body);
    scripted
        .store
        .upload_part(&upload, 1, segments(&body), crc64)
        .await
        .unwrap();
    let unsigned: Vec<bool> = scripted
        .requests()
        .iter()
        .map(|request| request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD")
        .collect();
    assert_eq!(unsigned, [false, false, true, false]);

    let other = (200, Some(("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")), "");
    let scripted = ScriptedStore::start(&[other], |_| {}).await;
    let error = scripted.put().await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_completion_without_a_checksum_is_checked_by_a_head() {
    let silent = "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
    let body: &'static str = "x".repeat(1000).leak();
    // The reply to a HEAD carries the length of this body.
    for (header, wanted) in [
        (None, "Ok"),
        (Some(crc64_header()), "Ok"),
        (Some("AAAAAAAAAAA="), "Err(Corrupted"),
    ] {
        let head = (200, header.map(|sum| ("x-amz-checksum-crc64nvme", sum)), body);
        let scripted = ScriptedStore::start(&[(200, None, silent), head], |_| {}).await;
        let outcome = format!("{:?}", scripted.complete().await);
        assert!(outcome.starts_with(wanted), "{outcome}, wanted {wanted}");
        let methods: Vec<Method> = scripted
            .requests()
            .into_iter()
            .map(|request| request.method)
            .collect();
        assert_eq!(methods, [Method::POST, Method::HEAD]);
    }
}
