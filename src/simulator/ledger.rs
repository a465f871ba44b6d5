//! Ledger of a simulated service: counters for tests and users. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fault::RequestKind;

/// Maximum number of recorded violation messages. Further violations are only counted.
const MAX_VIOLATIONS: usize = 100;

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Sessions created by request.
    pub opened: u64,
    /// Sessions deleted by request.
    pub deleted: u64,
    /// Sessions that a fault removed.
    pub vanished: u64,
    /// Deletes of sessions that did not exist.
    pub deletes_not_found: u64,
    /// Open sessions created by request.
    pub open_now: u64,
    /// Open sessions of human users, created by the test.
    pub other_users_open: u64,
    /// Sessions of human users deleted by request. Not 0 only if a client deleted sessions of another user.
    pub other_users_deleted: u64,
    /// Maximum number of sessions open in one space at the same time, of all users.
    pub max_open: u64,
    /// Creates rejected because the space was full.
    pub refused_at_capacity: u64,
    /// Tokens issued for a password or an API key.
    pub logins: u64,
    /// Tokens issued for a refresh token.
    pub refreshes: u64,
    /// Rejected logins and refreshes.
    pub logins_refused: u64,
    /// Requests by kind.
    pub requests: BTreeMap<RequestKind, u64>,
    /// Responses by HTTP status.
    pub replies: BTreeMap<u16, u64>,
    /// Downloads by `SPACE/SCOPE/WINDOW`, for example `c1/space/2018-06-28T07`, or
    /// `c1/account/2018-06-28/2018-06-30` for several days.
    pub downloads: BTreeMap<String, DownloadStats>,
    /// Injected faults by name.
    pub faults: BTreeMap<String, u64>,
    /// Requests that violated the protocol.
    pub violation_count: u64,
    /// Messages of the first violations.
    pub violations: Vec<String>,
}

/// Downloads of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadStats {
    /// Responses with bytes.
    pub replies: u64,
    /// Responses that started at a later byte.
    pub resumed: u64,
    /// Responses that reached the last byte.
    pub completed: u64,
    /// Bytes sent, including repeated ones.
    pub bytes: u64,
}

impl Ledger {
    /// Returns the number of requests of a kind.
    pub fn requests_of(&self, kind: RequestKind) -> u64 {
        self.requests.get(&kind).copied().unwrap_or(0)
    }

    /// Sums downloads of a window (`2018-06-28` or `2018-06-28T07`) over all spaces and scopes.
    pub fn downloads_of(&self, window: &str) -> DownloadStats {
        let mut sum = DownloadStats::default();
        for (key, download) in &self.downloads {
            if key.splitn(3, '/').nth(2) == Some(window) {
                sum.replies += download.replies;
                sum.resumed += download.resumed;
                sum.completed += download.completed;
                sum.bytes += download.bytes;
            }
        }
        sum
    }

    pub(super) fn violation(&mut self, message: String) {
        self.violation_count += 1;
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(message);
        }
    }
}
