//! Day-two operations on real peers: the minimal bucket policy and the message for each missing action, object lock,
//! and credential rotation.

mod lock;
mod policy;
mod rotation;

use std::sync::Arc;

use anyhow::Result;
use aws_sdk_s3::Client;
use eventexport::simulator::{DEFAULT_API_KEY, Settings, Simulator};
use jiff::civil::date;
use serde_json::{Value, json};

use crate::bed::{Cluster, Gateway};
use crate::operator::end_to_end::operator;
use crate::operator::{apply, secret};
use crate::testkit::bucket::sdk;
use crate::testkit::manifest::{self, Manifest};
use crate::testkit::process::Process;

/// Keys of an account of the store.
struct StoreAccount {
    access_key: String,
    secret_key: String,
}

/// Namespace with a service, a store, and an operator process that has the rights of deploy/operator.yaml.
struct DayTwoFixture {
    cluster: &'static Cluster,
    gateway: &'static Gateway,
    simulator: Simulator,
    namespace: String,
    s3: Client,
    _operator: Arc<Process>,
}

impl DayTwoFixture {
    async fn start(name: &str, settings: Settings) -> Result<Self> {
        let (cluster, gateway) = (Cluster::shared().await, Gateway::shared().await);
        let namespace = cluster.namespace(name).await;
        apply(cluster, &secret(&namespace, DEFAULT_API_KEY)).await?;
        let settings = Settings {
            today: Some(date(2018, 6, 9)),
            ..settings
        };
        Ok(Self {
            simulator: Simulator::start(settings).await?,
            _operator: operator(cluster, &namespace).await?,
            s3: sdk(gateway),
            cluster,
            gateway,
            namespace,
        })
    }

    /// Creates a store account without permissions and the Secret with its keys.
    async fn account(&self, name: &str) -> Result<StoreAccount> {
        let account = StoreAccount {
            access_key: format!("{}-{name}", self.namespace),
            secret_key: format!("{:032x}", rand::random::<u128>()),
        };
        let StoreAccount {
            access_key,
            secret_key,
        } = &account;
        self.gateway.add_user(access_key, secret_key, "user").await?;
        self.keys(name, access_key, secret_key).await?;
        Ok(account)
    }

    async fn keys(&self, name: &str, access: &str, secret_key: &str) -> Result<()> {
        let data = json!({ "accessKeyId": access, "secretAccessKey": secret_key });
        apply(self.cluster, &manifest::secret(&self.namespace, name, &data)).await
    }

    /// Returns an export of two days, the second of which is larger than a part.
    fn export(&self, name: &str, bucket: &str, secret: &str) -> Value {
        Manifest::new(name, self.simulator.url().as_str())
            .namespace(&self.namespace)
            .days("2018-06-04", "2018-06-05")
            .bucket(bucket, "tracker", &self.gateway.endpoint())
            .set("destination.s3.credentialsSecretRef.name", secret)
            .export()
    }

    /// Grants an account the permissions of examples/bucket-policy.json on a bucket, after `change`.
    async fn grant(&self, bucket: &str, account: &str, change: impl Fn(&mut Vec<Value>)) -> Result<()> {
        let policy = policy::for_account(bucket, account, change)?;
        let put = self.s3.put_bucket_policy().bucket(bucket).policy(policy);
        put.send().await?;
        Ok(())
    }
}
