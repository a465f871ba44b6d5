//! Malicious S3 server: hostile replies to listings, writes and reads, and XML attacks.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventexport::storage::{
    Crc64, ObjectClass, PutMode, PutOptions, S3Store, S3Timeouts, Segments, Store as _, StoreError,
};
use futures::future::join_all;

use super::assert_displayable;
use super::payloads::malicious_payloads;
use super::peer::{MaliciousPeer, Payload, PeerAction};
use crate::testkit::bucket::s3_settings;

const SECRET: &str = "the-secret-that-nobody-may-see";
/// Idle timeout of an attempt.
const IDLE: Duration = Duration::from_secs(1);
/// Far more than five attempts of twice that time with their pauses.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum bytes that five attempts and their socket buffers may accept.
const MAX_READ_BYTES: u64 = 5 * (8 + 12) * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
enum StoreCall {
    List,
    Put,
    Get,
    BeginUpload,
    Delete,
}

fn store(peer: &MaliciousPeer) -> S3Store {
    let mut settings = s3_settings(&peer.url(), "audit", ("AKID", SECRET));
    settings.timeouts = S3Timeouts {
        connect: IDLE,
        idle: IDLE,
        ..S3Timeouts::default()
    };
    S3Store::connect(settings).unwrap()
}

fn options(body: &Segments) -> PutOptions {
    PutOptions {
        mode: PutMode::Create,
        crc64: Crc64::of_segments(body),
        metadata: Vec::new(),
        content_type: "application/json",
        class: ObjectClass::Journal,
    }
}

async fn perform(store: &S3Store, call: StoreCall) -> Result<(), StoreError> {
    let body = Segments::from(Bytes::from_static(b"{}"));
    match call {
        StoreCall::List => store.list("tracker/").await.map(drop),
        StoreCall::Put => store
            .put("tracker/k", body.clone(), &options(&body))
            .await
            .map(drop),
        StoreCall::Get => store.get("tracker/k", 16 * 1024).await.map(drop),
        StoreCall::BeginUpload => store.begin_upload("tracker/k", &options(&body)).await.map(drop),
        StoreCall::Delete => store.delete(&["tracker/k".to_owned()]).await.map(drop),
    }
}

/// Checks that the call ends and that an error is printable.
async fn check_payload(call: StoreCall, what: String, payload: Payload) -> Result<(), StoreError> {
    let endless = payload.times == u64::MAX;
    let peer = MaliciousPeer::start(None, move |_| PeerAction::Send(payload.clone())).await;
    let name = format!("{what}, to {call:?}");
    let store = store(&peer);
    let begun = Instant::now();
    let answer = tokio::time::timeout(TIMEOUT, perform(&store, call)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{name}: no end after {:?}", begun.elapsed()));
    if let Err(error) = &answer {
        assert_displayable(&name, &error.to_string(), "s3://audit", &[SECRET]);
    }
    if endless {
        assert!(
            peer.written() <= MAX_READ_BYTES,
            "{name}: {} bytes were taken",
            peer.written()
        );
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn no_store_response_hangs_overflows_or_leaks() {
    let call = [
        StoreCall::List,
        StoreCall::Put,
        StoreCall::Get,
        StoreCall::BeginUpload,
        StoreCall::Delete,
    ];
    let call = call.into_iter().flat_map(|call| {
        malicious_payloads()
            .into_iter()
            .map(move |(what, payload)| check_payload(call, what.to_owned(), payload))
    });
    for ended in join_all(call.map(tokio::spawn)).await {
        // S3 itself answers some of these with an empty success.
        let _ = ended.unwrap();
    }
}

fn xml(body: &str) -> Payload {
    Payload::reply(
        "200 OK",
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}"),
    )
}

fn listing(contents: &str) -> Payload {
    xml(&format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    ))
}

#[tokio::test]
async fn impossible_listings_are_refused_cheaply() {
    let mut bomb = String::from("<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\">");
    for (this, last) in ('b'..='k').zip('a'..) {
        let _ = write!(bomb, "<!ENTITY {this} \"{}\">", format!("&{last};").repeat(10));
    }
    bomb.push_str("]>");
    let contents = |key: &str, size: &str| {
        format!("<Contents><Key>{key}</Key><Size>{size}</Size><ETag>e</ETag></Contents>")
    };
    for (what, payload) in [
        (
            "an entity bomb",
            xml(&format!(
                "{bomb}<ListBucketResult><Contents><Key>&k;</Key></Contents></ListBucketResult>"
            )),
        ),
        ("a key of 10 MiB", listing(&contents(&"k".repeat(10 << 20), "1"))),
        ("a key of 2 KiB", listing(&contents(&"k".repeat(2048), "1"))),
        ("no key", listing("<Contents><Size>1</Size></Contents>")),
        ("negative size", listing(&contents("tracker/k", "-1"))),
        (
            "more bytes than there can be",
            listing(&contents("tracker/k", "99999999999999999999")),
        ),
        ("a size that is none", listing(&contents("tracker/k", "many"))),
        ("XML nested 100,000 deep", xml(&"<a>".repeat(100_000))),
        ("10 MiB of spaces", xml(&" ".repeat(10 << 20))),
    ] {
        let outcome = check_payload(StoreCall::List, what.to_owned(), payload).await;
        assert!(outcome.is_err(), "{what} was taken for a listing");
    }
}

#[tokio::test]
async fn store_error_messages_are_truncated() {
    let long = "x".repeat(1 << 20);
    let refusal = |status: &str, code: &str, message: &str| {
        Payload::reply(
            status,
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
        )
    };
    for (what, payload) in [
        ("a code of 1 MiB", refusal("400 No", &long, "no")),
        ("a message of 1 MiB", refusal("403 No", "AccessDenied", &long)),
        (
            "a code that turns the text around",
            refusal("400 No", "\u{202e}oN", "\u{200b}\u{2066}"),
        ),
        (
            "the secret",
            refusal("400 No", SECRET, &format!("you signed with {SECRET}")),
        ),
    ] {
        for call in [StoreCall::List, StoreCall::Put, StoreCall::Get, StoreCall::Delete] {
            let _ = check_payload(call, what.to_owned(), payload.clone()).await;
        }
    }
    // Asks for a delay longer than a clock can represent.
    let ever = Payload::raw(
        "HTTP/1.1 503 Slow Down\r\nRetry-After: 18446744073709551615\r\nContent-Length: 0\r\n\r\n",
    );
    let begun = Instant::now();
    let outcome = check_payload(StoreCall::Put, "endless retry delay".to_owned(), ever).await;
    assert!(
        matches!(outcome, Err(StoreError::Throttled { .. })),
        "{outcome:?}"
    );
    assert!(begun.elapsed() < TIMEOUT);
    // Names longer than the records that hold them.
    let id = format!(
        "<InitiateMultipartUploadResult><UploadId>{}</UploadId></InitiateMultipartUploadResult>",
        "u".repeat(300_000)
    );
    assert!(
        check_payload(
            StoreCall::BeginUpload,
            "an upload id of 300 kB".to_owned(),
            xml(&id)
        )
        .await
        .is_err()
    );
}
