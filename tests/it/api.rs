//! Validates resources on a real API server: which are accepted or refused, and with which message. The validation in
//! Rust must reach the same verdict without a server.

// A test panics on output of kubectl or serde that it does not expect.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cases;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use eventexport::{api, cli};
use serde_json::{Value, json};

use crate::bed::{Cluster, other_kubernetes};

/// CRD manifest in Git; `eventexport crd` prints the same.
const DEFINITION: &str = "crds/eventexports.yaml";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// True if generated files are rewritten instead of compared.
fn update_docs() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Asserts that a generated file in Git is up to date.
fn assert_generated(path: &str, text: &str) {
    let there = fs::read_to_string(file(path)).unwrap_or_default();
    if there == text {
        return;
    }
    assert!(
        update_docs(),
        "{path} is not what would be generated: run the tests with UPDATE_DOCS=1"
    );
    fs::write(file(path), text).unwrap();
}

/// Returns the shared cluster with our CRD applied without a warning.
async fn cluster() -> &'static Cluster {
    // Runs before the cluster starts, which reads the CRD from there.
    assert_generated(DEFINITION, &cli::crd::crd());
    let cluster = Cluster::shared().await;
    let path = file(DEFINITION);
    let applied = cluster
        .kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()], None)
        .await;
    assert_eq!(applied.stderr, "", "the definition is refused, or warned of");
    cluster.apply_crd(&path).await.unwrap();
    cluster
}

#[test]
fn the_committed_crd_matches_the_types() {
    assert_generated(DEFINITION, &cli::crd::crd());
}

#[tokio::test]
async fn every_example_is_accepted() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("examples").await;
    let mut count = 0;
    for entry in fs::read_dir(file("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // Conditions of other programs are tested with those programs.
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if !text.contains("kind: EventExport\n") {
            // The tests that run the operator apply its own manifest.
            continue;
        }
        let args = [
            "create",
            "--dry-run=server",
            "-n",
            &namespace,
            "-f",
            path.to_str().unwrap(),
        ];
        cluster
            .kubectl(&args, None)
            .await
            .success()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for document in documents
            .into_iter()
            .filter(|document| document["kind"] == "EventExport")
        {
            api::read_export(document).unwrap_or_else(|errors| panic!("{}: {errors:?}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 4);
}

/// kstatus treats a resource whose status is of an older generation as in progress. Without the default value, a wait
/// that starts before the first reconcile would succeed.
#[tokio::test]
async fn a_new_export_counts_as_not_reconciled() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("fresh").await;
    let manifest = table::manifest("fresh", &table::base()).to_string();
    let create = ["create", "-n", &namespace, "-f", "-", "-o", "json"];
    let made = cluster.kubectl(&create, Some(&manifest)).await.success().unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["status"], json!({ "observedGeneration": -1 }));
    let export: api::EventExport = serde_json::from_value(made).unwrap();
    assert_eq!(export.status, Some(api::EventExportStatus::default()));
}

#[tokio::test]
async fn kubectl_get_columns_are_readable() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("listing").await;
    let manifest = table::manifest("audit-2018", &table::base()).to_string();
    cluster
        .kubectl(&["create", "-n", &namespace, "-f", "-"], Some(&manifest))
        .await
        .success()
        .unwrap();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut status = api::EventExportStatus {
        observed_generation: 1,
        ..Default::default()
    };
    status.windows = Some(api::WindowCounts {
        wanted: 30,
        stored: 12,
        active: 4,
        waiting: 14,
        failed: 0,
    });
    for (kind, value) in [
        (api::ConditionType::Ready, true),
        (api::ConditionType::Complete, false),
    ] {
        let made = api::condition(
            kind,
            Some(value),
            api::Reason::Exporting,
            "12 of 30 days are stored",
            1,
            now,
        );
        api::set_condition(&mut status.conditions, made);
    }
    let patch = json!({ "status": status }).to_string();
    let args = [
        "patch",
        "ee",
        "audit-2018",
        "-n",
        &namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    cluster.kubectl(&args, None).await.success().unwrap();
    let mut continuous = table::base();
    continuous["dateRange"] = json!({ "start": "2018-06-01" });
    let manifest = table::manifest("continuous", &continuous).to_string();
    let create = ["create", "-n", &namespace, "-f", "-"];
    cluster.kubectl(&create, Some(&manifest)).await.success().unwrap();
    let listing = cluster
        .kubectl(&["get", "eventexports", "-n", &namespace], None)
        .await
        .success()
        .unwrap();
    let words: Vec<Vec<&str>> = listing
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words[0],
        [
            "NAME", "SCOPE", "FROM", "TO", "STORED", "OF", "READY", "COMPLETE", "REASON", "AGE"
        ],
        "{listing}"
    );
    assert_eq!(
        words[1][..9],
        [
            "audit-2018",
            "Space",
            "2018-06-01",
            "2018-06-30",
            "12",
            "30",
            "True",
            "False",
            "Exporting"
        ],
        "{listing}"
    );
    // The column is blank without an end and before the first reconcile.
    assert_eq!(words[2][..3], ["continuous", "Space", "2018-06-01"], "{listing}");
    assert_eq!(words[2].len(), 4, "{listing}");
}

/// Checks the table of manifests: the server's verdict and message, and that Rust agrees on verdict and field. The
/// refused manifests are written to the documentation.
#[tokio::test]
async fn the_api_server_and_rust_agree_on_every_manifest() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("table").await;
    let outcomes = table::validate_all(cluster, &namespace, cases::all()).await;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(table::ValidationOutcome::disagreement)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        outcomes.len(),
        wrong.join("\n")
    );
    // The documentation quotes the newer server.
    if other_kubernetes().is_none() {
        assert_generated("docs/reference/validation.md", &table::document(&outcomes));
    }
}

