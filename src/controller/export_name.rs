//! Namespace and name of an export, the key of what this process holds of it. Pure.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use kube::Resource as _;

use crate::api::EventExport;

/// Namespace and name of an export, `namespace/name`. Cheap to clone: clones share one allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ExportName(Arc<str>);

impl ExportName {
    /// Returns the name of a resource.
    pub(super) fn of(object: &EventExport) -> Self {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        Self(format!("{namespace}/{name}").into())
    }

    /// Returns a name from its text, `namespace/name`.
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    fn parts(&self) -> (&str, &str) {
        // Neither part may contain a slash.
        self.0.split_once('/').unwrap_or(("", &self.0))
    }

    /// Returns the namespace.
    pub(super) fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Returns the name within the namespace.
    pub(super) fn name(&self) -> &str {
        self.parts().1
    }
}

impl Display for ExportName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
