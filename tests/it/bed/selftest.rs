//! Tests of the test bed, so that a fault of the bed is not mistaken for one of the product.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use serde_json::json;

use super::{Cluster, Gateway};
use crate::testkit::proxy::Proxy;

/// Environment variable that enables [`holds_a_bed_until_killed`].
const HOLD: &str = "BED_SELFTEST_HOLD";

fn client(endpoint: String, access_key: &str, secret_key: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
        .region(Region::new(Gateway::REGION))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

fn root(gateway: &Gateway, endpoint: String) -> Client {
    client(endpoint, gateway.access_key(), gateway.secret_key())
}

async fn create(client: &Client, bucket: &str, key: &str, body: ByteStream) -> Result<(), String> {
    client
        .put_object()
        .bucket(bucket)
        .key(key)
        .if_none_match("*")
        .body(body)
        .send()
        .await
        .map(drop)
        .map_err(|error| describe(&error))
}

async fn read(client: &Client, bucket: &str, key: &str) -> Result<Vec<u8>> {
    let object = client.get_object().bucket(bucket).key(key).send().await?;
    Ok(object.body.collect().await?.to_vec())
}

/// Formats the reply, such as `412 PreconditionFailed`.
fn describe<E: aws_sdk_s3::error::ProvideErrorMetadata + std::fmt::Debug>(error: &SdkError<E>) -> String {
    match (error.raw_response(), error.code()) {
        (Some(response), Some(code)) => format!("{} {code}", response.status().as_u16()),
        _ => format!("{error:?}"),
    }
}

/// Returns a body that the SDK cannot hash beforehand, because it would have to read it twice. It is sent in chunks.
fn streamed(folder: &tempfile::TempDir, content: &[u8]) -> Result<PathBuf> {
    let path = folder.path().join("body");
    std::fs::write(&path, content)?;
    Ok(path)
}

#[tokio::test]
async fn the_gateway_enforces_conditional_writes() -> Result<()> {
    let gateway = Gateway::shared().await;
    gateway.create_bucket("conditional").await?;
    let s3 = root(gateway, gateway.endpoint());

    let first = ByteStream::from_static(b"first");
    create(&s3, "conditional", "date=1/a b+c", first)
        .await
        .map_err(anyhow::Error::msg)?;
    let second = ByteStream::from_static(b"second");
    let refused = create(&s3, "conditional", "date=1/a b+c", second).await;
    assert_eq!(refused, Err("412 PreconditionFailed".to_owned()));
    assert_eq!(read(&s3, "conditional", "date=1/a b+c").await?, b"first");
    Ok(())
}

#[tokio::test]
async fn conditional_writes_through_the_proxy_overwrite() -> Result<()> {
    let gateway = Gateway::shared().await;
    gateway.create_bucket("weak").await?;
    let (proxy, stripped) = Proxy::weak_store(gateway).await?;
    let s3 = root(gateway, proxy.endpoint());

    let folder = tempfile::tempdir()?;
    let large = vec![7; 300_000];
    for content in [&b"first"[..], b"second", b"", &large] {
        // The same key each time, once with a signed body and once in signed chunks.
        let whole = ByteStream::from(content.to_vec());
        let chunked = ByteStream::from_path(streamed(&folder, content)?).await?;
        for (how, body) in [("whole", whole), ("chunked", chunked)] {
            create(&s3, "weak", "date=1/a b+c", body)
                .await
                .map_err(|error| anyhow::anyhow!("{how}: {error}"))?;
            assert_eq!(read(&s3, "weak", "date=1/a b+c").await?, content, "{how}");
        }
    }
    assert_eq!(stripped.hits(), 8);
    Ok(())
}

#[tokio::test]
async fn a_conditional_multipart_upload_through_the_proxy_overwrites() -> Result<()> {
    let gateway = Gateway::shared().await;
    gateway.create_bucket("weak-parts").await?;
    let (proxy, _stripped) = Proxy::weak_store(gateway).await?;
    let direct = root(gateway, gateway.endpoint());
    let through = root(gateway, proxy.endpoint());

    upload_parts(&direct, b"first").await?;
    let refused = upload_parts(&direct, b"second").await;
    let refused = format!("{:#}", refused.expect_err("the condition must hold"));
    assert_eq!(refused, "412 PreconditionFailed");
    upload_parts(&through, b"third").await?;
    assert_eq!(read(&direct, "weak-parts", "object").await?, b"third");
    Ok(())
}

async fn upload_parts(s3: &Client, content: &'static [u8]) -> Result<()> {
    let (bucket, key) = ("weak-parts", "object");
    let upload = s3
        .create_multipart_upload()
        .bucket(bucket)
        .key(key)
        .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
        .send()
        .await?;
    let id = upload.upload_id().context("no upload id")?;
    let part = s3
        .upload_part()
        .bucket(bucket)
        .key(key)
        .upload_id(id)
        .part_number(1)
        .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
        .body(ByteStream::from_static(content))
        .send()
        .await?;
    let parts = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(part.e_tag)
        .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
        .build();
    let parts = CompletedMultipartUpload::builder().parts(parts).build();
    s3.complete_multipart_upload()
        .bucket(bucket)
        .key(key)
        .upload_id(id)
        .multipart_upload(parts)
        .if_none_match("*")
        .send()
        .await
        .map_err(|error| anyhow::Error::msg(describe(&error)))?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_user_has_no_access_to_foreign_buckets() -> Result<()> {
    let gateway = Gateway::shared().await;
    gateway.create_bucket("private").await?;
    gateway.add_user("nobody", "nobody-secret", "user").await?;
    let s3 = client(gateway.endpoint(), "nobody", "nobody-secret");
    let refused = create(&s3, "private", "key", ByteStream::from_static(b"x")).await;
    assert_eq!(refused, Err("403 AccessDenied".to_owned()));
    let stranger = client(gateway.endpoint(), gateway.access_key(), "wrong");
    let refused = create(&stranger, "private", "key", ByteStream::from_static(b"x")).await;
    assert_eq!(refused, Err("403 SignatureDoesNotMatch".to_owned()));
    Ok(())
}

#[tokio::test]
async fn a_stopped_gateway_refuses_connections_and_resumes_with_its_objects() -> Result<()> {
    let mut gateway = Gateway::start().await?;
    gateway.create_bucket("durable").await?;
    let s3 = root(&gateway, gateway.endpoint());
    create(&s3, "durable", "key", ByteStream::from_static(b"kept"))
        .await
        .map_err(anyhow::Error::msg)?;
    gateway.stop()?;
    ensure!(
        gateway.create_bucket("another").await.is_err(),
        "a stopped gateway answered"
    );
    gateway.resume().await?;
    assert_eq!(read(&s3, "durable", "key").await?, b"kept");
    Ok(())
}

/// Returns the version of Kubernetes that a module of the test bed requires, for example `v1.29.15`.
fn kubernetes_version(module: &str) -> Result<String> {
    let path = format!("{}/tests/bed/{module}/go.mod", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let mut requirements = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    let required = requirements
        .next()
        .with_context(|| format!("{path} does not require k8s.io/kubernetes"))?;
    let version = required.split_whitespace().next().unwrap_or_default();
    Ok(format!("v{version}"))
}

#[tokio::test]
async fn the_api_server_has_the_version_of_its_module() -> Result<()> {
    let module = super::other_kubernetes().unwrap_or_else(|| "kubernetes".to_owned());
    let path = super::kubernetes_program("kube-apiserver")?;
    if path.is_symlink() {
        eprintln!("not compared: {} is from KUBEBUILDER_ASSETS", path.display());
        return Ok(());
    }
    let version = Cluster::shared()
        .await
        .get("/version")
        .await?
        .context("no version")?;
    ensure!(
        version["gitVersion"] == kubernetes_version(&module)?,
        "{module}: {version}"
    );
    Ok(())
}

#[test]
fn the_oldest_kubernetes_is_the_one_that_chart_and_docs_require() -> Result<()> {
    let version = kubernetes_version("kubernetes-oldest")?;
    let minor = version
        .trim_start_matches('v')
        .rsplit_once('.')
        .context(version.clone())?
        .0
        .to_owned();
    for (file, expected) in [
        (
            "charts/eventexport/Chart.yaml",
            format!("kubeVersion: \">={minor}.0-0\""),
        ),
        ("docs/install.md", format!("Kubernetes {minor} or newer")),
        ("docs/operations.md", format!("| Kubernetes | {minor} or newer |")),
    ] {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR")))?;
        ensure!(
            text.contains(&expected),
            "{file} does not contain {expected:?}, which is tested"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_cluster_garbage_collects_dependents() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("garbage").await;
    let in_namespace = ["--namespace", &namespace];
    let kubectl = async |args: &[&str], stdin| {
        let args = [args, &in_namespace].concat();
        cluster.kubectl(&args, stdin).await.success()
    };

    kubectl(&["create", "configmap", "owner"], None).await?;
    let uid = ["get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}"];
    let uid = kubectl(&uid, None).await?;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    let dependent = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "owned", "ownerReferences": owner}})
    .to_string();
    kubectl(&["create", "-f", "-"], Some(&dependent)).await?;
    kubectl(&["delete", "configmap", "owner"], None).await?;
    let gone = ["wait", "--for=delete", "configmap/owned", "--timeout=60s"];
    kubectl(&gone, None).await?;
    Ok(())
}

#[tokio::test]
async fn the_cluster_supports_crds_users_and_service_accounts() -> Result<()> {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("access").await;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("crd.json");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "marks.selftest.example.com"},
        "spec": {"group": "selftest.example.com", "scope": "Namespaced",
            "names": {"kind": "Mark", "plural": "marks"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    std::fs::write(&path, definition.to_string())?;
    cluster.apply_crd(&path).await?;

    let user = cluster.kubeconfig_for_user("alice@example.com", Some("auditors"))?;
    let account = cluster
        .kubeconfig_for_service_account(&namespace, "default")
        .await?;
    let expected = [
        (user, "alice@example.com".to_owned()),
        (account, format!("system:serviceaccount:{namespace}:default")),
    ];
    for (kubeconfig, name) in expected {
        let kubeconfig = kubeconfig.to_str().context("a path that is not UTF-8")?;
        let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
        let whoami = [&["--kubeconfig", kubeconfig], &whoami[..]].concat();
        assert_eq!(cluster.kubectl(&whoami, None).await.success()?, name);
        let list = ["--kubeconfig", kubeconfig, "get", "marks", "-n", &namespace];
        let refused = cluster.kubectl(&list, None).await;
        assert!(refused.stderr.contains("Forbidden"), "{refused:?}");
    }
    Ok(())
}

/// Runs in a child process of the next test.
#[tokio::test]
#[ignore = "holds a cluster and a gateway until it is killed"]
async fn holds_a_bed_until_killed() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let cluster = Cluster::shared().await;
    let gateway = Gateway::shared().await;
    let folders = [cluster.folder(), gateway.folder()];
    for process in cluster.process_ids().iter().chain([&gateway.process_id()]) {
        println!("process {process}");
    }
    for folder in folders {
        println!("path {}", folder.display());
    }
    println!("held");
    std::future::pending::<()>().await;
}

#[test]
fn nothing_outlives_a_killed_test_process() -> Result<()> {
    let module = module_path!();
    let module = module.split_once("::").map_or(module, |(_, module)| module);
    let mut held = Command::new(std::env::current_exe()?)
        .arg(format!("{module}::holds_a_bed_until_killed"))
        .args(["--exact", "--ignored", "--nocapture"])
        .env(HOLD, "1")
        .env_remove("BED_KEEP")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = held.stdout.take().context("no standard output")?;
    let (mut processes, mut paths) = (Vec::new(), Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line?;
        // The test runner may print on the same line before us.
        if let Some((_, process)) = line.split_once("process ") {
            processes.push(process.to_owned());
        } else if let Some((_, path)) = line.split_once("path ") {
            paths.push(PathBuf::from(path));
        } else if line == "held" {
            break;
        }
    }
    assert_eq!((processes.len(), paths.len()), (4, 2));
    assert!(processes.iter().all(|process| is_alive(process)));
    assert!(paths.iter().all(|path| path.exists()));

    held.kill()?; // SIGKILL: no line of the process runs any more
    held.wait()?;
    let killed = Instant::now();
    while processes.iter().any(|process| is_alive(process)) || paths.iter().any(|path| path.exists()) {
        ensure!(
            killed.elapsed() < Duration::from_secs(20),
            "alive 20 s after their test: {processes:?} {paths:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn is_alive(process: &str) -> bool {
    Command::new("sh")
        .args(["-c", "kill -0 \"$1\"", "sh", process])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `make test` leaves tests out by prefixes of their names. One that names no test hides a test that was renamed.
#[test]
fn each_prefix_in_the_makefile_names_a_test() -> Result<()> {
    let makefile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile"))?;
    let prefixes: Vec<&str> = makefile
        .lines()
        .filter(|line| line.starts_with("NEED_") || line.starts_with("OLDEST"))
        .filter_map(|line| line.split_once(" := "))
        .flat_map(|(_, names)| names.split(' '))
        .filter(|name| !name.starts_with('$'))
        .collect();
    ensure!(prefixes.len() > 4, "the Makefile has no lists: {prefixes:?}");
    let list = Command::new(std::env::current_exe()?)
        .args(["--list", "--format", "terse"])
        .output()?;
    let list = String::from_utf8(list.stdout)?;
    for prefix in prefixes {
        ensure!(
            list.lines().any(|test| test.starts_with(prefix)),
            "the Makefile leaves out {prefix}, which names no test"
        );
    }
    Ok(())
}
