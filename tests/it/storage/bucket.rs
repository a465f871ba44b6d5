//! Errors and special features of a real S3 store.

use anyhow::Result;
use bytes::Bytes;
use eventexport::api::SettingNames;
use eventexport::egress::HostPolicy;
use eventexport::storage::{
    CannedAcl, ChecksumMode, ObjectClass, ObjectLockMode, ObjectRetention, PutMode, PutOptions,
    S3Credentials, S3Settings, S3Store, Store, StoreError, probe,
};

use super::conformance::{self, bytes, options, put, segments};
use crate::bed::Gateway;
use crate::testkit::bucket::{fresh_bucket, gateway_settings, sdk};
use crate::testkit::proxy::Proxy;

fn keys(access_key_id: &str, secret_access_key: &str) -> S3Credentials {
    S3Credentials::Static {
        access_key_id: access_key_id.into(),
        secret_access_key: secret_access_key.to_owned().into(),
        session_token: None,
    }
}

/// Opens a store on its own bucket.
pub(super) async fn open() -> (S3Store, ()) {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    (S3Store::connect(gateway_settings(gateway, &bucket)).unwrap(), ())
}

/// Sends all kinds of requests to a store that must refuse them.
async fn refusals(store: &S3Store) -> Vec<StoreError> {
    let body = bytes(1, 10);
    let once = options(PutMode::Create, &body);
    vec![
        put(store, "key", PutMode::Create, &body).await.unwrap_err(),
        store.get("key", 10).await.unwrap_err(),
        store.head("key").await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.begin_upload("key", &once).await.unwrap_err(),
        store.list_uploads("").await.unwrap_err(),
    ]
}

