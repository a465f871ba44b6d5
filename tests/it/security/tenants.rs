//! Two tenants of one cluster-wide operator with its installed rights: tests whether one can make it read, use or
//! reveal data of the other.

use std::fs;

use serde_json::{Value, json};

use crate::bed::Cluster;
use crate::operator::{apply, get, kubectl, wait_conditions};
use crate::testkit::manifest::Manifest;
use crate::testkit::operator::OperatorCommand;

/// Part of each Secret of this test.
const SECRET_MARKER: &str = "hush";

fn secret(namespace: &str, name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "namespace": namespace, "name": name }, "stringData": data,
    })
}

fn export(name: &str, source: &Value, destination: &Value) -> Value {
    let nowhere = "http://127.0.0.1:1";
    let mut export = Manifest::new(name, nowhere)
        .namespace("mine")
        .days("2018-06-04", "2018-06-04")
        .set("source", json!({ "endpoint": nowhere }))
        .set(
            "destination.s3",
            json!({ "bucket": "audit", "endpoint": nowhere }),
        );
    for (part, more) in [("source", source), ("destination.s3", destination)] {
        for (field, value) in more.as_object().into_iter().flatten() {
            export = export.set(&format!("{part}.{field}"), value.clone());
        }
    }
    export.export()
}

fn one_line_key() -> String {
    format!("-----BEGIN PRIVATE KEY----- {SECRET_MARKER} -----END PRIVATE KEY-----")
}

