//! Two stores with buckets of one name, exported to by one process.

use std::sync::Arc;

use eventexport::api::Reason;
use eventexport::archive::layout::ArchiveRoot;
use eventexport::export::snapshot::Snapshot;
use eventexport::storage::{S3Store, Store};
use jiff::civil::date;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fixture::{EngineFixture, SPACE, settings};
use crate::bed::Gateway;
use crate::testkit::bucket::{fresh_bucket, s3_settings};
use crate::testkit::proxy::Proxy;

fn store(gateway: &Gateway, endpoint: &str, bucket: &str) -> Arc<dyn Store> {
    let keys = (gateway.access_key(), gateway.secret_key());
    let settings = s3_settings(endpoint, bucket, keys);
    Arc::new(S3Store::connect(settings).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_about_a_store_is_not_used_for_another_with_the_same_bucket() {
    let gateway = Gateway::shared().await;
    let bucket = fresh_bucket(gateway, "one-name").await.unwrap();
    let (weak, _stripped) = Proxy::weak_store(gateway).await.unwrap();
    let fixture = EngineFixture::start(settings(), date(2018, 6, 1), date(2018, 6, 2)).await;
    let engine = fixture.engine();
    let run = async |prefix: &str, endpoint: &str| -> Arc<Snapshot> {
        let mut export = fixture.export.clone();
        export.root = ArchiveRoot::new(prefix, SPACE, "space");
        let peers = fixture.peers(store(gateway, endpoint, &bucket));
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
