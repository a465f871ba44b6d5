//! Minimal bucket policy: an export completes with exactly this policy, and without any one of its actions the
//! operator names the missing one. This test writes the table in docs/credentials.md or compares it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use eventexport::archive::layout::{ArchiveRoot, Key, StampedDocument};
use eventexport::archive::window::Window;
use eventexport::simulator::{GzipSettings, Settings, Volume};
use jiff::civil::date;
use serde_json::{Value, json};

use super::DayTwoFixture;
use crate::docs::with_part;
use crate::operator::{condition, eventually};
use crate::testkit::bucket::{Bucket, sdk_with};

/// Name parts of temporary entries.
const TEMPORARY_ENTRIES: [&str; 3] = [".attempt.", ".session.", ".prepared."];

fn example() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bucket-policy.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// Returns the example for another bucket and account; `change` edits the actions of each statement.
pub(super) fn for_account(bucket: &str, account: &str, change: impl Fn(&mut Vec<Value>)) -> Result<String> {
    let mut policy = example()?;
    let statements = policy["Statement"].as_array_mut().context("no statements")?;
    // versitygw does not know the condition of the statement that denies overwrites, and refuses the complete policy.
    statements.retain(|statement| statement["Effect"] == "Allow");
    let resource = |resource: &Value| match resource.as_str() {
        Some(resource) => Ok(json!(resource.replacen(":::audit", &format!(":::{bucket}"), 1))),
        None => Err(anyhow::anyhow!("no resource")),
    };
    for statement in statements.iter_mut() {
        statement["Principal"]["AWS"] = json!([account]);
        statement["Resource"] = match statement["Resource"].as_array() {
            Some(resources) => resources.iter().map(resource).collect::<Result<Value>>()?,
            None => resource(&statement["Resource"])?,
        };
        change(statement["Action"].as_array_mut().context("no actions")?);
    }
    statements.retain(|statement| {
        statement["Action"]
            .as_array()
            .is_some_and(|actions| !actions.is_empty())
    });
    Ok(policy.to_string())
}

fn actions() -> Result<Vec<String>> {
    let policy = example()?;
    let statements = policy["Statement"].as_array().context("no statements")?;
    let actions = statements
        .iter()
        .filter(|statement| statement["Effect"] == "Allow")
        .filter_map(|statement| statement["Action"].as_array());
    Ok(actions
        .flatten()
        .filter_map(|action| Some(action.as_str()?.to_owned()))
        .collect())
}

/// Purpose of each action, in the order of the example.
fn purpose(action: &str) -> &'static str {
    match action {
        "s3:ListBucket" => "to list what is stored: the journal is in the keys",
        "s3:ListBucketMultipartUploads" => "to find uploads that a crash left behind",
        "s3:PutObject" => "to store events, receipts and the journal",
        "s3:GetObject" => "to read receipts, and to check what was written",
        "s3:AbortMultipartUpload" => "to abort failed uploads, which otherwise cost storage",
        "s3:DeleteObject" => {
            "to delete obsolete attempts, sessions and prepared records below `_journal/`; never evidence"
        }
        _ => "",
    }
}