fn message(object: &Value) -> String {
    object["status"]["lastError"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_tenant_cannot_read_or_probe_secrets_of_another_namespace() {
    // A separate cluster: its operator serves all namespaces.
    let cluster = Cluster::start().await.unwrap();
    for namespace in ["mine", "theirs"] {
        kubectl(&cluster, &["create", "namespace", namespace])
            .await
            .unwrap();
    }
    let value = format!("{SECRET_MARKER}-of-theirs");
    for (namespace, name, data) in [
        ("theirs", "tracker", json!({ "apiKey": value })),
        (
            "mine",
            "bucket",
            json!({ "accessKeyId": "AKIAEXAMPLE", "secretAccessKey": format!("{SECRET_MARKER}-s3") }),
        ),
        // Secrets without our keys: tests what can be learned by naming them.
        (
            "mine",
            "database",
            json!({ "dsn": format!("postgres://{SECRET_MARKER}@db"), "apiKeys": SECRET_MARKER }),
        ),
        (
            "mine",
            "several",
            json!({ "apiKey": SECRET_MARKER, "token": SECRET_MARKER, "other": SECRET_MARKER }),
        ),
        (
            "mine",
            "unprintable",
            json!({ "token": format!("{SECRET_MARKER} \u{1b}[31m\nnext") }),
        ),
        ("mine", "good", json!({ "apiKey": SECRET_MARKER })),
        // A private key where a certificate belongs: on one line, as some editors paste it, and as its bytes in decimal.
        ("mine", "key", json!({ "tls.key": one_line_key() })),
    ] {
        apply(&cluster, &secret(namespace, name, &data)).await.unwrap();
    }

    // Names that the API server accepts for a Secret.
    let bucket = json!({ "credentialsSecretRef": { "name": "bucket" } });
    for name in [
        "theirs/tracker",
        "../theirs/tracker",
        "../../theirs/secrets/tracker",
        "theirs%2Ftracker",
        "theirs%2ftracker?namespace=theirs",
        "tracker\u{0}",
        "tracker ",
        "/tracker",
        "",
    ] {
        let object = export(
            "trick",
            &json!({ "credentialsSecretRef": { "name": name } }),
            &bucket,
        );
        let output = cluster
            .kubectl(&["create", "-f", "-"], Some(&object.to_string()))
            .await;
        assert!(!output.status.success(), "{name:?} is taken");
    }
    // A namespace in the reference is no field, and is dropped if validation is off.
    let elsewhere = json!({ "credentialsSecretRef": { "name": "tracker", "namespace": "theirs" } });
    let object = export("elsewhere", &elsewhere, &bucket).to_string();
    let output = cluster.kubectl(&["create", "-f", "-"], Some(&object)).await;
    assert!(
        !output.status.success() && output.stderr.contains("namespace"),
        "{}",
        output.stderr
    );
    let lax = ["create", "--validate=false", "-f", "-"];
    cluster.kubectl(&lax, Some(&object)).await.success().unwrap();

    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/operator.yaml");
    kubectl(&cluster, &["apply", "--server-side", "-f", manifest])
        .await
        .unwrap();
    let account = cluster.kubeconfig_for_service_account("eventexport-system", "eventexport");
    let kubeconfig = account.await.unwrap();
    let named = |name: &str| json!({ "credentialsSecretRef": { "name": name } });
    let with_ca = |secret: &str, key: &str| json!({ "credentialsSecretRef": { "name": "good" }, "caSecretRef": { "name": secret, "key": key } });
    for (name, source) in [
        ("there", named("tracker")),
        ("nowhere", named("absent")),
        ("database", named("database")),
        ("several", named("several")),
        ("unprintable", named("unprintable")),
        ("ca", with_ca("database", "dsn")),
        ("ca-key", with_ca("database", "absent")),
        ("ca-pem", with_ca("key", "tls.key")),
    ] {
        apply(&cluster, &export(name, &source, &bucket)).await.unwrap();
    }
    // Without a Secret it would use the operator's own identity, which nobody was granted.
    apply(&cluster, &export("identity", &named("good"), &json!({})))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let operator = OperatorCommand::new(&cluster)
        .text_logs()
        .kubeconfig(&kubeconfig)
        .args(&["--lease-namespace", "eventexport-system"])
        .env("EVENTEXPORT_LOG", "trace")
        .env("AWS_ACCESS_KEY_ID", "AKIAOPERATOR")
        .env("AWS_SECRET_ACCESS_KEY", "operators-own")
        .spawn(&log)
        .unwrap();

    let mut revealed = String::new();
    let blocked = async |name: &str, reason: &str| {
        let ready = format!("False/{reason}");
        wait_conditions(&cluster, "mine", name, [&ready, "", "", ""])
            .await
            .unwrap()
    };
    let there = message(&blocked("there", "CredentialsMissing").await);
    let nowhere = message(&blocked("nowhere", "CredentialsMissing").await);
    assert_eq!(
        there.replace("Secret tracker", "Secret absent"),
        nowhere,
        "the messages differ"
    );
    let elsewhere = message(&blocked("elsewhere", "CredentialsMissing").await);
    assert!(
        elsewhere.contains("namespace mine") && !elsewhere.contains("theirs"),
        "{elsewhere}"
    );
    for (name, reason) in [
        ("database", "CredentialsMissing"),
        ("several", "CredentialsMissing"),
        ("unprintable", "CredentialsMissing"),
        ("ca-key", "CredentialsMissing"),
        ("identity", "IdentityNotGranted"),
    ] {
        revealed.push_str(&blocked(name, reason).await["status"].to_string());
    }
    for (name, secret, key) in [("ca", "database", "dsn"), ("ca-pem", "key", "tls.key")] {
        let object = blocked(name, "CredentialsMissing").await;
        let expected = format!("key {key} of Secret {secret} is not a PEM bundle");
        assert!(message(&object).contains(&expected), "{object:#}");
        revealed.push_str(&object["status"].to_string());
    }
    revealed.push_str(
        &kubectl(
            &cluster,
            &["get", "events.events.k8s.io", "-n", "mine", "-o", "json"],
        )
        .await
        .unwrap(),
    );
    assert!(get(&cluster, "mine", "trick").await.unwrap().is_none());
    operator.kill().await.unwrap();
    revealed.push_str(&fs::read_to_string(&log).unwrap());
    let own = fs::read_to_string(&kubeconfig).unwrap();
    let own: Value = serde_json::from_str(&own).unwrap();
    let own = own["users"][0]["user"]["token"].as_str().unwrap();
    let decimal = |text: &str| format!("{:?}", text.as_bytes()).replace(['[', ']'], "");
    for hidden in [
        SECRET_MARKER,
        "postgres",
        "apiKeys",
        "operators-own",
        own,
        "PRIVATE KEY",
        &decimal("PRIVATE KEY"),
        &decimal(SECRET_MARKER),
    ] {
        let found: Vec<&str> = revealed
            .lines()
            .filter(|line| line.contains(hidden))
            .take(3)
            .collect();
        assert!(found.is_empty(), "{hidden}: {found:#?}");
    }

    // Audit log: Secrets were read only in the namespace of the exports.
    let audit = fs::read_to_string(cluster.folder().join("audit.log")).unwrap();
    let mut got = 0;
    for line in audit.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let by_operator = event["user"]["username"] == "system:serviceaccount:eventexport-system:eventexport";
        let object = &event["objectRef"];
        if by_operator && object["resource"] == "secrets" {
            assert!(object["namespace"] != "theirs", "{line}");
            if event["verb"] == "get" {
                assert_eq!(object["namespace"], "mine", "{line}");
                got += 1;
            } else {
                assert!(
                    ["list", "watch"].map(Value::from).contains(&event["verb"]),
                    "{line}"
                );
            }
        }
    }
    assert!(got > 0, "the audit log names no Secret");
}
