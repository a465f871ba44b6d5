//! Archive of these tests: two scopes, an empty weekend, a day in hours, gzip with many members, two signed
//! manifests.

use std::fs;
use std::path::{Path, PathBuf};

use eventexport::archive::receipt::Sha256Digest;
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::testkit::command::{CommandOutput, Home, run_command};
use crate::testkit::folder;
use crate::testkit::manifest::{Manifest, secret};

/// Prefix of the space in the archive.
pub(crate) const SPACE: &str = "t/space=c1/scope=space/";

/// Prefix of the account in the archive.
pub(super) const ACCOUNT: &str = "t/space=c1/scope=account/";

/// Unmodified archive, and the keys that signed it.
pub(crate) struct ArchiveFixture {
    home: Home,
}

impl CommandOutput {
    /// Returns kind and key of each finding in order, and whether the verification succeeded.
    pub(super) fn findings(&self) -> Vec<(String, String)> {
        let document = self.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut all: Vec<(String, String)> = document["archives"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|archive| archive["findings"].as_array().unwrap())
            .map(|finding| (text(&finding["kind"]), text(&finding["key"])))
            .collect();
        all.sort();
        assert_eq!(self.code, Some(i32::from(!all.is_empty())), "{self:?}");
        assert_eq!(document["passed"], all.is_empty());
        assert_eq!(document["proved"], all.is_empty() && document["quick"] == false);
        all
    }
}

impl ArchiveFixture {
    /// Returns the fixture of this test process; the first call creates it.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<ArchiveFixture> = OnceCell::const_new();
        SHARED.get_or_init(Self::create).await
    }

    async fn create() -> Self {
        let fixture = Self {
            home: Home::new().env("EVENTEXPORT_API_KEY", DEFAULT_API_KEY),
        };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        fs::write(fixture.key("private"), key.serialize_pem()).unwrap();
        fs::write(fixture.key("public"), key.public_key_pem()).unwrap();
        fs::write(fixture.key("other"), other.public_key_pem()).unwrap();

        let simulator = simulator().await;
        let to = fixture.home.path("archive");
        // As an earlier run leaves it after the day timed out twice.
        let split = to.join(SPACE).join("_journal/2018-06-04.split.json");
        fs::create_dir_all(split.parent().unwrap()).unwrap();
        fs::write(
            split,
            "{\"schema\":\"eventexport.io/split/v1\",\"why\":\"test\",\"at\":\"2018-06-05T00:00:00Z\"}\n",
        )
        .unwrap();
        for (n, exports) in [
            [
                ("Space", "2018-06-01", "2018-06-05"),
                ("Account", "2018-06-01", "2018-06-02"),
            ]
            .as_slice(),
            &[("Space", "2018-06-06", "2018-06-07")],
        ]
        .iter()
        .enumerate()
        {
            let file = fixture.home.path(&format!("{n}.yaml"));
            let destination = "s3: {bucket: audit, prefix: t}";
            fs::write(&file, fixture.manifest(&simulator, destination, exports)).unwrap();
            let arguments = ["run", "-f", text(&file), "--archive", text(&to)];
            fixture.program(&arguments, &[]).await.expect_exit(0);
        }
        fixture
    }

    /// Returns a manifest of exports: scope, first and last day.
    pub(super) fn manifest(
        &self,
        simulator: &Simulator,
        destination: &str,
        exports: &[(&str, &str, &str)],
    ) -> String {
        use std::fmt::Write as _;
        let destination: Value = serde_saphyr::from_str(&format!("{{{destination}}}")).unwrap();
        let mut text = String::new();
        for (scope, start, end) in exports {
            let export = Manifest::local(&scope.to_lowercase(), simulator.url().as_str())
                .set("scope", *scope)
                .days(start, end)
                .set("manifest.signingKeySecretRef.name", "signing")
                .set("destination", destination.clone());
            let _ = writeln!(text, "{}\n---", export.export());
        }
        let key = fs::read_to_string(self.key("private")).unwrap();
        let mut signing = secret("", "signing", &json!({ "signingKey": key }));
        signing["metadata"] = json!({ "name": "signing" });
        text + &signing.to_string()
    }

    /// Returns the file of the key: `private`, `public`, or `other` for another public key.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.home.path(&format!("{name}.pem"))
    }

    /// Returns the head of the chain of the space, `SEQ:SHA256`.
    pub(crate) fn head(&self) -> String {
        let manifest = self.home.path("archive").join(SPACE);
        let bytes = fs::read(manifest.join("_manifests/00000002.json")).unwrap();
        format!("2:{}", Sha256Digest::of(&bytes))
    }

    /// Returns the manifest of the first run.
    pub(super) fn file(&self) -> PathBuf {
        self.home.path("0.yaml")
    }

    /// Copies the archive without the store's internal folder.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        folder::copy(&self.home.path("archive/t"), &copy.path().join("t"));
        copy
    }

    /// Runs the program.
    pub(super) async fn program(&self, arguments: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
        let mut command = self.home.command(arguments);
        command.envs(environment.iter().copied());
        run_command(command).await
    }

    /// Verifies a folder, with the right public key unless `more` names one.
    pub(super) async fn verify(&self, archive: &Path, more: &[&str]) -> CommandOutput {
        let public = self.key("public");
        let mut arguments = vec!["verify", text(archive), "--output", "json"];
        if !more.contains(&"--public-key") {
            arguments.extend(["--public-key", text(&public)]);
        }
        arguments.extend(more);
        self.program(&arguments, &[]).await
    }
}

/// Starts a service with one gzip member per hour.
pub(super) async fn simulator() -> Simulator {
    let simulator = Simulator::start(Settings {
        today: "2018-06-20".parse().ok(),
        ..Settings::default()
    })
    .await
    .unwrap();
    simulator.add_preset("members").unwrap();
    simulator
}

/// Returns a path as an argument.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
