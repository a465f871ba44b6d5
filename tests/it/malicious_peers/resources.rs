//! Invalid, huge and malicious manifests, given to the commands and to a real API server: each is refused quickly
//! with an error that names the field.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::MAX_ERROR_CHARS;
use crate::bed::Cluster;
use crate::testkit::command::run_in;
use eventexport::api::is_printable;

/// Generous, because the machine may be busy.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum output: a hundred errors of maximum length.
const MAX_OUTPUT_CHARS: usize = 100 * MAX_ERROR_CHARS;
const SECRET: &str = "hunter2-nobody-may-see";

const VALID_MANIFEST: &str = "apiVersion: eventexport.io/v1alpha1
kind: EventExport
metadata: {name: audit-2018}
spec:
  space: c1234567-6d55-4193-a9de-378620d6fab5
  dateRange: {start: '2018-06-01', end: '2018-06-30'}
  source: {region: us-south, credentialsSecretRef: {name: tracker}}
  destination: {s3: {bucket: audit, credentialsSecretRef: {name: bucket}}}
";

/// Invalid manifest, and the text that its error must contain.
struct InvalidManifest {
    name: &'static str,
    text: String,
    named: &'static str,
    /// True if a server refuses it with the same field; otherwise its client cannot parse it, or the server accepts
    /// it.
    server: bool,
}

fn invalid_manifests() -> Vec<InvalidManifest> {
    let replaced = |from: &str, to: &str| {
        assert!(VALID_MANIFEST.contains(from), "{from}");
        VALID_MANIFEST.replace(from, to)
    };
    let long = "a".repeat(1_000_000);
    let deep = format!("{}1{}", "{a: ".repeat(3000), "}".repeat(3000));
    let mut bomb = String::from("x-a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (this, last) in ('b'..='l').zip('a'..) {
        let _ = writeln!(
            bomb,
            "x-{this}: &{this} [{}]",
            vec![format!("*{last}"); 10].join(",")
        );
    }
    let many = (0..100_000).fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "  unknown{n}: 1");
        text
    });
    let of = |name, text, named, server| InvalidManifest {
        name,
        text,
        named,
        server,
    };
    vec![
        of(
            "a number for a text",
            replaced("space: c1234567-6d55-4193-a9de-378620d6fab5", "space: 7"),
            "spec.space",
            true,
        ),
        of(
            "a list for a map",
            replaced("{region: us-south,", "{region: [us-south],"),
            "spec.source.region",
            true,
        ),
        of(
            "a text for a map",
            replaced(
                "dateRange: {start: '2018-06-01', end: '2018-06-30'}",
                "dateRange: all",
            ),
            "spec.dateRange",
            true,
        ),
        of(
            "a float for a whole number",
            format!("{VALID_MANIFEST}  parallelism: 4.5\n"),
            "spec.parallelism",
            true,
        ),
        of(
            "a number that no type holds",
            format!("{VALID_MANIFEST}  parallelism: 99999999999999999999\n"),
            "spec.parallelism",
            true,
        ),
        of(
            "an unknown field",
            format!("{VALID_MANIFEST}  paralellism: 4\n"),
            "spec.paralellism",
            true,
        ),
        of(
            "an unknown field that moves the cursor",
            format!("{VALID_MANIFEST}  \"para\\e[2J\\u202Elism\": 4\n"),
            "spec.para",
            true,
        ),
        of(
            "a space of 1 MB",
            replaced("c1234567-6d55-4193-a9de-378620d6fab5", &long),
            "spec.space",
            true,
        ),
        of(
            "an unknown field of 1 MB",
            format!("{VALID_MANIFEST}  ? {long}\n  : 4\n"),
            "spec.aaaa",
            false,
        ),
        of(
            "an end of control characters",
            replaced("'2018-06-30'", "\"2018-06-3\\0\""),
            "spec.dateRange.end",
            true,
        ),
        of(
            "a bucket that is written from right to left",
            replaced("bucket: audit", "bucket: \"\\u202Etidua\""),
            "spec.destination.s3.bucket",
            true,
        ),
        of(
            "an endpoint with a password",
            replaced(
                "region: us-south",
                &format!("endpoint: 'https://user:{SECRET}@a.example'"),
            ),
            "spec.source.endpoint",
            true,
        ),
        of(
            "100,000 unknown fields",
            format!("{VALID_MANIFEST}{many}"),
            "spec.unknown",
            false,
        ),
        of(
            "nested 3,000 deep",
            format!("{VALID_MANIFEST}  deep: {deep}\n"),
            "not valid YAML",
            false,
        ),
        of(
            "an alias bomb",
            format!("{VALID_MANIFEST}{bomb}"),
            "not valid YAML",
            false,
        ),
        of(
            "a key given twice",
            format!("{VALID_MANIFEST}spec: {{}}\n"),
            "not valid YAML",
            false,
        ),
        of(
            "JSON with more behind it",
            format!("{{\"stringData\": \"{SECRET}\"}} x"),
            "not valid YAML or JSON",
            false,
        ),
        of(
            "a name of 1 MB",
            replaced("name: audit-2018", &format!("name: {long}\n  , labels: 7")),
            "metadata",
            false,
        ),
        of(
            "nothing but a Secret",
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{apiKey: {SECRET}}}\n"
            ),
            "holds no EventExport",
            false,
        ),
        of(
            "a Secret that is no map",
            format!(
                "{VALID_MANIFEST}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {SECRET}\n"
            ),
            "data",
            false,
        ),
    ]
}

