//! Adds the finalizer to a resource before sessions are opened. Removes it when no session is left, or when they cannot
//! be deleted (no bucket, service or credentials, or ten minutes passed). Writes the metadata of resources.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tracing::debug;

use super::FIELD_MANAGER;
use super::entry::{FINALIZER, has_finalizer};
use crate::api::EventExport;
use crate::export::engine::ReleaseReport;

/// Maximum attempts of a write that conflicts with newer versions of the resource.
const MAX_ATTEMPTS: usize = 4;

/// Cause of leftover sessions if no other one is known.
const TIMED_OUT: &str = "their deletion timed out";

/// Adds the finalizer. Returns `None` if the resource is gone, is being deleted or has another generation.
pub(super) async fn add(api: &Api<EventExport>, object: &EventExport) -> kube::Result<Option<EventExport>> {
    write(
        api,
        object,
        |names| names.push(FINALIZER.to_owned()),
        |now| {
            let spec_changed = now.metadata.generation != object.metadata.generation;
            has_finalizer(now) || now.metadata.deletion_timestamp.is_some() || spec_changed
        },
    )
    .await
    .map(|now| now.filter(has_finalizer))
}

/// Removes the finalizer. Returns `None` if the resource is gone.
pub(super) async fn remove(
    api: &Api<EventExport>,
    object: &EventExport,
) -> kube::Result<Option<EventExport>> {
    write(
        api,
        object,
        |names| names.retain(|name| name != FINALIZER),
        |object| !has_finalizer(object),
    )
    .await
}

/// Changes the list of finalizers only over the version that was read: other controllers own parts of it.
async fn write(
    api: &Api<EventExport>,
    object: &EventExport,
    change: impl Fn(&mut Vec<String>),
    done: impl Fn(&EventExport) -> bool,
) -> kube::Result<Option<EventExport>> {
    let name = object.name_any();
    let mut read = object.clone();
    for _ in 1..MAX_ATTEMPTS {
        if done(&read) {
            return Ok(Some(read));
        }
        match patch(api, &name, &read, &change).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!(
                    name,
                    "conflict while writing finalizers, reading the newer version"
                );
                match api.get_opt(&name).await? {
                    Some(newer) if newer.metadata.uid == object.metadata.uid => read = newer,
                    _ => return Ok(None),
                }
            }
            written => return written.map(Some),
        }
    }
    if done(&read) {
        Ok(Some(read))
    } else {
        patch(api, &name, &read, &change).await.map(Some)
    }
}

async fn patch(
    api: &Api<EventExport>,
    name: &str,
    read: &EventExport,
    change: impl Fn(&mut Vec<String>),
) -> kube::Result<EventExport> {
    let mut names = read.metadata.finalizers.clone().unwrap_or_default();
    change(&mut names);
    let body = json!({ "metadata": {
        "uid": read.metadata.uid,
        "resourceVersion": read.metadata.resource_version,
        "finalizers": names,
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(name, &params, &Patch::Merge(&body)).await
}

/// Returns the sessions that a release left, and the cause.
pub(super) fn leftover_sessions(released: Option<&ReleaseReport>) -> (Vec<String>, String) {
    let Some(ReleaseReport {
        leftover_sessions,
        unknown,
        permanent: _,
    }) = released
    else {
        return (Vec::new(), TIMED_OUT.to_owned());
    };
    let ids = leftover_sessions.iter().map(|(id, _)| id.clone()).collect();
    let why = unknown
        .clone()
        .or_else(|| leftover_sessions.first().map(|(_, why)| why.clone()));
    (ids, why.unwrap_or_else(|| TIMED_OUT.to_owned()))
}
