//! Properties of the files that a command reads: manifests, the config file, the state of a partial download. For tests
//! and fuzzing. No I/O.

// These functions panic if a property does not hold.
#![allow(clippy::missing_panics_doc, clippy::needless_for_each)]

use std::path::PathBuf;

use serde_json::Value;

use super::config::ConfigFile;
use super::documents::parse;
use super::download::part_state::{PART_STATE_MAX_BYTES, PartState};
use super::manifest::from_documents;
use crate::api;
use crate::fuzzing::{SECRET, assert_displayable, assert_no_secret, insert_secret};

/// Manifest with exports and Secrets: each error is one short line with object and field, at most 100 for each object;
/// no error contains a Secret value; accepted documents survive a round trip.
pub fn resource_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(documents) = parse(text).inspect_err(|error| assert_displayable(error)) else {
        return;
    };
    let count = documents.len();
    // The same documents as JSON.
    let json = documents
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    if count > 0 && documents.iter().all(Value::is_object) {
        assert_eq!(parse(&json).ok().as_ref(), Some(&documents));
    }
    match from_documents(documents.clone()) {
        Ok(manifest) => {
            for export in &manifest.exports {
                assert!(export.spec.validate().is_ok());
                let written = serde_json::json!({
                    "apiVersion": "eventexport.io/v1alpha1", "kind": "EventExport",
                    "metadata": {"name": export.name}, "spec": export.spec,
                });
                let again = api::read_export(written).map(|export| export.spec);
                assert_eq!(again.as_ref(), Ok(&export.spec));
            }
        }
        Err(errors) => {
            assert!(errors.len() <= count.max(1) * api::MAX_REPORTED_ERRORS);
            errors
                .iter()
                .for_each(|error| assert_displayable(&error.to_string()));
        }
    }
    // The input ends a document, so this appends another: a Secret, valid or damaged.
    for secret in [
        format!("stringData: {{apiKey: {SECRET}}}"),
        format!("data: {{apiKey: '{SECRET}!'}}"),
        format!("stringData: {{apiKey: [{SECRET}]}}"),
        format!("stringData:\n  apiKey: {SECRET}\n  apiKey: {SECRET}"),
        format!("stringData:\n  apiKey: {SECRET}\n token: [{SECRET}"),
        format!("data: {SECRET}"),
    ] {
        let text = format!("{text}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{secret}\n");
        match parse(&text) {
            Err(error) => assert_no_secret(&error),
            Ok(documents) => match from_documents(documents) {
                Ok(manifest) => assert!(!format!("{manifest:?}").contains(SECRET)),
                Err(errors) => errors
                    .iter()
                    .for_each(|error| assert_no_secret(&error.to_string())),
            },
        }
    }
}

/// Config file: an error names line and field, never the value; changes survive a round trip.
pub fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = || PathBuf::from("/c/config.toml");
    match ConfigFile::parse(path(), text) {
        Err(error) => assert_displayable(&error),
        Ok(mut file) => {
            let before = file.config.contexts.len();
            // An existing context may have a form that cannot be extended.
            if file.set("of-a-test", &[("account", Some(true.into()))]).is_ok() {
                assert_eq!(
                    file.config
                        .contexts
                        .get("of-a-test")
                        .and_then(|context| context.account),
                    Some(true)
                );
                assert!(file.delete("of-a-test").is_ok_and(|was| was));
                assert!(file.config.contexts.len() <= before);
            }
            if let Err(error) = file.context("no such\u{1b}[2J") {
                let message = error.to_string();
                assert!(message.chars().all(api::is_printable), "{message:?}");
            }
        }
    }
    // The input as the value of each kind of field.
    let secret = insert_secret(data);
    let secret = String::from_utf8_lossy(&secret);
    let quoted = toml_edit::Value::from(secret.as_ref()).to_string();
    for field in [
        "account",
        "endpoint",
        "region",
        "space",
        "archive",
        "uaa-endpoint",
        "s3-path-style",
        "api-key",
        "token",
    ] {
        let text = format!("[contexts.a]\n{field} = {quoted}\n");
        if let Err(error) = ConfigFile::parse(path(), &text) {
            assert_no_secret(&error);
        }
    }
}

/// State of a partial download: survives a round trip, and its sums do not overflow.
pub fn part_state(data: &[u8]) {
    if data.len() as u64 > PART_STATE_MAX_BYTES {
        return;
    }
    let Some(state) = PartState::parse(data) else {
        return;
    };
    let bytes = serde_json::to_vec_pretty(&state).unwrap_or_default();
    assert_eq!(PartState::parse(&bytes).as_ref(), Some(&state));
    let boundary = state.boundary();
    assert!(state.sections.iter().all(|section| section.bytes <= boundary));
    let download = format!("{} at {}", state.identity.asked, state.identity.endpoint);
    assert!(!download.is_empty());
}
