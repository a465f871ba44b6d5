//! Watches the exports of a scope: one watch for each namespace, or one for all. Sends requests to the API server.

use std::collections::HashSet;
use std::time::Instant;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use tracing::warn;

use super::config::WatchConfig;
use super::export_cache::ExportCache;
use super::export_name::ExportName;
use super::kube_error::describe_watch_error;
use super::watch_scope::WatchScope;
use super::watch_stream::watch_stream;
use crate::api::EventExport;
use crate::telemetry::metrics::ResourceView;

/// Annotation in which `kubectl apply` stores the manifest.
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Returns the APIs of a scope, each with its namespace; `None`: all namespaces.
pub(super) fn apis<K>(client: &Client, scope: &WatchScope) -> Vec<(Option<String>, Api<K>)>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    if scope.namespaces().is_empty() {
        return vec![(None, Api::all(client.clone()))];
    }
    let namespaces = scope.namespaces().iter();
    namespaces
        .map(|namespace| {
            (
                Some(namespace.clone()),
                Api::namespaced(client.clone(), namespace),
            )
        })
        .collect()
}

/// Records that no namespace of a scope was listed yet.
pub(super) fn begin_view(scope: &WatchScope, view: &ResourceView) {
    let (all, now) = (String::new(), Instant::now());
    let watched = scope.namespaces().iter();
    for namespace in watched.chain(scope.namespaces().is_empty().then_some(&all)) {
        view.start(namespace, now);
    }
}

/// Returns the changes of the exports of a scope: `Apply` and `Delete` only. A complete list of one namespace becomes an
/// `Apply` of each export in it, and a `Delete` of each other one that `known` has there.
pub(super) fn watch_exports(
    client: &Client,
    scope: &WatchScope,
    times: WatchConfig,
    known: &ExportCache,
    view: &ResourceView,
) -> impl Stream<Item = watcher::Result<Event<EventExport>>> + Send + use<> {
    let mut config = watcher::Config::default();
    if let Some(fields) = scope.field_selector() {
        config = config.fields(&fields);
    }
    let labels = scope.selector().to_string();
    if !labels.is_empty() {
        config = config.labels(&labels);
    }
    let watches = apis::<EventExport>(client, scope)
        .into_iter()
        .map(|(namespace, api)| {
            let events = watch_stream(api, config.clone(), times)
                .default_backoff()
                .modify(strip);
            changes(events.boxed(), namespace, known.clone(), view.clone()).boxed()
        });
    stream::select_all(watches)
}

type Events = BoxStream<'static, watcher::Result<Event<EventExport>>>;

/// Turns the lists of one watch into changes.
fn changes(
    events: Events,
    namespace: Option<String>,
    known: ExportCache,
    view: ResourceView,
) -> impl Stream<Item = watcher::Result<Event<EventExport>>> + Send {
    let mut listed = HashSet::new();
    events.flat_map(move |event| {
        let (watched, now) = (namespace.as_deref().unwrap_or_default(), Instant::now());
        match &event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone) => view.listed(watched, now),
            Ok(Event::Apply(_) | Event::Delete(_)) => view.changed(watched, now),
            Err(_) => view.failed(watched, now),
        }
        let changes = match event {
            Ok(Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(ExportName::of(&object));
                vec![Ok(Event::Apply(object))]
            }
            Ok(Event::InitDone) => {
                let listed = std::mem::take(&mut listed);
                let gone = known.all().into_iter().filter(|object| {
                    let watched = namespace.is_none() || object.namespace() == namespace;
                    watched && !listed.contains(&ExportName::of(object))
                });
                gone.map(|object| Ok(Event::Delete(EventExport::clone(&object))))
                    .collect()
            }
            Err(error) => {
                warn!(
                    namespace,
                    error = describe_watch_error(&error),
                    "cannot watch EventExports (is the CRD installed?), will retry"
                );
                vec![Err(error)]
            }
            change => vec![change],
        };
        stream::iter(changes)
    })
}

/// Removes the metadata that the operator does not use: most of a resource's bytes.
fn strip(object: &mut EventExport) {
    object.metadata.managed_fields = None;
    let annotations = object.metadata.annotations.as_mut();
    annotations.and_then(|annotations| annotations.remove(LAST_APPLIED_ANNOTATION));
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn export(namespace: &str, name: &str) -> EventExport {
        let mut object = EventExport::new(
            name,
            serde_json::from_value(json!({
                "space": "s", "dateRange": {"start": "2018-06-01"},
                "source": {"region": "ng", "credentialsSecretRef": {"name": "tracker"}},
                "destination": {"s3": {"bucket": "audit"}},
            }))
            .unwrap(),
        );
        object.metadata.namespace = Some(namespace.to_owned());
        object
    }

    #[test]
    fn a_list_of_one_namespace_deletes_what_is_gone_there() {
        let known = ExportCache::default();
        let mut seen = Vec::new();
        let mut feed = |namespace: Option<&str>, events: Vec<Event<EventExport>>| {
            let events = stream::iter(events.into_iter().map(Ok)).boxed();
            let changed = changes(
                events,
                namespace.map(str::to_owned),
                known.clone(),
                ResourceView::default(),
            );
            let mut changed = changed.boxed();
            seen.clear();
            while let Some(event) = changed.next().now_or_never().flatten() {
                let event = event.unwrap();
                seen.push(match event {
                    Event::Apply(object) => format!("+{}", known.insert(&object).name()),
                    Event::Delete(object) => format!("-{}", known.remove(&object).name()),
                    _ => "list".to_owned(),
                });
            }
            seen.sort();
            seen.join(" ")
        };
        let list = |objects: &[EventExport]| {
            let objects = objects.iter().cloned().map(Event::InitApply);
            let mut events = vec![Event::Init];
            events.extend(objects);
            events.push(Event::InitDone);
            events
        };
        assert_eq!(
            feed(Some("a"), list(&[export("a", "one"), export("a", "two")])),
            "+one +two"
        );
        assert_eq!(feed(Some("b"), list(&[export("b", "three")])), "+three");
        // The list of one namespace says nothing about the other one.
        assert_eq!(feed(Some("a"), list(&[export("a", "two")])), "+two -one");
        // A list that breaks off deletes nothing.
        assert_eq!(feed(Some("b"), vec![Event::Init]), "");
        assert_eq!(feed(None, list(&[])), "-three -two");
    }
}
