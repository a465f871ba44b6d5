//! Observation of the final state of a case, from all peers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use eventexport::api::Reason;
use eventexport::simulator::Ledger;
use serde_json::Value;

use super::RecordedRequest;
use super::fixture::FaultFixture;
use crate::crash_recovery::equivalence::{ArchiveContents, normalized};

/// Outcome of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CaseOutcome {
    /// Complete; nothing but restarts of ended processes was needed.
    Recovered,
    /// Complete after a manual action that the status asked for.
    ManualAction(Option<Reason>),
    /// Not complete; the status as text.
    Incomplete(String),
}

/// Data for the invariants.
#[derive(Clone, Debug)]
pub(crate) struct CaseObservation {
    pub(crate) ending: CaseOutcome,
    /// True if each process that had to stop exited successfully and in time.
    pub(crate) stopped_cleanly: bool,
    /// All keys with their objects; receipts and manifests without volatile fields.
    pub(crate) archive: ArchiveContents,
    /// Number of versions per key, past ones included.
    pub(crate) versions: BTreeMap<String, usize>,
    /// Uploads that were neither completed nor aborted.
    pub(crate) uploads: Vec<String>,
    /// Requests to the peers.
    pub(crate) requests: Vec<RecordedRequest>,
    pub(crate) ledger: Ledger,
    /// Manually opened sessions that are gone.
    pub(crate) deleted_user_sessions: Vec<String>,
    /// Status as written.
    pub(crate) status: Value,
    /// Resource and Events as text.
    pub(crate) resource_text: String,
    pub(crate) log: String,
    pub(crate) secrets: Vec<String>,
    /// True if `verify` succeeds, and its output.
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
            // The address of the service differs between cases.
            let object = match String::from_utf8(object) {
                Ok(text) => text.replace(&source, "https://service").into_bytes(),
                Err(bytes) => bytes.into_bytes(),
            };
            // An unreadable document is kept as it is.
            let object = normalized(&key, object.clone()).unwrap_or(object);
            archive.insert(key, object);
        }
        let open = fixture.simulator.open_sessions();
        let is_open = |id: &String| open.iter().any(|open| open.id == *id);
        let resource = fixture.resource().await?;
        let verified = fixture.verify().await;
        let resource_text = format!("{resource}\n{}", fixture.events().await?);
        Ok(Self {
            ending,
            stopped_cleanly,
            archive,
            versions: fixture.bucket.versions().await?,
            uploads: fixture.bucket.uploads().await?,
            requests: fixture.rules.requests(),
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
            verified: (verified.code == Some(0), verified.text()),
        })
    }
}
