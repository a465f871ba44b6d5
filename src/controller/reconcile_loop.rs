//! Reconciles every resource when it changes, when it is due, and when its task reports a change. The one loop that fills the
//! cache of exports.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use kube::ResourceExt as _;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::act::start_priority;
use super::context::ReconcileContext;
use super::export_name::ExportName;
use super::reconcile::{RECONCILE_TIMEOUT, reconcile};
use super::work_queue::WorkQueue;
use crate::api::EventExport;
use crate::shares::queue::Tenant;

/// Interval between heartbeats of the loop.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Limits of the loop.
pub(super) struct LoopSettings {
    /// Maximum reconciles at the same time.
    pub(super) concurrency: u16,
    /// Time between a request and its reconcile, so that several changes cause one.
    pub(super) debounce: Duration,
}

/// Runs the loop until `end` is cancelled. The watch never ends.
pub(super) async fn run(
    context: Arc<ReconcileContext>,
    changes: impl Stream<Item = watcher::Result<Event<EventExport>>>,
    mut woken: mpsc::Receiver<ExportName>,
    settings: LoopSettings,
    end: CancellationToken,
) {
    let LoopSettings {
        concurrency,
        debounce,
    } = settings;
    let mut changes = pin!(changes);
    let mut queue = WorkQueue::new(concurrency);
    let mut running = FuturesUnordered::new();
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        while let Some(name) = queue.next(now, |name| tenant_of(&context, name)) {
            running.push(reconcile_newest(name, context.clone()));
        }
        let due = queue.next_due();
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(Event::Apply(object))) => {
                    context.registry.replace_recreated(&object);
                    queue.request(&context.exports.insert(&object), Instant::now() + debounce);
                }
                Some(Ok(Event::Delete(object))) => {
                    context.registry.remove(&object.uid().unwrap_or_default());
                    queue.forget(&context.exports.remove(&object));
                }
                // The watch logs its own errors, and retries.
                Some(Ok(Event::Init | Event::InitApply(_) | Event::InitDone) | Err(_)) => {}
                None => return,
            },
            Some(name) = woken.recv() => queue.request(&name, Instant::now() + debounce),
            Some((name, pause)) = running.next() => {
                let next = pause.and_then(|pause: Duration| Instant::now().checked_add(pause.saturating_add(debounce)));
                queue.finish(&name, next);
            }
            // Only while the loop runs.
            _ = heartbeat.tick() => context.health.controller_heartbeat(HEARTBEAT_INTERVAL + RECONCILE_TIMEOUT),
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            () = end.cancelled() => return,
        }
    }
}

/// Returns the place of a resource in the order of turns; `None`: it is gone. Within a namespace the groups of exports take
/// turns: one with work does not wait for thousands of complete ones.
fn tenant_of(context: &ReconcileContext, name: &ExportName) -> Option<Tenant> {
    let object = context.exports.get(name)?;
    let tenant = Tenant::new(name.namespace(), &object.spec.space, name.name());
    Some(tenant.grouped(start_priority(&object).as_str()))
}

/// Reconciles the newest version of a resource. Returns its name, and the delay of the next reconcile.
async fn reconcile_newest(
    name: ExportName,
    context: Arc<ReconcileContext>,
) -> (ExportName, Option<Duration>) {
    let pause = match context.exports.get(&name) {
        Some(object) => reconcile(object, context).await,
        None => None,
    };
    (name, pause)
}
