//! Two tenants under one operator for the whole cluster, with the rights that it is installed with: what the one can
//! make it read, use or tell of the other's.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::bed::Cluster;
use crate::operator::end_to_end::SPACE;
use crate::operator::{apply, get, kubectl, wait_conditions};

/// In every Secret of this test.
const SECRET_MARKER: &str = "hush";

fn secret(namespace: &str, name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "namespace": namespace, "name": name }, "stringData": data,
    })
}

fn export(name: &str, source: &Value, destination: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "eventexport.io/v1alpha1",
        "kind": "EventExport",
        "metadata": { "namespace": "mine", "name": name },
        "spec": {
            "space": SPACE,
            "dateRange": { "start": "2018-06-04", "end": "2018-06-04" },
            "source": { "endpoint": "http://127.0.0.1:1" },
            "destination": { "s3": { "bucket": "audit", "endpoint": "http://127.0.0.1:1" } },
        },
    });
    for (part, more) in [("/spec/source", source), ("/spec/destination/s3", destination)] {
        for (field, value) in more.as_object().into_iter().flatten() {
            object.pointer_mut(part).unwrap()[field] = value.clone();
        }
    }
    object
}

fn message(object: &Value) -> String {
    object["status"]["lastError"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_tenant_cannot_read_or_probe_secrets_of_another_namespace() {
    // Of its own: its operator serves every namespace.
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
        // Nobody's credentials for us: what can be learned of them by naming them?
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
    ] {
        apply(&cluster, &secret(namespace, name, &data)).await.unwrap();
    }

    // What the API server takes for the name of a Secret at all.
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
        let said = cluster
            .kubectl(&["create", "-f", "-"], Some(&object.to_string()))
            .await;
        assert!(!said.status.success(), "{name:?} is taken");
    }
    // A namespace in the reference is no field, and where validation is off it is dropped.
    let elsewhere = json!({ "credentialsSecretRef": { "name": "tracker", "namespace": "theirs" } });
    let object = export("elsewhere", &elsewhere, &bucket).to_string();
    let said = cluster.kubectl(&["create", "-f", "-"], Some(&object)).await;
    assert!(
        !said.status.success() && said.stderr.contains("namespace"),
        "{}",
        said.stderr
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
    ] {
        apply(&cluster, &export(name, &source, &bucket)).await.unwrap();
    }
    // Without a Secret it would be the operator's own identity, which nobody was granted.
    apply(&cluster, &export("identity", &named("good"), &json!({})))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut operator = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .args([
            "operator",
            "--lease-namespace",
            "eventexport-system",
            "--allow-host",
            "127.0.0.1",
        ])
        .args(["--metrics-listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(&kubeconfig)
        .env("EVENTEXPORT_LOG", "trace")
        .env("AWS_ACCESS_KEY_ID", "AKIAOPERATOR")
        .env("AWS_SECRET_ACCESS_KEY", "operators-own")
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let mut said = String::new();
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
        "they can be told apart"
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
        said.push_str(&blocked(name, reason).await["status"].to_string());
    }
    said.push_str(&blocked("ca", "").await["status"].to_string());
    said.push_str(
        &kubectl(
            &cluster,
            &["get", "events.events.k8s.io", "-n", "mine", "-o", "json"],
        )
        .await
        .unwrap(),
    );
    assert!(get(&cluster, "mine", "trick").await.unwrap().is_none());
    operator.start_kill().unwrap();
    operator.wait().await.unwrap();
    said.push_str(&fs::read_to_string(&log).unwrap());
    let own = fs::read_to_string(&kubeconfig).unwrap();
    let own: Value = serde_json::from_str(&own).unwrap();
    let own = own["users"][0]["user"]["token"].as_str().unwrap();
    for hidden in [SECRET_MARKER, "dsn", "apiKeys", "operators-own", own] {
        // The keys of a Secret that are none of ours are not told either; those that a spec names are its own words.
        let found = said
            .lines()
            .filter(|line| line.contains(hidden) && !line.contains("caSecretRef"));
        let found: Vec<&str> = found.take(3).collect();
        assert!(found.is_empty(), "{hidden}: {found:#?}");
    }

    // What the API server saw: Secrets were got in the namespace of the exports only.
    let audit = fs::read_to_string(cluster.folder().join("audit.log")).unwrap();
    let mut got = 0;
    for line in audit.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let ours = event["user"]["username"] == "system:serviceaccount:eventexport-system:eventexport";
        let object = &event["objectRef"];
        if ours && object["resource"] == "secrets" {
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
