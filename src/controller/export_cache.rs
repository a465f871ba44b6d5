//! Exports as the watch delivered them last. No I/O.
//!
//! It takes the place of kube's store, of which each key has four strings.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::export_name::ExportName;
use crate::api::EventExport;

/// Exports by name. Cheap to clone; clones share their content.
#[derive(Clone, Default)]
pub(super) struct ExportCache(Arc<RwLock<ExportsByName>>);

type ExportsByName = HashMap<ExportName, Arc<EventExport>>;

impl ExportCache {
    fn read(&self) -> RwLockReadGuard<'_, ExportsByName> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ExportsByName> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest version of an export.
    pub(super) fn get(&self, name: &ExportName) -> Option<Arc<EventExport>> {
        self.read().get(name).cloned()
    }

    /// Returns all exports.
    pub(super) fn all(&self) -> Vec<Arc<EventExport>> {
        self.read().values().cloned().collect()
    }

    /// Replaces the version of an export, or adds the export. Returns its key, which all maps should share.
    pub(super) fn insert(&self, object: &EventExport) -> ExportName {
        let name = ExportName::of(object);
        // A clone has no spare capacity, which parsing leaves in each list and map.
        let object = Arc::new(object.clone());
        let mut exports = self.write();
        let known = exports.get_key_value(&name).map(|(known, _)| known.clone());
        let name = known.unwrap_or(name);
        exports.insert(name.clone(), object);
        name
    }

    /// Removes an export.
    pub(super) fn remove(&self, object: &EventExport) -> ExportName {
        let name = ExportName::of(object);
        self.write().remove(&name);
        name
    }
}