/// The first and the last day of each month are dates and the day after the last is not, both in the server's regular
/// expression and in the calendar.
#[tokio::test]
async fn the_date_pattern_matches_the_calendar() {
    let cluster = cluster().await;
    let namespace = cluster.namespace("calendar").await;
    let months: Vec<(i16, i8)> = (1970..=2099)
        .flat_map(|year| (1..=12).map(move |month| (year, month)))
        .collect();
    for months in months.chunks(780) {
        let gap = |start: String, end: String| json!({ "start": start, "end": end, "reason": "r" });
        let last = |year, month| jiff::civil::date(year, month, 1).days_in_month();
        let real: Vec<Value> = months
            .iter()
            .map(|&(year, month)| {
                let day = |day: i8| format!("{year}-{month:02}-{day:02}");
                gap(day(1), day(last(year, month)))
            })
            .collect();
        let unreal: Vec<Value> = months
            .iter()
            .map(|&(year, month)| {
                let day = |day: i8| format!("{year}-{month:02}-{day:02}");
                gap(day(0), day(last(year, month) + 1))
            })
            .collect();
        let manifest = |gaps: Vec<Value>| {
            let mut spec = table::base();
            spec["acceptedGaps"] = Value::Array(gaps);
            table::manifest("calendar", &spec)
        };
        let create = ["create", "--dry-run=server", "-n", &namespace, "-f", "-"];
        let real = manifest(real);
        cluster
            .kubectl(&create, Some(&real.to_string()))
            .await
            .success()
            .unwrap();
        api::read_export(real).unwrap();
        let unreal = manifest(unreal);
        let refused = cluster.kubectl(&create, Some(&unreal.to_string())).await;
        for (index, month) in months.iter().enumerate() {
            for field in ["start", "end"] {
                let path = format!("spec.acceptedGaps[{index}].{field}: ");
                assert!(refused.stderr.contains(&path), "{path} {month:?}");
            }
        }
        let spec: api::EventExportSpec = serde_json::from_value(unreal["spec"].clone()).unwrap();
        assert!(spec.validate().unwrap_err().len() == api::MAX_REPORTED_ERRORS);
    }
}
