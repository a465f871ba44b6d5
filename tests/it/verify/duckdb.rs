//! Real `DuckDB` reads the archive as Hive partitions and counts the same events per day as the receipts.

use std::io::Write as _;
use std::path::Path;

use tokio::process::Command;

use super::fixture::ArchiveFixture;

/// Query of the documentation.
fn documented() -> String {
    let page = include_str!("../../../docs/archive.md");
    let (_, rest) = page.split_once("<!-- checked: duckdb -->\n```sql\n").unwrap();
    let (query, _) = rest.split_once("```").unwrap();
    query.to_owned()
}

#[tokio::test]
async fn duckdb_counts_the_same_events_of_each_day() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join(".bed/consumers/duckdb");
    if !home.join("version").is_file() {
        let name = "verify::duckdb::duckdb_counts_the_same_events_of_each_day";
        let missing = "DuckDB is not in .bed/consumers: `make consumers` fetches it through pip";
        // Bypasses the capture of the tests.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: {missing}");
        return;
    }
    let fixture = ArchiveFixture::shared().await;
    let copy = fixture.copy();
    let place = format!("{}/t", copy.path().display());
    let query = documented().replace("s3://audit/tracker", &place);
    assert!(query.contains(&place), "{query}");
    let script = "import duckdb, sys\nfor day, n in duckdb.sql(sys.argv[1]).fetchall(): print(day, n)";
    let output = Command::new(home.join("bin/python"))
        .args(["-c", script, &query])
        .current_dir(copy.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // The two days of the weekend have no object; one day is stored in hours.
    let days = ["01", "04", "05", "06", "07"];
    let expected = days.map(|day| format!("2018-06-{day} 240"));
    let counted = String::from_utf8(output.stdout).unwrap();
    assert_eq!(counted.lines().collect::<Vec<_>>(), expected);
}
