//! A simple contender in Rust: `reqwest` into the `BufWriter` of `object_store`.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::{Certificate, ClientOptions};
use tokio::io::AsyncWriteExt as _;

type BenchResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Size of a part in bytes, as in the product.
const PART_BYTES: usize = 8 << 20;
/// Concurrent part uploads, as in the product.
const IN_FLIGHT: usize = 4;

/// Copies OBJECTS bodies from `FROM/plain/BYTES` to `TO/bench/writer-N`, AT_ONCE concurrently.
fn main() -> BenchResult {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, ca, bytes, objects, at_once] = &args[..] else {
        return Err("bench-object-store FROM TO CA BYTES OBJECTS AT_ONCE".into());
    };
    let (objects, at_once) = (objects.parse::<u64>()?, at_once.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let pem = std::fs::read(ca)?;
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_root_certificate(Certificate::from_pem(&pem)?);
    let store = AmazonS3Builder::new()
        .with_bucket_name("bench")
        .with_region("us-east-1")
        .with_endpoint(to)
        .with_access_key_id("bench")
        .with_secret_access_key("benchsecret")
        .with_unsigned_payload(true)
        .with_client_options(options)
        .build()?;
    let store = Arc::new(store);
    let client = reqwest::Client::builder()
        .http1_only()
        .tls_certs_merge([reqwest::Certificate::from_pem(&pem)?])
        .build()?;
    runtime.block_on(async {
        stream::iter(0..objects)
            .map(|n| {
                let (store, client) = (Arc::clone(&store), client.clone());
                let task = async move {
                    let mut body = client
                        .get(format!("{from}/plain/{bytes}"))
                        .send()
                        .await?
                        .error_for_status()?
                        .bytes_stream();
                    let path = format!("writer-{n}").into();
                    let mut writer =
                        BufWriter::with_capacity(store, path, PART_BYTES).with_max_concurrency(IN_FLIGHT);
                    while let Some(piece) = body.try_next().await? {
                        writer.put(piece).await?;
                    }
                    writer.shutdown().await?;
                    BenchResult::Ok(())
                };
                task
            })
            .buffer_unordered(at_once)
            .try_collect()
            .await
    })
}
