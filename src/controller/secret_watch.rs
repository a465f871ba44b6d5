//! Wakes exports when a Secret that they use changes. Watches the metadata of Secrets only, and remembers none.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use tracing::warn;

use super::config::Watching;
use super::runs::Runs;
use super::said::plain_of_watch;
use super::watching::watching;

/// Nobody's credentials for us, and in many clusters most of all Secrets.
const NOT_OURS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// How long until it is tried again where it is forbidden: that may be meant, and a role is seldom changed.
const FORBIDDEN_PAUSE: Duration = Duration::from_mins(10);

/// Watches until it is dropped.
pub(super) async fn watch(client: Client, namespace: Option<&str>, times: Watching, runs: Arc<Runs>) {
    let api: Api<PartialObjectMeta<Secret>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let config = watcher::Config::default().fields(NOT_OURS);
    let mut events = watching(api, config, times).default_backoff().boxed();
    // Of a complete list, those that somebody uses and that were not seen yet.
    let mut unseen = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => unseen = runs.secrets_used(),
            Ok(Event::InitApply(secret)) => {
                unseen.remove(&(secret.namespace().unwrap_or_default(), secret.name_any()));
                wake(&runs, &secret, true).await;
            }
            Ok(Event::InitDone) => {
                for (namespace, name) in std::mem::take(&mut unseen) {
                    seen(&runs, &namespace, &name, None).await;
                }
            }
            Ok(Event::Apply(secret)) => wake(&runs, &secret, true).await,
            Ok(Event::Delete(secret)) => wake(&runs, &secret, false).await,
            Err(error) => {
                let said = plain_of_watch(&error);
                warn!(
                    error = said,
                    "Secrets cannot be watched: a change of credentials is noticed late; trying again"
                );
                if is_forbidden(&error) {
                    tokio::time::sleep(FORBIDDEN_PAUSE).await;
                }
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let refused = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(status) => return status.code == 403,
        watcher::Error::NoResourceVersion => return false,
    };
    matches!(refused, kube::Error::Api(status) if status.code == 403)
}

async fn wake(runs: &Runs, secret: &PartialObjectMeta<Secret>, there: bool) {
    let namespace = secret.namespace().unwrap_or_default();
    let version = secret.metadata.resource_version.as_deref().filter(|_| there);
    seen(runs, &namespace, &secret.name_any(), version).await;
}

async fn seen(runs: &Runs, namespace: &str, name: &str, version: Option<&str>) {
    for export in runs.secret_seen(namespace, name, version) {
        // A controller that is gone needs no waking.
        let _ = runs.wake_ups.send(export).await;
    }
}
