//! Two stores with buckets of one name, exported to by one process.

use std::sync::Arc;

use eventexport::api::Reason;
use eventexport::archive::layout::ArchiveRoot;
use eventexport::egress::HostPolicy;
use eventexport::export::snapshot::Snapshot;
use eventexport::storage::{ChecksumMode, S3Credentials, S3Settings, S3Store, S3Timeouts, Store};
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fixture::{EngineFixture, SPACE, settings};
use crate::bed::{Gateway, StripHeader};

async fn store(gateway: &Gateway, endpoint: &str, bucket: &str) -> Arc<dyn Store> {
    let settings = S3Settings {
        bucket: bucket.into(),
        region: Gateway::REGION.into(),
        endpoint: Some(endpoint.parse().unwrap()),
        force_path_style: true,
        credentials: S3Credentials::Static {
            access_key_id: gateway.access_key().into(),
            secret_access_key: gateway.secret_key().to_owned().into(),
            session_token: None,
        },
        ca_pem: None,
        storage_class: None,
        server_side_encryption: None,
        object_lock: None,
        checksum: ChecksumMode::default(),
        acl: None,
        requester_pays: false,
        timeouts: S3Timeouts::default(),
        hosts: HostPolicy::any(),
        traffic: eventexport::egress::Traffic::default(),
    };
    Arc::new(S3Store::connect(settings).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_about_a_store_is_not_used_for_another_with_the_same_bucket() {
    let gateway = Gateway::shared().await;
    let bucket = format!("one-name-{:016x}", rand::random::<u64>());
    gateway.create_bucket(&bucket).await.unwrap();
    let weak = StripHeader::start(gateway).await.unwrap();
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 2)).await;
    let engine = fixture.engine();
    let run = async |prefix: &str, endpoint: &str| -> Arc<Snapshot> {
        let mut export = fixture.export.clone();
        export.root = ArchiveRoot::new(prefix, SPACE, "space");
        let peers = fixture.peers(store(gateway, endpoint, &bucket).await);
        let (out, _seen) = watch::channel(Arc::default());
        engine
            .run(Arc::new(export), peers, &out, CancellationToken::new())
            .await
    };
    let strong = run("strong", &gateway.endpoint()).await;
    assert!(strong.complete, "{:#?}", strong.problems);
    let refused = run("weak", &weak.endpoint()).await;
    let problem = refused
        .problems
        .iter()
        .find(|problem| problem.reason == Reason::ConditionalWritesUnsupported);
    let problem = problem.unwrap_or_else(|| panic!("{:#?}", refused.problems));
    assert!(problem.message.contains(&weak.endpoint()), "{}", problem.message);
    let again = run("strong-again", &gateway.endpoint()).await;
    assert!(again.complete, "{:#?}", again.problems);
}
