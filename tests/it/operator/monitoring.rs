//! Metrics, rules and dashboard: all names that they use exist, a real Prometheus scrapes the operator, its alerts
//! fire, and series appear and disappear with their resources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use eventexport::simulator::{Settings, Volume};
use eventexport::telemetry::Metrics;
use jiff::{ToSpan as _, Zoned, civil::Date};
use regex::Regex;
use serde_json::{Value, json};

use super::{eventually, wait_conditions};
use crate::bed::{Prometheus, promtool};
use crate::testkit::environment::Environment;
use crate::testkit::operator::SHORT_LEASE;
use crate::testkit::process::Process;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn chart(file: &str) -> String {
    fs::read_to_string(root().join("charts/eventexport").join(file)).unwrap()
}

/// Returns all alerts of the rules with their runbooks.
fn alerts() -> BTreeMap<String, String> {
    let rules: Value = serde_saphyr::from_str(&chart("files/rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let alerts = rules.filter(|rule| rule["alert"].is_string()).map(|rule| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for needed in ["summary", "description", "runbook_url"] {
            assert!(
                !text(&rule["annotations"][needed]).is_empty(),
                "{rule}: no {needed}"
            );
        }
        (text(&rule["alert"]), text(&rule["annotations"]["runbook_url"]))
    });
    alerts.collect()
}

/// Returns all queries of the dashboard with their panel titles.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&chart("files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let query = |target: Value| (title.clone(), target["expr"].as_str().unwrap().to_owned());
        targets.into_iter().map(query).collect::<Vec<_>>()
    });
    queries.collect()
}

/// Fills in the variables as Grafana does, with everything selected.
fn filled(query: &str) -> String {
    ["$job", "$namespace", "$name"]
        .iter()
        .fold(query.replace("$__rate_interval", "1m"), |query, variable| {
            query.replace(&format!("\"{variable}\""), "\".*\"")
        })
}

