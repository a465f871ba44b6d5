//! Errors of temporary credentials: message, and the setting to correct. No I/O.

use std::fmt;

use crate::api::{Remedy, Setting};

/// Origin of the credentials of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsOrigin {
    /// Keys in a Secret, or given to the command.
    Keys,
    /// Identity of this process.
    Process,
    /// A ServiceAccount that the spec names.
    ServiceAccount,
}

/// ServiceAccount of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountName {
    /// Namespace of the export.
    pub namespace: String,
    /// Name of the ServiceAccount.
    pub name: String,
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccount {} in namespace {}", self.name, self.namespace)
    }
}

/// Failure to get temporary credentials. Contains neither a token nor a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No answer, or one that passes by itself.
    #[error("cannot reach {peer}: {message}")]
    Unreachable {
        /// Service that was asked.
        peer: &'static str,
        /// The cause.
        message: String,
    },
    /// STS refuses the role of this process.
    #[error("STS refuses the identity of this process ({message})")]
    ProcessRefused {
        /// Code and text of the reply.
        message: String,
    },
    /// The environment or the profile of this process cannot be used.
    #[error("the identity of this process cannot be used: {message}")]
    InvalidEnvironment {
        /// The variable or setting, and the rule that it breaks.
        message: String,
    },
    /// The spec names no credentials, and no grant lets it use the identity of this process.
    #[error(
        "the spec names no credentials for bucket {bucket}, and the operator does not grant its own identity to this namespace"
    )]
    NotGranted {
        /// The bucket.
        bucket: String,
    },
    /// The grant has no term for an attribute of objects.
    #[error("the operator grants its own identity for bucket {bucket} without the term {term}")]
    TermMissing {
        /// The bucket.
        bucket: String,
        /// The missing term.
        term: String,
    },
    /// This process has no usable identity.
    #[error("this process has no identity for S3 ({message})")]
    NoProcessIdentity {
        /// The cause.
        message: String,
    },
    /// STS refuses the role of a ServiceAccount.
    #[error("STS refuses the role {role} to {account} ({message})")]
    AccountRefused {
        /// The ServiceAccount.
        account: AccountName,
        /// ARN of the role.
        role: String,
        /// Code and text of the reply.
        message: String,
    },
    /// The ServiceAccount does not exist.
    #[error("{0} does not exist")]
    AccountMissing(AccountName),
    /// The ServiceAccount has no annotation that names a role.
    #[error(
        "{0} has no annotation {ROLE_ANNOTATION} with the ARN of a role (arn:aws:iam::ACCOUNT:role/NAME)"
    )]
    RoleMissing(AccountName),
    /// The operator lacks a permission on the ServiceAccount.
    #[error("the operator lacks the permission to {action} of {account}")]
    AccountForbidden {
        /// The ServiceAccount.
        account: AccountName,
        /// Verb and resource.
        action: &'static str,
    },
    /// The API server refuses a request about the ServiceAccount.
    #[error("the API server refuses to {action} of {account}: {message}")]
    TokenRefused {
        /// The ServiceAccount.
        account: AccountName,
        /// Verb and resource.
        action: &'static str,
        /// Text of the reply.
        message: String,
    },
}

/// Annotation of a ServiceAccount with the ARN of its role, as IRSA reads it.
pub const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

impl IdentityError {
    /// True if it passes by itself.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The setting to correct, if one is at fault.
    pub const fn remedy(&self) -> Option<Remedy> {
        let (setting, action) = match self {
            Self::Unreachable { .. } | Self::InvalidEnvironment { .. } => return None,
            Self::ProcessRefused { .. } => (
                Setting::BucketCredentials,
                "correct the trust policy of its role, or set {}",
            ),
            Self::NotGranted { .. } => (
                Setting::BucketCredentials,
                "set {}, or add a grant to the operator (--grant-identity)",
            ),
            Self::TermMissing { .. } => (
                Setting::ObjectAttributes,
                "change {}, or add the term to the grant of the operator (--grant-identity)",
            ),
            Self::NoProcessIdentity { .. } => (
                Setting::BucketCredentials,
                "give it one in its environment, or set {}",
            ),
            Self::AccountRefused { .. } => (
                Setting::BucketServiceAccount,
                "let the trust policy of the role accept the ServiceAccount of {} with the audience sts.amazonaws.com",
            ),
            Self::AccountMissing(_) => (Setting::BucketServiceAccount, "create the ServiceAccount of {}"),
            Self::RoleMissing(_) => (Setting::BucketServiceAccount, "annotate the ServiceAccount of {}"),
            Self::AccountForbidden { .. } => (
                Setting::BucketServiceAccount,
                "add the name in {} to rbac.serviceAccountNames of the operator's chart",
            ),
            Self::TokenRefused { .. } => (Setting::BucketServiceAccount, "correct {}"),
        };
        Some(Remedy::new(setting, action))
    }
}

impl CredentialsOrigin {
    /// Remedy if the store rejects the credentials.
    pub const fn remedy(self) -> Remedy {
        match self {
            Self::Keys => Remedy::new(Setting::BucketCredentials, "check {}"),
            Self::Process => Remedy::new(
                Setting::BucketCredentials,
                "check the role of this process, or set {}",
            ),
            Self::ServiceAccount => Remedy::new(
                Setting::BucketServiceAccount,
                "check the role of the ServiceAccount of {}",
            ),
        }
    }
}
