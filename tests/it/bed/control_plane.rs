//! Files and arguments of the control plane components.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::certificates::{Authority, CertifiedKey, TokenKey};
use super::watchdog::Program;
use super::{kubernetes_program, program};

/// Writes all files that the components need.
pub(super) fn write_identities(folder: &Path, authority: &Authority, port: u16) -> Result<()> {
    let serving = authority.serving()?;
    let admin = client_certificate(
        folder,
        "admin",
        &authority.client("admin", Some("system:masters"))?,
    )?;
    let token = TokenKey::new()?;
    fs::write(folder.join("ca.crt"), authority.certificate())?;
    fs::write(folder.join("serving.crt"), serving.certificate)?;
    fs::write(folder.join("serving.key"), serving.key)?;
    fs::write(folder.join("service-account.pub"), token.public)?;
    fs::write(folder.join("service-account.key"), token.private)?;
    fs::write(folder.join("admin.kubeconfig"), kubeconfig(folder, port, &admin)?)?;
    fs::write(folder.join("audit.json"), audit_policy().to_string())?;
    Ok(())
}

/// Logs requests of service accounts to `audit.log`, which shows the rights that are used.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
            { "level": "None" },
        ],
    })
}

/// Writes a client's certificate and key and returns its user entry for a kubeconfig.
pub(super) fn client_certificate(folder: &Path, name: &str, identity: &CertifiedKey) -> Result<Value> {
    let certificate = folder.join(format!("{name}.crt"));
    let key = folder.join(format!("{name}.key"));
    fs::write(&certificate, &identity.certificate)?;
    fs::write(&key, &identity.key)?;
    Ok(json!({ "client-certificate": certificate, "client-key": key }))
}

/// JSON is valid YAML.
pub(super) fn kubeconfig(folder: &Path, port: u16, user: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": folder.join("ca.crt"),
        }}],
        "users": [{"name": "bed", "user": user}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed"}}],
        "current-context": "bed",
    }))?)
}

pub(super) fn etcd(folder: &Path, port: u16) -> Result<Program> {
    let url = format!("http://127.0.0.1:{port}");
    Ok(Program {
        name: "etcd",
        path: program("etcd")?,
        args: vec![
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            "--listen-peer-urls=http://127.0.0.1:0".into(),
            // Durability does not matter: the data are temporary.
            "--unsafe-no-fsync".into(),
            // Maximum that etcd recommends, for tests with tens of thousands of objects.
            "--quota-backend-bytes=8589934592".into(),
            "--log-level=warn".into(),
        ],
        env: vec![],
    })
}

pub(super) fn api_server(folder: &Path, etcd_port: u16, port: u16) -> Result<Program> {
    let file = |name: &str| folder.join(name).display().to_string();
    Ok(Program {
        name: "kube-apiserver",
        path: kubernetes_program("kube-apiserver")?,
        args: vec![
            format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            // Endpoints may not contain a loopback address, and nothing here uses them.
            "--endpoint-reconciler-type=none".into(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", file("kube-apiserver")),
            format!("--tls-cert-file={}", file("serving.crt")),
            format!("--tls-private-key-file={}", file("serving.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            "--service-cluster-ip-range=10.96.0.0/24".into(),
            "--authorization-mode=Node,RBAC".into(),
            // For the logs of Pods, if there is a node.
            format!("--kubelet-client-certificate={}", file("admin.crt")),
            format!("--kubelet-client-key={}", file("admin.key")),
            "--kubelet-preferred-address-types=Hostname".into(),
            format!("--audit-policy-file={}", file("audit.json")),
            format!("--audit-log-path={}", file("audit.log")),
            "--profiling=false".into(),
        ],
        env: vec![],
    })
}

pub(super) fn controller_manager(folder: &Path) -> Result<Program> {
    let file = |name: &str| folder.join(name).display().to_string();
    Ok(Program {
        name: "kube-controller-manager",
        path: kubernetes_program("kube-controller-manager")?,
        args: vec![
            format!("--kubeconfig={}", file("admin.kubeconfig")),
            // It serves nothing here, and one port less is one race less.
            "--secure-port=0".into(),
            "--leader-elect=false".into(),
            format!("--root-ca-file={}", file("ca.crt")),
            format!(
                "--service-account-private-key-file={}",
                file("service-account.key")
            ),
            "--profiling=false".into(),
        ],
        env: vec![],
    })
}
