//! Triggers a reconcile of exports when a Secret that they use changes. Watches only metadata, and stores none of it.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use tracing::warn;

use super::config::WatchConfig;
use super::export_watch::apis;
use super::kube_error::describe_watch_error;
use super::registry::ExportRegistry;
use super::watch_scope::WatchScope;
use super::watch_stream::watch_stream;

/// Types of Secrets that no export uses, but that are the majority in many clusters.
const EXCLUDED_TYPES: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// Delay after a forbidden watch. The missing permission may be intended, and roles rarely change.
const FORBIDDEN_BACKOFF: Duration = Duration::from_mins(10);

/// Watches the Secrets of a scope until the future is dropped.
pub(super) async fn watch(
    client: &Client,
    scope: &WatchScope,
    times: WatchConfig,
    registry: &ExportRegistry,
) {
    let excluded = scope.field_selector().map(|fields| format!(",{fields}"));
    let config =
        watcher::Config::default().fields(&format!("{EXCLUDED_TYPES}{}", excluded.unwrap_or_default()));
    let watches = apis(client, scope).into_iter();
    let watches =
        watches.map(|(namespace, api)| watch_namespace(api, namespace, config.clone(), times, registry));
    join_all(watches).await;
}

/// Watches the Secrets of one namespace, or of all.
async fn watch_namespace(
    api: Api<PartialObjectMeta<Secret>>,
    namespace: Option<String>,
    config: watcher::Config,
    times: WatchConfig,
    registry: &ExportRegistry,
) {
    let watched = |secret: &(String, String)| namespace.as_ref().is_none_or(|watched| *watched == secret.0);
    let mut events = watch_stream(api, config, times).default_backoff().boxed();
    // Secrets in use that the current list has not contained yet.
    let mut unseen = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                unseen = registry.used_secrets();
                unseen.retain(watched);
            }
            Ok(Event::InitApply(secret)) => {
                unseen.remove(&(secret.namespace().unwrap_or_default(), secret.name_any()));
                wake(registry, &secret, true).await;
            }
            Ok(Event::InitDone) => {
                for (namespace, name) in std::mem::take(&mut unseen) {
                    notify(registry, &namespace, &name, None).await;
                }
            }
            Ok(Event::Apply(secret)) => wake(registry, &secret, true).await,
            Ok(Event::Delete(secret)) => wake(registry, &secret, false).await,
            Err(error) => {
                let message = describe_watch_error(&error);
                warn!(
                    namespace,
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