#[tokio::test]
async fn wrong_keys_are_reported_as_such() {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    let unknown = keys("AKIDNOBODY", "not-the-secret");
    let wrong = keys(gateway.access_key(), "not-the-secret");
    for (credentials, code) in [(unknown, "InvalidAccessKeyId"), (wrong, "SignatureDoesNotMatch")] {
        let mut settings = gateway_settings(gateway, &bucket);
        settings.credentials = credentials;
        let store = S3Store::connect(settings).unwrap();
        for error in refusals(&store).await {
            assert!(
                matches!(error, StoreError::InvalidCredentials { .. }),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(text.contains(code) && text.contains(&bucket), "{text}");
            assert!(
                !text.contains("not-the-secret") && !text.contains("AKIDNOBODY"),
                "{text}"
            );
        }
        assert!(store.now().await.is_ok(), "a refusal tells the time as well");
    }
}

#[tokio::test]
async fn a_wrong_bucket_is_reported_as_such() {
    let gateway = Gateway::shared().await;
    let store = S3Store::connect(gateway_settings(gateway, "no-such-bucket")).unwrap();
    for error in refusals(&store).await {
        assert!(matches!(error, StoreError::NoSuchBucket { .. }), "{error:?}");
        assert!(error.to_string().contains("s3://no-such-bucket"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_reported_by_name() {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    gateway
        .add_user("foreign", "foreign-secret", "user")
        .await
        .unwrap();
    let mut settings = gateway_settings(gateway, &bucket);
    settings.credentials = keys("foreign", "foreign-secret");
    let store = S3Store::connect(settings).unwrap();
    for error in refusals(&store).await {
        assert!(matches!(error, StoreError::Forbidden { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("s3:") && text.contains(&bucket), "{text}");
    }
    let kept = store.delete(&["a".into(), "b".into()]).await.unwrap();
    assert_eq!(kept.len(), 2);
    assert!(
        kept.iter()
            .all(|(_, why)| why.to_string().contains("s3:DeleteObject")),
        "{kept:?}"
    );
}

#[tokio::test]
async fn a_bucket_deleted_midway_is_reported_as_such() {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    let store = S3Store::connect(gateway_settings(gateway, &bucket)).unwrap();
    let body = bytes(1, 10);
    let once = options(PutMode::Create, &body);
    put(&store, "key", PutMode::Create, &body).await.unwrap();
    let upload = store.begin_upload("up", &once).await.unwrap();
    let part = store
        .upload_part(&upload, 1, segments(&body), once.crc64)
        .await
        .unwrap();
    assert!(store.delete(&["key".into()]).await.unwrap().is_empty());
    store.abort_upload(&upload).await.unwrap();
    sdk(gateway).delete_bucket().bucket(&bucket).send().await.unwrap();

    let mut errors = refusals(&store).await;
    errors.push(
        store
            .upload_part(&upload, 1, segments(&body), once.crc64)
            .await
            .unwrap_err(),
    );
    errors.push(store.complete_upload(&upload, &[part], &once).await.unwrap_err());
    for error in errors {
        assert!(matches!(error, StoreError::NoSuchBucket { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_detected() -> Result<()> {
    let gateway = Gateway::shared().await;
    let (proxy, _stripped) = Proxy::weak_store(gateway).await?;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    let mut settings = gateway_settings(gateway, &bucket);
    settings.endpoint = Some(proxy.endpoint().parse()?);
    let store = S3Store::connect(settings)?;
    let body = bytes(1, 700);
    let once = options(PutMode::Create, &body);
    store.put("attempt", segments(&body), &once).await?;
    let support = probe(&store, "attempt", segments(&body), &once).await?;
    assert!(!support.put && !support.complete, "{support:?}");
    assert_eq!(store.get("attempt", 1000).await?, Some(body));
    assert!(store.list_uploads("").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn other_checksums_keep_the_same_promises() {
    let gateway = Gateway::shared().await;
    for checksum in [ChecksumMode::Crc32c, ChecksumMode::None] {
        let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
        let mut settings = gateway_settings(gateway, &bucket);
        settings.checksum = checksum;
        let store = S3Store::connect(settings).unwrap();
        conformance::bytes_that_changed_on_the_way_are_refused(&store).await;
        conformance::a_key_is_created_once_by_any_checksum(&store).await;
        conformance::an_upload_is_whole_by_any_checksum(&store).await;
    }
}

#[tokio::test]
async fn only_evidence_is_locked() -> Result<()> {
    let gateway = Gateway::shared().await;
    let bucket = format!("locked-{:016x}", rand::random::<u64>());
    let sdk = sdk(gateway);
    sdk.create_bucket()
        .bucket(&bucket)
        .object_lock_enabled_for_bucket(true)
        .send()
        .await?;
    let mut settings = gateway_settings(gateway, &bucket);
    settings.object_lock = Some(ObjectRetention {
        mode: ObjectLockMode::Governance,
        retain_days: 3,
    });
    let store = S3Store::connect(settings)?;
    let body = bytes(1, 700);
    let evidence = PutOptions {
        class: ObjectClass::Events,
        ..options(PutMode::Create, &body)
    };
    let now = store.now().await?.as_second();
    store.put("evidence", segments(&body), &evidence).await?;
    let upload = store.begin_upload("evidence-in-parts", &evidence).await?;
    let part = store
        .upload_part(&upload, 1, segments(&body), evidence.crc64)
        .await?;
    store.complete_upload(&upload, &[part], &evidence).await?;
    put(&store, "journal", PutMode::Create, &body).await?;

    for (key, locked) in [
        ("evidence", true),
        ("evidence-in-parts", true),
        ("journal", false),
    ] {
        let head = sdk.head_object().bucket(&bucket).key(key).send().await?;
        let until = head.object_lock_retain_until_date.map(|until| until.secs() - now);
        let days = until.map(|seconds| (seconds + 3600) / 86_400);
        assert_eq!(days, locked.then_some(3), "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_outage_is_a_network_error_until_recovery() {
    let mut gateway = Gateway::start().await.unwrap();
    let bucket = fresh_bucket(&gateway, "bucket").await.unwrap();
    let store = S3Store::connect(gateway_settings(&gateway, &bucket)).unwrap();
    let body = bytes(1, 6 << 20);
    put(&store, "before", PutMode::Create, &body).await.unwrap();
    gateway.stop().unwrap();
    let error = put(&store, "never", PutMode::Create, &body).await.unwrap_err();
    assert!(matches!(error, StoreError::Network { .. }), "{error:?}");
    assert!(error.to_string().contains(&bucket), "{error}");
    gateway.resume().await.unwrap();
    put(&store, "after", PutMode::Create, &body).await.unwrap();
}

#[tokio::test]
async fn no_request_goes_to_a_host_that_is_not_allowed() {
    let gateway = Gateway::shared().await;
    let only = |host: &str| HostPolicy::allow(&[host.to_owned()]).unwrap();
    let mut elsewhere = gateway_settings(gateway, "bucket");
    elsewhere.hosts = only("s3.example");
    let refused = S3Store::connect(elsewhere).unwrap_err();
    assert!(matches!(refused, StoreError::Egress(_)), "{refused:?}");

    // The SDK puts the bucket before the host; the check uses that host.
    let mut before = gateway_settings(gateway, "bucket");
    before.endpoint = Some("https://s3.example:1".parse().unwrap());
    before.force_path_style = false;
    before.hosts = only("s3.example");
    let store = S3Store::connect(before).unwrap();
    let refused = put(&store, "key", PutMode::Create, &Bytes::new())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, StoreError::Egress(denied) if denied.host.starts_with("bucket.s3.example")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn unreadable_certificates_are_reported_by_field() {
    let gateway = Gateway::shared().await;
    let mut settings = gateway_settings(gateway, "bucket");
    settings.ca_pem = Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
    let error = S3Store::connect(settings).unwrap_err();
    let text = error.describe(&SettingNames::default());
    assert!(text.contains("spec.destination.s3.caSecretRef"), "{text}");
}

#[tokio::test]
async fn the_payer_and_an_acl_do_not_disturb_a_store_that_needs_neither() {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "bucket").await.unwrap();
    let both = S3Settings {
        acl: Some(CannedAcl::Private),
        requester_pays: true,
        ..gateway_settings(gateway, &bucket)
    };
    let store = S3Store::connect(both).unwrap();
    let body = bytes(1, 10);
    put(&store, "key", PutMode::Create, &body).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert!(store.delete(&["key".into()]).await.unwrap().is_empty());
}
