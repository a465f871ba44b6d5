//! Triggers a reconcile of exports when a Secret that they use changes. Watches only metadata, and stores none of it.

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

use super::config::WatchConfig;
use super::kube_error::describe_watch_error;
use super::registry::ExportRegistry;
use super::watch_stream::watch_stream;

/// Types of Secrets that no export uses, but that are the majority in many clusters.
const EXCLUDED_TYPES: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// Delay after a forbidden watch. The missing permission may be intended, and roles rarely change.
const FORBIDDEN_BACKOFF: Duration = Duration::from_mins(10);

/// Watches Secrets until the future is dropped.
pub(super) async fn watch(
    client: Client,
    namespace: Option<&str>,
    times: WatchConfig,
    registry: Arc<ExportRegistry>,
) {
    let api: Api<PartialObjectMeta<Secret>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let config = watcher::Config::default().fields(EXCLUDED_TYPES);
    let mut events = watch_stream(api, config, times).default_backoff().boxed();
    // Secrets in use that the current list has not contained yet.
    let mut unseen = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => unseen = registry.used_secrets(),
            Ok(Event::InitApply(secret)) => {
                unseen.remove(&(secret.namespace().unwrap_or_default(), secret.name_any()));
                wake(&registry, &secret, true).await;
            }
            Ok(Event::InitDone) => {
                for (namespace, name) in std::mem::take(&mut unseen) {
                    notify(&registry, &namespace, &name, None).await;
                }
            }
            Ok(Event::Apply(secret)) => wake(&registry, &secret, true).await,
            Ok(Event::Delete(secret)) => wake(&registry, &secret, false).await,
            Err(error) => {
                let message = describe_watch_error(&error);
                warn!(
                    error = message,
                    "cannot watch Secrets (credential changes are noticed late), will retry"
                );
                if is_forbidden(&error) {
                    tokio::time::sleep(FORBIDDEN_BACKOFF).await;
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

async fn wake(registry: &ExportRegistry, secret: &PartialObjectMeta<Secret>, exists: bool) {
    let namespace = secret.namespace().unwrap_or_default();
    let version = secret.metadata.resource_version.as_deref().filter(|_| exists);
    notify(registry, &namespace, &secret.name_any(), version).await;
}

async fn notify(registry: &ExportRegistry, namespace: &str, name: &str, version: Option<&str>) {
    for export in registry.observe_secret(namespace, name, version) {
        // Fails only if the controller is gone.
        let _ = registry.wake_ups.send(export).await;
    }
}
