//! TLS with a private certificate authority.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;

use super::*;

/// Starts a TLS server with a certificate for `localhost`, which replies to one request per connection with an empty
/// list.
fn serve_tls() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut tls = rustls::StreamOwned::new(
                rustls::ServerConnection::new(config.clone()).unwrap(),
                stream.unwrap(),
            );
            let mut request = [0; 4096];
            if tls.read(&mut request).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]");
                let _ = tls.flush();
            }
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn a_private_ca_is_required_and_trusted() {
    let (port, pem) = serve_tls();
    let endpoint: url::Url = format!("https://localhost:{port}").parse().unwrap();
    let config = |ca_pem| TrackerConfig {
        endpoint: endpoint.clone(),
        uaa: UaaSource::Endpoint(endpoint.clone()),
        credentials: Credentials::Token("t".into()),
        ca_pem,
        traffic: crate::egress::Traffic::default(),
        hosts: HostPolicy::allow(&["localhost".to_owned()]).unwrap(),
        timeouts: Timeouts::default(),
        retry: RetryConfig::default(),
    };
    let list = |config| async {
        Tracker::new(config, &TokenCache::new())?
            .list_sessions(SPACE)
            .await
    };
    assert_eq!(list(config(Some(pem.into_bytes()))).await.unwrap(), []);
    let error = list(config(None)).await.unwrap_err();
    assert!(
        matches!(error, TrackerError::Tls { .. })
            && error
                .describe(&crate::api::SettingNames::default())
                .contains("caSecretRef"),
        "{error:?}"
    );
    let error = list(config(Some(b"nonsense".to_vec()))).await.unwrap_err();
    assert!(matches!(error, TrackerError::Ca(_)), "{error:?}");
}
