//! Every command with the same location of an archive: a directory, and a prefix of a bucket on a real S3 store.

use std::fs::File;

use serde_json::{Value, json};

use super::fixture::{CliFixture, wait_output};
use crate::bed::Gateway;
use crate::testkit::bucket::fresh_bucket;
use crate::testkit::command::{CommandOutput, bucket_env};
use crate::testkit::manifest::Manifest;

/// Range of the manifest.
const DAYS: [&str; 4] = ["--start", "2018-06-27", "--end", "2018-06-29"];

/// Home directory, service, and an empty bucket.
struct LocationFixture {
    cli: CliFixture,
    gateway: &'static Gateway,
    bucket: String,
    manifest: String,
}

impl LocationFixture {
    async fn start() -> Self {
        let cli = CliFixture::start(&["--today", "2018-07-02"]).await;
        let gateway = Gateway::shared().await;
        let bucket = fresh_bucket(gateway, "locations").await.unwrap();
        let manifest = Manifest::local("audit", &cli.url)
            .days("2018-06-27", "2018-06-29")
            .set("destination.s3.prefix", "deep")
            .write(cli.path("audit.yaml"));
        Self {
            manifest: manifest.to_str().unwrap().to_owned(),
            cli,
            gateway,
            bucket,
        }
    }

    /// Returns a location in the bucket.
    fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.cli.with_service(arguments);
        command
            .env("AWS_ENDPOINT_URL_S3", self.gateway.endpoint())
            .envs(bucket_env(self.gateway));
        command
    }

    async fn run(&self, arguments: &[&str]) -> CommandOutput {
        wait_output(self.command(arguments)).await
    }

    /// Returns the last object of a command that succeeds.
    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat()).await;
        output.expect_exit(0).summary()
    }

    /// Exports to the location, and returns what every command says about it, without the location.
    async fn export(&self, to: &str, prefix: &str) -> Value {
        let (file, root) = (
            self.manifest.as_str(),
            format!("{prefix}deep/space=c1/scope=space/"),
        );
        let planned = self.json(&["plan", "-f", file, "--archive", to]).await;
        assert_eq!(planned["exports"][0]["destinationListed"], true, "{planned}");
        assert_eq!(planned["exports"][0]["sessions"].as_array().unwrap().len(), 3);
        let summary = self.json(&["run", "-f", file, "--archive", to]).await;
        assert_eq!(summary["exports"][0]["root"], root);
        let again = self.json(&["plan", "-f", file, "--archive", to]).await;
        assert_eq!(again["exports"][0]["root"], root);
        let [from, first, until, last] = DAYS;
        assert_eq!((from, until), ("--start", "--end"));
        let status = ["status", "-s", first, "-e", last, "-f", file, "--archive", to];
        let status = self.json(&status).await;
        assert_eq!(status["archive"]["root"], root);
        let named = self
            .json(&[&["verify", "-f", file, "--archive", to], &DAYS[..]].concat())
            .await;
        let found = self.json(&[&["verify", to], &DAYS[..]].concat()).await;
        let inspected = self.json(&["inspect", to]).await;
        let root_of = |document: &Value| document["archives"][0]["roots"][0].clone();
        assert_eq!(root_of(&named)["root"], root);
        assert_eq!(root_of(&found)["root"], root);
        assert_eq!(root_of(&inspected)["root"], root);
        json!({
            "stored": summary["totals"],
            "planned": again["exports"][0]["windows"],
            "sessions": again["exports"][0]["sessions"],
            "states": status["days"].as_array().unwrap().iter().map(|day| &day["archived"]).collect::<Vec<_>>(),
            "proved": [root_of(&named)["totals"], root_of(&found)["totals"]],
            "range": root_of(&found)["range"],
            "covered": root_of(&inspected)["range"]["covered"],
        })
    }
}

