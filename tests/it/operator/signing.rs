//! Manifests of the operator, signed with a key that its Secret may provide later.

use anyhow::{Result, ensure};
use serde_json::json;

use super::end_to_end;
use super::{apply, ensure_contains, message, patch, wait_conditions};
use crate::testkit::openssl::{is_signed, key_pair};

#[tokio::test]
async fn events_do_not_wait_for_the_signing_key_but_completion_does() -> Result<()> {
    let (fixture, _operator) = end_to_end::start("signing", &[]).await?;
    let (cluster, namespace) = (fixture.cluster, fixture.namespace.as_str());
    let wanted = json!({ "spec": {
        "dateRange": { "start": "2018-06-04", "end": "2018-06-07" },
        "manifest": { "signingKeySecretRef": { "name": "signing" } },
    }});
    fixture.wait_complete("june").await?;
    patch(cluster, namespace, "june", &wanted).await?;
    let waits = [
        "False/SigningKeyInvalid",
        "False",
        "False",
        "True/SigningKeyInvalid",
    ];
    let without = wait_conditions(cluster, namespace, "june", waits).await?;
    ensure!(
        without["status"]["windows"]["stored"] == 4,
        "{}",
        without["status"]
    );
    let secret = "spec.manifest.signingKeySecretRef";
    ensure_contains(
        &message(&without, "Stalled"),
        &[secret, "Secret signing", "openssl genpkey"],
    )?;

    let secret =
        |value: &str| crate::testkit::manifest::secret(namespace, "signing", &json!({ "signingKey": value }));
    apply(cluster, &secret("hunter2")).await?;
    let stalled_message = async || Ok::<_, anyhow::Error>(message(&fixture.object("june").await?, "Stalled"));
    super::eventually("it says what is wrong with the key", async || {
        Ok(stalled_message().await?.contains("is not a PEM file"))
    })
    .await?;
    ensure!(
        !stalled_message().await?.contains("hunter2"),
        "{}",
        stalled_message().await?
    );

    let folder = tempfile::tempdir()?;
    let [private, public] = key_pair(folder.path(), "signing");
    apply(cluster, &secret(&std::fs::read_to_string(private)?)).await?;
    // The receipts were written before there was a key: a person vouches for them.
    let waits = ["False/ReceiptUnsigned", "False", "False", "True/ReceiptUnsigned"];
    let unsigned = wait_conditions(cluster, namespace, "june", waits).await?;
    ensure_contains(
        &message(&unsigned, "Stalled"),
        &[
            "_journal/2018-06-04.receipt.json",
            "spec.manifest.unsignedReceiptsBefore",
        ],
    )?;
    let old = json!({ "spec": { "manifest": { "unsignedReceiptsBefore": "2018-06-08" } } });
    patch(cluster, namespace, "june", &old).await?;
    fixture.wait_complete("june").await?;

    // The first manifest keeps the first statement; the second, with another range, is signed.
    let manifests = fixture.stored().join("scope=space/_manifests");
    ensure!(!manifests.join("00000001.json.sig").exists());
    ensure!(is_signed(&manifests, "00000002.json", &public));
    ensure!(!manifests.join("00000003.json").exists());
    Ok(())
}

#[tokio::test]
async fn the_newest_manifest_is_remembered_and_missed_until_a_person_gives_it_up() -> Result<()> {
    let (fixture, _operator) = end_to_end::start("head", &[]).await?;
    let (cluster, namespace) = (fixture.cluster, fixture.namespace.as_str());
    fixture.wait_complete("june").await?;
    let first = fixture.stored().join("scope=space/_manifests/00000001.json");
    let sha256 = crate::export::chain::sha256(&std::fs::read(&first)?);
    let current = async || fixture.object("june").await;
    let object = current().await?;
    let manifest = &object["status"]["manifest"];
    ensure!(
        manifest["sequence"] == 1 && manifest["sha256"] == sha256.as_str() && manifest["keyId"].is_null(),
        "{manifest}"
    );
    super::eventually("an Event names the manifest", async || {
        let reasons = super::event_reasons(cluster, namespace, "june").await?;
        Ok(reasons.iter().any(|reason| reason == "ManifestWritten"))
    })
    .await?;

    // The manifest disappears, and a further day is wanted.
    std::fs::remove_file(&first)?;
    let before = object["status"]["windows"]["stored"].as_i64();
    let more = json!({ "spec": { "dateRange": { "start": "2018-06-02" } } });
    patch(cluster, namespace, "june", &more).await?;
    let waits = ["False/ManifestMissing", "False", "False", "True/ManifestMissing"];
    let missing = wait_conditions(cluster, namespace, "june", waits).await?;
    let head = format!("1:{sha256}");
    ensure_contains(
        &message(&missing, "Stalled"),
        &[&head, "spec.manifest.abandonedHead"],
    )?;
    ensure!(
        missing["status"]["manifest"] == *manifest,
        "it does not move backwards: {}",
        missing["status"]["manifest"]
    );
    super::eventually("events are stored all the same", async || {
        let stored = current().await?["status"]["windows"]["stored"].as_i64();
        Ok(stored > before)
    })
    .await?;
    ensure!(!first.exists(), "nothing is added to the chain");

    let abandoned = json!({ "spec": { "manifest": { "abandonedHead": head } } });
    patch(cluster, namespace, "june", &abandoned).await?;
    fixture.wait_complete("june").await?;
    super::eventually("the next manifest is remembered", async || {
        let manifest = &current().await?["status"]["manifest"];
        Ok(manifest["sequence"] == 1 && manifest["sha256"] != sha256.as_str())
    })
    .await
}
