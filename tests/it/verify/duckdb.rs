//! Real `DuckDB` reads the archive as Hive partitions and counts the same events per day as the receipts.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use tokio::process::Command;

use super::fixture::{ArchiveFixture, text};
use crate::export::revisions::{archive_with_late_events, archive_with_late_events_and_hours};
use crate::testkit::command::run_in;

/// Query of the documentation.
fn documented() -> String {
    let page = include_str!("../../../docs/archive.md");
    let (_, rest) = page.split_once("<!-- checked: duckdb -->\n```sql\n").unwrap();
    let (query, _) = rest.split_once("```").unwrap();
    query.to_owned()
}

/// Runs statements in a folder, and returns the rows of the last one; `None`, and a message, without `DuckDB`.
async fn run(test: &str, folder: &Path, statements: &[&str]) -> Option<Vec<String>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join(".bed/consumers/duckdb");
    if !home.join("version").is_file() {
        let missing = "DuckDB is not in .bed/consumers: `make consumers` fetches it through pip";
        // Bypasses the capture of the tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: verify::duckdb::{test}: {missing}");
        return None;
    }
    let script = "import duckdb, sys\nfor text in sys.argv[1:]: found = duckdb.sql(text)\n\
                  for row in found.fetchall(): print(*row)";
    let output = Command::new(home.join("bin/python"))
        .args(["-c", script])
        .args(statements)
        .current_dir(folder)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let counted = String::from_utf8(output.stdout).unwrap();
    Some(counted.lines().map(str::to_owned).collect())
}

/// Runs the documented query over an archive below a folder.
async fn count(test: &str, archive: &Path) -> Option<Vec<String>> {
    let place = archive.display().to_string();
    let query = documented().replace("s3://audit/tracker", &place);
    assert!(query.contains(&place), "{query}");
    run(test, archive, &[&query]).await
}

#[tokio::test]
async fn duckdb_counts_the_same_events_of_each_day() {
    let copy = ArchiveFixture::shared().await.copy();
    let test = "duckdb_counts_the_same_events_of_each_day";
    let Some(counted) = count(test, &copy.path().join("t")).await else {
        return;
    };
    // The two days of the weekend have no object; one day is stored in hours.
    let days = ["01", "04", "05", "06", "07"];
    assert_eq!(counted, days.map(|day| format!("2018-06-{day} 240")));
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_reads_late_events_once() {
    let fixture = archive_with_late_events().await;
    let root = fixture.root();
    // The folders of space and scope lie below the prefix.
    let archive = root.ancestors().nth(2).unwrap();
    let Some(counted) = count("duckdb_reads_late_events_once", archive).await else {
        return;
    };
    let days = [("01", 240), ("02", 240), ("03", 247), ("04", 240)];
    assert_eq!(
        counted,
        days.map(|(day, events)| format!("2018-06-{day} {events}"))
    );
}

/// Returns a recipe of docs/consumers.md.
fn recipe(mark: &str) -> String {
    let page = include_str!("../../../docs/consumers.md");
    let (_, rest) = page
        .split_once(&format!("<!-- tested: {mark} -->\n```sql\n"))
        .unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_and_ocsf_have_as_many_events_as_cat_and_verify() {
    let test = "parquet_and_ocsf_have_as_many_events_as_cat_and_verify";
    let fixture = archive_with_late_events_and_hours().await;
    let root = fixture.root();
    let keys = fixture.files();
    for key in [
        "date=2018-06-02/events-h07.json.gz",
        "date=2018-06-03/events-r1.json.gz",
    ] {
        assert!(keys.iter().any(|found| found.ends_with(key)), "{key}: {keys:?}");
    }
    let program = async |arguments: &[&str]| {
        let arguments = [arguments, &[text(&root)]].concat();
        run_in(fixture.folder.path(), &arguments).await.expect_exit(0)
    };
    let lines = program(&["cat"]).await.out.lines().count();
    let verified = program(&["verify", "-o", "json"]).await.json();
    assert_eq!(lines, 4 * 240 + 7);
    assert_eq!(
        verified["archives"][0]["roots"][0]["totals"]["events"], lines,
        "{verified}"
    );

    let view = program(&["ddl", "--for", "duckdb"]).await.out;
    let folder = tempfile::tempdir().unwrap();
    for mark in ["parquet", "ocsf"] {
        let Some(counted) = run(test, folder.path(), &[&view, &recipe(mark)]).await else {
            return;
        };
        assert_eq!(counted, [lines.to_string()], "{mark}");
    }
    // Each event once, and what the class requires.
    let ids = "SELECT count(DISTINCT payload.id) FROM 'events.parquet'";
    let typed = "SELECT count(DISTINCT metadata.uid) FROM 'ocsf.json' WHERE category_uid = 6 AND class_uid = 6003 AND \
                 type_uid = 600300 + activity_id AND activity_name IS NOT NULL AND severity_id > 0 AND status_id > 0 AND \
                 make_timestamp_ms(time)::DATE BETWEEN '2018-06-01' AND '2018-06-04' AND actor.user.uid IS NOT NULL AND \
                 api.operation IS NOT NULL AND src_endpoint.ip IS NOT NULL AND metadata.product.vendor_name = 'IBM'";
    for query in [ids, typed] {
        let counted = run(test, folder.path(), &[query]).await;
        assert_eq!(counted.unwrap(), [lines.to_string()], "{query}");
    }
    let created = "SELECT DISTINCT activity_id, activity_name FROM 'ocsf.json' WHERE api.operation = \
                   'iam-am.policy.create'";
    assert_eq!(run(test, folder.path(), &[created]).await.unwrap(), ["1 Create"]);
}

#[tokio::test]
async fn the_printed_view_reads_the_archive_of_a_folder_with_an_odd_name() {
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let odd = copy.path().join("it's [a] *?");
    fs::rename(copy.path().join("t"), &odd).unwrap();
    let arguments = ["ddl", "--for", "duckdb", "--table", "the \"events\"", text(&odd)];
    let view = fixture.program(&arguments, &[]).await.expect_exit(0).out;
    let count =
        "SELECT date, count(*) FROM \"the \"\"events\"\"\" WHERE scope = 'space' GROUP BY date ORDER BY date";
    let test = "the_printed_view_reads_the_archive_of_a_folder_with_an_odd_name";
    let Some(counted) = run(test, copy.path(), &[&view, count]).await else {
        return;
    };
    let days = ["01", "04", "05", "06", "07"];
    assert_eq!(counted, days.map(|day| format!("2018-06-{day} 240")));
}
