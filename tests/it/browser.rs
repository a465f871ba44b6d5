//! Opens a report in headless Chromium, without a network: the calendar is rendered, each cell has a text for a screen
//! reader, and nothing in the page runs or loads. With `UPDATE_DOCS=1`, renews the picture of the documentation.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use eventexport::simulator::{Settings, Simulator};
use jiff::civil::date;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::testkit::command::{CommandOutput, isolate, run_command};
use crate::testkit::manifest::{Manifest, SPACE, tracker_keys};
use crate::testkit::process::program;

/// Names of the program, of Debian and of others.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// First and last day of the archive.
const DAYS: [&str; 2] = ["2018-04-01", "2018-06-30"];

/// Number of these days.
const DAYS_COUNT: usize = 91;

/// Size of the picture in pixels.
const PICTURE: &str = "880,1000";

/// Size of a telephone in pixels.
const NARROW: &str = "360,800";

/// Markup of a page that loads or runs something.
const ACTIVE: [&str; 9] = [
    "<script", "<link", "<img", "<iframe", "<object", "src=", "href=", "url(", "@import",
];

/// Maximum size of a printed report of three months: 512 KiB.
const PRINTED_MAX_BYTES: u64 = 512 << 10;

/// Returns the browser; `None`, and a message, without it.
fn browser(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let found = programs.find(|program| program.is_file());
    if found.is_none() {
        // Bypasses the capture of the tests.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: browser::{test}: Chromium is not installed: `make browser` installs it on Debian"
        );
    }
    found
}

struct BrowserFixture {
    folder: TempDir,
    browser: PathBuf,
}

impl BrowserFixture {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn program(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = Command::new(program());
        isolate(&mut command, self.folder.path());
        command.args(arguments);
        run_command(command).await
    }

    /// Runs the browser on a page in the folder, without a network. Returns its standard output.
    async fn open(&self, page: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.browser);
        isolate(&mut command, self.folder.path());
        command
            .args([
                "--headless",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            // Nothing resolves, and nothing listens at the proxy.
            .args([
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--proxy-server=127.0.0.1:9",
            ])
            // Without it, root cannot start the browser. The page is ours.
            .arg("--no-sandbox")
            .arg(format!("--user-data-dir={}", self.path("profile").display()))
            .args(arguments)
            .arg(format!("file://{}", self.path(page).display()))
            // Its messages about the desktop are of no interest.
            .stderr(Stdio::null());
        run_command(command).await.expect_exit(0).out
    }

    async fn picture(&self, page: &str, size: &str, name: &str) -> Vec<u8> {
        let (size, file) = (format!("--window-size={size}"), self.path(name));
        let to = format!("--screenshot={}", file.display());
        self.open(page, &[&size, &to]).await;
        fs::read(file).unwrap()
    }
}

/// Exports three months of a simulated service, with a late day, an accepted gap, two days that get lost, and one that is
/// damaged.
async fn archive(fixture: &BrowserFixture) {
    let settings = Settings {
        today: Some(date(2018, 7, 2)),
        retention_days: 120,
        ..Settings::default()
    };
    let service = Simulator::start(settings).await.unwrap();
    Manifest::new("audit", service.url().as_str())
        .days(DAYS[0], DAYS[1])
        .uaa()
        .set("destination.s3.credentialsSecretRef", serde_json::Value::Null)
        .set(
            "acceptedGaps",
            json!([{"start": "2018-04-17", "end": "2018-04-17", "reason": "maintenance of the service"}]),
        )
        .secret("tracker", tracker_keys())
        .write(fixture.path("audit.yaml"));
    let run = ["run", "-f", "audit.yaml", "--archive", "export", "--quiet"];
    fixture.program(&run).await.expect_exit(0);
    service.grow_day(date(2018, 6, 28), 7);
    fixture.program(&run).await.expect_exit(0);
    let root = fixture.path(&format!("export/space={SPACE}/scope=space"));
    for day in ["2018-05-22", "2018-05-23"] {
        fs::remove_file(root.join(format!("date={day}/events.json.gz"))).unwrap();
        fs::remove_file(root.join(format!("_journal/{day}.receipt.json"))).unwrap();
    }
    fs::remove_file(root.join("date=2018-06-13/events.json.gz")).unwrap();
}

/// Returns the texts for screen readers of the cells of a calendar.
fn cell_texts(dom: &str) -> Vec<&str> {
    let cells = dom.split("<td class=\"").skip(1);
    let cells = cells.filter(|cell| !cell.starts_with("n\""));
    cells
        .map(|cell| {
            let (_, rest) = cell.split_once("<i>").unwrap_or_default();
            rest.split("</i>").next().unwrap_or_default()
        })
        .collect()
}

fn assert_inactive(page: &str) {
    for markup in ACTIVE {
        assert!(!page.contains(markup), "{markup} is in the page");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_rendered_and_read_aloud_without_scripts_and_network() {
    let test = "a_report_is_rendered_and_read_aloud_without_scripts_and_network";
    let Some(browser) = browser(test) else { return };
    let fixture = BrowserFixture {
        folder: tempfile::tempdir().unwrap(),
        browser,
    };
    archive(&fixture).await;
    let report = ["report", "./export", "-o", "report.html"];
    fixture.program(&report).await.expect_exit(1);
    assert_inactive(&fs::read_to_string(fixture.path("report.html")).unwrap());

    let dom = fixture.open("report.html", &["--dump-dom"]).await;
    assert_inactive(&dom);
    let texts = cell_texts(&dom);
    assert_eq!(texts.len(), DAYS_COUNT, "a cell for each day: {texts:?}");
    for expected in [
        "2018-04-01 proved empty",
        "2018-04-17 accepted gap",
        "2018-05-22 missing",
        "2018-06-13 damaged",
        "2018-06-28 matched: 247 events, 247 reported, 7 late",
    ] {
        assert!(
            texts.iter().any(|text| text.starts_with(expected)),
            "{expected}: {texts:?}"
        );
    }
    let days: std::collections::BTreeSet<&str> = texts
        .iter()
        .map(|text| text.get(..10).unwrap_or_default())
        .collect();
    assert_eq!(
        (days.len(), days.first(), days.last()),
        (DAYS_COUNT, Some(&DAYS[0]), Some(&DAYS[1]))
    );
    // Taken out of sight, not out of the tree that a screen reader reads.
    assert!(dom.contains("clip-path: inset(50%)") && !dom.contains("display: none"));

    // Painted: much more than a page without content compresses to.
    fs::write(fixture.path("blank.html"), "<!DOCTYPE html><title>blank</title>").unwrap();
    for size in [PICTURE, NARROW] {
        let blank = fixture.picture("blank.html", size, "blank.png").await;
        let picture = fixture.picture("report.html", size, "report.png").await;
        assert!(
            picture.len() > 5 * blank.len(),
            "{size}: {} bytes, blank {}",
            picture.len(),
            blank.len()
        );
    }
    let pdf = fixture.path("report.pdf");
    let print = format!("--print-to-pdf={}", pdf.display());
    fixture
        .open("report.html", &["--no-pdf-header-footer", &print])
        .await;
    let printed = fs::metadata(&pdf).unwrap().len();
    assert!((1..PRINTED_MAX_BYTES).contains(&printed), "{printed} bytes");

    if std::env::var_os("UPDATE_DOCS").is_some() {
        let picture = fixture.picture("report.html", PICTURE, "report.png").await;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images/report.png");
        fs::write(path, picture).unwrap();
    }
}
