//! Watches that do not stay blind: [`watcher`] goes on by itself after most errors; this begins anew where it would not.
//! Asks the API server.
//!
//! What is added to it: a bound on silence, also while a list is read; a list anew where the API server does not take the
//! version to go on from, also when it says so by the status of its answer and not in the stream; and a list anew now and
//! then, should events have been lost on the way.

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

/// How much longer than a watch an answer may say nothing: as the watcher itself waits.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// A client whose answers may not stand still.
pub(super) fn client(mut config: Config, times: WatchConfig, traffic: &Traffic) -> kube::Result<Client> {
    config.read_timeout = Some(Duration::from_secs(times.timeout_seconds.into()) + MAX_SILENCE);
    // Counted from the request, not from when the connection was last used.
    config.reset_reader_on_write = true;
    metered::client(config, traffic)
}

type EventStream<K> = BoxStream<'static, watcher::Result<Event<K>>>;

struct WatchState<K, B> {
    open: B,
    events: EventStream<K>,
    /// When everything is listed anew; `None`: it is being listed.
    relist_at: Option<Instant>,
}

/// As [`watcher`], for ever.
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
                    debug!(%error, "listing anew");
                    watch.events = (watch.open)();
                    watch.relist_at = None;
                }
                _ => {}
            }
            return Some((event, watch));
        }
    })
}

/// Whether the API server does not let a watch go on from where it was, but for want of rights or of time: asking the
/// same again would be in vain.
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
