//! State of a verification as the resource shows it: its part of the status, and the condition `Verified`. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::{Reason, VerificationStatus};

/// New value of the condition `Verified`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct VerifiedCondition {
    pub(in crate::controller) status: Option<bool>,
    pub(in crate::controller) reason: Reason,
    pub(in crate::controller) message: String,
}

/// State of a verification, to be written into the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::controller) struct VerificationUpdate {
    pub(in crate::controller) status: VerificationStatus,
    /// `None`: the condition stays as it is.
    pub(in crate::controller) condition: Option<VerifiedCondition>,
}

impl VerifiedCondition {
    pub(super) fn new(status: Option<bool>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    /// Returns the condition of a resource; `None` if its reason is unknown.
    pub(super) fn from_condition(condition: &Condition) -> Option<Self> {
        let status = match condition.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        let reason = condition.reason.parse().ok()?;
        Some(Self::new(status, reason, &*condition.message))
    }
}
