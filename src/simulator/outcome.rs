//! Outcome of a request: a response, a download to record when it ends, or no reply. No I/O but the clock.

use jiff::Timestamp;

use super::connection::ServerResponse;
use super::effect::NoReplyMode;
use super::service::SimulatedService;

/// Result of routing a request.
#[derive(Debug)]
pub(super) enum RouteOutcome {
    Response(ServerResponse),
    /// Response of the admin API, which the ledger does not count.
    Admin(ServerResponse),
    /// A download, recorded when it ends.
    Download(ServerResponse, DownloadRecord),
    NoReply(NoReplyMode),
}

/// Data that is recorded when a download ends.
#[derive(Debug)]
pub(super) struct DownloadRecord {
    pub(super) session: String,
    pub(super) label: String,
    pub(super) resumed: bool,
    /// Number of sent bytes that complete the body.
    pub(super) complete_after: Option<u64>,
    /// True if the session disappears after the download.
    pub(super) vanish: bool,
    pub(super) moves_access_time: bool,
}

impl DownloadRecord {
    /// Records the number of sent bytes.
    pub(super) fn finish(&self, service: &SimulatedService, sent: u64) {
        let mut state = service.state();
        let entry = state.ledger.downloads.entry(self.label.clone()).or_default();
        entry.replies += 1;
        entry.resumed += u64::from(self.resumed);
        entry.bytes += sent;
        let complete = self.complete_after.is_some_and(|bytes| sent >= bytes);
        entry.completed += u64::from(complete);
        if let Some(open) = state.sessions.get_mut(&self.session) {
            open.completed += u64::from(complete);
            if self.moves_access_time {
                open.accessed = Timestamp::now();
            }
        }
        if self.vanish {
            state.vanish(&self.session);
        }
    }
}
