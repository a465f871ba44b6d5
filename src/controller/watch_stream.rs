//! Watch that recovers from all errors: [`watcher`] resumes after most errors, and this module restarts it after the
//! others. Sends requests to the API server.
//!
//! It adds a read timeout, also for lists; a relist if the API server rejects the resource version, also by the status
//! of its response instead of an event of the stream; and a periodic relist, in case events were lost.

use std::fmt::Debug;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use super::config::WatchConfig;
use super::metered;
use crate::egress::Traffic;

/// Time that the read timeout exceeds the timeout of a watch, as in the watcher itself.
const READ_TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

/// Creates a client with a read timeout for watches and lists.
pub(super) fn client(mut config: Config, times: WatchConfig, traffic: &Traffic) -> kube::Result<Client> {
    config.read_timeout = Some(Duration::from_secs(times.timeout_seconds.into()) + READ_TIMEOUT_MARGIN);
    // The timeout starts with the request, not with the last use of the connection.
    config.reset_reader_on_write = true;
    metered::client(config, traffic)
}

type EventStream<K> = BoxStream<'static, watcher::Result<Event<K>>>;

struct WatchState<K, B> {
    open: B,
    events: EventStream<K>,
    /// Time of the next relist. `None`: a list is running.
    relist_at: Option<Instant>,
}

/// Returns the events of [`watcher`] in a stream that never ends.
pub(super) fn watch_stream<K>(
    api: Api<K>,
    config: watcher::Config,
    times: WatchConfig,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(times.timeout_seconds);
    let open = move || -> EventStream<K> { watcher(api.clone(), config.clone()).boxed() };
    let watch = WatchState {
        events: open(),
        open,
        relist_at: None,
    };
    stream::unfold(watch, move |mut watch| async move {
        loop {
            let event = match watch.relist_at {
                None => watch.events.next().await,
                Some(at) => tokio::select! {
                    event = watch.events.next() => event,
                    () = tokio::time::sleep_until(at) => None,
                },
            };
            let Some(event) = event else {
                watch.events = (watch.open)();
                watch.relist_at = None;
                continue;
            };
            match &event {
                Ok(Event::Init) => watch.relist_at = None,
                Ok(Event::InitDone) => watch.relist_at = Some(Instant::now() + times.relist_interval),
                Err(error) if needs_relist(error) => {
                    debug!(%error, "relisting");
                    watch.events = (watch.open)();
                    watch.relist_at = None;
                }
                _ => {}
            }
            return Some((event, watch));
        }
    })
}

/// Returns true if the API server rejects the resource version of a watch, so that a retry would fail again. False for
/// missing permissions, timeouts and rate limits.
fn needs_relist(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            (400..500).contains(&status.code) && !matches!(status.code, 401 | 403 | 408 | 429)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> watcher::Error {
        let status = kube::core::Status::failure("no", "Reason").with_code(code);
        watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
    }

    #[test]
    fn only_a_rejected_resource_version_causes_a_relist() {
        let relists = [400, 401, 403, 404, 408, 410, 429, 500, 503, 504];
        let relists = relists.map(|code| (code, needs_relist(&refused(code))));
        let expected = [400, 404, 410];
        assert!(
            relists
                .iter()
                .all(|(code, relists)| *relists == expected.contains(code)),
            "{relists:?}"
        );
    }
}
