//! Faults of networks, load balancers and lagging servers for lists and watches, as rules of a proxy before the API
//! server: events are lost and repeated, and watches fail until the next list.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::bed::Cluster;
use crate::testkit::proxy::{
    Action, ErrorStatus, KeptRule, Proxy, RecordedRequest, RequestMatcher, Rule, Rules,
};

/// Listed and watched kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchedKind {
    Exports,
    Secrets,
}

impl WatchedKind {
    pub(crate) const ALL: [Self; 2] = [Self::Exports, Self::Secrets];

    /// Returns true if the request watches this kind, false if it lists it.
    fn is_watched(self, line: &str) -> Option<bool> {
        let (path, query) = line.strip_prefix("GET ")?.split_once('?').unwrap_or((line, ""));
        let kind = match self {
            Self::Exports => "/eventexports",
            Self::Secrets => "/secrets",
        };
        path.ends_with(kind)
            .then(|| query.contains("watch=true") || query.contains("watch=1"))
    }

    pub(crate) fn watches(self) -> RequestMatcher {
        RequestMatcher::when(move |_, line, _| self.is_watched(line) == Some(true))
    }

    pub(crate) fn lists(self) -> RequestMatcher {
        RequestMatcher::when(move |_, line, _| self.is_watched(line) == Some(false))
    }
}

/// Events of the watches of one kind.
#[derive(Default)]
pub(crate) struct WatchEvents {
    received: Mutex<Vec<Value>>,
    /// Number of events to lose.
    pub(crate) to_drop: AtomicUsize,
    /// Number of extra copies of each event.
    pub(crate) duplicates: AtomicUsize,
}

impl WatchEvents {
    /// Returns all events that the API server sent, even those that the operator never got.
    pub(crate) fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap().clone()
    }

    fn rewrite(&self, line: String) -> Vec<String> {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let mut times = 1 + self.duplicates.load(Ordering::SeqCst);
        if event["type"] != "BOOKMARK" {
            self.received.lock().unwrap().push(event);
            let lost = |left: usize| left.checked_sub(1);
            if self
                .to_drop
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, lost)
                .is_ok()
            {
                times = 0;
            }
        }
        vec![line; times]
    }
}

/// Proxy before the API server.
pub(crate) struct WatchProxy {
    pub(crate) proxy: Proxy,
    pub(crate) exports: Arc<WatchEvents>,
    pub(crate) secrets: Arc<WatchEvents>,
    _kept: [KeptRule; 2],
}

impl WatchProxy {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let proxy = Proxy::cluster(cluster, &Rules::new()).await?;
        let (exports, secrets) = (Arc::<WatchEvents>::default(), Arc::<WatchEvents>::default());
        let keep = |kind: WatchedKind, events: &Arc<WatchEvents>| {
            let events = Arc::clone(events);
            let rewrite = Action::RewriteLines(Arc::new(move |line| events.rewrite(line)));
            proxy.keep(Rule::new(kind.watches(), rewrite))
        };
        Ok(Self {
            _kept: [
                keep(WatchedKind::Exports, &exports),
                keep(WatchedKind::Secrets, &secrets),
            ],
            proxy,
            exports,
            secrets,
        })
    }

    /// Returns the config of a client that uses the proxy, which has all rights.
    pub(crate) fn config(&self) -> Result<kube::Config> {
        Ok(kube::Config::new(self.proxy.endpoint().parse()?))
    }

    pub(crate) fn events(&self, kind: WatchedKind) -> &WatchEvents {
        match kind {
            WatchedKind::Exports => &self.exports,
            WatchedKind::Secrets => &self.secrets,
        }
    }

    /// Lets watches fail with 410 until the next list.
    pub(crate) fn fail_watches(&self, kind: WatchedKind) -> KeptRule {
        let failing = AtomicBool::new(true);
        let matcher = RequestMatcher::when(move |_, line, _| match kind.is_watched(line) {
            Some(true) => failing.load(Ordering::SeqCst),
            Some(false) => {
                failing.store(false, Ordering::SeqCst);
                false
            }
            None => false,
        });
        self.proxy
            .keep(Rule::new(matcher, Action::ErrorReply(ErrorStatus::Gone)))
    }

    /// Sends an error Status, as the API server does in the middle of a watch.
    pub(crate) fn send_error(&self, kind: WatchedKind, code: u16) {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "sent by the test", "reason": "Expired", "code": code });
        let event = json!({ "type": "ERROR", "object": status });
        self.proxy.send_line(kind.watches(), &event.to_string());
    }

    /// Returns the answered requests that change something, except leases.
    pub(crate) fn writes(&self) -> Vec<RecordedRequest> {
        let mut noted = self.proxy.requests();
        noted.retain(|noted| {
            noted.method() != "GET" && !noted.path().contains("/leases") && noted.status.is_some()
        });
        noted
    }
}

/// Returns the current list of exports, for later replay.
pub(crate) async fn list_exports(cluster: &Cluster, namespace: &str) -> Result<Value> {
    let path = format!("/apis/eventexport.io/v1alpha1/namespaces/{namespace}/eventexports");
    cluster.get(&path).await?.context("a list of EventExports")
}