async fn command_output(command: &str, manifest: &Path) -> (Option<i32>, String) {
    let arguments: &[&str] = match command {
        "run" => &["--simulate", "--archive", "to"],
        // It finds the archive only by the manifest.
        "verify" => &[],
        _ => &["--archive", "to"],
    };
    let (home, file) = (manifest.parent().unwrap(), manifest.to_str().unwrap());
    let arguments = [&[command, "-f", file], arguments].concat();
    let run = run_in(home, &arguments);
    let output = tokio::time::timeout(TIMEOUT, run).await.expect("it ends in time");
    let text = output.text();
    assert!(!text.contains(char::REPLACEMENT_CHARACTER), "not UTF-8: {text}");
    (output.code, text)
}

#[tokio::test]
async fn every_command_refuses_a_bad_manifest_and_names_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("m.yaml");
    fs::write(&manifest, [0xff, 0xfe]).unwrap();
    assert!(command_output("run", &manifest).await.1.contains("is not UTF-8"));
    fs::write(&manifest, " ".repeat(16 * 1024 * 1024 + 1)).unwrap();
    assert!(
        command_output("run", &manifest)
            .await
            .1
            .contains("larger than 16 MiB")
    );
    for InvalidManifest {
        name, text, named, ..
    } in invalid_manifests()
    {
        fs::write(&manifest, &text).unwrap();
        // One command suffices for large ones: all use the same reader.
        let commands = if text.len() > 100_000 { 1 } else { 3 };
        for command in ["run", "plan", "verify"].into_iter().take(commands) {
            let (code, printed) = command_output(command, &manifest).await;
            let excerpt: String = printed.chars().take(400).collect();
            assert_eq!(code, Some(2), "{command}, {name}: {excerpt}");
            assert!(
                printed.contains(named),
                "{command}, {name}: {named} is not named: {excerpt}"
            );
            assert!(
                printed.chars().count() <= MAX_OUTPUT_CHARS,
                "{command}, {name}: {} characters",
                printed.chars().count()
            );
            assert!(
                printed.chars().all(|c| c == '\n' || is_printable(c)),
                "{command}, {name}: {excerpt:?}"
            );
            assert!(!printed.contains(SECRET), "{command}, {name}: {excerpt}");
        }
    }
    assert!(!folder.path().join("to").exists(), "nothing was attempted");
}

#[tokio::test]
async fn the_api_server_refuses_the_same_field_of_a_bad_manifest() {
    let cluster = Cluster::shared().await;
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/eventexports.yaml");
    cluster.apply_crd(&definition).await.unwrap();
    let namespace = cluster.namespace("hostile").await;
    let create = ["create", "--dry-run=server", "-n", &namespace, "-f", "-"];
    cluster
        .kubectl(&create, Some(VALID_MANIFEST))
        .await
        .success()
        .unwrap();
    for InvalidManifest {
        name, text, named, ..
    } in invalid_manifests().into_iter().filter(|bad| bad.server)
    {
        let begun = Instant::now();
        let refused = cluster
            .kubectl(&create, Some(&text))
            .await
            .success()
            .unwrap_err()
            .to_string();
        assert!(refused.contains(named), "{name}: {refused:.400}");
        assert!(begun.elapsed() < TIMEOUT, "{name}");
    }
    // Maximum that the schema allows: within the CEL cost limit of the server.
    let gaps = (0..1000).fold(String::new(), |mut text, number| {
        let reason = "\u{fc}".repeat(512);
        let (year, month, day) = (1990 + number / 336, 1 + number / 28 % 12, 1 + number % 28);
        let _ = writeln!(
            text,
            "  - {{start: '{year}-{month:02}-{day:02}', end: '2018-06-02', reason: '{reason}'}}"
        );
        text
    });
    let most = VALID_MANIFEST
        .replace("c1234567-6d55-4193-a9de-378620d6fab5", &"~".repeat(200))
        .replace(
            "bucket: audit",
            &format!("bucket: {}, prefix: {}", "a".repeat(63), "b".repeat(512)),
        )
        .replace(
            "region: us-south",
            &format!("endpoint: 'https://a.example/{}'", "c".repeat(512 - 18)),
        )
        .replace("{name: tracker}", &format!("{{name: {}}}", "d".repeat(253)));
    let most = format!("{most}  acceptedGaps:\n{gaps}");
    cluster.kubectl(&create, Some(&most)).await.success().unwrap();
}