#[tokio::test]
async fn every_command_agrees_on_a_directory_and_on_a_bucket() {
    let fixture = LocationFixture::start().await;
    let directory = fixture.export("export", "").await;
    let bucket = fixture.export(&fixture.url("copies/one/"), "copies/one/").await;
    assert_eq!(directory, bucket);
    assert_eq!(directory["stored"]["storedNow"], 3);
    assert_eq!(directory["sessions"], json!([]));
    assert_eq!(directory["range"]["from"], "Asserted");
    for day in directory["states"].as_array().unwrap() {
        assert_eq!(day["state"], "Covered");
    }
    assert!(!fixture.cli.path("s3:").exists());
    let again = fixture
        .json(&[
            "run",
            "-f",
            &fixture.manifest,
            "--archive",
            &fixture.url("copies/one"),
        ])
        .await;
    assert_eq!(again["totals"]["alreadyStored"], 3);

    let simulated = fixture.url("simulated");
    let summary = fixture
        .json(&[
            "run",
            "-f",
            &fixture.manifest,
            "--simulate",
            "--archive",
            &simulated,
        ])
        .await;
    assert_eq!(summary["totals"]["storedNow"], 3);
    let found = fixture.json(&["verify", &simulated]).await;
    assert_eq!(
        found["archives"][0]["roots"][0]["sources"],
        json!(["http://simulator.invalid"])
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_proved_and_what_cannot_be_read_is_not_checked() {
    let fixture = LocationFixture::start().await;
    let (empty, file) = (fixture.url("nothing"), fixture.manifest.as_str());
    for (arguments, finding) in [
        (&["verify", &empty][..], "NothingToProve"),
        (&["verify", "-f", file, "--archive", &empty], "Gap"),
    ] {
        let output = fixture.run(&[arguments, &["--output", "json"]].concat()).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        let document = output.json();
        let archive = &document["archives"][0];
        assert_eq!(
            (&document["proved"], &archive["proved"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(archive["findings"][0]["kind"], finding, "{archive}");
    }

    for command in ["verify", "inspect"] {
        let mut wrong = fixture.command(&[command, &empty, "--output", "json"]);
        wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
        let output = wait_output(wrong).await;
        output.expect_failure(3, &[]);
        assert_eq!(output.json()["error"]["exitCode"], 3);
        let output = fixture.run(&[command, "s3://no-such-bucket-here/x"]).await;
        output.expect_failure(3, &["no-such-bucket-here"]);
        let output = fixture.run(&[command, "s3://"]).await;
        output.expect_failure(2, &["names no bucket"]);
    }

    let run = fixture
        .run(&["run", "-f", file, "--archive", "export", "-q"])
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let proved = fixture
        .run(&[&["verify", "export", "-q"], &DAYS[..]].concat())
        .await;
    assert_eq!(proved.code, Some(0), "{proved:?}");
    assert_eq!(
        proved.out,
        "export: Proved: 2018-06-27/2018-06-29: 3 windows with 720 events; signatures not checked (no --public-key)\n"
    );
    for (days, missing) in [
        (["--start", "2018-06-26", "--end", "2018-06-29"], "2018-06-26"),
        (["-s", "2018-06-27", "-e", "2018-06-30"], "2018-06-30"),
    ] {
        let output = fixture
            .run(&[&["verify", "export", "--output", "json"], &days[..]].concat())
            .await;
        assert_eq!(output.code, Some(1), "{output:?}");
        let archive = &output.json()["archives"][0];
        assert_eq!(archive["findings"][0]["kind"], "Gap");
        assert_eq!(archive["roots"][0]["range"]["missing"], json!([missing]));
    }
    let late = fixture.run(&["verify", "export", "--start", "2099-12-31"]).await;
    late.expect_failure(2, &["--start: 2099-12-31 is in the future"]);
}

#[tokio::test]
async fn a_result_that_cannot_be_written_fails_the_command() {
    let fixture = LocationFixture::start().await;
    let file = fixture.manifest.as_str();
    let run = fixture
        .run(&["run", "-f", file, "--archive", "export", "-q"])
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");
    for (arguments, code) in [
        (&["verify", "export", "--output", "json"][..], 3),
        (&["verify", "export"], 3),
        (&["inspect", "export", "--output", "json"], 3),
        (&["report", "export"], 3),
        (&["report", "export", "-o", "html"], 3),
        (&["plan", "-f", file, "--archive", "export"], 1),
        (
            &["plan", "-f", file, "--archive", "export", "--output", "json"],
            1,
        ),
        (&["run", "-f", file, "--archive", "export"], 1),
        (&["run", "-f", file, "--archive", "export", "--output", "json"], 1),
        (&["status", "--output", "json"], 1),
        (&["session", "list", "--output", "json"], 1),
        (&["context", "list"], 1),
        (&["crd"], 1),
        (&["completions", "bash"], 1),
        (&["cat", "export"], 1),
        (&["man", "run"], 1),
        (&["version"], 1),
        (&["--version"], 1),
        (&["run", "--help"], 1),
        (&["help"], 1),
        (&["simulate", "--list-faults"], 1),
        (&["simulate", "--listen", "127.0.0.1:0"], 1),
    ] {
        let mut command = fixture.command(arguments);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let output = wait_output(command).await;
        output.expect_failure(code, &["to standard output", "No space left on device"]);
    }
    // A reader that stops early, such as `head`, is no failure.
    for (arguments, code) in [
        (&["verify", "export"][..], 0),
        (&["session", "list", "--output", "json"], 0),
        (&["simulate", "--list-faults"], 0),
        (&["help"], 0),
        (&["crd"], 0),
        (&["cat", "export"], 141),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = fixture.command(arguments);
        command.stdout(writer);
        let output = wait_output(command).await;
        assert_eq!(
            (output.code, output.err.as_str()),
            (Some(code), ""),
            "{arguments:?}"
        );
    }
}
