//! What there is at the end of a case, taken from all peers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use eventexport::api::Reason;
use eventexport::simulator::Ledger;
use serde_json::Value;

use super::RecordedRequest;
use super::fixture::FaultFixture;
use crate::crash_recovery::equivalence::{ArchiveContents, normalized};

/// How an export got to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CaseOutcome {
    /// It is complete, and nobody did more than start a process again that had ended.
    Recovered,
    /// It is complete, after a person acted because of what the status said.
    ManualAction(Option<Reason>),
    /// It is not complete: what the status says instead.
    Incomplete(String),
}

/// All that the oracles judge by.
#[derive(Clone, Debug)]
pub(crate) struct CaseObservation {
    pub(crate) ending: CaseOutcome,
    /// Whether every process that was told to end did so, well and in time.
    pub(crate) stopped_cleanly: bool,
    /// All keys with their objects; receipts and manifests without what is their own.
    pub(crate) archive: ArchiveContents,
    /// How many versions each key has or had.
    pub(crate) versions: BTreeMap<String, usize>,
    /// Uploads that were neither completed nor aborted.
    pub(crate) uploads: Vec<String>,
    /// What the peers were asked.
    pub(crate) requests: Vec<RecordedRequest>,
    pub(crate) ledger: Ledger,
    /// Sessions of people that are gone.
    pub(crate) deleted_user_sessions: Vec<String>,
    /// The status as it was written.
    pub(crate) status: Value,
    /// The resource and the Events, as text.
    pub(crate) resource_text: String,
    pub(crate) log: String,
    pub(crate) secrets: Vec<String>,
    /// Whether `verify` proves the archive, and what it says.
    pub(crate) verified: (bool, String),
}

impl CaseObservation {
    pub(crate) async fn collect(
        fixture: &FaultFixture,
        ending: CaseOutcome,
        stopped_cleanly: bool,
    ) -> Result<Self> {
        let source = fixture.source();
        let mut archive = ArchiveContents::new();
        for key in fixture.bucket.keys().await? {
            let object = fixture.bucket.get(&key).await?;
            // Where the service is, is the case's own.
            let object = match String::from_utf8(object) {
                Ok(text) => text.replace(&source, "https://service").into_bytes(),
                Err(bytes) => bytes.into_bytes(),
            };
            // One that cannot be read is shown as it is.
            let object = normalized(&key, object.clone()).unwrap_or(object);
            archive.insert(key, object);
        }
        let open = fixture.simulator.open_sessions();
        let is_open = |id: &String| open.iter().any(|open| open.id == *id);
        let resource = fixture.resource().await?;
        let resource_text = format!("{resource}\n{}", fixture.events().await?);
        Ok(Self {
            ending,
            stopped_cleanly,
            archive,
            versions: fixture.bucket.versions().await?,
            uploads: fixture.bucket.uploads().await?,
            requests: fixture.injector.requests(),
            ledger: fixture.simulator.ledger(),
            deleted_user_sessions: fixture
                .user_sessions
                .iter()
                .filter(|id| !is_open(id))
                .cloned()
                .collect(),
            status: resource.get("status").cloned().context("no status")?,
            resource_text,
            log: fixture.log(),
            secrets: fixture.secrets(),
            verified: fixture.verify().await?,
        })
    }
}
