//! Loads events into real consumers with the commands of docs/consumers.md.

use std::path::Path;

use serde_json::Value;

use super::fixture::CommandOutput;
use super::pipe::PipeFixture;
use crate::bed::Elasticsearch;

/// Returns a command of the documentation: the block after this marker.
fn documented(mark: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/consumers.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text
        .split_once(&format!("<!-- tested: {mark} -->\n```sh\n"))
        .unwrap_or_else(|| panic!("docs/consumers.md has no command {mark}"));
    rest.split_once("```").unwrap().0.to_owned()
}

/// Runs a command of the documentation with the program in PATH.
async fn run(service: &PipeFixture, line: &str, target: &str) -> CommandOutput {
    let line = format!("PATH=$(dirname \"$E\"):$PATH ARCHIVE=$PWD/archive ES={target}\n{line}");
    service.shell(&line).await
}

#[tokio::test(flavor = "multi_thread")]
async fn elasticsearch_indexes_each_event_once() {
    let started = Elasticsearch::start("download::consumers::elasticsearch_indexes_each_event_once");
    let Some(elasticsearch) = started.await.unwrap() else {
        return;
    };
    // More than one bulk request, and fewer than 512 an hour, where each event has its own id.
    let service = PipeFixture::start(&["--events-per-day", "6000"]).await;
    let target = format!("{}/audit", elasticsearch.url());
    let line = documented("elasticsearch");
    for _ in 0..2 {
        let ended = run(&service, &line, &target).await.expect_exit(0);
        assert!(
            ended.err.contains("18,000 events") && ended.err.contains("Matched"),
            "{}",
            ended.err
        );
        let counted = run(&service, &documented("elasticsearch count"), &target)
            .await
            .expect_exit(0);
        assert_eq!(
            counted.out.trim(),
            "18000",
            "as many as were downloaded, also after the second time"
        );
    }
    // The archive of the same days has the same events.
    let export = "eventexport run --start 2018-06-25 --end 2018-06-27 --archive $ARCHIVE";
    run(&service, export, &target).await.expect_exit(0);
    let from_archive = documented("elasticsearch from an archive");
    for index in ["audit", "archive"] {
        let target = format!("{}/{index}", elasticsearch.url());
        for _ in 0..2 {
            run(&service, &from_archive, &target).await.expect_exit(0);
            let counted = run(&service, &documented("elasticsearch count"), &target).await;
            assert_eq!(counted.expect_exit(0).out.trim(), "18000", "{index}");
        }
    }
    let by_day = "curl -s -H 'Content-Type: application/json' $ES/_search?size=0 -d \
                  '{\"aggs\":{\"day\":{\"date_histogram\":{\"field\":\"payload.eventTime\",\"calendar_interval\":\"day\"}}}}'";
    let found: Value =
        serde_json::from_str(&run(&service, by_day, &target).await.expect_exit(0).out).unwrap();
    let days = found["aggregations"]["day"]["buckets"].as_array().unwrap();
    let days: Vec<(String, u64)> = days
        .iter()
        .map(|day| {
            let name = day["key_as_string"].as_str().unwrap()[..10].to_owned();
            (name, day["doc_count"].as_u64().unwrap())
        })
        .collect();
    let expected = [25, 26, 27].map(|day| (format!("2018-06-{day}"), 6000));
    assert_eq!(days, expected);

    // A rejection by Elasticsearch is reported.
    let refused = run(&service, &line, &format!("{}/_not_a_name", elasticsearch.url())).await;
    assert!(refused.code != Some(0), "{}", refused.err);
}
