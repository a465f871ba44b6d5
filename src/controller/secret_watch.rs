//! Triggers a reconcile of exports when a Secret or ConfigMap that they use changes. Watches only metadata, and stores none
//! of it.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::config::WatchConfig;
use super::export_watch::apis;
use super::kube_error::describe_watch_error;
use super::registry::ExportRegistry;
use super::secrets_in_use::WatchedObject;
use super::watch_scope::WatchScope;
use super::watch_stream::watch_stream;
use crate::api::ReferencedKind;

/// Types of Secrets that no export uses, but that are the majority in many clusters.
const EXCLUDED_TYPES: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// Delay after a forbidden watch. The missing permission may be intended, and roles rarely change.
const FORBIDDEN_BACKOFF: Duration = Duration::from_mins(10);

/// Watches the Secrets and ConfigMaps of a scope until the future is dropped.
pub(super) async fn watch(
    client: &Client,
    scope: &WatchScope,
    times: WatchConfig,
    registry: &ExportRegistry,
) {
    let scoped = scope.field_selector();
    let excluded = scoped
        .as_ref()
        .map(|fields| format!(",{fields}"))
        .unwrap_or_default();
    let secrets = watcher::Config::default().fields(&format!("{EXCLUDED_TYPES}{excluded}"));
    let config_maps = match &scoped {
        Some(fields) => watcher::Config::default().fields(fields),
        None => watcher::Config::default(),
    };
    let secrets = apis::<PartialObjectMeta<Secret>>(client, scope)
        .into_iter()
        .map(|(namespace, api)| {
            watch_namespace(
                api,
                ReferencedKind::Secret,
                namespace,
                secrets.clone(),
                times,
                registry,
            )
        });
    let config_maps = apis::<PartialObjectMeta<ConfigMap>>(client, scope)
        .into_iter()
        .map(|(namespace, api)| {
            let kind = ReferencedKind::ConfigMap;
            watch_namespace(api, kind, namespace, config_maps.clone(), times, registry)
        });
    tokio::join!(join_all(secrets), join_all(config_maps));
}

/// Watches the objects of one kind in one namespace, or in all.
async fn watch_namespace<K>(
    api: Api<PartialObjectMeta<K>>,
    kind: ReferencedKind,
    namespace: Option<String>,
    config: watcher::Config,
    times: WatchConfig,
    registry: &ExportRegistry,
) where
    PartialObjectMeta<K>: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let in_scope = |used: &Arc<WatchedObject>| {
        let is_of = |namespace: &String| **namespace == *used.namespace;
        used.object.kind == kind && namespace.as_ref().is_none_or(is_of)
    };
    let watched = |object: &PartialObjectMeta<K>| {
        let ObjectMeta { namespace, name, .. } = &object.metadata;
        WatchedObject {
            namespace: namespace.as_deref().unwrap_or_default().into(),
            object: kind.named(name.as_deref().unwrap_or_default()),
        }
    };
    let mut events = watch_stream(api, config, times).default_backoff().boxed();
    // Objects in use that the current list has not contained yet.
    let mut unseen = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                unseen = registry.used_secrets();
                unseen.retain(in_scope);
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let watched = watched(&object);
                notify(registry, &watched, object.metadata.resource_version.as_deref()).await;
                unseen.remove(&watched);
            }
            Ok(Event::InitDone) => {
                for missing in std::mem::take(&mut unseen) {
                    notify(registry, &missing, None).await;
                }
            }
            Ok(Event::Delete(object)) => notify(registry, &watched(&object), None).await,
            Err(error) => {
                let message = describe_watch_error(&error);
                warn!(
                    namespace,
                    kind = kind.as_str(),
                    error = message,
                    "cannot watch Secrets or ConfigMaps (their changes are noticed late), will retry"
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

async fn notify(registry: &ExportRegistry, watched: &WatchedObject, version: Option<&str>) {
    for export in registry.observe_secret(watched, version) {
        // Fails only if the controller is gone.
        let _ = registry.wake_ups.send(export).await;
    }
}
