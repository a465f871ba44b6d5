//! Cost of many small windows: requests to each peer, and round trips.

mod latency;
mod requests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventexport::egress::{Fence, Peer, RequestLabel, RequestMetrics, Traffic};
use eventexport::export::engine::{Engine, Limits, Peers};
use eventexport::export::manifest::sign::Signing;
use eventexport::export::snapshot::Snapshot;
use eventexport::export::spec::ExportSpec;
use eventexport::simulator::{Settings, Simulator};
use eventexport::storage::S3Store;
use eventexport::tracker::{TokenCache, Tracker, UaaSource};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use crate::bed::Gateway;
use crate::testkit::bucket::{fresh_bucket, s3_settings, sdk};
use crate::testkit::engine::{export_spec, tracker_config};
use crate::testkit::proxy::{ProxiedPeer, Proxy, Wire};

/// Requests as they are sent, by peer and operation.
#[derive(Debug, Default)]
struct RequestCounter(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl RequestMetrics for RequestCounter {
    fn record_response(&self, label: RequestLabel, _: Option<u16>, _: Duration) {
        let key = (label.peer.as_str(), label.operation);
        *self.0.lock().unwrap().entry(key).or_default() += 1;
    }

    fn record_retry(&self, peer: Peer) {
        *self
            .0
            .lock()
            .unwrap()
            .entry((peer.as_str(), "repeated"))
            .or_default() += 1;
    }
}

/// Returns the gateway of these tests.
async fn gateway() -> &'static Gateway {
    static SHARED: OnceCell<Gateway> = OnceCell::const_new();
    SHARED
        .get_or_init(async || Gateway::start_keeping_alive().await.unwrap())
        .await
}

/// Addresses of the peers for the export.
struct PeerAddresses {
    remote: bool,
    tracker: String,
    store: String,
    tracker_ca: Option<String>,
    store_ca: Option<String>,
}

impl PeerAddresses {
    fn of([service, store]: &[Proxy; 2]) -> Self {
        Self {
            remote: true,
            tracker: service.endpoint(),
            store: store.endpoint(),
            tracker_ca: service.ca_pem.clone(),
            store_ca: store.ca_pem.clone(),
        }
    }
}

/// One export from a simulator into a real bucket, by a new process.
struct WindowFixture {
    simulator: Simulator,
    /// Keeps connections open, as S3 does.
    gateway: &'static Gateway,
    export: ExportSpec,
    bucket: String,
    signing: Signing,
}

impl WindowFixture {
    async fn start(settings: Settings, start: Date, end: Date, hour: Option<u8>) -> Self {
        let gateway = gateway().await;
        let bucket = fresh_bucket(gateway, "windows").await.unwrap();
        Self {
            simulator: Simulator::start(settings).await.unwrap(),
            gateway,
            export: ExportSpec {
                name: "tests/windows".to_owned(),
                hour,
                ..export_spec(start, Some(end))
            },
            bucket,
            signing: Signing::Disabled,
        }
    }

    /// Puts a document below the root.
    async fn put(&self, key: &str, text: &'static str) {
        let key = format!("{}{key}", self.export.root.as_str());
        let put = sdk(self.gateway).put_object().bucket(&self.bucket).key(key);
        put.body(text.as_bytes().to_vec().into()).send().await.unwrap();
    }

    /// Returns proxies before service and store, as far away as the wires say.
    async fn remote(&self, wire: impl Fn() -> Wire) -> [Proxy; 2] {
        let service = self.simulator.url().as_str();
        [
            Proxy::remote(ProxiedPeer::Tracker, service, wire())
                .await
                .unwrap(),
            Proxy::remote(ProxiedPeer::Store, &self.gateway.endpoint(), wire())
                .await
                .unwrap(),
        ]
    }

    /// Returns the addresses of the peers themselves.
    fn direct(&self) -> PeerAddresses {
        PeerAddresses {
            remote: false,
            tracker: self.simulator.url().to_string(),
            store: self.gateway.endpoint(),
            tracker_ca: None,
            store_ca: None,
        }
    }

    fn tracker(peers: &PeerAddresses, traffic: Traffic) -> Tracker {
        let endpoint: url::Url = peers.tracker.parse().unwrap();
        let mut config = tracker_config(&endpoint);
        if peers.remote {
            // The named UAA is this one.
            config.uaa = UaaSource::Endpoint(endpoint);
        }
        config.ca_pem = peers.tracker_ca.clone().map(String::into_bytes);
        config.traffic = traffic;
        Tracker::new(config, &TokenCache::new()).unwrap()
    }

    /// Runs to completion; returns its duration and requests.
    async fn run(&self, peers: &PeerAddresses) -> (Arc<Snapshot>, Duration, Arc<RequestCounter>) {
        let gateway = self.gateway;
        let count = Arc::<RequestCounter>::default();
        let traffic = Traffic::new(count.clone(), Fence::default());
        let keys = (gateway.access_key(), gateway.secret_key());
        let mut store = s3_settings(&peers.store, &self.bucket, keys);
        store.ca_pem = peers.store_ca.clone().map(String::into_bytes);
        store.traffic = traffic.clone();
        let peers = Peers {
            tracker: Self::tracker(peers, traffic.clone()),
            store: Arc::new(S3Store::connect(store).unwrap()),
            signing: self.signing.clone(),
            timestamps: None,
        };
        let engine = Engine::new(
            Limits {
                pool_mib: 512,
                ..Limits::default()
            },
            Arc::new(Timestamp::now),
        );
        let (out, _seen) = watch::channel(Arc::default());
        let began = std::time::Instant::now();
        let export = Arc::new(self.export.clone());
        let snapshot = engine.run(export, peers, &out, CancellationToken::new()).await;
        (snapshot, began.elapsed(), count)
    }
}
