//! TLS peer whose certificate is trusted, but names other hosts: 200 names of 120 characters with terminal escapes and
//! line breaks, as a tenant may have them signed by the authority of `caSecretRef`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use eventexport::api::is_printable;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::assert_displayable;

/// Maximum length of a log line: each value is bounded, and a line has a few.
const MAX_LINE_CHARS: usize = 20_000;

/// The peer, and its certificate.
pub(crate) struct ForgingPeer {
    pub(crate) port: u16,
    pub(crate) pem: String,
    _task: AbortOnDropHandle<()>,
}

impl ForgingPeer {
    pub(crate) async fn start() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        let name = |number: usize| {
            let name = format!("{number}\u{1b}[2J\r\nforged line \u{7}{}", "x".repeat(100));
            SanType::DnsName(name.try_into().unwrap())
        };
        params.subject_alt_names = (0..200).map(name).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut tls) = acceptor.accept(stream).await {
                        let _ = tls.read(&mut [0; 1024]).await;
                    }
                });
            }
        });
        Self {
            port,
            pem: certificate.pem(),
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn run(home: &Path, arguments: &[&str], log: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_eventexport"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("EVENTEXPORT_TOKEN", "t")
        .env("EVENTEXPORT_LOG", log)
        .env("AWS_ACCESS_KEY_ID", "AKID")
        .env("AWS_SECRET_ACCESS_KEY", "k")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_certificate_forge_no_line() {
    let peer = ForgingPeer::start().await;
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, &peer.pem).unwrap();
    let (url, ca) = (format!("https://127.0.0.1:{}", peer.port), ca.to_str().unwrap());
    let service = [
        "session",
        "list",
        "--space",
        "c1",
        "--endpoint",
        &url,
        "--ca-file",
        ca,
    ];
    let store = [
        "inspect",
        "s3://audit/t",
        "--s3-endpoint",
        &url,
        "--s3-ca-file",
        ca,
    ];
    for arguments in [&service[..], &store] {
        let error = run(home.path(), arguments, "error").await;
        let line = error.strip_suffix('\n').unwrap();
        assert_displayable("the error", line, "127.0.0.1", &[]);
        assert!(line.contains("certificate"), "{line}");
        // All that libraries log about it.
        for line in run(home.path(), arguments, "trace").await.lines() {
            assert!(!line.starts_with("forged"), "{line}");
            assert!(line.chars().all(is_printable), "{line:?}");
            assert!(line.chars().count() < MAX_LINE_CHARS, "{line:.500}");
        }
    }
}
