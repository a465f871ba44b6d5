//! What happened to a simulated service, for tests and people to read. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fault::RequestKind;

/// Violations that are kept in words; more are counted only.
const MAX_VIOLATIONS: usize = 100;

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Sessions created by request.
    pub opened: u64,
    /// Sessions deleted by request.
    pub deleted: u64,
    /// Sessions that a fault removed.
    pub vanished: u64,
    /// Deletes of sessions that were not there.
    pub deletes_of_nothing: u64,
    /// Sessions created by request and open now.
    pub open_now: u64,
    /// Sessions of people (opened by the test itself) and open now.
    pub people_open: u64,
    /// Sessions of people that were deleted by request: 0 unless somebody deleted what was not theirs.
    pub people_deleted: u64,
    /// The most sessions that were open in one space at once, of all users.
    pub max_open: u64,
    /// Creates refused because the space was full.
    pub refused_full: u64,
    /// Tokens given for a password or an API key.
    pub logins: u64,
    /// Tokens given for a refresh token.
    pub refreshes: u64,
    /// Logins and refreshes refused.
    pub logins_refused: u64,
    /// Requests by kind.
    pub requests: BTreeMap<RequestKind, u64>,
    /// Answers by HTTP status.
    pub answers: BTreeMap<u16, u64>,
    /// Downloads by `SPACE/SCOPE/WINDOW`, for example `c1/space/2018-06-28T07`, or
    /// `c1/account/2018-06-28/2018-06-30` for several days.
    pub downloads: BTreeMap<String, DownloadStats>,
    /// Faults that befell a request, by name.
    pub faults: BTreeMap<String, u64>,
    /// Requests that broke the protocol.
    pub violation_count: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
}

/// What was downloaded of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadStats {
    /// Answers with bytes.
    pub answers: u64,
    /// Answers that went on at a later byte.
    pub resumed: u64,
    /// Answers that reached the last byte.
    pub completed: u64,
    /// Bytes sent, those sent twice counted twice.
    pub bytes: u64,
}

impl Ledger {
    /// Requests of a kind.
    pub fn requests_of(&self, kind: RequestKind) -> u64 {
        self.requests.get(&kind).copied().unwrap_or(0)
    }

    /// Downloads of a window (`2018-06-28` or `2018-06-28T07`) in all spaces and scopes.
    pub fn downloads_of(&self, window: &str) -> DownloadStats {
        let mut sum = DownloadStats::default();
        for (key, download) in &self.downloads {
            if key.splitn(3, '/').nth(2) == Some(window) {
                sum.answers += download.answers;
                sum.resumed += download.resumed;
                sum.completed += download.completed;
                sum.bytes += download.bytes;
            }
        }
        sum
    }

    pub(super) fn violation(&mut self, words: String) {
        self.violation_count += 1;
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(words);
        }
    }
}