/// Returns the labels of all series of a scrape by metric name.
fn series(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let line = Regex::new(r"^([a-z_]+)(?:\{(.*)\})? ").unwrap();
    let label = Regex::new(r#"([a-z_]+)=""#).unwrap();
    let mut series = BTreeMap::<String, BTreeSet<String>>::new();
    for found in text.lines().filter_map(|text| line.captures(text)) {
        let labels = found.get(2).map_or("", |labels| labels.as_str());
        let names = label.captures_iter(labels).map(|label| label[1].to_owned());
        series.entry(found[1].to_owned()).or_default().extend(names);
    }
    series
}

/// Returns the metrics of a query, and the labels that it selects or groups by. Alerts and recorded series belong to
/// Prometheus.
fn named(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let metric = Regex::new(r"\b((?:eventexport|process)_[a-z_]+)\b(\{[^}]*\})?").unwrap();
    let selected = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
    let grouped = Regex::new(r"\b(?:by|on)\s*\(([^)]*)\)").unwrap();
    let (mut metrics, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for found in metric.captures_iter(query) {
        metrics.insert(found[1].to_owned());
        let selectors = found.get(2).map_or("", |selectors| selectors.as_str());
        labels.extend(selected.captures_iter(selectors).map(|label| label[1].to_owned()));
    }
    for list in grouped.captures_iter(query) {
        let names = list[1].split(',').map(|name| name.trim().to_owned());
        labels.extend(names.filter(|name| !name.is_empty()));
    }
    (metrics, labels)
}

/// Labels that Prometheus and Grafana add.
const SCRAPE_LABELS: [&str; 4] = ["job", "instance", "pod", "namespace"];

#[test]
fn rules_and_dashboard_use_only_existing_metrics_and_labels() {
    let there = series(&Metrics::sample().text());
    let rules: Value = serde_saphyr::from_str(&chart("files/rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let mut queries = queries();
    queries.extend(rules.map(|rule| {
        let name = rule["alert"].as_str().or(rule["record"].as_str());
        (
            name.unwrap().to_owned(),
            rule["expr"].as_str().unwrap().to_owned(),
        )
    }));
    let mut used = BTreeSet::new();
    for (title, query) in &queries {
        let (metrics, labels) = named(query);
        assert!(
            !metrics.is_empty() || query.contains("eventexport:"),
            "{title}: no metric is recognized in {query}"
        );
        for label in labels {
            let known = |metric: &String| there.get(metric).is_some_and(|labels| labels.contains(&label));
            let fine = metrics.iter().any(known) || SCRAPE_LABELS.contains(&label.as_str());
            assert!(
                fine || query.contains("eventexport:"),
                "{title}: no metric of {query} has the label {label}"
            );
        }
        for metric in metrics {
            assert!(
                there.contains_key(&metric),
                "{title}: there is no metric {metric}"
            );
            used.insert(metric);
        }
    }
    // The dashboard shows all metrics, except those that another panel covers.
    let unused = there.keys().filter(|name| {
        let base = name.trim_end_matches("_count").trim_end_matches("_sum");
        let buckets = used.contains(&format!("{base}_bucket"));
        !used.contains(*name) && !buckets && !name.starts_with("process_")
    });
    assert_eq!(unused.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let runbooks = fs::read_to_string(root().join("docs/runbooks.md")).unwrap();
    let sections: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|title| title.starts_with("EventExport"))
        .collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.keys().map(String::as_str).collect();
    assert_eq!(sections, names);
    for (name, link) in &alerts {
        assert_eq!(*link, format!("docs/runbooks.md#{}", name.to_lowercase()));
    }
}

#[tokio::test]
async fn each_alert_fires_for_its_own_reason_in_time() -> Result<()> {
    let folder = root().join("charts/eventexport/tests/rules");
    promtool(&folder, &["test", "rules", "alerts.yaml"]).await?;
    let tests = fs::read_to_string(folder.join("alerts.yaml"))?;
    for alert in alerts().keys() {
        ensure!(tests.contains(alert), "{alert} is not tested");
    }
    Ok(())
}

fn days_ago(days: i64) -> Date {
    Zoned::now()
        .with_time_zone(jiff::tz::TimeZone::UTC)
        .date()
        .saturating_sub(days.days())
}

/// Shortens the delays of alerts from hours to a moment.
fn without_delays(rules: &str) -> String {
    Regex::new(r"(?m)^(\s+for:) .*$")
        .unwrap()
        .replace_all(rules, "$1 1s")
        .into_owned()
}

/// Panels with a query without data in the fixture below: nothing is retried, no period is closed, no verification is due.
const EMPTY: [&str; 3] = [
    "Retried requests",
    "Newest manifest",
    "Since the last verification",
];

#[tokio::test]
async fn a_real_prometheus_scrapes_the_operator_shows_the_dashboard_and_fires_alerts() -> Result<()> {
    let settings = Settings {
        retention_days: 9,
        volume: Volume {
            quiet: Vec::new(),
            ..Volume::default()
        },
        ..Settings::default()
    };
    let fixture = Environment::builder("watched").service(settings).start().await?;
    // One healthy export, one too late, one with a damaged day, one without its Secret, and one suspended.
    let (week, month) = (days_ago(5).to_string(), days_ago(30).to_string());
    let (lost, damaged) = (days_ago(20).to_string(), days_ago(7).to_string());
    fixture.simulator.add_preset(&format!("wrong-crc@{damaged}"))?;
    let nobody =
        json!({ "endpoint": fixture.tracker.endpoint(), "credentialsSecretRef": { "name": "nobody" } });
    let verified = json!({ "verification": { "every": "1h" } });
    fixture.create("well", [&week, ""], &verified).await?;
    fixture.create("late", [&month, &lost], &json!({})).await?;
    fixture.create("stuck", [&damaged, &damaged], &json!({})).await?;
    fixture
        .create("locked", [&week, ""], &json!({ "source": nobody }))
        .await?;
    fixture
        .create("stopped", [&week, ""], &json!({ "suspend": true }))
        .await?;
    // An expired day needs two looks.
    let command = || {
        let operator = fixture.operator().lease(SHORT_LEASE);
        operator.args(&["--expiry-recheck", "1s"])
    };
    let operator = command().start().await?;
    let second = command().start().await?;
    let rules = without_delays(&chart("files/rules.yaml"));
    let prometheus = Prometheus::start(&[operator.address(), second.address()], &rules).await?;

    wait_conditions(fixture.cluster, &fixture.namespace, "well", ["True/", "", "", ""]).await?;
    eventually("it has stored what is over", async || {
        let query = "eventexport_resource_windows{name=\"well\", state=\"stored\"} >= 4";
        Ok(!prometheus.query(query).await?.is_empty())
    })
    .await?;
    for (name, alert) in [
        ("late", "EventExportDaysLost"),
        ("late", "EventExportStalled"),
        ("locked", "EventExportStalled"),
        ("stuck", "EventExportDaysAboutToBeLost"),
        ("stuck", "EventExportOverdue"),
        ("stopped", "EventExportSuspended"),
    ] {
        let namespace = &fixture.namespace;
        let query = format!(
            "ALERTS{{alertname=\"{alert}\", namespace=\"{namespace}\", name=\"{name}\", alertstate=\"firing\"}}"
        );
        let fires = async || Ok(!prometheus.query(&query).await?.is_empty());
        eventually(&format!("{alert} fires for {name}"), fires).await?;
    }
    // The shortened rules may have fired while it caught up.
    eventually("nothing fires for what goes well", async || {
        let firing = "ALERTS{name=\"well\", alertstate=\"firing\"}";
        Ok(prometheus.query(firing).await?.is_empty())
    })
    .await?;
    let leaders = prometheus.query("sum(eventexport_leader) == 1").await?;
    ensure!(leaders.len() == 1, "one of the two leads");

    for (title, query) in queries() {
        let query = filled(&query);
        let shown = async || Ok(!prometheus.query(&query).await?.is_empty());
        if EMPTY.contains(&title.as_str()) {
            shown().await?;
        } else {
            eventually(&format!("{title} shows something: {query}"), shown).await?;
        }
    }

    // The labels of a real operator match the documentation.
    let documented = series(&Metrics::sample().text());
    let real = series(&operator.metrics().await?);
    for (name, labels) in &real {
        let known = documented
            .get(name)
            .with_context(|| format!("{name} is not documented"))?;
        ensure!(labels.is_subset(known), "{name}: {labels:?} of {known:?}");
    }
    Ok(())
}

async fn series_of(process: &Process, name: &str) -> Result<Vec<String>> {
    let metrics = process.metrics().await?;
    let mark = format!("name=\"{name}\"");
    let lines = metrics.lines().filter(|line| line.contains(&mark));
    Ok(lines.map(str::to_owned).collect())
}

#[tokio::test]
async fn resource_metrics_survive_a_restart_and_end_with_the_resource() -> Result<()> {
    let fixture = Environment::builder("numbers").start().await?;
    fixture
        .create("june", ["2018-06-03", "2018-06-07"], &json!({}))
        .await?;
    let operator = fixture.operator().lease(SHORT_LEASE).start().await?;
    let complete = ["True/Complete", "True/Complete", "", ""];
    wait_conditions(fixture.cluster, &fixture.namespace, "june", complete).await?;
    let settled = async |operator: &Process| {
        let mut seen = Vec::new();
        eventually("its numbers are those of a finished export", async || {
            seen = series_of(operator, "june").await?;
            let has = |part: &str| seen.iter().any(|line| line.contains(part));
            Ok(has("resource_complete{")
                && has("resource_last_success_timestamp_seconds{")
                && has("state=\"stored\"} 5.0")
                && has("reason=\"Complete\"")
                && !has("oldest_missing"))
        })
        .await?;
        anyhow::Ok(seen)
    };
    let before = settled(&operator).await?;
    let metrics = operator.metrics().await?;
    for part in [
        "eventexport_windows_total{outcome=\"stored\"} ",
        "eventexport_requests_total{peer=\"tracker\",operation=\"CreateSession\",code=\"200\"} 5",
        "eventexport_requests_total{peer=\"uaa\",operation=\"Login\",code=\"200\"} 1",
        "eventexport_requests_total{peer=\"s3\",operation=\"PutObject\",code=\"200\"} ",
        "eventexport_requests_total{peer=\"kubernetes\",operation=\"Patch\",code=\"200\"} ",
        "eventexport_sessions_open 0\n",
        "process_resident_memory_bytes ",
    ] {
        ensure!(metrics.contains(part), "{part} is not in\n{metrics}");
    }

    operator.signal("-TERM").await?;
    operator.wait(super::TIMEOUT).await?;
    let again = fixture.operator().lease(SHORT_LEASE).start().await?;
    let after = settled(&again).await?;
    ensure!(before == after, "{before:#?}\n{after:#?}");

    fixture.delete("june").await?;
    eventually("its series are gone", async || {
        Ok(series_of(&again, "june").await?.is_empty())
    })
    .await?;
    ensure!(again.metrics().await?.contains("\neventexport_resources 0"));
    Ok(())
}
