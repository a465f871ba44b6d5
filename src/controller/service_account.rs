//! The bucket identity of a tenant: a ServiceAccount in the namespace of the export, with the role that its annotation
//! names. Reads the ServiceAccount and requests tokens, which it does not keep.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use secrecy::SecretString;

use super::kube_error::describe_error;
use crate::storage::{AccountName, IdentityError, ROLE_ANNOTATION, WebIdentity};

/// Audience of tokens for the STS of AWS.
const AUDIENCE: &str = "sts.amazonaws.com";
/// Validity of a token in seconds: the shortest that the API server grants. Each is used once, at once.
const TOKEN_SECONDS: i64 = 600;

/// Request for the ServiceAccount itself.
const GET: &str = "get serviceaccounts";
/// Request for a token.
const CREATE_TOKEN: &str = "create serviceaccounts/token";

/// ServiceAccount that an export uses for its bucket.
pub(super) struct ServiceAccountIdentity {
    api: Api<ServiceAccount>,
    account: AccountName,
}

impl ServiceAccountIdentity {
    pub(super) fn new(client: Client, account: AccountName) -> Self {
        Self {
            api: Api::namespaced(client, &account.namespace),
            account,
        }
    }

    fn error(&self, action: &'static str, error: &kube::Error) -> IdentityError {
        let account = self.account.clone();
        match error {
            kube::Error::Api(status) if status.code == 404 => IdentityError::AccountMissing(account),
            kube::Error::Api(status) if status.code == 403 => {
                IdentityError::AccountForbidden { account, action }
            }
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                IdentityError::TokenRefused {
                    account,
                    action,
                    message: describe_error(error),
                }
            }
            _ => IdentityError::Unreachable {
                peer: "the API server",
                message: describe_error(error),
            },
        }
    }
}

#[async_trait]
impl WebIdentity for ServiceAccountIdentity {
    fn account(&self) -> &AccountName {
        &self.account
    }

    async fn role(&self) -> Result<String, IdentityError> {
        let account = self.api.get(&self.account.name).await;
        let account = account.map_err(|error| self.error(GET, &error))?;
        let role = account.annotations().get(ROLE_ANNOTATION).cloned();
        role.ok_or_else(|| IdentityError::RoleMissing(self.account.clone()))
    }

    async fn token(&self) -> Result<SecretString, IdentityError> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let name = &self.account.name;
        let reply = self
            .api
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(|error| self.error(CREATE_TOKEN, &error))?;
        let token = reply.status.and_then(|status| status.token);
        token.map(Into::into).ok_or_else(|| IdentityError::Unreachable {
            peer: "the API server",
            message: "its reply to a TokenRequest has no token".to_owned(),
        })
    }
}
