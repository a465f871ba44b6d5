//! Signs the S3 requests (AWS Signature Version 4) that the bed makes or alters. No I/O.

use std::time::SystemTime;

use anyhow::{Context, Result};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign as calculate,
};
use aws_sigv4::sign::v4;
use axum::body::Bytes;
use axum::http::{Request, header};

/// Region of the gateway.
pub(crate) const REGION: &str = "us-east-1";

/// Signs a request with a complete body and replaces any existing signature.
pub(crate) fn sign(request: &mut Request<Bytes>, access_key: &str, secret_key: &str) -> Result<()> {
    let headers = request.headers_mut();
    for replaced in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
        headers.remove(replaced);
    }

    let mut settings = SigningSettings::default();
    // S3 differs from other services: a key is encoded once, `//` and `..` are plain characters, and the hash of the
    // body is a header.
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;

    let identity = Credentials::new(access_key, secret_key, None, None, "test bed").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()?
        .into();

    // S3 requires these headers; others may change on the way.
    let mut signed = Vec::new();
    for (name, value) in request.headers() {
        if name == header::HOST || name.as_str().starts_with("x-amz-") {
            let value = value
                .to_str()
                .with_context(|| format!("the header {name} is not ASCII"))?;
            signed.push((name.as_str(), value));
        }
    }
    let signable = SignableRequest::new(
        request.method().as_str(),
        request.uri().to_string(),
        signed.into_iter(),
        SignableBody::Bytes(request.body()),
    )?;
    let (instructions, _signature) = calculate(signable, &params)?.into_parts();
    instructions.apply_to_request_http1x(request);
    Ok(())
}
