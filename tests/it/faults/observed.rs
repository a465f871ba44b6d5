//! What there is at the end of a case, taken from all peers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use eventexport::api::Reason;
use eventexport::simulator::Ledger;
use serde_json::Value;

use super::Seen;
use super::stage::Stage;
use crate::kill::same::{Archive, masked};

/// How an export got to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is complete, and nobody did more than start a process again that had ended.
    Alone,
    /// It is complete, after a person acted because of what the status said.
    Helped(Option<Reason>),
    /// It is not complete: what the status says instead.
    Never(String),
}

/// All that the oracles judge by.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) ending: Ending,
    /// Whether every process that was told to end did so, well and in time.
    pub(crate) stopped: bool,
    /// All keys with their objects; receipts and manifests without what is their own.
    pub(crate) archive: Archive,
    /// How many versions each key has or had.
    pub(crate) versions: BTreeMap<String, usize>,
    /// Uploads that were neither completed nor aborted.
    pub(crate) uploads: Vec<String>,
    /// What the peers were asked.
    pub(crate) asked: Vec<Seen>,
    pub(crate) ledger: Ledger,
    /// Sessions of people that are gone.
    pub(crate) theirs_gone: Vec<String>,
    /// The status as it was written.
    pub(crate) status: Value,
    /// The resource and the Events, as text.
    pub(crate) told: String,
    pub(crate) log: String,
    pub(crate) secrets: Vec<String>,
    /// Whether `verify` proves the archive, and what it says.
    pub(crate) verified: (bool, String),
}

impl Observed {
    pub(crate) async fn of(stage: &Stage, ending: Ending, stopped: bool) -> Result<Self> {
        let source = stage.source();
        let mut archive = Archive::new();
        for key in stage.bucket.keys().await? {
            let object = stage.bucket.get(&key).await?;
            // Where the service is, is the case's own.
            let object = match String::from_utf8(object) {
                Ok(text) => text.replace(&source, "https://service").into_bytes(),
                Err(bytes) => bytes.into_bytes(),
            };
            // One that cannot be read is shown as it is.
            let object = masked(&key, object.clone()).unwrap_or(object);
            archive.insert(key, object);
        }
        let open = stage.simulator.open_sessions();
        let is_open = |id: &String| open.iter().any(|open| open.id == *id);
        let resource = stage.resource().await?;
        let told = format!("{resource}\n{}", stage.events().await?);
        Ok(Self {
            ending,
            stopped,
            archive,
            versions: stage.bucket.versions().await?,
            uploads: stage.bucket.uploads().await?,
            asked: stage.board.seen(),
            ledger: stage.simulator.ledger(),
            theirs_gone: stage.theirs.iter().filter(|id| !is_open(id)).cloned().collect(),
            status: resource.get("status").cloned().context("no status")?,
            told,
            log: stage.log(),
            secrets: stage.secrets(),
            verified: stage.verify().await?,
        })
    }
}
