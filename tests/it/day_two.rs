//! Day-two operations on real peers: the minimal bucket policy and the message for each missing action, object lock,
//! and credential rotation.

mod lock;
mod policy;
mod rotation;

use std::ops::Deref;
use std::sync::Arc;

use anyhow::Result;
use eventexport::simulator::Settings;
use jiff::civil::date;
use serde_json::{Value, json};

use crate::operator::end_to_end::operator;
use crate::testkit::environment::Environment;
use crate::testkit::manifest::Manifest;
use crate::testkit::process::Process;

/// Keys of an account of the store.
struct StoreAccount {
    access_key: String,
    secret_key: String,
}

/// Environment without a bucket, and an operator process that has the rights of deploy/operator.yaml.
struct DayTwoFixture {
    env: Environment,
    _operator: Arc<Process>,
}

impl Deref for DayTwoFixture {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.env
    }
}

impl DayTwoFixture {
    async fn start(name: &str, settings: Settings) -> Result<Self> {
        let env = Environment::builder(name)
            .service(settings)
            .today(date(2018, 6, 9));
        let env = env.without_bucket().start().await?;
        Ok(Self {
            _operator: operator(env.cluster, &env.namespace).await?,
            env,
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
        self.secret(name, &data).await
    }

    /// Returns an export of two days, the second of which is larger than a part.
    fn two_days(&self, name: &str, bucket: &str) -> Manifest {
        let export = self.export(name).days("2018-06-04", "2018-06-05");
        export.set("destination.s3.bucket", bucket)
    }

    /// Grants an account the permissions of examples/bucket-policy.json on a bucket, after `change`.
    async fn grant(&self, bucket: &str, account: &str, change: impl Fn(&mut Vec<Value>)) -> Result<()> {
        let policy = policy::for_account(bucket, account, change)?;
        let put = self.bucket.client.put_bucket_policy();
        let put = put.bucket(bucket).policy(policy);
        put.send().await?;
        Ok(())
    }
}