#[tokio::test]
async fn the_minimal_policy_suffices_and_each_missing_action_is_named() -> Result<()> {
    let settings = Settings {
        volume: Volume {
            days: BTreeMap::from([(date(2018, 6, 5), 20_000)]),
            ..Volume::default()
        },
        gzip: GzipSettings {
            level: 0,
            ..GzipSettings::default()
        },
        ..Settings::default()
    };
    let fixture = DayTwoFixture::start("policy", settings).await?;
    let account = fixture.account("bucket").await?;
    let actions = actions()?;
    let without = |at: usize| format!("without-{at}");
    for (at, missing) in actions.iter().map(String::as_str).chain([""]).enumerate() {
        let bucket = format!("{}-{at}", fixture.namespace);
        fixture.gateway.create_bucket(&bucket).await?;
        fixture
            .grant(&bucket, &account.access_key, |actions| {
                actions.retain(|action| action != missing);
            })
            .await?;
        fixture.apply(&fixture.two_days(&without(at), &bucket)).await?;
    }

    let mut table = "| action | what for | without it |\n|---|---|---|\n".to_owned();
    for (at, action) in actions.iter().enumerate() {
        let (ready, message) = wait_settled(&fixture, &without(at)).await?;
        let says = if ready == "True/Complete" {
            "the export works".to_owned()
        } else {
            ensure!(ready == "False/BucketForbidden", "{action}: {ready} {message}");
            ensure!(
                message.contains(&format!("denies {action} ")),
                "{action}: {message}"
            );
            format!("`BucketForbidden`, naming `{action}`; no session is left open")
        };
        let works = action == "s3:DeleteObject";
        ensure!(works == (ready == "True/Complete"), "{action}: {ready} {message}");
        let says = match action.as_str() {
            "s3:DeleteObject" => "the export works; temporary entries stay and are ignored",
            _ => &says,
        };
        ensure!(!purpose(action).is_empty(), "{action} has no purpose");
        let _ = writeln!(table, "| `{action}` | {} | {says} |", purpose(action));
    }
    let (ready, message) = wait_settled(&fixture, &without(actions.len())).await?;
    ensure!(
        ready == "True/Complete",
        "with the complete policy: {ready} {message}"
    );
    eventually("no session is left", async || {
        Ok(fixture.simulator.open_sessions().is_empty())
    })
    .await?;

    // Minimal: nothing above needed permission to delete events or receipts.
    let bucket = format!("{}-{}", fixture.namespace, actions.len());
    let keys = Bucket::of(fixture.gateway, &bucket).keys().await?;
    ensure!(
        keys.len() == 5
            && !keys
                .iter()
                .any(|key| TEMPORARY_ENTRIES.iter().any(|end| key.contains(end))),
        "{keys:?}"
    );

    // What the policy does not allow to delete stays, also for the exporter.
    let client = sdk_with(
        &fixture.gateway.endpoint(),
        &account.access_key,
        &account.secret_key,
    );
    let delete = async |key: &str| {
        client
            .delete_object()
            .bucket(&bucket)
            .key(key)
            .send()
            .await
            .is_ok()
    };
    let root = keys
        .iter()
        .find_map(|key| Some(key.split_once("/date=")?.0))
        .context("no events")?;
    for key in &keys {
        ensure!(!delete(key).await, "the exporter may delete {key}");
    }
    for name in [
        "2018-06-04.expired.json",
        "2018-06-04.split.json",
        "2018-06-04.receipt.json.sig",
    ] {
        ensure!(
            !delete(&format!("{root}/_journal/{name}")).await,
            "the exporter may delete {name}"
        );
    }
    let obsolete = format!("{root}/_journal/2018-06-04.01J00000000000000000000000.attempt.json");
    ensure!(delete(&obsolete).await, "the exporter may not delete {obsolete}");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/credentials.md");
    let text = std::fs::read_to_string(&path)?;
    let wanted = with_part(&text, "policy", &table);
    if text != wanted {
        ensure!(
            std::env::var_os("UPDATE_DOCS").is_some(),
            "docs/credentials.md: policy is out of date: run `make generated`\n{table}"
        );
        std::fs::write(&path, wanted)?;
    }
    Ok(())
}

/// Returns true if a pattern of a policy, in which `*` stands for any text, matches a resource.
fn matches(pattern: &str, resource: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == resource,
        Some((before, rest)) => resource.strip_prefix(before).is_some_and(|left| {
            (0..=left.len()).any(|at| left.get(at..).is_some_and(|tail| matches(rest, tail)))
        }),
    }
}

#[test]
fn of_what_is_kept_the_policy_lets_only_the_report_be_overwritten() -> Result<()> {
    let policy = example()?;
    let resources = |effect: &str, action: &str| -> Vec<String> {
        let statements = policy["Statement"].as_array().into_iter().flatten();
        let found = statements.filter(|statement| {
            let actions = statement["Action"].as_array();
            statement["Effect"] == effect && actions.into_iter().flatten().any(|one| one == action)
        });
        let resources = found.flat_map(|statement| match &statement["Resource"] {
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        });
        resources
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect()
    };
    let (allowed, denied) = (
        resources("Allow", "s3:PutObject"),
        resources("Deny", "s3:PutObject"),
    );
    let (day, hour): (Window, Window) = (Window::day(date(2018, 6, 5)), "2018-06-05T07".parse()?);
    let root = ArchiveRoot::new("tracker", "c1", "space");
    for key in [
        Key::Events(day),
        Key::Events(hour),
        Key::Supplement(day, 1),
        Key::Revision(hour, 2),
        Key::Receipt(day),
        Key::RevisionReceipt(hour, 1),
        Key::ReceiptSignature(day, 1),
        Key::Manifest(1),
        Key::Signature(1),
        Key::Checkpoint(day.date()),
        Key::CheckpointSignature(day.date()),
        Key::Timestamp(StampedDocument::Manifest(1)),
        Key::Report,
    ] {
        let resource = format!("arn:aws:s3:::audit/{}", root.key(&key).context("no key")?);
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &resource));
        ensure!(any(&allowed), "{resource} cannot be written");
        ensure!(any(&denied) == key.is_evidence(), "{resource}: {denied:?}");
        ensure!(key.is_evidence() || key == Key::Report, "{resource}");
    }
    Ok(())
}

/// Waits until `Ready` is complete or forbidden and returns it with its message.
async fn wait_settled(fixture: &DayTwoFixture, name: &str) -> Result<(String, String)> {
    let mut found = (String::new(), String::new());
    let outcome = eventually(&format!("{name} is complete or stalls"), async || {
        let object = fixture.object(name).await?;
        let message = object["status"]["lastError"]["message"]
            .as_str()
            .unwrap_or_default();
        found = (condition(&object, "Ready"), message.to_owned());
        Ok(found.0 == "True/Complete" || condition(&object, "Stalled").starts_with("True"))
    })
    .await;
    outcome.with_context(|| format!("{found:?}"))?;
    Ok(found)
}
